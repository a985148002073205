"""Where a message's head ends, where its body ends, and how a body is written.

h11 reads and judges every head and every chunked body. This file stands before it for three things h11 leaves
open: the bounds are exact wherever the bytes are cut, the forms are refused that two parsers may read
differently (obs-fold, a bare line feed, `Content-Length` beside `Transfer-Encoding`), and a body of known
length is counted and passed by (style.md §9), so that its bytes are never copied.

Source: RFC 9112 §2-§7; security.md §3 and T10.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, TypeAlias

import h11

from towline.core._contract import Data
from towline.core._limits import Limits
from towline.core.http._headers import Fields, content_length, members

_END: Final = re.compile(rb"\n\r?\n")
# `\r\n` + at most 16 hexadecimal digits + `\r\n`; what a chunk's frame has besides its extension.
_CHUNK_FRAME: Final = 20


class Fault(Exception):
    """The peer broke HTTP. `status` is what a server answers with; `why` never quotes the peer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


class HeadReader:
    """Collect the bytes of one head and hand them to h11 in one piece.

    Bounds:  limits.http_head bytes in all, http_line a line, http_headers fields: exact, however the bytes are cut
    Raises:  Fault 431 past a bound, 400 for what is not HTTP
    """

    def __init__(self, limits: Limits, *, response: bool) -> None:
        self._limits = limits
        self._response = response
        self._buffer = bytearray()
        self._searched = 0

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: memoryview) -> tuple[bytes | None, memoryview]:
        """Take bytes; return the whole head once it is there, and the bytes after it."""
        limit = self._limits.http_head
        taken = data[: limit - len(self._buffer)]
        self._buffer += taken
        self._check_start()
        found = _END.search(self._buffer, max(0, self._searched - 2))
        if found is None:
            self._searched = len(self._buffer)
            if len(self._buffer) >= limit:
                raise Fault(431, f"expected a head of at most {limit} bytes, got more")
            return None, data[len(taken) :]
        head = bytes(self._buffer[: found.end()])
        rest = data[len(taken) - (len(self._buffer) - found.end()) :]
        self._buffer.clear()
        self._searched = 0
        self._check_lines(head)
        return head, rest

    def _check_start(self) -> None:
        # Early, so that a TLS or HTTP/2 peer is not waited for.
        if self._response:
            if self._buffer[:5] != b"HTTP/"[: len(self._buffer)]:
                raise Fault(400, "expected a status line, got something else")
        elif self._buffer and not 0x21 <= self._buffer[0] <= 0x7E:
            raise Fault(400, "expected a request line, got something else")

    def _check_lines(self, head: bytes) -> None:
        lines = head.split(b"\n")[:-1]
        count = len(lines) - 2  # the first line is not one, nor is the blank one at the end
        if count > self._limits.http_headers:
            raise Fault(431, f"expected at most {self._limits.http_headers} header fields, got {count}")
        for line in lines:
            if len(line) > self._limits.http_line:
                raise Fault(
                    431, f"expected lines of at most {self._limits.http_line} bytes in a head, got a longer one"
                )
            if line[:1] in (b" ", b"\t"):
                raise Fault(400, "expected a header field, got a folded line")
            if line[-1:] != b"\r":
                raise Fault(400, "expected CR LF at the end of a line, got a bare LF")


def parse_head(parser: h11.Connection, head: bytes) -> h11.Request | h11.Response | h11.InformationalResponse:
    """Let h11 judge a complete head."""
    parser.receive_data(head)
    event = next_event(parser)
    assert isinstance(event, h11.Request | h11.Response | h11.InformationalResponse)
    if event.http_version not in (b"1.1", b"1.0"):
        raise Fault(505, "expected HTTP/1.0 or HTTP/1.1, got another version")
    return event


def next_event(parser: h11.Connection) -> object:
    """Return h11's next event; its errors become Faults, without the bytes that h11 quotes in them."""
    try:
        return parser.next_event()
    except h11.RemoteProtocolError as error:
        if error.error_status_hint == 501:
            raise Fault(501, "expected no transfer encoding but chunked, got another") from None
        reason = re.split(r"[:({]", str(error))[0].strip()
        raise Fault(error.error_status_hint, f"expected well-formed HTTP/1.1, got: {reason}") from None


class HeadFields(Fields, frozen=True):
    """The fields of a head that h11 accepted, as text."""

    version: str = "1.1"

    @property
    def closes(self) -> bool:
        """True if the peer will not speak on this link again. HTTP/1.0 peers are not kept: their rules are a mess."""
        return self.version == "1.0" or "close" in members(self.all("connection"))


