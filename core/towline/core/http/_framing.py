"""Where a message's body ends, and how a body is written.

h11 reads chunked bodies, but for the commonest: one that came whole, in a few plain chunks. A body of known length is
counted and passed by (style.md §9), so that its bytes are never copied.

Source: RFC 9112 §6-§7; security.md §3 and T10.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

import h11

from towline.core._contract import Data
from towline.core._limits import KIB, Limits

# `\r\n` + at most 16 hexadecimal digits + `\r\n`; what a chunk's frame has besides its extension.
_CHUNK_FRAME: Final = 20
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
# Chunks that are read without h11: what a short answer has, several times over.
_CHUNKS: Final = 32
# Bytes of several chunks that are copied to be one piece: about what a second piece costs its reader.
_JOINED: Final = 16 * KIB
_CHUNKED_HEAD: Final = b"POST / HTTP/1.1\r\nHost: -\r\nTransfer-Encoding: chunked\r\n\r\n"
_NOTHING: Final = memoryview(b"")


class Fault(Exception):
    """The peer broke HTTP. `status` is what a server answers with; `why` never quotes the peer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


def next_event(parser: h11.Connection) -> object:
    """Return h11's next event; its errors become Faults, without the bytes that h11 quotes in them."""
    try:
        return parser.next_event()
    except h11.RemoteProtocolError as error:
        if error.error_status_hint == 501:
            raise Fault(501, "expected no transfer encoding but chunked, got another") from None
        reason = re.split(r"[:({]", str(error))[0].strip()
        raise Fault(error.error_status_hint, f"expected well-formed HTTP/1.1, got: {reason}") from None


# ── reading bodies ─────────────────────────────────────────────────────────────
# Each is fed while it is not done, and only when `piece` has returned None; `surplus` is then what came behind the
# body's end. Nothing of what was fed is kept after that.
class CountedBody:
    """A body of known length. `left` are the bytes still owed; never negative."""

    __slots__ = ("_fed", "_length", "done", "left", "surplus")

    def __init__(self, length: int) -> None:
        self._length = length
        self._fed: memoryview | None = None
        self.left = length
        self.done = length == 0
        self.surplus = _NOTHING

    def feed(self, data: memoryview) -> None:
        """Take bytes."""
        if len(data) > self.left:
            data, self.surplus = data[: self.left], data[self.left :]
        self._fed = data
        self.left -= len(data)
        self.done = self.left == 0

    def piece(self) -> Data | None:
        """Return the next piece of the body that is in the bytes taken, a view of them; None after the last."""
        fed, self._fed = self._fed, None
        return fed

    def end(self) -> str | None:
        """The peer ended: return what is missing, None if that is how the body ends."""
        return f"expected {self._length} bytes of body, got {self._length - self.left}"


class ChunkedBody:
    """A chunked body: what comes whole and plain is read here, everything else by h11.

    Chunk lines and trailers are bounded exactly, trailers are dropped. `parser` is at the start of the body, if it
    read the head; otherwise one is made when there is something for it.
    """

    __slots__ = ("_frame", "_held", "_limits", "_parser", "_total", "_whole", "done", "surplus")

    left: Final[int | None] = None

    def __init__(self, parser: h11.Connection | None, limits: Limits) -> None:
        self._parser = parser
        self._limits = limits
        self._whole: list[Data] = []  # the pieces of a body that came whole, the next one last
        self._frame = 0  # bytes since the last piece that were not body: frames, extensions, trailers
        self._held = 0  # bytes h11 has and has not given back
        self._total = 0
        self.done = False
        self.surplus = _NOTHING

    def feed(self, data: memoryview) -> None:
        if self._parser is None:
            whole = _whole_body(data)
            if whole is not None:
                self._whole, self.surplus = whole
                self.done = True
                return
            self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.http_trailers)
            self._parser.receive_data(_CHUNKED_HEAD)
            next_event(self._parser)
        self._parser.receive_data(data)  # type: ignore[arg-type]  # any buffer will do: h11 appends it to its own
        self._held += len(data)

    def piece(self) -> Data | None:
        if self._whole:
            return self._whole.pop()
        parser = self._parser
        while not self.done and parser is not None:
            try:
                event = next_event(parser)
            except Fault as fault:
                if fault.status == 431:
                    raise self._too_long() from None
                raise
            if isinstance(event, h11.Data):
                self._count(parser, len(event.data), self._limits.http_chunk_line + _CHUNK_FRAME)
                self._frame = 0
                self._total += len(event.data)
                return memoryview(event.data)
            self._count(parser, 0, self._limits.http_trailers)
            if not isinstance(event, h11.EndOfMessage):
                return None
            self.done = True
            self.surplus = memoryview(parser.trailing_data[0])
        return None

    def _count(self, parser: h11.Connection, given: int, limit: int) -> None:
        held = len(parser.trailing_data[0])
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


def _whole_body(data: memoryview) -> tuple[list[Data], memoryview] | None:
    """Return the pieces of the chunked body that begins these bytes, last first, and what is behind it.

    None if it is not whole, or has anything but plain chunks: h11 is to read it.
    """
    pieces: list[Data] = []
    at = 0
    for _ in range(_CHUNKS):
        found = _CHUNK.match(data, at)
        if found is None:
            return None
        start = found.end()
        at = start + int(found[1], 16)
        if bytes(data[at : at + 2]) != b"\r\n":
            return None
        if at == start:
            joined = len(pieces) > 1 and start <= _JOINED
            return [b"".join(pieces)] if joined else pieces[::-1], data[at + 2 :]
        pieces.append(data[start:at])
        at += 2
    return None


class BodyToTheEnd:
    """A body that ends where the link ends: HTTP/1.0 responses without a length."""

    __slots__ = ("_fed", "done")

    left: Final[int | None] = None
    surplus: Final = _NOTHING

    def __init__(self) -> None:
        self._fed: memoryview | None = None
        self.done = False

    def feed(self, data: memoryview) -> None:
        self._fed = data

    def piece(self) -> Data | None:
        fed, self._fed = self._fed, None
        return fed

    def end(self) -> str | None:
        self.done = True
        return None


BodyReader: TypeAlias = CountedBody | ChunkedBody | BodyToTheEnd


def window(reader: BodyReader | None, limits: Limits) -> int | None:
    """Return how many bytes the next read of a body's link may bring in one piece, into a buffer that is filled again:
    those still owed, where they are more than a piece; None where they are less, or nobody knows."""
    left = None if reader is None else reader.left
    return left if left is not None and left > limits.http_piece else None


# ── writing bodies ─────────────────────────────────────────────────────────────
class BodyWriter:
    """Frame an outgoing body: of known length, chunked, or up to the end of the link."""

    __slots__ = ("done", "left", "to_the_end")

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
