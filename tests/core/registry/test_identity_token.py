"""Identity tokens: shown to the token server alone, in OAuth 2's form, and what becomes of servers without it.

Source:  distribution docs, spec/auth/oauth
"""

from __future__ import annotations

import pytest
from registry_tools import BASIC, PASSWORD, REALM, USER, Gives, asks, bearer, gives, play, registry, token_url

from towline.core import Secret
from towline.core.registry import Credentials, Registry, list_tags

TAGS = "/v2/a/b/tags/list?n=100"
PULL = "repository:a/b:pull"
TOKEN = "c4n4ry-identity"
FORM = {
    "grant_type": "refresh_token", "service": "s", "client_id": "towline", "scope": PULL, "refresh_token": TOKEN,
}  # fmt: skip


def of(username: str = "", password: str = "") -> Registry:
    made = registry(retries=0)
    made.credentials = Credentials(username, Secret(password), Secret(TOKEN))
    return made


def test_it_is_shown_to_the_token_server_and_not_to_the_registry() -> None:
    for made in (of(), of(USER, PASSWORD)):
        done = play(
            list_tags(made, "a/b"),
            asks(TAGS), gives(401, bearer(PULL)),
            asks(REALM, form=FORM), gives(json={"access_token": "t"}),
            asks(TAGS, "Bearer t"), gives(json={"tags": ["1"]}),
        )  # fmt: skip
        assert done.value.items == ("1",)


@pytest.mark.parametrize("status", [400, 404, 405])
def test_a_server_without_that_form_gets_name_and_password(status: int) -> None:
    done = play(
        list_tags(of(USER, PASSWORD), "a/b"),
        asks(TAGS), gives(401, bearer(PULL)),
        asks(REALM, form=FORM), gives(status),
        asks(token_url(PULL), BASIC), gives(json={"token": "t"}),
        asks(TAGS, "Bearer t"), gives(json={"tags": ["1"]}),
    )  # fmt: skip
    assert done.value.items == ("1",)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (gives(401, json={"details": TOKEN}), "registry-unauthorized"),
        (gives(403), "registry-unauthorized"),
        (gives(404), "protocol-error"),
        (gives(429), "registry-rate-limited"),
        (gives(500), "registry-error"),
        (gives(200, json={}), "protocol-error"),
        (gives(307, {"location": "https://evil.example/token"}), "redirect-blocked"),
    ],
)
def test_a_token_that_is_refused(answer: Gives, kind: str) -> None:
    made = of()
    done = play(list_tags(made, "a/b"), asks(TAGS), gives(401, bearer(PULL)), asks(REALM, form=FORM), answer)
    assert done.kind == kind
    assert done.error is not None
    assert TOKEN not in f"{done.error.message} {done.error.hint}"
    if kind == "registry-unauthorized":
        # Final, until the configuration changes.
        assert play(list_tags(made, "a/b")).kind == kind


def test_a_realm_elsewhere_gets_nothing() -> None:
    elsewhere = gives(401, bearer(PULL, realm="https://evil.example/token"))
    assert play(list_tags(of(), "a/b"), asks(TAGS), elsewhere).kind == "realm-blocked"


def test_basic_cannot_carry_it() -> None:
    done = play(list_tags(of(), "a/b"), asks(TAGS), gives(401, {"www-authenticate": 'Basic realm="r"'}))
    assert done.kind == "registry-unauthorized"
    assert done.error is not None
    assert "user name and a password" in str(done.error.hint)
