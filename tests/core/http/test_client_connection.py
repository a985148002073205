"""The client's side of one link: requests as written, responses as judged, and when a link may go on."""

from __future__ import annotations

from typing import Any

import pytest
from http_tools import events, pieces, sent
from hypothesis import given, settings
from hypothesis import strategies as st

from towline.core import Body, Broken, Head, Limits, LocalProtocolError, RemoteProtocolError, Secret, Tail
from towline.core.http import CLIENT_TABLE, ClientConnection

HOST = (("Host", "a.test"),)


def asked(method: str = "GET", limits: Limits | None = None, headers: tuple[Any, ...] = HOST) -> ClientConnection:
    """A connection that has sent a request without a body."""
    client = ClientConnection(1, limits=limits or Limits())
    client.request(method, "/", headers)
    client.output()
    return client


def answer(data: bytes, client: ClientConnection | None = None, *, end: bool = False) -> list[Any]:
    """What a connection makes of a response."""
    client = client or asked()
    client.received(data)
    if end:
        client.ended()
    return events(client)


def fault(data: bytes, client: ClientConnection | None = None) -> Broken:
    """The one event of a response that is refused; refused at once, and for ever."""
    client = client or asked()
    *_, broken = answer(data, client)
    assert isinstance(broken, Broken)
    assert broken.kind == "protocol-error"
    assert not client.reusable
    client.received(b"HTTP/1.1 200 OK\r\n\r\n")
    assert events(client) == []
    return broken


# ── requests ───────────────────────────────────────────────────────────────────
def test_a_request_without_a_body() -> None:
    client = ClientConnection(1)
    client.request("GET", "/v2/?n=1", (("accept", "*/*"), ("Host", "a.test"), ("Authorization", Secret("Basic eDp5"))))
    assert sent(client) == b"GET /v2/?n=1 HTTP/1.1\r\nHost: a.test\r\naccept: */*\r\nAuthorization: Basic eDp5\r\n\r\n"
    assert "eDp5" not in repr(client)


def test_a_whole_body_and_framing_headers_replaced() -> None:
    client = ClientConnection(1)
    client.request("POST", "/", (*HOST, ("content-length", "99"), ("Transfer-Encoding", "chunked")), b"abc")
    assert sent(client) == b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc"
    assert not client.sending


@pytest.mark.parametrize(("size", "pieces_out"), [(16 * 1024, 1), (16 * 1024 + 1, 2)])
def test_a_short_body_goes_out_with_its_head_and_a_long_one_uncopied(size: int, pieces_out: int) -> None:
    client = ClientConnection(1)
    body = b"x" * size
    client.request("POST", "/", HOST, memoryview(body))
    out = client.output()
    assert len(out) == pieces_out
    assert b"".join(out).endswith(b"\r\n\r\n" + body)
    assert pieces_out == 1 or memoryview(out[-1]).obj is body


def test_an_empty_body_is_announced() -> None:
    client = ClientConnection(1)
    client.request("GET", "/", HOST, b"")
    assert sent(client).endswith(b"Content-Length: 0\r\n\r\n")


def test_a_streamed_body_of_known_length() -> None:
    client = ClientConnection(1)
    client.request("PUT", "/", HOST, length=5)
    big = memoryview(b"llo")
    client.send_body(b"he")
    client.send_body(big)
    with pytest.raises(LocalProtocolError):
        client.send_body(b"!")
    out = client.output()
    assert b"".join(out).endswith(b"Content-Length: 5\r\n\r\nhello")
    assert out[-1] is big, "the bytes of a body are passed on, not copied"
    client.end_body()
    assert sent(client) == b""


def test_a_streamed_body_without_a_length() -> None:
    client = ClientConnection(1)
    client.request("POST", "/", HOST, chunked=True)
    client.send_body(b"hello")
    client.send_body(b"")
    client.send_body(b"x" * 17)
    assert client.sending
    client.end_body()
    assert sent(client).partition(b"\r\n\r\n")[2] == b"5\r\nhello\r\n11\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n"