def fields(event: h11.Request | h11.Response | h11.InformationalResponse) -> HeadFields:
    """Return an accepted head's fields; refuse a framing that peers may read in two ways."""
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)
    head = HeadFields(headers, event.http_version.decode("ascii"))
    encoded = head.get("transfer-encoding") is not None
    length = head.get("content-length")
    if encoded and length is not None:
        raise Fault(400, "expected Content-Length or Transfer-Encoding, got both")
    if encoded and head.version == "1.0":
        raise Fault(400, "expected no Transfer-Encoding in HTTP/1.0, got one")
    if length is not None and content_length(length) is None:
        raise Fault(400, "expected a Content-Length of 1 to 19 digits, got something else")
    return head


# ── reading bodies ─────────────────────────────────────────────────────────────
class CountedBody:
    """A body of known length. `left` are the bytes still owed; never negative. It is fed while some are."""

    def __init__(self, length: int) -> None:
        self._length = length
        self.left = length
        self.done = length == 0

    def feed(self, data: memoryview) -> Iterator[Data]:
        """Yield the body's pieces; bytes past its end are left in `surplus`."""
        piece, self.surplus = data[: self.left], data[self.left :]
        self.left -= len(piece)
        self.done = self.left == 0
        yield piece

    def end(self) -> str | None:
        """The peer ended: return what is missing, None if that is how the body ends."""
        return f"expected {self._length} bytes of body, got {self._length - self.left}"

    surplus: memoryview = memoryview(b"")


class ChunkedBody:
    """A chunked body, read by h11; chunk lines and trailers are bounded exactly, trailers are dropped."""

    left: int | None = None

    def __init__(self, parser: h11.Connection, limits: Limits) -> None:
        self._parser = parser
        self._limits = limits
        self._frame = 0  # bytes since the last piece that were not body: frames, extensions, trailers
        self._held = 0  # bytes h11 has and has not given back
        self._total = 0
        self.done = False
        self.surplus = memoryview(b"")

    def feed(self, data: memoryview) -> Iterator[Data]:
        self._parser.receive_data(data)  # type: ignore[arg-type]  # any buffer will do: h11 appends it to its own
        self._held += len(data)
        while not self.done:
            try:
                event = next_event(self._parser)
            except Fault as fault:
                if fault.status == 431:
                    raise self._too_long() from None
                raise
            if isinstance(event, h11.Data):
                self._count(len(event.data), self._limits.http_chunk_line + _CHUNK_FRAME)
                self._frame = 0
                self._total += len(event.data)
                yield memoryview(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._count(0, self._limits.http_trailers)
                self.done = True
                self.surplus = memoryview(self._parser.trailing_data[0])
            else:
                self._count(0, self._limits.http_trailers)
                return

    def _count(self, given: int, limit: int) -> None:
        held = len(self._parser.trailing_data[0])
        self._frame += self._held - held - given
        self._held = held
        if self._frame > limit:
            raise self._too_long()

    def _too_long(self) -> Fault:
        return Fault(
            400,
            f"expected chunk extensions of at most {self._limits.http_chunk_line} bytes and trailers of at most "
            f"{self._limits.http_trailers}, got longer ones",
        )

    def end(self) -> str | None:
        return f"expected the last chunk, got the end after {self._total} bytes of body"


class BodyToTheEnd:
    """A body that ends where the link ends: HTTP/1.0 responses without a length."""

    left: int | None = None

    def __init__(self) -> None:
        self.done = False
        self.surplus = memoryview(b"")

    def feed(self, data: memoryview) -> Iterator[Data]:
        yield data

    def end(self) -> str | None:
        self.done = True
        return None


BodyReader: TypeAlias = CountedBody | ChunkedBody | BodyToTheEnd


def body_reader(parser: h11.Connection, head: HeadFields, limits: Limits, *, response: bool) -> BodyReader:
    """Return the reader for the body that this head announces (RFC 9112 §6.3)."""
    if head.get("transfer-encoding") is not None:
        return ChunkedBody(parser, limits)
    length = head.get("content-length")
    if length is not None:
        return CountedBody(int(length))
    return BodyToTheEnd() if response else CountedBody(0)


# ── writing bodies ─────────────────────────────────────────────────────────────
class BodyWriter:
    """Frame an outgoing body: of known length, chunked, or up to the end of the link."""

    def __init__(self, length: int | None, *, to_the_end: bool = False) -> None:
        self.left = length
        self.to_the_end = to_the_end
        self.done = False

    def fits(self, size: int) -> bool:
        """True if so many more bytes may be written."""
        return not self.done and (self.left is None or size <= self.left)

    @property
    def complete(self) -> bool:
        """True if the body may end here."""
        return not self.left

    def piece(self, data: Data) -> list[Data]:
        """Return the wire's pieces for the next bytes of the body; the bytes themselves are not copied."""
        if not len(data):
            return []
        if self.left is not None:
            self.left -= len(data)
            return [data]
        return [data] if self.to_the_end else [b"%x\r\n" % len(data), data, b"\r\n"]

    def end(self) -> list[Data]:
        """Return what ends the body on the wire."""
        self.done = True
        return [] if self.left is not None or self.to_the_end else [b"0\r\n\r\n"]
