"""A small API server: requests come out whole, answers go in, nobody is kept waiting."""

from __future__ import annotations

import json
from typing import Any

import pytest
from http_tools import drain, tell

from towline.core import (
    WAKE,
    Accepted,
    Close,
    Drop,
    Ended,
    Finished,
    Limits,
    LocalProtocolError,
    Lost,
    Received,
    Secret,
    Shut,
    Transmit,
)
from towline.core.http import (
    Answer,
    AnswerBody,
    AnswerCut,
    AnswerEnd,
    AnswerHead,
    Asked,
    Drain,
    Face,
    Gone,
    ServerRequest,
)

GET = b"GET /scan/a%2Fb?n=1&q=a+b%26&flag HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer t0k\r\n\r\n"


def face(*wires: bytes, limits: Limits | None = None) -> tuple[Face, list[Any]]:
    """A face with a caller on link 2, and its wishes after these bytes."""
    made = Face(limits or Limits())
    made.handle(Accepted(2, "api", "10.0.0.9:4711"), 0.0)
    for wire in wires:
        made.handle(Received(2, wire), 0.0)
    return made, drain(made)


def body_of(wishes: list[Any]) -> bytes:
    return b"".join(wish.data for wish in wishes if isinstance(wish, Transmit)).partition(b"\r\n\r\n")[2]