def test_a_body_that_is_too_short_cannot_be_ended() -> None:
    client = ClientConnection(1)
    client.request("PUT", "/", HOST, length=5)
    client.send_body(b"hel")
    with pytest.raises(LocalProtocolError):
        client.end_body()


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GE T", "/", HOST),
        ("GET", "/ HTTP/1.1\r\nX: y", HOST),
        ("GET", "/", (*HOST, ("X", "a\r\nY: b"))),
        ("GET", "/", (*HOST, ("X Y", "a"))),
    ],
)
def test_what_cannot_be_written_is_refused(method: str, target: str, headers: tuple[tuple[str, str], ...]) -> None:
    client = ClientConnection(1)
    with pytest.raises(RemoteProtocolError):
        client.request(method, target, headers)
    assert client.idle
    assert sent(client) == b""
    client.request("GET", "/", HOST)


def test_a_law_breaking_owner() -> None:
    client = ClientConnection(1)
    for headers in ((), (*HOST, *HOST)):
        with pytest.raises(LocalProtocolError):
            client.request("GET", "/", headers)
    with pytest.raises(LocalProtocolError):
        client.request("GET", "/", HOST, b"x", chunked=True)
    with pytest.raises(LocalProtocolError):
        client.send_body(b"x")
    with pytest.raises(LocalProtocolError):
        client.end_body()
    with pytest.raises(LocalProtocolError):
        client.upgrade()
    assert client.idle
    client.request("GET", "/", HOST)
    with pytest.raises(LocalProtocolError):
        client.request("GET", "/", HOST)


# ── responses ──────────────────────────────────────────────────────────────────
def test_a_body_of_known_length_and_the_next_exchange() -> None:
    client = asked()
    assert answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\nx-a: 2\r\n\r\nhello", client) == [
        Head(200, (("content-length", "5"), ("x-a", "1"), ("x-a", "2"))),
        Body(b"hello"),
        Tail(),
    ]
    assert client.idle
    client.request("GET", "/2", HOST)
    assert answer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", client)[-1] == Tail()
    assert client.exchanges == 2


