"""The HTTP room's machines: scripts over links, and a small API server."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from machines.case import KIB, MachineCase, wire_facts

from towline.core import (
    WAKE,
    Accepted,
    Body,
    Broken,
    Ended,
    Entropy,
    Filled,
    Limits,
    Note,
    Opened,
    Plan,
    Proved,
    Read,
    Received,
    Refused,
    RemoteProtocolError,
    Request,
    Secret,
    Step,
    Tail,
    Window,
    begin,
    end,
    feed,
    fetch,
    read,
    say,
    sleep,
    together,
)
from towline.core.http import (
    Answer,
    AnswerBody,
    AnswerCut,
    AnswerEnd,
    AnswerHead,
    Courier,
    Drain,
    Face,
    Url,
    fetch_following,
)

SMALL = Limits(tunnel_buffer=128 * KIB, http_request_body=128 * KIB, http_piece=2 * KIB)


# ── the courier ────────────────────────────────────────────────────────────────
def document(url: str) -> Step[tuple[int, int]]:
    """Read a document and count its bytes."""
    came = yield from fetch_following(
        Request("GET", url, (("Authorization", Secret("Bearer t0k")),)), secure_from=Url.parse(url)
    )
    if isinstance(came, Broken):
        raise RemoteProtocolError(came.kind, came.why)
    size = 0
    while not isinstance(piece := (yield from read()), Tail):
        if isinstance(piece, Broken):
            raise RemoteProtocolError(piece.kind, piece.why)
        size += len(piece.data)
    return came[0].status, size


def blob(stream: int, url: str) -> Step[Any]:
    """Feed a blob to a stream and wait for the verdict."""
    yield from begin(stream, Plan())
    yield from fetch(Request("GET", url))
    while isinstance(piece := (yield from read()), Body):
        yield from feed(stream, piece.data)
    return (yield from end(stream))


def pull() -> Step[Any]:
    """Three documents, one after a pause, then two blobs side by side."""
    first = yield from document("http://a.test/one")
    yield from say(Note("info", "one", {"status": first[0]}))
    second = yield from document("http://a.test/two")
    yield from sleep(10.0)
    third = yield from document("http://a.test/three")
    blobs = yield from together([blob(1, "http://a.test/b1"), blob(2, "http://a.test/b2")], 2)
    return [first, second, third, blobs]


def counted(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nA: b\r\n\r\n"
MOVED = b"HTTP/1.1 307 x\r\nLocation: http://b.test/store?sig=abc\r\nContent-Length: 4\r\n\r\ngone"
REPLIES = [
    counted(b"hello"),
    CHUNKED,
    MOVED,
    b"HTTP/1.1 103 x\r\n\r\n" + counted(b""),
    b"HTTP/1.0 200 OK\r\n\r\nto the end",
    counted(b"ok") + b"POISON",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\nx",
    b"HTTP/1.1 204 x\r\n\r\n",
]

PULL = [
    (0.0, WAKE),
    (0.1, Opened(1)),
    (0.2, Received(1, b"HTTP/1.1 103 x\r\n\r\n" + MOVED)),
    (0.3, Opened(3)),
    (0.4, Received(3, counted(b"hello"))),
    (0.5, Received(1, CHUNKED)),
    (10.6, WAKE),
    (10.7, Received(1, counted(b"third"))),
    (10.8, Opened(5)),
    (10.9, Received(5, counted(b"b" * 5000)[:1000])),
    (10.95, Received(5, counted(b"b" * 5000)[1000:])),
    (11.0, Opened(7)),
    (11.1, Received(7, b"HTTP/1.0 200 OK\r\n\r\n" + b"c" * 3000)),
    (11.2, Ended(7)),
    (11.3, Proved(1, "one")),
    (11.4, Proved(2, "two")),
]

VERDICTS = st.one_of(
    st.builds(Filled, st.sampled_from([5, 7]), st.binary(max_size=5000).map(memoryview)),
    st.builds(Proved, st.integers(1, 2), st.just("good")),
    st.builds(Refused, st.integers(1, 2), st.just(RemoteProtocolError("digest-mismatch", "expected other bytes"))),
)


# ── the face ───────────────────────────────────────────────────────────────────
GET = b"GET /jobs/a%20b?state=done HTTP/1.1\r\nHost: a.test\r\n\r\n"
POST = b"POST /scan HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 12\r\n\r\nhello worlds"
STREAMED = b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
ASKED = [
    GET,
    POST,
    STREAMED,
    GET + POST,
    GET.replace(b"1.1", b"1.0"),
    b"bad\r\n\r\n",
    b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
]

SERVED = [
    (0.0, WAKE),
    (0.0, Accepted(2, "api", "peer:1")),
    (0.1, Received(2, GET)),
    (0.2, Answer(1, 200, (("Content-Type", "text/plain"),), b"hello")),
    (0.3, Accepted(4, "api", "peer:2")),
    (0.4, Received(4, POST + STREAMED)),
    (0.5, AnswerHead(2, 200)),
    (0.6, AnswerBody(2, b"part ")),
    (0.7, AnswerBody(2, b"and part")),
    (0.8, AnswerEnd(2)),
    (0.9, AnswerHead(3, 200, (("Content-Length", "4"),))),
    (1.0, AnswerBody(3, b"half")),
    (1.1, AnswerEnd(3)),
    (1.2, Received(2, GET)),
    (1.3, Drain()),
    (1.4, Answer(4, 204)),
]

EXCHANGE = st.integers(0, 3)
COMMANDS = st.one_of(
    st.builds(Accepted, st.sampled_from([2, 4]), st.just("api"), st.just("peer")),
    st.builds(Answer, EXCHANGE, st.sampled_from([200, 204, 404, 99]), st.just(()), st.binary(max_size=20)),
    st.builds(Answer, EXCHANGE, st.just(200), st.just((("X", "a\r\nb"),))),
    st.builds(AnswerHead, EXCHANGE, st.just(200), st.sampled_from([(), (("Content-Length", "5"),)])),
    st.builds(AnswerBody, EXCHANGE, st.sampled_from([b"", b"hello", b"xx"])),
    st.builds(AnswerEnd, EXCHANGE),
    st.builds(AnswerCut, EXCHANGE),
    st.just(Drain()),
)

CASES = [
    MachineCase(
        "http-courier",
        lambda: Courier(pull(), entropy=Entropy(b"courier" * 3), limits=SMALL, total=600.0),
        PULL,
        wire_facts([1, 3, 5, 7], st.sampled_from(REPLIES), VERDICTS),
        volatile=(Read, Note, Window),
        floods=(b"\0", b"a: b\r\n", b"HTTP/1.1 103 x\r\n\r\n", b"1\r\na\r\n", counted(b"x")),
    ),
    MachineCase(
        "http-face",
        lambda: Face(SMALL),
        SERVED,
        wire_facts([2, 4], st.sampled_from(ASKED), COMMANDS),
        floods=(b"\0", b"a: b\r\n", GET, b"1\r\na\r\n"),
    ),
]
