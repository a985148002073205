"""Lists: followed to their end, never cut silently, and telling whether they are whole."""

from __future__ import annotations

from typing import Any

import pytest
from registry_tools import Outcome, asks, breaks, gives, play, registry

from towline.core import LIMITS, Limits, Secret
from towline.core.registry import Credentials, find_dialect, list_repositories, list_tags

TAGS = "/v2/a/b/tags/list"


def tags(*columns: Any, limits: Limits = LIMITS, **options: Any) -> Outcome:
    return play(list_tags(registry(limits=limits, retries=0), "a/b", **options), *columns)


def link(target: str) -> dict[str, str]:
    return {"link": f'<{target}>; rel="next"'}


def digits(first: int, count: int) -> list[str]:
    return [str(number) for number in range(first, first + count)]


def test_links_are_followed_and_repeats_left_out() -> None:
    done = tags(
        asks(f"{TAGS}?n=2"),                        gives(200, link(f"{TAGS}?n=2&last=b"), json={"tags": ["a", "b"]}),
        asks(f"{TAGS}?n=2&last=b"),                 gives(200, link("?token=x%2Fy"), json={"tags": ["c"]}),
        asks(f"{TAGS}?token=x%2Fy"),                gives(json={"tags": ["c", "d"]}),
        page_size=2,
    )  # fmt: skip
    assert (done.value.items, done.value.complete, done.value.warnings) == (("a", "b", "c", "d"), True, ())


def test_a_proxy_that_takes_the_prefix_off_leaves_it_out_of_links() -> None:
    below = "/some/prefix"
    done = play(
        list_tags(registry(f"https://registry.example{below}"), "a/b", page_size=1),
        asks(f"{below}{TAGS}?n=1"),                gives(200, link(f"{TAGS}?n=1&last=b"), json={"tags": ["b"]}),
        asks(f"{below}{TAGS}?n=1&last=b"),         gives(200, link(f"{below}{TAGS}?last=c"), json={"tags": ["c"]}),
        asks(f"{below}{TAGS}?last=c"),             gives(200, link("/v2/x/tags/list?last=d"), json={"tags": ["d"]}),
        asks("/v2/x/tags/list?last=d"),             gives(404),
    )  # fmt: skip
    assert done.kind == "repository-not-found"


def test_without_links_a_full_page_is_asked_on_by_its_last_item() -> None:
    done = tags(
        asks(f"{TAGS}?n=2"),                        gives(json={"tags": ["a", "b"]}),
        asks(f"{TAGS}?n=2&last=b"),                 gives(json={"tags": ["c"]}),
        page_size=2,
    )  # fmt: skip
    assert done.value.items == ("a", "b", "c")


def test_a_server_that_ignores_last_ends_the_list() -> None:
    done = tags(
        asks(f"{TAGS}?n=2"),                        gives(json={"tags": ["a", "b"]}),
        asks(f"{TAGS}?n=2&last=b"),                 gives(json={"tags": ["a", "b"]}),
        page_size=2,
    )  # fmt: skip
    assert done.value == tags(asks(f"{TAGS}?n=2"), gives(json={"tags": ["a", "b", "a"]}), page_size=2).value


def test_a_short_page_with_a_link_is_not_the_end() -> None:
    # A registry whose own cap is below what was asked for.
    columns: list[Any] = []
    for page in range(200):
        at = "" if not page else f"&last={page * 50 - 1}"
        end = page == 199
        headers = {} if end else link(f"{TAGS}?n=1000&last={page * 50 + 49}")
        columns += [asks(f"{TAGS}?n=1000{at}"), gives(200, headers, json={"tags": digits(page * 50, 50)})]
    done = tags(*columns, page_size=1000)
    assert (len(done.value.items), done.value.complete) == (10_000, True)


def test_null_is_an_empty_list() -> None:
    bodies: tuple[dict[str, list[str] | None], ...] = ({"tags": None}, {}, {"tags": []})
    for body in bodies:
        assert tags(asks(f"{TAGS}?n=100"), gives(json=body)).value.complete
    done = play(list_repositories(registry()), asks("/v2/_catalog?n=100"), gives(json={"repositories": None}))
    assert done.value.items == ()


