"""Logins: the re-authentication machine, step by step, and where a secret may go."""

from __future__ import annotations

import pytest
from registry_tools import ANY, BASIC, PASSWORD, REALM, Outcome, asks, bearer, breaks, gives, play, registry, token_url

from towline.core import LIMITS, Limits, Note, RemoteProtocolError, Secret
from towline.core.registry import (
    DIALECTS,
    TYPES,
    Credentials,
    Registry,
    find_dialect,
    list_repositories,
    list_tags,
    ping,
)
from towline.core.registry._access import Ask, ask
from towline.core.registry._send import Want
from towline.core.registry._session import TokenKey

TAGS = "/v2/a/b/tags/list?n=100"
PULL = "repository:a/b:pull"
PAGE = {"tags": ["1"]}


def tags(of: Registry, *columns: object, start: float = 1000.0) -> Outcome:
    return play(list_tags(of, "a/b"), *columns, start=start)  # type: ignore[arg-type]


def test_nothing_is_sent_that_was_not_asked_for() -> None:
    done = tags(registry(), asks(TAGS), gives(json=PAGE))
    assert done.value.items == ("1",)


def test_bearer() -> None:
    done = tags(
        registry(),
        asks(TAGS),                                gives(401, bearer(PULL)),
        asks(token_url(PULL), BASIC),              gives(json={"token": "t1"}),
        asks(TAGS, "Bearer t1"),                   gives(json=PAGE),
    )  # fmt: skip
    assert done.value.complete


def test_a_token_is_used_again_and_renewed_before_it_expires() -> None:
    of = registry()
    tags(
        of,
        asks(TAGS),                                gives(401, bearer(PULL)),
        asks(token_url(PULL), BASIC),              gives(json={"token": "t1", "expires_in": 100}),
        asks(TAGS, "Bearer t1"),                   gives(json=PAGE),
    )  # fmt: skip
    tags(of, asks(TAGS, "Bearer t1"), gives(json=PAGE), start=1089.0)
    tags(
        of,
        asks(token_url(PULL), BASIC),              gives(json={"token": "t2"}),
        asks(TAGS, "Bearer t2"),                   gives(json=PAGE),
        start=1091.0,
    )  # fmt: skip


def test_a_cached_token_that_is_refused_is_renewed_once() -> None:
    of = registry()
    first = (
        asks(TAGS),                                gives(401, bearer(PULL)),
        asks(token_url(PULL), BASIC),              gives(json={"token": "t1"}),
        asks(TAGS, "Bearer t1"),                   gives(json=PAGE),
    )  # fmt: skip
    tags(of, *first)
    tags(
        of,
        asks(TAGS, "Bearer t1"),                   gives(401, bearer(PULL, error="invalid_token")),
        asks(token_url(PULL), BASIC),              gives(json={"token": "t2"}),
        asks(TAGS, "Bearer t2"),                   gives(json=PAGE),
    )  # fmt: skip
    denied = tags(
        of,
        asks(TAGS, "Bearer t2"),                   gives(401, bearer(PULL, error="invalid_token")),
        asks(token_url(PULL), BASIC),              gives(json={"token": "t3"}),
        asks(TAGS, "Bearer t3"),                   gives(401, bearer(PULL, error="invalid_token")),
    )  # fmt: skip
    assert denied.kind == "registry-forbidden"


def test_a_fresh_token_that_is_refused_means_no() -> None:
    done = tags(
        registry(),
        asks(TAGS),                                gives(401, bearer(PULL)),
        asks(token_url(PULL), BASIC),              gives(json={"token": "t1"}),
        asks(TAGS, "Bearer t1"),                   gives(401, bearer(PULL, error="insufficient_scope")),
    )  # fmt: skip
    assert done.kind == "registry-forbidden"
    assert done.error is not None
    assert done.error.registry_status == 401


