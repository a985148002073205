"""The server's side of one link: requests as judged, answers as written, one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from http_tools import Owned, events, pieces, sent
from hypothesis import given, settings
from hypothesis import strategies as st

from towline.core import (
    Body,
    Broken,
    Close,
    Drop,
    Limits,
    LocalProtocolError,
    RemoteProtocolError,
    Shut,
    Tail,
    Transmit,
)
from towline.core.http import SERVER_TABLE, RequestHead

GET = b"GET /a?b=c HTTP/1.1\r\nHost: a.test\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello"


def serving(wire: bytes = b"", **settings: Any) -> Owned:
    """A connection that has received this."""
    server = Owned(2, 0.0, **settings)
    server.received(wire, 0.0)
    return server


def ending(server: Owned) -> list[str]:
    """What the owner is wished to do with the link, besides transmitting."""
    return [type(wish).__name__ for wish in server.wishes() if not isinstance(wish, Transmit)]


def refused(wire: bytes, status: int, **settings: Any) -> str:
    """The connection answers with this status, closes, and hears nothing more; returns the answer's message."""
    for cuts in ([len(wire) or 1], [1], [3, 50]):
        server = Owned(2, 0.0, **settings)
        for piece in pieces(wire, cuts):
            server.received(piece, 0.0)
        out = sent(server)
        head, _, body = out.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), (wire, out)
        assert b"Connection: close" in head
        assert ending(server) == ["Shut"]
        events(server)
        server.received(GET, 0.0)
        assert events(server) == []
    message: str = json.loads(body)["error"]["message"]
    return message


# ── requests ───────────────────────────────────────────────────────────────────
def test_a_request_and_its_answer() -> None:
    server = serving(b"GET /a%2F?b=c HTTP/1.1\r\nHost: a.test\r\nX-A: 1\r\nx-a: 2\r\n\r\n")
    assert events(server) == [
        RequestHead((("host", "a.test"), ("x-a", "1"), ("x-a", "2")), "GET", "/a%2F?b=c"),
        Tail(),
    ]
    server.respond(200, (("Content-Type", "text/plain"), ("content-length", "99")), b"hello", now=0.0)
    assert sent(server) == b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
    assert server.idle
    assert ending(server) == []


def test_bodies() -> None:
    assert events(serving(POST))[1:] == [Body(b"hello"), Tail()]
    chunked = b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
    assert events(serving(chunked))[1:] == [Body(b"hello"), Tail()]
    server = serving(POST[:-2])
    assert events(server)[1:] == [Body(b"hel")]
    assert not server.body_complete


def test_logins_are_not_shown() -> None:
    server = serving(b"GET /?sig=hunter2 HTTP/1.1\r\nHost: a\r\nAuthorization: Basic hunter2\r\n\r\n")
    head = server.next()
    assert isinstance(head, RequestHead)
    assert head.get("authorization") == "Basic hunter2"
    assert "hunter2" not in f"{head!r}{head}{server!r}"


def test_pipelined_requests_are_handled_one_after_the_other() -> None:
    server = serving(GET + POST + GET)
    for expected in (["GET"], ["POST"], ["GET"]):
        told = events(server)
        assert [event.method for event in told if isinstance(event, RequestHead)] == expected
        server.respond(204, (), now=0.0)
    assert events(server) == []
    assert sent(server).count(b"204") == 3


def test_pipelined_bytes_are_bounded() -> None:
    server = serving(GET, limits=Limits(http_pipeline=100))
    server.received(b"G" * 100, 0.0)
    server.received(b"E", 0.0)
    server.respond(200, (), b"ok", now=0.0)
    assert b"200" in sent(server)
    assert ending(server) == ["Close"]


@pytest.mark.parametrize("form", ["whole", "streamed"])
def test_head_has_a_length_and_no_body(form: str) -> None:
    server = serving(GET.replace(b"GET", b"HEAD") + GET)
    if form == "whole":
        server.respond(200, (), b"hello", now=0.0)
    else:
        server.respond_head(200, (), length=5, now=0.0)
        server.send_body(b"hello")
        server.end_body(now=0.0)
    assert sent(server) == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert [event.method for event in events(server) if isinstance(event, RequestHead)] == ["HEAD", "GET"]


