"""Redirects: what goes along, what stays behind, what is refused (security.md §4.2)."""

from __future__ import annotations

from typing import Any

import pytest
from http_tools import drain, raised

from towline.core import WAKE, Broken, Failed, Fetch, Finished, Head, RemoteProtocolError, Request, Script, Secret
from towline.core.http import Url, fetch_following

LOGIN = (
    ("Accept", "*/*"),
    ("Authorization", Secret("Bearer t0k")),
    ("Cookie", "session=1"),
    ("X-JFrog-Art-Api", Secret("key")),
    ("Range", "bytes=5-"),
)
START = Request("GET", "https://a.test/v2/x?n=1", LOGIN)


def follow(*answers: Any, request: Request = START, secure_from: str = "https://a.test/", **more: Any) -> Any:
    """Play these answers; return the requests that were sent, then the value."""
    script = Script(fetch_following(request, secure_from=Url.parse(secure_from), **more))
    script.handle(WAKE, 0.0)
    sent: list[Request] = []
    for answer in answers:
        for wish in drain(script):
            assert isinstance(wish, Fetch), wish
            sent.append(wish.request)
        script.handle(answer, 0.0)
    (last,) = drain(script)
    if isinstance(last, Failed):
        raise last.error
    assert isinstance(last, Finished), last
    return sent, last.value


def to(place: str, status: int = 307) -> Head:
    return Head(status, (("location", place),))


OK = Head(200, ())


def test_no_redirect() -> None:
    assert follow(OK) == ([START], (OK, Url.parse(START.url)))
    broken = Broken("reset")
    assert follow(broken) == ([START], broken)
    assert follow(to("/y"), broken)[1] == broken


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_within_the_origin_the_login_goes_along(status: int) -> None:
    (_, second), (head, url) = follow(to("/v2/y?m=%2F", status), OK)
    assert second == Request("GET", "https://a.test/v2/y?m=%2F", LOGIN)
    assert (head, str(url)) == (OK, second.url)


@pytest.mark.parametrize("place", ["https://b.test/y", "//b.test/y", "https://a.test:8443/y", "https://s3.a.test/y"])
def test_away_from_the_origin_it_does_not(place: str) -> None:
    (_, second), _ = follow(to(place), OK)
    assert second.headers == (("Accept", "*/*"), ("Range", "bytes=5-"))
    assert second.purpose == "untrusted"


def test_nor_is_it_given_back_on_the_way_home() -> None:
    (_, _, third, fourth), _ = follow(to("https://b.test/y"), to("/z"), to("https://a.test/v2/x"), OK)
    assert third == Request("GET", "https://b.test/z", third.headers, purpose="untrusted")
    assert fourth.headers == (("Accept", "*/*"), ("Range", "bytes=5-"))
    assert fourth.purpose == "untrusted"


def test_a_401_after_leaving_is_told_with_its_address() -> None:
    _, (head, url) = follow(to("https://b.test/y"), Head(401, ()))
    assert (head.status, url.origin.host) == (401, "b.test")


@pytest.mark.parametrize(
    ("answers", "more"),
    [
        ([to("http://a.test/y")], {}),
        ([to("https://b.test/y"), to("http://b.test/z")], {}),
        ([to("ftp://a.test/y")], {}),
        ([to("https://user@a.test/y")], {}),
        ([to("https://a.test/y z")], {}),
        ([Head(307, (("location", "/y"), ("location", "/z")))], {}),
        ([to("https://b.test/y")], {"may_leave": False}),
        ([to("/v2/x?n=1")] * 6, {}),
        ([to("/1"), to("/2")], {"max_redirects": 1}),
        ([to("/1")], {"max_redirects": 0}),
    ],
)
def test_blocked(answers: list[Head], more: dict[str, Any]) -> None:
    error = raised(lambda: follow(*answers, **more))
    assert isinstance(error, RemoteProtocolError)
    assert error.kind == "redirect-blocked"
    assert "expected" in error.message


def test_http_from_an_http_registry_is_no_step_down() -> None:
    plain = Request("GET", "http://a.test/x")
    sent, _ = follow(to("http://b.test/y"), to("https://b.test/y"), OK, request=plain, secure_from="http://a.test/")
    assert [request.url for request in sent] == ["http://a.test/x", "http://b.test/y", "https://b.test/y"]
    error = raised(lambda: follow(to("http://b.test/y"), request=plain, secure_from="https://r.test/"))
    assert error.kind == "redirect-blocked"


def test_as_many_as_are_allowed() -> None:
    sent, _ = follow(*[to(f"/{number}") for number in range(5)], OK)
    assert len(sent) == 6


def test_what_is_not_a_redirect_to_follow() -> None:
    for head in (Head(304, (("location", "/y"),)), Head(300, (("location", "/y"),)), Head(307, ())):
        assert follow(head)[1][0] == head
    post = Request("POST", "https://a.test/x", (), b"body")
    assert follow(to("/y"), request=post)[1][0] == to("/y")


def test_errors_hide_what_is_signed() -> None:
    error = raised(lambda: follow(to("http://b.test/y?sig=hunter2")))
    assert "hunter2" not in error.message
    assert "http://b.test/y?sig=***" in error.message
