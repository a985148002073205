"""Heads read and written by the own code, against h11: the same fields, the same faults, the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import h11
import pytest
from head_tools import RequestsByH11, ResponsesByH11, read_with
from hypothesis import given, settings
from hypothesis import strategies as st
from machines.case import garbled

from towline.core import Limits, LocalProtocolError, RemoteProtocolError, Secret
from towline.core.http._headers import written
from towline.core.http._heads import RequestReader, ResponseReader
from towline.core.http._writing import REASONS, answer_head, request_head

REQUESTS = {
    "curl": b"GET /v2/ HTTP/1.1\r\nHost: a.test:8000\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n",
    "axios": (
        b"POST /broker/t0k/scan?x=%2F HTTP/1.1\r\nAccept: application/json, text/plain, */*\r\n"
        b"Content-Type: application/json\r\nsnyk-request-id: 4e2a0b9e-5a1e-4d6c-9b0e-0e4b1f8f1c11\r\n"
        b"User-Agent: axios/1.7.2\r\nContent-Length: 46\r\nAccept-Encoding: gzip, compress, deflate, br\r\n"
        b"Host: a\r\nConnection: keep-alive\r\n\r\n"
    ),
    "close": b"HEAD /x HTTP/1.1\r\nhost:a\r\nconnection: TE, Close\r\nte: trailers\r\n\r\n",
    "cookies": b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\nCookie: b=\xe9\r\nX-Empty:\r\nX-Tab: \ta\tb \t\r\n\r\n",
    "chunked": b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "nothing": b"DELETE / HTTP/1.1\r\nHost: \r\nContent-Length: 0\r\n\r\n",
}
RESPONSES = {
    "registry": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\n"
        b"Docker-Distribution-Api-Version: registry/2.0\r\nDate: Tue, 24 Nov 2026 16:00:00 GMT\r\n\r\n"
    ),
    "challenge": (
        b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm="https://a/t"\r\nWww-Authenticate: Basic\r\n'
        b"Content-Length: 0\r\nConnection: close\r\n\r\n"
    ),
    "stream": b"HTTP/1.1 200 OK\r\nTransfer-Encoding:chunked\r\nTrailer: X\r\n\r\n",
    "no reason": b"HTTP/1.1 204\r\n\r\n",
    "apache": b"HTTP/1.1 301 Moved\r\nUpgrade: h2,h2c\r\nConnection: Upgrade\r\nContent-Length: 9\r\n\r\n",
    "to the end": b"HTTP/1.1 599 \xe9\r\nServer: x\r\n\r\n",
}
ODD_REQUESTS = [
    b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nConnection: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xb2\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
]
ODD_RESPONSES = [
    b"HTTP/1.0 200 OK\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 103 x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    b"HTTP/1.1 200\tOK\r\n\r\n",
    b"HTTP/1.1 99 x\r\n\r\n",
    b"HTTP/1.1 2000 x\r\n\r\n",
    b"HTTP/1.1 200 \x7f\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n: b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA\r\n\r\n",
]
HOST = (("Host", "a"),)
SMALL = Limits(http_head=120, http_line=50, http_headers=4)
PAIRS: list[tuple[Any, Any]] = [(RequestReader, RequestsByH11), (ResponseReader, ResponsesByH11)]


def same(data: bytes, cuts: Sequence[int], limits: Limits) -> None:
    """Both readers make the same of these bytes, as a request and as a response, wherever they are cut."""
    for own, by_h11 in PAIRS:
        assert read_with(own(limits), data, cuts) == read_with(by_h11(limits), data, [len(data)])


# ── reading ────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", [*REQUESTS, *RESPONSES])
def test_the_ordinary_is_read_without_h11(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = REQUESTS.get(name) or RESPONSES[name]
    own, by_h11 = PAIRS[name in RESPONSES]
    expected = read_with(by_h11(Limits()), wire + b"rest", [1000])
    monkeypatch.setattr(h11, "Connection", None)
    assert read_with(own(Limits()), wire + b"rest", [1000]) == expected
    assert expected[1] == b"rest"


@pytest.mark.parametrize("wire", ODD_REQUESTS + ODD_RESPONSES)
def test_the_odd_is_h11s_to_judge(wire: bytes) -> None:
    own, by_h11 = PAIRS[wire in ODD_RESPONSES]
    assert own(Limits())._read(memoryview(wire)) is None
    assert read_with(own(Limits()), wire, [1000]) == read_with(by_h11(Limits()), wire, [1000])


@pytest.mark.parametrize("wire", [*REQUESTS.values(), *RESPONSES.values(), *ODD_REQUESTS, *ODD_RESPONSES])
def test_cut_at_every_place(wire: bytes) -> None:
    wire += b"\r\nrest"
    for at in range(1, len(wire)):
        same(wire, [at, len(wire)], Limits())
    same(wire, [1], Limits())


_HEADS = st.sampled_from([*REQUESTS.values(), *RESPONSES.values(), *ODD_REQUESTS, *ODD_RESPONSES])
_CUTS = st.lists(st.integers(1, 60), min_size=1, max_size=6)


@settings(deadline=None, max_examples=400)
@given(_HEADS.flatmap(garbled), _CUTS, st.sampled_from([Limits(), SMALL]))
def test_garbled_heads(wire: bytes, cuts: list[int], limits: Limits) -> None:
    if wire:
        same(wire, cuts, limits)


_BYTES = st.sampled_from(
    [b"a", b"5", b" ", b"\t", b":", b",", b"\r", b"\n", b"\r\n", b"\0", b"\x0b", b"\x7f", b"\x85", b"\xa0", b"close"]
)
_LINES = st.builds(
    lambda name, between, value: name + between + b"".join(value),
    st.sampled_from([b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Expect", b"Upgrade", b"X"]),
    st.sampled_from([b": ", b":", b" : ", b":\t"]),
    st.lists(_BYTES, max_size=4),
)


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from([b"GET / HTTP/1.1", b"POST /\x7f HTTP/1.1", b"HTTP/1.1 200 OK", b"HTTP/1.1 304"]),
    st.lists(_LINES, max_size=5),
    st.sampled_from([Limits(), SMALL]),
)
def test_built_heads(first: bytes, lines: list[bytes], limits: Limits) -> None:
    wire = b"\r\n".join([first, b"Host: a", *lines, b"", b""])
    same(wire, [len(wire)], limits)


@pytest.mark.parametrize("size", [0, 1])
def test_bounds_are_the_same(size: int) -> None:
    frame = b"GET / HTTP/1.1\r\nHost: a\r\n"
    for wire in (
        frame + b"A: " + b"x" * (SMALL.http_line - 4 + size) + b"\r\n\r\n",
        frame + b"A: b\r\n" * (SMALL.http_headers - 1 + size) + b"\r\n",
        b"GET /" + b"x" * (SMALL.http_line - 15 + size) + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        frame + b"A: " + b"x" * 40 + b"\r\nB: " + b"y" * (SMALL.http_head - len(frame) - 52 + size) + b"\r\n\r\n",
    ):
        told = read_with(RequestReader(SMALL), wire, [len(wire)])
        assert told == read_with(RequestsByH11(SMALL), wire, [len(wire)])
        assert str(told[0]).startswith("431") == bool(size)


# ── writing ────────────────────────────────────────────────────────────────────
_TEXTS = st.text(st.sampled_from("aA1-: ,\t\r\n\0\x7fé\xa0ŝ☃"), max_size=6)
_NAMES = st.one_of(st.sampled_from(["Accept", "x-a", "Cookie", "Content-Length", "te"]), _TEXTS)
_FIELDS = st.lists(st.tuples(_NAMES, st.one_of(_TEXTS, _TEXTS.map(Secret))), max_size=4).map(tuple)


def as_told(headers: Any) -> list[tuple[bytes, bytes]]:
    """The fields as the peer is to see them."""
    framing = ("content-length", "transfer-encoding")
    return [(n.lower(), v) for n, v in written([pair for pair in headers if pair[0].lower() not in framing])]


def refusal(write: Callable[[], Any]) -> str | None:
    """Why this cannot be written, None if it can."""
    try:
        write()
    except RemoteProtocolError as error:
        return f"{error.kind}: {error.message}"
    return None


@settings(deadline=None, max_examples=300)
@given(_FIELDS)
def test_a_head_says_what_was_given_and_nothing_else(headers: Any) -> None:
    """No name and no value becomes a line, and h11 writes the same bytes."""
    unfit = refusal(lambda: as_told(headers))
    if unfit is not None:
        assert unfit == refusal(lambda: request_head("GET", "/", (*HOST, *headers), length=3, chunked=False))
        assert unfit == refusal(lambda: answer_head(200, headers, 3, bodiless=False, version="1.1", last=False))
        return
    fields = as_told(headers)
    head, closes, upgrades = request_head("GET", "/", (("Host", "a"), *headers), length=3, chunked=False)
    request = h11.Connection(h11.SERVER)
    request.receive_data(head)
    event = request.next_event()
    assert isinstance(event, h11.Request)
    assert list(event.headers) == [(b"host", b"a"), *fields, (b"content-length", b"3")]
    assert request.trailing_data == (b"", False)
    assert (closes, upgrades) == (False, False)
    raw = [(name.encode("ascii"), value.encode("latin-1")) for name, value in _plain(headers)]
    mirror = h11.Request(method="GET", target="/", headers=[(b"Host", b"a"), *raw, (b"Content-Length", b"3")])
    assert head == h11.Connection(h11.CLIENT).send(mirror)
    answer, _, last = answer_head(200, headers, 3, bodiless=False, version="1.1", last=False)
    peer = h11.Connection(h11.CLIENT)
    peer.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    peer.receive_data(answer)
    told = peer.next_event()
    assert isinstance(told, h11.Response)
    assert list(told.headers) == [*fields, (b"content-length", b"3")]
    assert not last


def _plain(headers: Any) -> list[tuple[str, str]]:
    texts = [(n, (v.reveal() if isinstance(v, Secret) else v).strip(" \t")) for n, v in headers]
    return [(name, text) for name, text in texts if name.lower() not in ("content-length", "transfer-encoding")]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [200, 204, 304, 404, 599])
@pytest.mark.parametrize("length", [None, 0, 5])
@pytest.mark.parametrize("headers", [(), (("X", "y"),), (("Connection", "keep-alive, X"),)])
def test_answers_are_framed_as_h11_frames_them(
    version: str, method: str, status: int, length: int | None, headers: Any
) -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(f"{method} / HTTP/{version}\r\nHost: a\r\n\r\n".encode())
    connection.next_event()
    bodiless = method == "HEAD" or status in (204, 304)
    told, writer, last = answer_head(status, headers, length, bodiless=bodiless, version=version, last=version == "1.0")
    framing = [] if length is None or status == 204 else [("Content-Length", str(length))]
    reason = REASONS.get(status, "")
    by_h11 = connection.send(h11.Response(status_code=status, headers=[*headers, *framing], reason=reason))
    assert told == by_h11
    assert last == (version == "1.0")
    assert writer.to_the_end == (length is None and version == "1.0" and not bodiless)
    assert writer.left == (0 if bodiless else length)


def test_what_a_connection_header_says() -> None:
    for value, closes in (("close", True), ("Keep-Alive", False), ("te, CLOSE", True), ("", False)):
        head, told, _ = request_head("GET", "/", (("Connection", value), ("Host", "a")), length=None, chunked=False)
        assert told == closes
        assert head.startswith(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: ")
        answer, _, last = answer_head(200, (("Connection", value),), 0, bodiless=False, version="1.1", last=False)
        assert last == closes
        assert answer.count(b"Connection: ") == 1
    for value, upgrades in (("websocket", True), (" , ", False)):
        told = request_head("GET", "/", (("Upgrade", value), ("Host", "a")), length=None, chunked=False)[2]
        assert told == upgrades


@pytest.mark.parametrize("length", [-1, 10**19])
def test_a_length_has_1_to_19_digits(length: int) -> None:
    with pytest.raises(LocalProtocolError):
        request_head("GET", "/", (("Host", "a"),), length=length, chunked=False)
    with pytest.raises(LocalProtocolError):
        answer_head(200, (), length, bodiless=False, version="1.1", last=False)