def test_no_content() -> None:
    server = serving(GET + GET)
    server.respond(204, (), b"ignored", now=0.0)
    assert sent(server) == b"HTTP/1.1 204 No Content\r\n\r\n"
    server.respond(304, (), b"12345", now=0.0)
    assert sent(server) == b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"
    assert server.idle


def test_streamed_answers() -> None:
    server = serving(GET + GET)
    server.respond_head(200, (), now=0.0)
    piece = memoryview(b"hello")
    server.send_body(piece)
    server.send_body(b"")
    out = server.output()
    assert any(data is piece for data in out)
    assert b"".join(out) == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    server.end_body(now=0.0)
    assert sent(server) == b"0\r\n\r\n"
    server.respond_head(200, (), length=5, now=0.0)
    with pytest.raises(LocalProtocolError):
        server.send_body(b"123456")
    server.send_body(b"12345")
    server.end_body(now=0.0)
    assert sent(server).endswith(b"Content-Length: 5\r\n\r\n12345")
    assert server.idle


def test_an_http_1_0_peer_is_answered_to_the_end_of_the_link() -> None:
    server = serving(b"GET / HTTP/1.0\r\n\r\n")
    server.respond_head(200, (), now=0.0)
    server.send_body(b"all")
    server.end_body(now=0.0)
    assert sent(server) == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall"
    assert ending(server) == ["Close"]