def test_another_scope_is_asked_for_in_addition_and_once() -> None:
    done = tags(
        registry(),
        asks(TAGS),                                gives(401, bearer(PULL)),
        asks(token_url(PULL), BASIC),              gives(json={"token": "t1"}),
        asks(TAGS, "Bearer t1"),                   gives(401, bearer("repository:a/b:metadata_read")),
        asks(token_url("repository:a/b:metadata_read") + "&scope=repository%3Aa%2Fb%3Apull", BASIC),
                                                   gives(json={"token": "t2"}),
        asks(TAGS, "Bearer t2"),                   gives(401, bearer("repository:a/b:x")),
    )  # fmt: skip
    assert done.kind == "registry-forbidden"


def test_the_challenge_is_cut_to_what_a_pull_needs() -> None:
    scope = "repository:a/b:pull,push,delete repository:other/x:pull registry:catalog:* repository:*:pull"
    tags(
        registry(),
        asks(TAGS),                                gives(401, bearer(scope)),
        asks(
            f"{REALM}?service=s&scope=repository%3Aa%2Fb%3Apull&scope=registry%3Acatalog%3A%2A"
            "&scope=repository%3A%2A%3Apull",
            BASIC,
        ),                                         gives(json={"token": "t1"}),
        asks(TAGS, "Bearer t1"),                   gives(json=PAGE),
    )  # fmt: skip


def test_without_a_scope_in_the_challenge_our_own_is_asked_for() -> None:
    tags(
        registry(),
        asks(TAGS),                                gives(401, bearer()),
        asks(token_url(PULL), BASIC),              gives(json={"token": "t1"}),
        asks(TAGS, "Bearer t1"),                   gives(json=PAGE),
    )  # fmt: skip


def test_the_pings_scope_is_a_placeholder() -> None:
    play(
        ping(registry()),
        asks("/v2/"),                              gives(401, bearer("repository:user/image:pull")),
        asks(token_url(), BASIC),                  gives(json={"token": "t1"}),
        asks("/v2/", "Bearer t1"),                 gives(json={}),
    )  # fmt: skip


def test_basic_and_then_basic_at_once() -> None:
    of = registry()
    challenge = {"www-authenticate": 'Basic realm="r"'}
    tags(of, asks(TAGS), gives(401, challenge), asks(TAGS, BASIC), gives(json=PAGE))
    play(list_tags(of, "c"), asks("/v2/c/tags/list?n=100", BASIC), gives(json=PAGE))


def test_a_refused_login_is_not_tried_again() -> None:
    of = registry()
    challenge = {"www-authenticate": 'Basic realm="r"'}
    done = tags(of, asks(TAGS), gives(401, challenge), asks(TAGS, BASIC), gives(401, challenge))
    assert done.kind == "registry-unauthorized"
    assert tags(of).kind == "registry-unauthorized"


def test_a_token_server_that_refuses_the_login_is_final() -> None:
    of = registry()
    done = tags(
        of,
        asks(TAGS),                                gives(401, bearer(PULL)),
        asks(token_url(PULL), BASIC),              gives(403, json={"details": f"wrong: {PASSWORD}"}),
    )  # fmt: skip
    assert done.kind == "registry-unauthorized"
    assert done.error is not None
    assert "wrong: ***" in done.error.message
    assert tags(of).kind == "registry-unauthorized"


def test_after_a_token_the_scheme_may_change_to_basic_once() -> None:
    done = tags(
        registry(),
        asks(TAGS),                                gives(401, bearer(PULL)),
        asks(token_url(PULL), BASIC),              gives(json={"token": "t1", "access_token": ""}),
        asks(TAGS, "Bearer t1"),                   gives(401, {"www-authenticate": 'Basic realm="harbor"'}),
        asks(TAGS, BASIC),                         gives(401, {"www-authenticate": 'Basic realm="harbor"'}),
    )  # fmt: skip
    assert done.kind == "registry-forbidden"


def test_403_is_a_missing_right() -> None:
    done = tags(registry(), asks(TAGS), gives(403, json={"errors": [{"code": "DENIED", "message": "no"}]}))
    assert done.kind == "registry-forbidden"
    assert done.error is not None
    assert (done.error.registry_status, done.error.registry_code) == (403, "DENIED")