def test_what_is_no_tag_is_left_out_with_a_warning() -> None:
    junk = [None, 7, "sha256:" + "a" * 64, "../x", "a b", "", "x" * 129, "ok", ["y"]]
    done = tags(asks(f"{TAGS}?n=100"), gives(json={"tags": junk}))
    assert done.value.items == ("ok",)
    assert "8 entries" in done.value.warnings[0]


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("https://evil.example/v2/x", "protocol-error"),
        ("http://registry.example/v2/x", "protocol-error"),
        (f"{TAGS}?n=100", "list-loop"),
        ("", "protocol-error"),
    ],
)
def test_a_bad_link_is_never_an_end(target: str, kind: str) -> None:
    columns = asks(f"{TAGS}?n=100"), gives(200, link(target), json={"tags": ["a"]})
    assert tags(*columns).kind == kind
    partial = tags(*columns, partial=True).value
    assert (partial.items, partial.complete) == (("a",), False)
    assert partial.warnings[0].startswith("incomplete: ")


def test_partial_does_not_hide_a_failure_of_the_first_page() -> None:
    assert tags(asks(f"{TAGS}?n=100"), gives(404), partial=True).kind == "repository-not-found"


def test_a_line_cut_between_pages() -> None:
    columns = (
        asks(f"{TAGS}?n=2"),                        gives(200, link(f"{TAGS}?last=b"), json={"tags": ["a", "b"]}),
        asks(f"{TAGS}?last=b"),                     breaks(),
    )  # fmt: skip
    assert tags(*columns, page_size=2).kind == "registry-unreachable"
    assert tags(*columns, page_size=2, partial=True).value.complete is False


def test_circles() -> None:
    assert (
        tags(
            asks(f"{TAGS}?n=100"),                  gives(200, link(f"{TAGS}?p=2"), json={"tags": ["a"]}),
            asks(f"{TAGS}?p=2"),                    gives(200, link(f"{TAGS}?n=100"), json={"tags": ["b"]}),
        ).kind
        == "list-loop"
    )  # fmt: skip
    columns: list[Any] = [asks(f"{TAGS}?n=100"), gives(200, link("?p=1"), json={"tags": ["a"]})]
    for page in range(1, 4):
        columns += [asks(f"{TAGS}?p={page}"), gives(200, link(f"?p={page + 1}"), json={"tags": ["a"]})]
    assert tags(*columns).kind == "list-loop"


def test_limits() -> None:
    limits = Limits(list_pages=2, list_items=3, list_page=200)
    full = gives(200, link("?p=1"), json={"tags": ["a"]})
    assert (
        tags(
            asks(f"{TAGS}?n=100"), full,
            asks(f"{TAGS}?p=1"), gives(200, link("?p=2"), json={"tags": ["b"]}),
            limits=limits,
        ).kind
        == "list-limit"
    )  # fmt: skip
    assert tags(asks(f"{TAGS}?n=100"), gives(json={"tags": digits(0, 4)}), limits=limits).kind == "list-limit"
    assert tags(asks(f"{TAGS}?n=100"), gives(200, None, b"x" * 201), limits=limits).kind == "list-limit"
    assert tags(asks(f"{TAGS}?n=1000"), gives(json={"tags": []}), page_size=5000).value.complete


def test_a_callers_limit() -> None:
    done = tags(asks(f"{TAGS}?n=100"), gives(json={"tags": ["a", "b", "c"]}), limit=2)
    assert (done.value.items, done.value.complete) == (("a", "b"), False)
    exact = tags(asks(f"{TAGS}?n=100"), gives(json={"tags": ["a", "b"]}), limit=2)
    assert exact.value.complete
    more = tags(asks(f"{TAGS}?n=100"), gives(200, link("?p=2"), json={"tags": ["a", "b"]}), limit=2)
    assert not more.value.complete