def test_connection_close_from_either_side() -> None:
    server = serving(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    server.respond(200, (), now=0.0)
    assert b"Connection: close" in sent(server)
    assert ending(server) == ["Close"]
    server = serving(GET)
    server.respond(200, (("Connection", "close"),), now=0.0)
    assert sent(server).count(b"onnection") == 1
    assert ending(server) == ["Close"]


# ── cuts ───────────────────────────────────────────────────────────────────────
def test_a_cut_shows() -> None:
    server = serving(GET)
    server.respond_head(200, (), now=0.0)
    server.send_body(b"half")
    server.cut()
    server.cut()
    assert b"0\r\n\r\n" not in sent(server)
    assert ending(server) == ["Drop"]
    assert server.closed
    events(server)
    server.received(GET, 0.0)
    assert events(server) == []


def test_an_answer_shorter_than_it_announced_is_a_cut() -> None:
    server = serving(GET)
    server.respond_head(200, (), length=10, now=0.0)
    server.send_body(b"half")
    server.end_body(now=0.0)
    assert ending(server) == ["Drop"]


def test_a_peer_that_ends_in_the_middle_of_its_request() -> None:
    server = serving(POST[:-1])
    server.ended(0.0)
    *_, broken = events(server)
    assert isinstance(broken, Broken)
    assert "expected 5 bytes of body, got 4" in broken.why
    assert ending(server) == ["Drop"]


def test_a_peer_that_half_closes_still_gets_its_answer() -> None:
    server = serving(POST)
    server.ended(0.0)
    assert server.answerable
    server.respond(200, (), b"ok", now=0.0)
    assert sent(server).endswith(b"ok")
    assert ending(server) == ["Close"]


@pytest.mark.parametrize("wire", [b"", GET[:-1]])
def test_a_peer_that_ends_before_a_request_is_closed(wire: bytes) -> None:
    server = serving(wire)
    server.ended(0.0)
    assert (events(server), sent(server), ending(server)) == ([], b"", ["Close"])


def test_a_peer_that_is_lost() -> None:
    server = serving(GET)
    server.lost("reset")
    assert events(server)[-1] == Broken("reset", "protocol-error")
    assert (sent(server), ending(server), server.closed) == (b"", [], True)
    server = serving()
    server.lost("reset")
    assert events(server) == []


# ── 100-continue, unread bodies, upgrade ───────────────────────────────────────
EXPECTING = b"POST /p HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"


def test_continue_is_said_when_the_body_is_wanted() -> None:
    server = serving(EXPECTING)
    assert sent(server) == b""
    server.want_body()
    server.want_body()
    assert sent(server) == b"HTTP/1.1 100 Continue\r\n\r\n"
    server.received(b"hello", 0.0)
    server.respond(200, (), now=0.0)
    assert sent(server).startswith(b"HTTP/1.1 200")
    assert server.idle


def test_continue_is_not_said_to_a_peer_that_did_not_ask() -> None:
    for wire in (POST[:-1], EXPECTING.replace(b"1.1", b"1.0"), EXPECTING.replace(b": 5", b": 0")):
        server = serving(wire)
        server.want_body()
        assert sent(server) == b""


def test_a_refusal_instead_of_continue_closes_the_link() -> None:
    server = serving(EXPECTING)
    server.respond(413, (), now=0.0)
    assert ending(server) == ["Shut"]
    assert server.state == "lingering"


def test_a_short_rest_of_a_body_is_read_for_the_sake_of_the_link() -> None:
    server = serving(POST[:-3])
    server.respond(401, (), now=0.0)
    assert server.state == "emptying"
    server.received(b"llo" + GET, 0.0)
    assert [type(event).__name__ for event in events(server)] == ["RequestHead", "Body", "RequestHead", "Tail"]
    server.respond(200, (), now=0.0)
    assert server.idle


def test_a_long_rest_of_a_body_is_not() -> None:
    limits = Limits(http_drain=10, http_linger=100)
    for size, state in ((10, "emptying"), (11, "lingering")):
        server = serving(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size, limits=limits)
        server.respond(401, (), now=0.0)
        assert server.state == state
    assert ending(server) == ["Shut"], "the peer sees the answer, and that nothing more will come"
    server.received(b"x" * 100, 0.0)
    assert ending(server) == []
    server.received(b"x", 0.0)
    assert ending(server) == ["Close"]


def test_a_fault_of_a_peer_that_has_ended_is_answered_and_closed() -> None:
    server = serving(GET + b"bad\r\n\r\n")
    server.ended(0.0)
    server.respond(200, (), now=0.0)
    assert b" 400 " in sent(server)
    assert ending(server) == ["Close"]


def test_a_fault_after_a_head_request_has_a_body() -> None:
    server = serving(GET.replace(b"GET", b"HEAD") + b"bad\r\n\r\n")
    server.respond(200, (), now=0.0)
    assert sent(server).endswith(b"}}")


def test_a_fault_of_a_head_request_is_answered_without_a_body() -> None:
    server = serving(b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n")
    assert sent(server).endswith(b"\r\n\r\n")


def test_lingering_ends_with_the_peer_or_in_time() -> None:
    finishes: tuple[Callable[[Owned], None], ...] = (
        lambda server: server.ended(1.0),
        lambda server: server.wake(5.0),
    )
    for finish in finishes:
        server = serving(b"bad\r\n\r\n")
        assert ending(server) == ["Shut"]
        server.wake(4.9)
        assert ending(server) == []
        finish(server)
        assert ending(server) == ["Close"]


def test_an_upgrade_hands_the_link_over() -> None:
    server = serving(
        b"GET /primus HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n\x81\x82"
    )
    head = server.next()
    assert isinstance(head, RequestHead)
    assert head.upgrades_to == "websocket"
    server.received(b"abcd", 0.0)
    assert server.upgrade() == b"\x81\x82abcd"
    assert (server.state, server.deadline(), ending(server)) == ("switched", None, [])
    server.lost("reset")
    assert (server.state, events(server)) == ("switched", [Tail()])


def test_an_upgrade_can_be_declined() -> None:
    server = serving(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + GET)
    server.respond(200, (), b"no", now=0.0)
    assert b"200" in sent(server)
    assert [event.method for event in events(server) if isinstance(event, RequestHead)] == ["GET", "GET"]
    assert serving(GET).next().upgrades_to is None


# ── what is refused ────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"\x16\x03\x01\x02\x00", 400),
        (b"\r\n\r\n", 400),
        (b" GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 400),
        (b"GET / x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET http://a.test/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n X: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 100 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 10_000, 431),
        (b"GET /" + b"x" * 40_000, 431),
    ],
)  # fmt: skip
def test_refused(wire: bytes, status: int) -> None:
    assert refused(wire, status).startswith("expected")


def test_a_server_wide_options_request() -> None:
    head = serving(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").next()
    assert isinstance(head, RequestHead)
    assert head.target == "*"


def test_a_fault_in_a_body_while_the_answer_is_under_way_is_a_cut() -> None:
    server = serving(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    server.respond_head(200, (), now=0.0)
    server.received(b"ZZ\r\n", 0.0)
    assert isinstance(events(server)[-1], Broken)
    assert ending(server) == ["Drop"]


def test_a_header_that_cannot_be_written_leaves_the_answer_open() -> None:
    server = serving(GET)
    with pytest.raises(RemoteProtocolError):
        server.respond(200, (("X", "a\r\nY: b"),), now=0.0)
    assert sent(server) == b""
    server.respond(502, (), now=0.0)
    assert sent(server).startswith(b"HTTP/1.1 502 ")


def test_a_law_breaking_owner() -> None:
    server = serving()
    for call in (
        lambda: server.respond(200, (), now=0.0),
        lambda: server.send_body(b"x"),
        lambda: server.end_body(now=0.0),
        server.upgrade,
    ):
        with pytest.raises(LocalProtocolError):
            call()
    server.received(GET, 0.0)
    with pytest.raises(LocalProtocolError):
        server.respond(100, (), now=0.0)
    server.respond(200, (), now=0.0)


# ── time ───────────────────────────────────────────────────────────────────────
def test_a_link_that_says_nothing_is_closed() -> None:
    server = serving()
    assert server.deadline() == 30.0
    server.wake(29.9)
    assert ending(server) == []
    server.wake(30.0)
    assert (sent(server), ending(server)) == (b"", ["Close"])


def test_a_slow_head_is_answered_408() -> None:
    server = Owned(2, 0.0)
    for second in range(30):
        server.received(GET[second : second + 1], 10.0 + second)
    assert server.deadline() == 40.0
    server.wake(40.0)
    assert sent(server).startswith(b"HTTP/1.1 408 ")
    assert ending(server) == ["Shut"]


def test_a_silent_body_is_answered_408_where_the_owner_set_a_time() -> None:
    server = serving(POST[:-1], silence=5.0)
    assert server.deadline() == 5.0
    server.wake(5.0)
    assert sent(server).startswith(b"HTTP/1.1 408 ")
    broken = events(server)[-1]
    assert isinstance(broken, Broken)
    assert broken.kind == "timeout"
    assert serving(POST[:-1]).deadline() is None


def test_a_silent_body_under_an_answer_is_a_cut() -> None:
    server = serving(POST[:-1], silence=5.0)
    server.respond_head(200, (), now=1.0)
    server.wake(5.0)
    assert isinstance(events(server)[-1], Broken)
    assert ending(server) == ["Drop"]


def test_a_kept_link_is_closed_after_a_while() -> None:
    server = serving(GET, keep_alive=60.0)
    assert server.deadline() is None, "the owner may take its time"
    server.respond(200, (), now=100.0)
    assert server.deadline() == 160.0
    list(server.wishes())
    server.wake(160.0)
    assert ending(server) == ["Close"]


def test_draining() -> None:
    server = serving()
    server.drain(0.0)
    assert ending(server) == ["Close"]
    server = serving(GET)
    server.drain(0.0)
    server.respond(200, (), now=0.0)
    assert b"Connection: close" in sent(server)
    assert ending(server) == ["Close"]


def test_wishes_come_in_order_and_once() -> None:
    server = serving(b"bad\r\n\r\n")
    *transmits, last = server.wishes()
    assert all(isinstance(wish, Transmit) for wish in transmits)
    assert last == Shut(2)
    assert list(server.wishes()) == []
    drop: object = Drop(2)
    assert Close(2) != drop


WIRES = [
    GET + POST + GET,
    EXPECTING + b"hello" + GET,
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nhel\r\n2\r\nlo\r\n0\r\nA: b\r\n\r\n" + GET,
    GET + b"bad\r\n\r\n" + GET,
    POST + b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
]


@settings(deadline=None)
@given(st.sampled_from(WIRES), st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_cut_anywhere(wire: bytes, cuts: list[int]) -> None:
    def told(cuts: list[int]) -> tuple[list[Any], bytes, list[str]]:
        server = Owned(2, 0.0)
        seen: list[Any] = []
        out = b""
        for piece in pieces(wire, cuts):
            server.received(piece, 0.0)
            for _ in range(4):
                seen += events(server)
                if server.answerable and server.body_complete:
                    server.respond(200, (), b"ok", now=0.0)
            out += sent(server)
        joined: list[Any] = []
        for event in seen:
            if isinstance(event, Body) and joined and isinstance(joined[-1], Body):
                joined[-1] = Body(bytes(joined[-1].data) + bytes(event.data))
            else:
                joined.append(event)
        return joined, out, ending(server)

    assert told(cuts) == told([len(wire)])


def test_the_table_is_whole() -> None:
    for state in SERVER_TABLE.states:
        ways_out = [fed for at, fed in SERVER_TABLE.steps if at == state]
        assert (ways_out == []) == (state in SERVER_TABLE.ends)