@pytest.mark.parametrize("challenge", [{}, {"www-authenticate": "Negotiate"}, {"www-authenticate": 'Bearer realm="x"'}])
def test_401_without_a_challenge_that_can_be_answered(challenge: dict[str, str]) -> None:
    assert tags(registry(), asks(TAGS), gives(401, challenge)).kind == "registry-forbidden"


# ── anonymous ──────────────────────────────────────────────────────────────────
def test_anonymous_token() -> None:
    tags(
        registry(anonymous=True),
        asks(TAGS),                                gives(401, bearer(PULL)),
        asks(token_url(PULL)),                     gives(json={"token": "t1"}),
        asks(TAGS, "Bearer t1"),                   gives(json=PAGE),
    )  # fmt: skip


def test_anonymous_where_a_login_is_wanted() -> None:
    of = registry(anonymous=True)
    refused = tags(of, asks(TAGS), gives(401, {"www-authenticate": 'Basic realm="r"'}))
    assert refused.kind == "registry-unauthorized"
    assert refused.error is not None
    assert "login" in (refused.error.hint or "")
    for last in (
        [asks(token_url(PULL)), gives(401)],
        [asks(token_url(PULL)), gives(json={"token": "t"}), asks(TAGS, "Bearer t"), gives(401, bearer(PULL))],
    ):
        denied = tags(of, asks(TAGS), gives(401, bearer(PULL)), *last)
        assert denied.kind == "registry-unauthorized"
        assert denied.error is not None
        assert "login" in (denied.error.hint or "")


def test_an_unrelated_realm_may_give_a_token_to_who_has_no_login() -> None:
    realm = "https://tokens.other.example/t"
    tags(
        registry(anonymous=True),
        asks(TAGS),                                       gives(401, bearer(PULL, realm)),
        asks(token_url(PULL, realm), purpose="untrusted"), gives(json={"token": "t1"}),
        asks(TAGS, "Bearer t1"),                          gives(json=PAGE),
    )  # fmt: skip


# ── where a secret may go ──────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "realm",
    [
        "https://evil.other.example/token",
        "http://registry.example/token",
        "https://169.254.169.254/token",
        "https://user@registry.example/token",
        "https://registry.example\\\\@evil.other.example/",
    ],
)
def test_a_realm_elsewhere_gets_nothing(realm: str) -> None:
    done = tags(registry(), asks(TAGS), gives(401, bearer(PULL, realm)))
    assert done.kind == "realm-blocked"
    assert tags(registry(anonymous=True), asks(TAGS), gives(401, bearer(PULL, "https://10.0.0.1/t"))).kind


def test_a_listed_realm() -> None:
    realm = "https://tokens.other.example/t"
    tags(
        registry(allowed_realm_hosts=["tokens.other.example"]),
        asks(TAGS),                                       gives(401, bearer(PULL, realm)),
        asks(token_url(PULL, realm), BASIC, purpose="configured"), gives(json={"token": "t1"}),
        asks(TAGS, "Bearer t1"),                          gives(json=PAGE),
    )  # fmt: skip


def test_a_token_servers_redirect_passes_the_same_policy() -> None:
    tags(
        registry(),
        asks(TAGS),                                       gives(401, bearer(PULL)),
        asks(token_url(PULL), BASIC),                     gives(307, {"location": "/token2"}),
        asks("/token2", BASIC),                           gives(302, {"location": "https://auth.registry.example/t"}),
        asks("https://auth.registry.example/t"),          gives(json={"token": "t1"}),
        asks(TAGS, "Bearer t1"),                          gives(json=PAGE),
    )  # fmt: skip
    done = tags(
        registry(),
        asks(TAGS),                                       gives(401, bearer(PULL)),
        asks(token_url(PULL), BASIC),                     gives(307, {"location": "https://evil.other.example/t"}),
    )  # fmt: skip
    assert done.kind == "redirect-blocked"
    loop = [asks("/token", BASIC), gives(302, {"location": REALM})] * LIMITS.http_redirects
    done = tags(
        registry(),
        asks(TAGS),                                       gives(401, bearer(PULL)),
        asks(token_url(PULL), BASIC),                     gives(302, {"location": REALM}),
        *loop,
    )  # fmt: skip
    assert done.kind == "redirect-blocked"


