"""Heads as they come: the ordinary shape is read here, and everything else is judged by h11.

Nearly every head is HTTP/1.1 with a well-known method, CR LF, visible characters, one `Content-Length` at most, and
nothing that changes how the link goes on. One expression reads that, ten times as fast as h11, takes less than h11
takes, and reads the same from it. Where it finds anything else (`Upgrade`, `Expect`, HTTP/1.0, two lengths, an odd
byte) it says nothing, and h11 reads the head: what is refused, and why, is h11's word.

Before h11 stand three things that it leaves open: the bounds are exact wherever the bytes are cut, and the forms are
refused that two parsers may read differently (obs-fold, a bare line feed, `Content-Length` beside
`Transfer-Encoding`).

Source: RFC 9112 §2-§5; security.md §3 and T10; design.md §5.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Final, Generic, TypeAlias, TypeVar

import h11

from towline.core._contract import Record
from towline.core._limits import Limits
from towline.core._script import Head
from towline.core.http._exchange import RequestHead
from towline.core.http._framing import BodyReader, ChunkedBody, CountedBody, Fault, next_event
from towline.core.http._headers import SPACES, content_length, members

HeadT = TypeVar("HeadT", RequestHead, Head)

_FIELDS: Final = rb"((?:[-!#$%&'*+.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)*)\r\n"
_REQUEST: Final = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[\x21-\x7e]*) HTTP/1\.1\r\n" + _FIELDS,
)
_RESPONSE: Final = re.compile(rb"HTTP/1\.1 ([2-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?\r\n" + _FIELDS)
_END: Final = re.compile(rb"\n\r?\n")

# What changes how a request or its link goes on: h11's to judge. In a response they have no meaning, or come with a
# 101, which is h11's as well.
_ODD: Final = frozenset({"expect", "upgrade"})
# Two of them may contradict each other.
_ONCE: Final = ("connection", "content-length", "host", "transfer-encoding")


class Opening(Record, Generic[HeadT], frozen=True):
    """A head that was accepted, and what it says of its message and its link.

    `length` is None where nothing is said, and where the body is `chunked`; `parser` reads that one, if it read the
    head.
    """

    head: HeadT
    length: int | None
    chunked: bool
    closes: bool
    expects: bool = False
    parser: h11.Connection | None = None

    def body(self, limits: Limits) -> BodyReader | None:
        """Return the reader of the body that is announced, None if nothing is said (RFC 9112 §6.3)."""
        if self.chunked:
            return ChunkedBody(self.parser, limits)
        return None if self.length is None else CountedBody(self.length)


class _HeadReader(ABC, Generic[HeadT]):
    """Collect the bytes of a head and judge it.

    Bounds:  limits.http_head bytes in all, http_line a line, http_headers fields: exact, however the bytes are cut
    Raises:  Fault 431 past a bound, another for what is not HTTP or not served
    """

    __slots__ = ("_buffer", "_limits", "_searched")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer: bytearray | None = None
        self._searched = 0

    def __len__(self) -> int:
        return 0 if self._buffer is None else len(self._buffer)

    def feed(self, data: memoryview) -> tuple[Opening[HeadT] | None, memoryview]:
        """Take bytes; return what a head says once it is there, and the bytes behind it."""
        if self._buffer is None:
            own = self._read(data)
            if own is not None:
                return own[0], data[own[1] :]
        raw, rest = self._collect(data)
        if raw is None:
            return None, rest
        own = self._read(raw)
        return self._judge(raw) if own is None else own[0], rest

    @abstractmethod
    def _read(self, data: bytes | memoryview) -> tuple[Opening[HeadT], int] | None:
        """Return what the head at the start of these bytes says, and its size; None where h11 is to judge."""

    @abstractmethod
    def _judge(self, raw: bytes) -> Opening[HeadT]:
        """Let h11 judge a complete head."""

    @abstractmethod
    def _check_start(self, start: bytearray) -> None:
        """Refuse early, so that a TLS or HTTP/2 peer is not waited for."""

    def _collect(self, data: memoryview) -> tuple[bytes | None, memoryview]:
        limit = self._limits.http_head
        buffer = self._buffer = bytearray() if self._buffer is None else self._buffer
        taken = data[: limit - len(buffer)]
        buffer += taken
        self._check_start(buffer)
        found = _END.search(buffer, max(0, self._searched - 2))
        if found is None:
            self._searched = len(buffer)
            if len(buffer) >= limit:
                raise Fault(431, f"expected a head of at most {limit} bytes, got more")
            return None, data[len(taken) :]
        head = bytes(buffer[: found.end()])
        rest = data[len(taken) - (len(buffer) - found.end()) :]
        self._buffer = None
        self._searched = 0
        _check_lines(head, self._limits)
        return head, rest


class RequestReader(_HeadReader[RequestHead]):
    """Read the heads of requests."""

    __slots__ = ()

    def _read(self, data: bytes | memoryview) -> tuple[Opening[RequestHead], int] | None:
        found = _REQUEST.match(data, 0, self._limits.http_head)
        told = found and _fields(found[3], found.start(3), self._limits)
        if not found or not told:
            return None
        headers, values = told
        if "host" not in values or not _ODD.isdisjoint(values) or not _is_plain(values):
            return None
        head = RequestHead(headers, str(found[1], "ascii"), str(found[2], "ascii"))
        return Opening(head, *_framing(values)), found.end()

    def _judge(self, raw: bytes) -> Opening[RequestHead]:
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.http_trailers)
        event = _parsed(parser, raw)
        assert isinstance(event, h11.Request)
        headers, length, chunked = _judged_fields(event)
        head = RequestHead(
            headers, event.method.decode("ascii"), event.target.decode("ascii"), event.http_version.decode("ascii")
        )
        if head.method == "CONNECT":
            raise Fault(405, "expected a method other than CONNECT, got it")
        if not head.target.startswith("/") and (head.target, head.method) != ("*", "OPTIONS"):
            raise Fault(400, "expected a target that begins with /, got another form")
        # HTTP/1.0 peers are not kept: their rules are a mess.
        closes = head.version == "1.0" or "close" in members(head.all("connection"))
        expects = head.version == "1.1" and "100-continue" in members(head.all("expect"))
        return Opening(head, length, chunked, closes, expects, parser if chunked else None)

    def _check_start(self, start: bytearray) -> None:
        if start and not 0x21 <= start[0] <= 0x7E:
            raise Fault(400, "expected a request line, got something else")


class ResponseReader(_HeadReader[Head]):
    """Read the heads of responses. `upgrades` says whether the request asked for another protocol."""

    __slots__ = ("upgrades",)

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.upgrades = False

    def _read(self, data: bytes | memoryview) -> tuple[Opening[Head], int] | None:
        found = _RESPONSE.match(data, 0, self._limits.http_head)
        told = found and _fields(found[2], found.start(2), self._limits)
        if not found or not told:
            return None
        headers, values = told
        if not _is_plain(values):
            return None
        return Opening(Head(int(found[1]), headers), *_framing(values)), found.end()

    def _judge(self, raw: bytes) -> Opening[Head]:
        # The only thing about the request that h11 judges a head by is whether it may be answered with a 101.
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=self._limits.http_trailers)
        asked = [(b"Host", b"-"), (b"Upgrade", b"-")] if self.upgrades else [(b"Host", b"-")]
        parser.send(h11.Request(method=b"GET", target=b"/", headers=asked))
        event = _parsed(parser, raw)
        assert not isinstance(event, h11.Request)
        if event.status_code < 200 and event.status_code != 101:
            return Opening(Head(event.status_code, ()), None, False, False)
        headers, length, chunked = _judged_fields(event)
        head = Head(event.status_code, headers)
        closes = event.http_version == b"1.0" or "close" in members(head.all("connection"))
        return Opening(head, length, chunked, closes, False, parser if chunked else None)

    def _check_start(self, start: bytearray) -> None:
        if start[:5] != b"HTTP/"[: len(start)]:
            raise Fault(400, "expected a status line, got something else")


# ── the own reader ─────────────────────────────────────────────────────────────
HeaderTexts: TypeAlias = tuple[tuple[str, str], ...]


def _fields(block: bytes, start: int, limits: Limits) -> tuple[HeaderTexts, dict[str, str]] | None:
    """Return the fields of lines that the expression has accepted, in order and by name; None if h11 is to judge."""
    lines = block.decode("latin-1").split("\r\n")
    lines.pop()
    count, longest = len(lines), limits.http_line
    if count > limits.http_headers:
        return None
    if start + len(block) > longest and (start > longest + 1 or any(len(line) >= longest for line in lines)):
        return None
    headers = [(name.lower(), value.strip(SPACES)) for name, _, value in [line.partition(":") for line in lines]]
    values = dict(headers)
    if len(values) < count:
        names = [name for name, _ in headers]
        if any(names.count(name) > 1 for name in _ONCE):
            return None
    return tuple(headers), values


def _is_plain(values: dict[str, str]) -> bool:
    """True if the end of the body is told in one way that everybody reads alike."""
    length, encoding = values.get("content-length"), values.get("transfer-encoding")
    if encoding is not None:
        return encoding == "chunked" and length is None
    return length is None or content_length(length) is not None


def _framing(values: dict[str, str]) -> tuple[int | None, bool, bool]:
    """Return length, whether the body is chunked, and whether the peer will not speak on this link again."""
    length, said = values.get("content-length"), values.get("connection")
    closes = said is not None and said != "keep-alive" and "close" in members((said,))
    return None if length is None else int(length), "transfer-encoding" in values, closes


# ── h11 ────────────────────────────────────────────────────────────────────────
def _check_lines(head: bytes, limits: Limits) -> None:
    lines = head.split(b"\n")[:-1]
    count = len(lines) - 2  # the first line is not one, nor is the blank one at the end
    if count > limits.http_headers:
        raise Fault(431, f"expected at most {limits.http_headers} header fields, got {count}")
    for line in lines:
        if len(line) > limits.http_line:
            raise Fault(431, f"expected lines of at most {limits.http_line} bytes in a head, got a longer one")
        if line[:1] in (b" ", b"\t"):
            raise Fault(400, "expected a header field, got a folded line")
        if line[-1:] != b"\r":
            raise Fault(400, "expected CR LF at the end of a line, got a bare LF")


def _parsed(parser: h11.Connection, raw: bytes) -> h11.Request | h11.Response | h11.InformationalResponse:
    parser.receive_data(raw)
    event = next_event(parser)
    assert isinstance(event, h11.Request | h11.Response | h11.InformationalResponse)
    if event.http_version not in (b"1.1", b"1.0"):
        raise Fault(505, "expected HTTP/1.0 or HTTP/1.1, got another version")
    return event


def _judged_fields(
    event: h11.Request | h11.Response | h11.InformationalResponse,
) -> tuple[HeaderTexts, int | None, bool]:
    """Return fields, length, and whether the body is chunked; refuse a framing that peers may read in two ways."""
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)
    values = dict(headers)
    chunked, said = "transfer-encoding" in values, values.get("content-length")
    if chunked and said is not None:
        raise Fault(400, "expected Content-Length or Transfer-Encoding, got both")
    if chunked and event.http_version == b"1.0":
        raise Fault(400, "expected no Transfer-Encoding in HTTP/1.0, got one")
    length = None if said is None else content_length(said)
    if said is not None and length is None:
        raise Fault(400, "expected a Content-Length of 1 to 19 digits, got something else")
    return headers, length, chunked