def test_a_page_size_that_is_too_large_is_halved() -> None:
    refusal = {"errors": [{"code": "PAGINATION_NUMBER_INVALID", "message": "no", "detail": {"n": 100}}]}
    done = play(
        list_repositories(registry()),
        asks("/v2/_catalog?n=100"),                 gives(400, json=refusal),
        asks("/v2/_catalog?n=50"),                  gives(400, json=refusal),
        asks("/v2/_catalog?n=25"),                  gives(json={"repositories": ["a"]}),
    )  # fmt: skip
    assert done.value.items == ("a",)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (gives(404, None, b"404 page not found"), "catalog-unsupported"),
        (gives(405, json={"errors": [{"code": "UNSUPPORTED"}]}), "catalog-unsupported"),
        (gives(403), "registry-forbidden"),
        (gives(200, None, b"<html>"), "protocol-error"),
        (gives(200, None, b'{"repositories": {}}'), "protocol-error"),
    ],
)
def test_no_catalogue(answer: Any, kind: str) -> None:
    done = play(list_repositories(registry()), asks("/v2/_catalog?n=100"), answer)
    assert done.kind == kind
    if kind != "protocol-error":
        assert done.error is not None
        assert done.error.hint


@pytest.mark.parametrize(("code", "kind"), [("NAME_UNKNOWN", "repository-not-found"), ("NAME_INVALID", "invalid-name")])
def test_codes_refine_the_status(code: str, kind: str) -> None:
    status = 404 if "UNKNOWN" in code else 400
    assert tags(asks(f"{TAGS}?n=100"), gives(status, json={"errors": [{"code": code}]})).kind == kind


# ── Docker Hub ─────────────────────────────────────────────────────────────────
HUB = "https://hub.docker.com/v2"


def hub(who: bool = True, **options: Any) -> Any:
    of = registry("", dialect=find_dialect("docker-hub"), retries=0, **options)
    of.credentials = Credentials("acme", Secret("pat-canary")) if who else None
    return of


def test_hub_lists_by_namespace_without_plugins() -> None:
    of = hub(namespaces=["one"])
    entries = [
        {"name": "api", "namespace": "one", "repository_type": "image"},
        {"name": "plug", "namespace": "one", "repository_type": "plugin"},
    ]
    done = play(
        list_repositories(of),
        asks(f"{HUB}/auth/token", method="POST"),                  gives(json={"access_token": "hub-token"}),
        asks(f"{HUB}/namespaces/one/repositories?page_size=100", "Bearer hub-token"),
                                                                   gives(json={"results": entries, "next": None}),
    )  # fmt: skip
    assert done.value.items == ("one/api",)


def test_hub_errors() -> None:
    nobody = play(list_repositories(hub(who=False)))
    assert nobody.kind == "catalog-unsupported"
    of = hub()
    refused = play(list_repositories(of), asks(f"{HUB}/auth/token", method="POST"), gives(401, json={"detail": "no"}))
    assert refused.kind == "registry-unauthorized"
    assert play(list_repositories(of)).kind == "registry-unauthorized"
    away = play(
        list_repositories(hub(who=False, namespaces=["one"])),
        asks(f"{HUB}/namespaces/one/repositories?page_size=100"),
        gives(json={"results": [], "next": "https://evil.example/"}),
    )  # fmt: skip
    assert away.kind == "protocol-error"
    assert play(list_repositories(hub(who=False, namespaces=["../x"]))).kind == "invalid-name"


def test_hub_keeps_its_token_and_ends_where_it_is_told_to() -> None:
    of = hub(namespaces=["one", "two"])
    page = {"results": [{"name": "a", "namespace": "one"}, {"name": "b", "namespace": "one"}]}
    first = play(
        list_repositories(of, limit=1, page_size=0),
        asks(f"{HUB}/auth/token", method="POST"),                  gives(json={"access_token": "hub-token"}),
        asks(f"{HUB}/namespaces/one/repositories", "Bearer hub-token"), gives(json=page),
    )  # fmt: skip
    assert (first.value.items, first.value.complete) == (("one/a",), False)
    second = play(
        list_repositories(of, page_size=0, partial=True),
        asks(f"{HUB}/namespaces/one/repositories", "Bearer hub-token"), gives(json=page),
        asks(f"{HUB}/namespaces/two/repositories", "Bearer hub-token"), gives(404),
    )  # fmt: skip
    assert (second.value.items, second.value.complete) == (("one/a", "one/b"), False)


@pytest.mark.parametrize("token", ["", "a\nb"])
def test_hub_tokens_are_checked(token: str) -> None:
    done = play(list_repositories(hub()), asks(f"{HUB}/auth/token", method="POST"), gives(json={"access_token": token}))
    assert done.kind == "protocol-error"
    busy = play(list_repositories(hub()), asks(f"{HUB}/auth/token", method="POST"), gives(429))
    assert busy.kind == "registry-rate-limited"