def test_a_list_does_not_leave_its_origin() -> None:
    done = tags(registry(), asks(TAGS), gives(307, {"location": "https://other.example/list"}))
    assert done.kind == "redirect-blocked"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (gives(200, None, b"<html>"), "protocol-error"),
        (gives(json={"token": ""}), "protocol-error"),
        (gives(json={"token": "a\r\nb: c"}), "protocol-error"),
        (gives(404), "protocol-error"),
        (gives(200, {"content-length": "99999999"}), "protocol-error"),
        (gives(200, None, b"x" * (LIMITS.registry_token_answer + 1)), "protocol-error"),
    ],
)
def test_no_token(answer: object, kind: str) -> None:
    done = tags(registry(), asks(TAGS), gives(401, bearer(PULL)), asks(token_url(PULL), BASIC), answer)
    assert done.kind == kind


# ── retries ────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_retries_with_growing_waits(status: int) -> None:
    answers = [asks(TAGS), gives(status)] * 4
    done = tags(registry(), *answers, asks(TAGS), gives(json=PAGE))
    assert done.value.items == ("1",)
    assert len(done.sleeps) == 4
    assert [(note.event, note.fields["why"]) for note in done.all_of(Note)] == [("registry.retry", str(status))] * 4
    assert all(0 <= wait <= min(8.0, 0.5 * 2**at) for at, wait in enumerate(done.sleeps))


def test_retries_end() -> None:
    assert tags(registry(), *[asks(TAGS), gives(503)] * 5).kind == "registry-error"
    assert tags(registry(), *[asks(TAGS), gives(429)] * 5).kind == "registry-rate-limited"
    assert tags(registry(), *[asks(TAGS), breaks()] * 5).kind == "registry-unreachable"
    assert tags(registry(), *[asks(TAGS), gives(200, None, b"{", cut="reset")] * 5).kind == "registry-unreachable"
    assert tags(registry(retries=0), asks(TAGS), gives(503)).kind == "registry-error"


def test_silence_is_borne_twice() -> None:
    silence = breaks("silence", "timeout")
    assert tags(registry(), asks(TAGS), silence, asks(TAGS), silence).kind == "timeout"
    assert tags(registry(), asks(TAGS), silence, asks(TAGS), gives(json=PAGE)).value.complete


def test_what_will_not_get_better_is_not_tried_again() -> None:
    assert tags(registry(), asks(TAGS), breaks("expired", "tls-error")).kind == "tls-error"
    assert tags(registry(), asks(TAGS), gives(400)).kind == "protocol-error"


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:09 GMT", "date": "Thu, 01 Jan 2026 00:00:00 GMT"}, 9.0),
        ({"x-retry-after": "1767225605", "date": "Thu, 01 Jan 2026 00:00:00 GMT"}, 5.0),
        ({"retry-after": "Wed, 31 Dec 2025 00:00:00 GMT", "date": "Thu, 01 Jan 2026 00:00:00 GMT"}, 0.0),
    ],
)
def test_the_servers_wait_is_kept(headers: dict[str, str], wait: float) -> None:
    done = tags(registry(), asks(TAGS), gives(429, headers), asks(TAGS), gives(json=PAGE))
    assert done.sleeps == [wait]


def test_a_date_by_the_callers_clock() -> None:
    of = registry(epoch=1767225600.0 - 1000.0)
    done = tags(
        of, asks(TAGS), gives(503, {"retry-after": "Thu, 01 Jan 2026 00:00:03 GMT"}), asks(TAGS), gives(json=PAGE)
    )
    assert done.sleeps == [3.0]