def post(size: int, body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + body


def test_a_request_is_asked_whole_and_answered() -> None:
    made, (asked,) = face(GET[:30], GET[30:])
    assert asked == Asked(
        1,
        ServerRequest(
            (("host", "a.test"), ("authorization", "Bearer t0k")),
            "GET",
            "/scan/a%2Fb?n=1&q=a+b%26&flag",
            "/scan/a%2Fb",
            ("scan", "a/b"),
            (("n", "1"), ("q", "a b&"), ("flag", "")),
            b"",
            "api",
            "10.0.0.9:4711",
        ),
    )
    assert asked.request.parameter("q") == "a b&"
    assert asked.request.parameter("none") is None
    assert "t0k" not in repr(asked)
    wishes = tell(made, Answer(1, 202, (("X-A", Secret("b")),), b"{}"))
    assert b"".join(w.data for w in wishes) == b"HTTP/1.1 202 Accepted\r\nX-A: b\r\nContent-Length: 2\r\n\r\n{}"
    (second,) = tell(made, Received(2, GET))
    assert second.exchange == 2


def test_bodies_come_whole() -> None:
    _, (asked,) = face(post(5, b"hel"), b"lo")
    assert asked.request.body == b"hello"
    _, (asked,) = face(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert asked.request.body == b"abc"


def test_bodies_are_bounded_before_and_while_they_come() -> None:
    limits = Limits(http_request_body=10)
    _, (asked,) = face(post(10, b"0123456789"), limits=limits)
    assert len(asked.request.body) == 10
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n"
    for wire, kept in ((post(11, b""), True), (chunked, False), (chunked + b"ZZ\r\n", False)):
        _, wishes = face(wire, limits=limits)
        assert not any(isinstance(wish, Asked) for wish in wishes)
        error = json.loads(body_of(wishes))["error"]
        assert error["code"] in ("REQUEST_TOO_LARGE", "BAD_REQUEST")
        assert (Shut(2) in wishes) != kept, "a short rest is read for the sake of the link"
    _, wishes = face(post(11, b""), limits=limits)
    assert json.loads(body_of(wishes))["error"] == {
        "code": "REQUEST_TOO_LARGE",
        "message": "expected a body of at most 10 bytes, got more",
    }


def test_continue_is_said_unless_the_body_is_too_large() -> None:
    wire = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    _, wishes = face(wire % 5)
    assert wishes == [Transmit(2, b"HTTP/1.1 100 Continue\r\n\r\n")]
    _, wishes = face(wire % 11, limits=Limits(http_request_body=10))
    assert wishes[0].data.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("target", [b"/%zz", b"/%", b"/?a=%4", b"/%ff", b"/?%C3"])
def test_escapes_that_cannot_be_decoded(target: bytes) -> None:
    made, wishes = face(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b" 400 " in wishes[0].data
    assert not any(isinstance(wish, Asked) for wish in wishes)
    assert [type(wish) for wish in tell(made, Received(2, GET))] == [Asked], "the link is still good"


def test_a_streamed_answer() -> None:
    made, _ = face(GET)
    assert b"chunked" in tell(made, AnswerHead(1, 200))[0].data
    assert body_of([Transmit(2, b"\r\n\r\n"), *tell(made, AnswerBody(1, b"hello"))]) == b"5\r\nhello\r\n"
    assert tell(made, AnswerEnd(1)) == [Transmit(2, b"0\r\n\r\n")]
    made, _ = face(GET)
    assert b"content-length: 5" in tell(made, AnswerHead(1, 200, (("Content-Length", "5"),)))[0].data.lower()
    tell(made, AnswerBody(1, b"hel"))
    assert tell(made, AnswerCut(1)) == [Drop(2)]


def test_an_asker_that_leaves() -> None:
    made, _ = face(GET)
    assert tell(made, Lost(2, "reset")) == [Gone(1)]
    assert tell(made, Answer(1, 200)) == [], "an answer on its way is ignored"
    made, _ = face(post(5, b"hel"))
    assert tell(made, Ended(2)) == [Drop(2)], "a request that was not asked is not gone either"


def test_an_asker_that_half_closes_is_answered() -> None:
    made, _ = face(GET)
    assert tell(made, Ended(2)) == []
    *_, last = tell(made, Answer(1, 200))
    assert last == Close(2)


def test_pipelined_requests_are_asked_in_turn() -> None:
    made, wishes = face(GET + GET)
    assert [wish.exchange for wish in wishes] == [1]
    *_, second = tell(made, Answer(1, 200))
    assert second.exchange == 2


def test_links_do_not_mix() -> None:
    made, _ = face(GET)
    made.handle(Accepted(4, "api", "p"), 0.0)
    (asked,) = tell(made, Received(4, GET))
    assert asked.exchange == 2
    assert {wish.link for wish in tell(made, Answer(2, 200))} == {4}
    assert {wish.link for wish in tell(made, Answer(1, 200))} == {2}
    assert made.owns(2)
    assert not made.owns(6)
    assert repr(made) == "Face(links=2, exchanges=0, draining=False)"


def test_a_link_number_is_not_used_twice_at_once() -> None:
    made, _ = face(GET)
    with pytest.raises(LocalProtocolError):
        tell(made, Accepted(2, "api", "another"))
    assert len(tell(made, Answer(1, 200))) == 1


def test_slow_askers_are_told_and_closed() -> None:
    made, _ = face(post(5, b"hel"))
    assert made.deadline() == 30.0
    wishes = tell(made, WAKE, 30.0)
    assert b" 408 " in wishes[0].data
    assert tell(made, WAKE, 35.0) == [Close(2)]
    assert made.deadline() is None


def test_answers_that_break_the_law() -> None:
    made, _ = face(GET)
    for fact in (
        Answer(2, 200),
        Answer(0, 200),
        AnswerBody(1, b"x"),
        AnswerEnd(1),
        Answer(1, 99),
        Answer(1, 200, (("X", "a\r\nb"),)),
        AnswerHead(1, 200, (("Content-Length", "-1"),)),
    ):
        with pytest.raises(LocalProtocolError):
            tell(made, fact)
    assert len(tell(made, Answer(1, 200))) == 1


def test_draining_answers_what_was_asked_and_finishes() -> None:
    made, _ = face(GET)
    made.handle(Accepted(4, "api", "p"), 0.0)
    assert tell(made, Drain()) == [Close(4)]
    assert tell(made, Accepted(6, "api", "p")) == [Close(6)]
    *_, closed, finished = tell(made, Answer(1, 200))
    assert (closed, finished) == (Close(2), Finished(None))
    assert tell(made, Received(2, GET)) == []
    assert tell(Face(), Drain()) == [Finished(None)]