def test_a_counted_body_is_not_copied() -> None:
    client = asked()
    client.received(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
    data = b"1234"
    client.received(data)
    client.next()
    event = client.next()
    assert isinstance(event, Body)
    assert memoryview(event.data).obj is data


def test_a_chunked_body() -> None:
    wire = OK + b"Transfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n"
    client = asked()
    assert answer(wire, client)[1:] == [Body(b"hello0123456789"), Tail()]
    assert client.idle


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"])
def test_a_body_that_ends_with_the_link(head: bytes) -> None:
    client = asked()
    assert answer(head + b"all of it", client)[1:] == [Body(b"all of it")]
    client.ended()
    assert events(client) == [Tail()]
    assert not client.reusable


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body(status: int) -> None:
    client = asked()
    assert answer(b"HTTP/1.1 %d x\r\nContent-Length: 10\r\n\r\n" % status, client)[1:] == [Tail()]
    assert client.idle


def test_head_has_no_body() -> None:
    client = asked("HEAD")
    head, tail = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", client)
    assert head.get("content-length") == "1000"
    assert tail == Tail()
    assert client.idle


def test_a_known_length_from_an_http_1_0_peer() -> None:
    client = asked()
    assert answer(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", client)[1:] == [Body(b"ok"), Tail()]
    assert client.state == "closed", "an HTTP/1.0 link is not kept"


def test_connection_close_from_either_side() -> None:
    client = asked()
    answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Foo, Close\r\n\r\n", client)
    assert client.state == "closed"
    client = asked(headers=(*HOST, ("Connection", "close")))
    assert not client.reusable
    answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", client)
    assert client.state == "closed"


def test_an_answer_before_the_request_is_whole_ends_the_link() -> None:
    client = ClientConnection(1)
    client.request("PUT", "/", HOST, length=100)
    assert answer(b"HTTP/1.1 413 no\r\nContent-Length: 0\r\n\r\n", client)[-1] == Tail()
    assert client.state == "closed"
    assert not client.sending


def test_interim_responses_are_skipped_up_to_a_limit() -> None:
    interim, final = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    assert answer(interim * 8 + final)[0].status == 200
    assert "interim" in fault(interim * 9 + final).why


def test_an_upgrade() -> None:
    client = asked(headers=(*HOST, ("Connection", "Upgrade"), ("Upgrade", "websocket")))
    head = answer(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x02", client)
    assert [event.status for event in head] == [101]
    client.received(b"hi")
    assert client.upgrade() == b"\x81\x02hi"
    assert client.state == "switched"


def test_an_upgrade_nobody_asked_for() -> None:
    fault(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")


def test_a_refused_upgrade_is_an_ordinary_response() -> None:
    client = asked(headers=(*HOST, ("Connection", "Upgrade"), ("Upgrade", "websocket")))
    assert answer(b"HTTP/1.1 401 no\r\nContent-Length: 2\r\n\r\nno", client)[1:] == [Body(b"no"), Tail()]


# ── what is refused ────────────────────────────────────────────────────────────
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "wire",
    [
        b"\x16\x03\x01",
        b"\0\0\x12\x04\0\0\0\0\0",
        b"\r\n" + OK,
        b" " + OK,
        b"HTTQ/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 2OO OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 x\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        OK + b"A: b\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        OK + b"Content-Length: 5, 6\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: +1\r\n\r\n",
        OK + b"Content-Length: 0x5\r\n\r\n",
        OK + b"Content-Length: 99999999999999999999\r\n\r\n",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        OK + b"Transfer-Encoding: identity\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"A : b\r\n\r\n",
        OK + b" A: b\r\n\r\n",
        OK + b"A: b\r\n folded\r\n\r\n",
        OK + b"A: b\0c\r\n\r\n",
        OK + b"A: b\rc\r\n\r\n",
        OK + b"no colon\r\n\r\n",
        OK + b": no name\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcXX",
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nno colon\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 21 + b"\r\n",
    ],
)
def test_refused(wire: bytes) -> None:
    whole = fault(wire)
    client = asked()
    for byte in pieces(wire, [1]):
        client.received(byte)
    assert events(client)[-1] == whole
    assert whole.why.startswith("expected")


def test_what_the_peer_said_is_not_quoted() -> None:
    assert "POISON" not in fault(OK + b"POISON\r\n\r\n").why


def test_limits_are_exact() -> None:
    limits = Limits(http_head=200, http_line=100, http_headers=3)

    def head(size: int) -> bytes:
        frame = OK + b"Content-Length: 0\r\nA: \r\nB: \r\n\r\n"
        return frame.replace(b"A: ", b"A: " + b"a" * 80).replace(b"B: ", b"B: " + b"b" * (size - len(frame) - 80))

    assert len(head(200)) == 200
    assert answer(head(200), asked(limits=limits))[-1] == Tail()
    for wire in (head(201), head(201)[:200]):
        assert "200 bytes" in fault(wire, asked(limits=limits)).why
    answer(head(200)[:199], client := asked(limits=limits))
    assert client.state == "waiting"
    line = b"A: " + b"x" * 96
    assert len(line) == 99, "with its CR it is 100"
    assert answer(OK + line + b"\r\nContent-Length: 0\r\n\r\n", asked(limits=limits))[-1] == Tail()
    assert "100 bytes" in fault(OK + line + b"x\r\n\r\n", asked(limits=limits)).why
    three = b"A: 1\r\nB: 2\r\nContent-Length: 0\r\n"
    assert answer(OK + three + b"\r\n", asked(limits=limits))[-1] == Tail()
    assert "3 header fields" in fault(OK + three + b"C: 3\r\n\r\n", asked(limits=limits)).why


@pytest.mark.parametrize("cuts", [[1], [7], [100_000]])
def test_chunk_lines_and_trailers_are_bounded_wherever_they_are_cut(cuts: list[int]) -> None:
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n"

    def judged(rest: bytes) -> Any:
        client = asked()
        for piece in pieces(chunked + rest, cuts):
            client.received(piece)
        return events(client)[-1]

    assert judged(b"1;" + b"x" * 255 + b"\r\na\r\n0\r\n\r\n") == Tail()
    assert isinstance(judged(b"1;" + b"x" * 300 + b"\r\na\r\n0\r\n\r\n"), Broken)
    assert isinstance(judged(b"1\r\na\r\n1;" + b"x" * 20_000 + b"\r\na\r\n0\r\n\r\n"), Broken)
    assert isinstance(judged(b"1;" + b"x" * 20_000), Broken)
    assert judged(b"1\r\na\r\n0\r\nA: " + b"x" * 8000 + b"\r\n\r\n") == Tail()
    assert isinstance(judged(b"1\r\na\r\n0\r\nA: " + b"x" * 8200 + b"\r\n\r\n"), Broken)
    assert isinstance(judged(b"1\r\na\r\n0\r\nA: " + b"x" * 20_000), Broken)


# ── ends ───────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("wire", "why"),
    [
        (b"", "got nothing"),
        (b"HTTP/1.1 2", "got part of one"),
        (OK + b"Content-Length: 10\r\n\r\nhalf", "expected 10 bytes of body, got 4"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "got the end after 5 bytes of body"),
    ],
)
def test_a_cut_is_told_with_what_was_expected(wire: bytes, why: str) -> None:
    client = asked()
    *_, broken = answer(wire, client, end=True)
    assert isinstance(broken, Broken)
    assert broken.kind == "registry-unreachable"
    assert why in broken.why
    assert client.state == "closed"


def test_a_reset_in_the_middle_and_at_rest() -> None:
    client = asked()
    client.received(OK + b"Content-Length: 10\r\n\r\n")
    client.lost("reset", "tls-error")
    assert events(client)[-1] == Broken("reset", "tls-error")
    client = ClientConnection(1)
    client.lost("reset")
    assert (events(client), client.state) == ([], "closed")
    client = ClientConnection(1)
    client.ended()
    assert (events(client), client.reusable) == ([], False)


def test_a_reset_does_not_end_a_body_that_ends_with_the_link() -> None:
    client = asked()
    client.received(OK + b"\r\nhalf")
    client.lost("reset")
    assert events(client)[-1] == Broken("reset")


def test_bytes_behind_a_response_poison_the_link() -> None:
    client = asked()
    got = answer(OK + b"Content-Length: 2\r\n\r\nok" + OK + b"Content-Length: 6\r\n\r\nPOISON", client)
    assert got[1:] == [Body(b"ok"), Tail()]
    assert not client.reusable
    client = ClientConnection(1)
    client.received(b"H")
    assert not client.idle
    with pytest.raises(LocalProtocolError):
        client.request("GET", "/", HOST)
    assert (events(client), client.state) == ([], "closed")


WIRES = [
    OK + b"Content-Length: 11\r\nX: y\r\n\r\nhello world",
    OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nT: r\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 3\r\n\r\nabcEXTRA",
    OK + b"\r\nto the end",
    OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX",
]


@settings(deadline=None)
@given(st.sampled_from(WIRES), st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_cut_anywhere(wire: bytes, cuts: list[int]) -> None:
    client = asked()
    for piece in pieces(wire, cuts):
        client.received(piece)
    client.ended()
    assert events(client) == answer(wire, asked(), end=True)


def test_the_table_is_whole() -> None:
    for state in CLIENT_TABLE.states:
        ways_out = [fed for at, fed in CLIENT_TABLE.steps if at == state]
        assert (ways_out == []) == (state in CLIENT_TABLE.ends)