def test_a_wait_that_is_too_long_is_told() -> None:
    done = tags(registry(), asks(TAGS), gives(429, {"retry-after": "31536000"}))
    assert done.kind == "registry-rate-limited"
    assert done.error is not None
    assert done.error.retry_after == 31536000.0


@pytest.mark.parametrize(
    "value", ["-1", "soon", "Thu, 32 Foo 2026", "9" * 30, "Thu, 01 Jan 2026 00:00 GMT", "Thu, 01 Foo 2026 00:00:00 GMT"]
)
def test_a_wait_that_cannot_be_read_is_ours(value: str) -> None:
    done = tags(registry(), asks(TAGS), gives(429, {"retry-after": value}), asks(TAGS), gives(json=PAGE))
    assert len(done.sleeps) == 1
    assert done.sleeps[0] <= LIMITS.retry_base


# ── the base address, dialects ─────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("registry.example", "https://registry.example/v2/"),
        ("https://registry.example/", "https://registry.example/v2/"),
        ("https://registry.example/v2", "https://registry.example/v2/"),
        ("registry.example:8443/v2/", "https://registry.example:8443/v2/"),
        ("host.example/artifactory/api/docker/repo", "https://host.example/artifactory/api/docker/repo/v2/"),
        ("[2001:db8::1]:5000", "https://[2001:db8::1]:5000/v2/"),
    ],
)
def test_base_addresses(base: str, url: str) -> None:
    of = registry(base)
    assert str(of.url("")) == url
    assert bool(of.warnings) == ("v2" in base)


def test_http_only_when_it_is_allowed() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        registry("http://registry.example")
    assert caught.value.kind == "invalid-configuration"
    assert str(registry("http://registry.example:5000", plain_http=True).base) == "http://registry.example:5000"
    assert str(registry("registry.example:5000", plain_http=True).base) == "http://registry.example:5000"
    assert str(registry("https://registry.example", plain_http=True).base) == "https://registry.example"


@pytest.mark.parametrize(
    "base", ["", "https://user@h.example", "h.example?x=1", "h.example#x", "ftp://h.example", "a b"]
)
def test_bad_base_addresses(base: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        registry(base)
    assert caught.value.kind == "invalid-configuration"


@pytest.mark.parametrize("base", ["", "docker.io", "index.docker.io", "https://registry-1.docker.io/v2/"])
def test_docker_hub(base: str) -> None:
    of = registry(base, dialect=find_dialect("DockerHub"))
    assert of.base.host == "registry-1.docker.io"
    assert of.repository("alpine") == "library/alpine"
    assert of.repository("a/b") == "a/b"


def test_every_type_has_a_row_and_aliases_lead_to_one() -> None:
    assert set(DIALECTS) == set(TYPES)
    assert find_dialect(" ElasticCR ").name == "ecr"
    with pytest.raises(RemoteProtocolError) as caught:
        find_dialect("novel")
    assert caught.value.kind == "unsupported-type"
    assert "'novel'" in caught.value.message


@pytest.mark.parametrize("name", ["", "A", "../x", "a//b", "a?b", "a" * 256])
def test_names_are_checked_before_they_are_sent(name: str) -> None:
    assert play(list_tags(registry(), name)).kind == "invalid-name"


def test_no_secret_in_a_repr() -> None:
    of = registry()
    assert PASSWORD not in repr(of)
    assert PASSWORD not in repr(Credentials("u", Secret(PASSWORD)))


def test_a_user_name_with_a_colon_cannot_be_sent() -> None:
    of = registry()
    of.credentials = Credentials("a:b", Secret("x"))
    assert tags(of, asks(TAGS), gives(401, {"www-authenticate": "Basic"})).kind == "malformed-credentials"


def test_the_catalogues_scope() -> None:
    play(
        list_repositories(registry()),
        asks("/v2/_catalog?n=100"),                gives(401, bearer()),
        asks(token_url("registry:catalog:*"), BASIC), gives(json={"token": "t"}),
        asks("/v2/_catalog?n=100", ANY),           gives(json={"repositories": ["a"]}),
    )  # fmt: skip


def test_a_token_that_another_script_got_meanwhile_is_borrowed() -> None:
    of = registry()
    tags(
        of,
        asks(TAGS),                                gives(401, bearer(PULL)),
        asks(token_url(PULL), BASIC),              gives(json={"token": "t1"}),
        asks(TAGS, "Bearer t1"),                   gives(json=PAGE),
    )  # fmt: skip
    # This script has no login to show yet: it asks for a manifest of the same repository, which takes the same.
    key = of.way(PULL)
    assert key is not None
    other = "repository:a/b:other"
    done = play(
        ask(of, Ask("manifest", of.url("a/b/manifests/1"), other, Want(10))),
        asks("/v2/a/b/manifests/1"),               gives(401, bearer(PULL)),
        asks("/v2/a/b/manifests/1", "Bearer t1"),  gives(200),
    )  # fmt: skip
    assert done.value.status == 200


def test_only_so_many_tokens_are_kept() -> None:
    of = registry(limits=Limits(registry_tokens=2))
    for name in ("a", "b", "c"):
        scope = f"repository:{name}:pull"
        play(
            list_tags(of, name),
            asks(f"/v2/{name}/tags/list?n=100"),               gives(401, bearer(scope)),
            asks(token_url(scope), BASIC),                     gives(json={"token": name}),
            asks(f"/v2/{name}/tags/list?n=100", f"Bearer {name}"), gives(json=PAGE),
        )  # fmt: skip
    assert of.way("repository:a:pull") is None
    assert of.way("repository:c:pull") is not None


def test_a_registry_that_echoes_the_login_is_not_quoted() -> None:
    for said in (PASSWORD, BASIC.removeprefix("Basic ")):
        done = tags(registry(), asks(TAGS), gives(400, json={"message": f"got {said}!"}))
        assert done.error is not None
        assert "got ***!" in done.error.message


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(gives(408), "timeout"), (gives(301), "redirect-blocked"), (gives(418), "protocol-error")],
)
def test_other_statuses(answer: object, kind: str) -> None:
    assert tags(registry(retries=0), asks(TAGS), answer).kind == kind


