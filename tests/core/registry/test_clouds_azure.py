"""Azure identities: an application's secret, a cluster's token, the machine; refresh tokens and how they end."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from registry_tools import Asks, Gives, Outcome, asks, bearer, gives, play, registry

from towline.core import Secret
from towline.core.registry import Credentials, Registry, Surroundings, find_dialect, ping
from towline.core.registry.clouds.azure import NULL_USER

CANARY = "c4n4ry-client-secret"
BASE = "https://acme.azurecr.io"
ENTRA = "https://login.microsoftonline.com/tenant-1/oauth2/v2.0/token"
META = (
    "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01"
    "&resource=https%3A%2F%2Fcontainerregistry.azure.net"
)
APPLICATION: Any = {"AZURE_TENANT_ID": "tenant-1", "AZURE_CLIENT_ID": "app", "AZURE_CLIENT_SECRET": CANARY}
CLIENT = {
    "grant_type": "client_credentials", "client_id": "app", "client_secret": CANARY,
    "scope": "https://containerregistry.azure.net/.default",
}  # fmt: skip


def jwt(ends: object) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": ends}).encode()).decode().rstrip("=")
    return f"h.{claims}.s"


def of(files: dict[str, bytes] | None = None, **variables: str) -> Registry:
    around = Surroundings({name: Secret(value) for name, value in variables.items()}, lambda path: (files or {})[path])
    return registry(
        BASE, anonymous=True, dialect=find_dialect("acr"), surroundings=around, retries=0, epoch=0.0
    )  # fmt: skip


CHALLENGE = gives(401, bearer(realm=f"{BASE}/oauth2/token"))
OPENED = gives()


def exchange(access: str = "entra") -> Asks:
    form = {"grant_type": "access_token", "service": "s", "access_token": access}
    return asks(f"{BASE}/oauth2/exchange", form=form)


def token(refresh: str) -> Asks:
    form = {"grant_type": "refresh_token", "service": "s", "scope": "registry:catalog:*", "refresh_token": refresh}
    return asks(f"{BASE}/oauth2/token", form=form)


def opened(made: Registry, *columns: Asks | Gives, start: float = 1000.0) -> Outcome:
    done = play(ping(made), *columns, start=start)
    assert CANARY not in f"{done.error!r} {done.error and done.error.hint}"
    return done


def door(authorization: str | None = None) -> Asks:
    return asks(f"{BASE}/v2/", authorization)


REFRESH = jwt(9000)
ACCESS = jwt(5500)
IN = (token(REFRESH), gives(json={"access_token": ACCESS}), door(f"Bearer {ACCESS}"), OPENED)


def test_an_application_and_its_secret() -> None:
    made = of(**APPLICATION)
    done = opened(
        made, door(), CHALLENGE, asks(ENTRA, form=CLIENT), gives(json={"access_token": "entra"}),
        exchange(), gives(json={"refresh_token": REFRESH}), *IN,
    )  # fmt: skip
    assert done.kind is None
    # The access token is used again while it is good; after it, the refresh token while that is.
    assert opened(made, door(f"Bearer {ACCESS}"), OPENED, start=5000.0).kind is None
    later = jwt(9900)
    assert opened(
        made, token(REFRESH), gives(json={"access_token": later}), door(f"Bearer {later}"), OPENED, start=6000.0
    ).kind is None  # fmt: skip


def test_a_clusters_token_is_read_from_its_file() -> None:
    made = of(
        {"/f": b"assertion\n"}, AZURE_TENANT_ID="tenant-1", AZURE_CLIENT_ID="app", AZURE_FEDERATED_TOKEN_FILE="/f"
    )
    form = {
        "grant_type": "client_credentials", "client_id": "app", "client_assertion": "assertion",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "scope": "https://containerregistry.azure.net/.default",
    }  # fmt: skip
    assert opened(
        made, door(), CHALLENGE, asks(ENTRA, form=form), gives(json={"access_token": "entra"}),
        exchange(), gives(json={"refresh_token": REFRESH}), *IN,
    ).kind is None  # fmt: skip


def test_the_machines_own() -> None:
    more: Any
    for more, url in (({}, META), ({"AZURE_CLIENT_ID": "mine"}, f"{META}&client_id=mine")):
        made = of(AZURE_USE_MANAGED_IDENTITY="true", **more)
        asked = asks(url, purpose="metadata", metadata="true")
        assert opened(
            made, door(), CHALLENGE, asked, gives(json={"access_token": "entra", "expires_in": "86399"}),
            exchange(), gives(json={"refresh_token": REFRESH}), *IN,
        ).kind is None  # fmt: skip


@pytest.mark.parametrize(
    "who",
    [
        Credentials(NULL_USER, Secret(REFRESH)),
        Credentials(NULL_USER, Secret(""), Secret(REFRESH)),
        Credentials("", Secret(""), Secret(REFRESH)),
    ],
)
def test_a_refresh_token_that_was_given(who: Credentials) -> None:
    made = of()
    made.credentials = who
    assert opened(made, door(), CHALLENGE, *IN).kind is None
    made = of()
    made.credentials = who
    refused = opened(made, door(), CHALLENGE, token(REFRESH), gives(401, json={"errors": [{"code": "UNAUTHORIZED"}]}))
    assert refused.kind == "registry-unauthorized"
    # It is not tried again.
    assert opened(made).kind == "registry-unauthorized"


def test_name_and_password_go_the_common_way() -> None:
    made = of(**APPLICATION)
    made.credentials = Credentials("admin", Secret(CANARY))
    basic = "Basic " + base64.b64encode(f"admin:{CANARY}".encode()).decode()
    done = opened(
        made, door(), CHALLENGE, asks(f"{BASE}/oauth2/token?service=s", basic), gives(json={"access_token": "t"}),
        door("Bearer t"), OPENED,
    )  # fmt: skip
    assert done.kind is None


def test_a_refresh_token_that_was_revoked_is_got_anew_once() -> None:
    made = of(**APPLICATION)
    made.remember("azure", Secret("revoked"), 9000.0, 1000.0)
    entra = (asks(ENTRA, form=CLIENT), gives(json={"access_token": "entra"}))
    assert opened(
        made, door(), CHALLENGE, token("revoked"), gives(401), *entra,
        exchange(), gives(json={"refresh_token": REFRESH}), *IN,
    ).kind is None  # fmt: skip
    made = of(**APPLICATION)
    made.remember("azure", Secret("revoked"), 9000.0, 1000.0)
    assert opened(
        made, door(), CHALLENGE, token("revoked"), gives(401), *entra,
        exchange(), gives(json={"refresh_token": REFRESH}), token(REFRESH), gives(401),
    ).kind == "registry-unauthorized"  # fmt: skip


@pytest.mark.parametrize("odd", ["opaque", "a.%%%.b", "a.bm8.b", jwt(None), jwt("soon")])
def test_a_token_whose_end_cannot_be_read_is_used(odd: str) -> None:
    made = of(**APPLICATION)
    assert opened(
        made, door(), CHALLENGE, asks(ENTRA, form=CLIENT), gives(json={"access_token": "entra"}),
        exchange(), gives(json={"refresh_token": odd}),
        token(odd), gives(json={"access_token": "opaque-too"}), door("Bearer opaque-too"), OPENED,
    ).kind is None  # fmt: skip
    assert opened(made, door("Bearer opaque-too"), OPENED, start=8000.0).kind is None


@pytest.mark.parametrize(
    "variables",
    [
        {"AZURE_TENANT_ID": "../x", "AZURE_CLIENT_SECRET": "s"},
        {"AZURE_TENANT_ID": "a/b", "AZURE_CLIENT_SECRET": "s"},
        {"AZURE_TENANT_ID": "tenant-1"},
        {"AZURE_TENANT_ID": "tenant-1", "AZURE_CLIENT_SECRET": "s", "AZURE_AUTHORITY_HOST": "http://evil.example"},
        {"AZURE_TENANT_ID": "tenant-1", "AZURE_CLIENT_SECRET": "s", "AZURE_AUTHORITY_HOST": "nonsense"},
    ],
)
def test_settings_that_are_wrong(variables: Any) -> None:
    assert opened(of(**variables), door(), CHALLENGE).kind == "invalid-configuration"


def test_another_authority() -> None:
    made = of(**APPLICATION, AZURE_AUTHORITY_HOST="https://login.chinacloudapi.cn/")
    asked = asks("https://login.chinacloudapi.cn/tenant-1/oauth2/v2.0/token", form=CLIENT)
    assert opened(made, door(), CHALLENGE, asked, gives(400, json={"error": "invalid_client"})).kind == (
        "registry-unauthorized"
    )


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (gives(401, json={"error": "invalid_client", "error_description": CANARY}), "registry-unauthorized"),
        (gives(429), "registry-rate-limited"),
        (gives(500), "registry-error"),
        (gives(200, None, b"<html>"), "protocol-error"),
        (gives(302, {"location": "https://evil.example/"}), "redirect-blocked"),
    ],
)
def test_what_entra_may_say(answer: Gives, kind: str) -> None:
    made = of(**APPLICATION)
    assert opened(made, door(), CHALLENGE, asks(ENTRA, form=CLIENT), answer).kind == kind
    if kind == "registry-unauthorized":
        # A secret that was refused is not tried again.
        assert opened(made).kind == kind


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(gives(401), "registry-unauthorized"), (gives(json={}), "protocol-error"), (gives(404), "registry-unauthorized")],
)
def test_what_the_exchange_may_say(answer: Gives, kind: str) -> None:
    entra = (asks(ENTRA, form=CLIENT), gives(json={"access_token": "entra"}))
    assert opened(of(**APPLICATION), door(), CHALLENGE, *entra, exchange(), answer).kind == kind


def test_a_token_server_elsewhere_gets_nothing() -> None:
    elsewhere = gives(401, bearer(realm="https://other.azurecr.io/oauth2/token"))
    assert opened(of(**APPLICATION), door(), elsewhere).kind == "realm-blocked"
    made = of()
    made.credentials = Credentials(NULL_USER, Secret(REFRESH))
    assert opened(made, door(), elsewhere).kind == "realm-blocked"


def test_nobody_asks_for_a_token_for_everybody() -> None:
    done = opened(
        of(), door(), CHALLENGE, asks(f"{BASE}/oauth2/token?service=s"), gives(json={"access_token": "t"}),
        door("Bearer t"), OPENED,
    )  # fmt: skip
    assert done.kind is None