def test_a_token_server_that_cannot_be_reached() -> None:
    done = tags(registry(retries=0), asks(TAGS), gives(401, bearer(PULL)), asks(token_url(PULL), BASIC), breaks())
    assert done.kind == "registry-unreachable"


def test_scopes_without_actions_are_left_out() -> None:
    tags(
        registry(),
        asks(TAGS),                                gives(401, bearer("* repository:a/b repository:a/b:push x")),
        asks(f"{REALM}?service=s&scope=%2A", BASIC), gives(json={"token": "t1"}),
        asks(TAGS, "Bearer t1"),                   gives(json=PAGE),
    )  # fmt: skip


def test_a_wait_given_as_unix_time_without_a_clock_is_ours() -> None:
    done = tags(registry(), asks(TAGS), gives(429, {"x-ratelimit-reset": "1767225605"}), asks(TAGS), gives(json=PAGE))
    assert done.sleeps[0] <= LIMITS.retry_base
    assert tags(registry(retries=0), asks(TAGS), gives(503, {"retry-after": "600"})).kind == "registry-error"


def test_a_newer_token_outlives_the_refusal_of_an_older() -> None:
    of = registry(anonymous=True)
    key = TokenKey(REALM, "s", (PULL,), None)
    old = of.keep(key, Secret("old"), 300, 0.0)
    new = of.keep(key, Secret("new"), 300, 0.0)
    of.forget(old)
    assert of.cached(key, 0.0) == new
    assert of.strike_out("new and old") == "*** and old"
    of.forget(new)
    assert of.cached(key, 0.0) is None


def test_the_rest_of_a_long_error_is_not_read() -> None:
    done = tags(registry(), asks(TAGS), gives(400, None, b"x" * LIMITS.registry_error_body, b"y"))
    assert done.kind == "protocol-error"
    assert done.error is not None
    assert len(done.error.message) < 2000
