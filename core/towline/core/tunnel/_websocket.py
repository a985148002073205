"""RFC 6455 after the handshake: frames in, whole messages out, and the other way round.

An ordinary frame (a whole text message in one frame, masked as its sender must) is read here; wsproto reads and judges
every other, and a test holds the two against each other. Frames are written here: wsproto would draw a client's masking
keys from the operating system, and chance is an argument in the core.

Three things are bounded that a correct peer may still overdo. A message's length is refused as soon as it is
announced. Pings are answered a hundred times a second, after that only the latest of each second. And what is sent
but not known to have arrived is counted, by a ping of our own after each 256 KiB, whose pong says how far the peer
has read: `unconfirmed` is what a slow peer makes us, or our driver, hold.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias

from wsproto.extensions import Extension
from wsproto.frame_protocol import (
    CloseReason,
    Frame,
    FrameDecoder,
    FrameProtocol,
    Opcode,
    ParseFailed,
    RsvBits,
)

from towline.core._contract import Data, Instant, Record
from towline.core._entropy import Entropy
from towline.core._limits import LIMITS, Limits

GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3

TEXT: Final = 0x1
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
_WHOLE_TEXT: Final = 0x80 | TEXT
_NOT_UTF8: Final = "text that is not UTF-8"

MARK_EVERY: Final = 256 * 1024
MARK: Final = b"towline:"

# Up to here one exclusive or of two long numbers is the fastest way to mask, above it four look-ups in a table.
_ONE_NUMBER: Final = 512
_XOR: Final = [bytes(byte ^ key for byte in range(256)) for key in range(256)]


class Text(Record, frozen=True):
    """One whole text message, as UTF-8 that was checked."""

    data: bytes


class Binary(Record, frozen=True):
    """One whole binary message. The tunnel speaks text only."""

    data: bytes


class PeerClosed(Record, frozen=True):
    """The peer sent a close frame, and it was answered. `code` is None when it gave none."""

    code: int | None


class Violated(Record, frozen=True):
    """The peer broke the protocol, and a close frame with this code was queued for it."""

    code: int
    why: str


FrameEvent: TypeAlias = Text | Binary | PeerClosed | Violated


def accept_value(key: str) -> str:
    """Return the Sec-WebSocket-Accept that proves a server read this Sec-WebSocket-Key (RFC 6455 §4.2.2)."""
    return base64.b64encode(hashlib.sha1((key + GUID).encode("ascii", "replace")).digest()).decode("ascii")


def key_is_sound(key: str) -> bool:
    """Return whether a Sec-WebSocket-Key is base64 of 16 bytes (RFC 6455 §4.1)."""
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def frame(opcode: int, payload: Data, mask: bytes | None = None) -> bytes:
    """Return one whole frame, masked with the four bytes of `mask` if given (RFC 6455 §5.2)."""
    size = len(payload)
    flag = 0x80 if mask is not None else 0
    if size <= 125:
        head = bytes((0x80 | opcode, flag | size))
    elif size <= 0xFFFF:
        head = bytes((0x80 | opcode, flag | 126, size >> 8, size & 0xFF))
    else:
        head = bytes((0x80 | opcode, flag | 127)) + size.to_bytes(8, "big")
    if mask is None:
        return b"".join((head, payload))
    return b"".join((head, mask, masked(payload, mask)))


def masked(payload: Data, mask: bytes) -> Data:
    """Return the payload under the four bytes of `mask`, or out from under them."""
    size = len(payload)
    if size <= _ONE_NUMBER:
        key = (mask * (size // 4 + 1))[:size]
        return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")
    out = bytearray(payload)
    for at, byte in enumerate(mask):
        if byte:
            out[at::4] = out[at::4].translate(_XOR[byte])
    return out


class _LengthGuard(Extension):
    """Refuses a frame when its head announces more than its message may still hold."""

    name = "towline-length-guard"

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.before = 0  # bytes in the finished frames of the message that is coming in
        self.announced = 0  # bytes of the frame whose head was read last; a head may be read twice if cut
        self.control = False

    def offer(self) -> bool:
        return False

    def enabled(self) -> bool:
        return True

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        self.control = opcode.iscontrol()
        if not self.control:
            self.announced = payload_length
            if self.before + payload_length > self.bound:
                return CloseReason.MESSAGE_TOO_BIG
        return RsvBits(False, False, False)

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> None:
        if not self.control:
            self.before = 0 if fin else self.before + self.announced


class WebSocket:
    """One websocket after its 101, seen from either end. A part: its owner forwards bytes both ways.

    After PeerClosed or Violated there are no more events; what `output` still holds is to be sent, then closed.
    """

    def __init__(
        self,
        role: Literal["client", "server"],
        *,
        entropy: Entropy,
        limits: Limits = LIMITS,
        message: int | None = None,
    ) -> None:
        self._client = role == "client"
        self._entropy = entropy
        self._limits = limits
        guard = _LengthGuard(message if message is not None else limits.ws_message)
        self._frames = FrameProtocol(client=self._client, extensions=[guard])
        self._bound = guard.bound
        # A frame that has come in part, and how long it must be before it can be read on; a frame that wsproto reads,
        # how much of it is still to come; and whether the messages of such frames are between two fragments.
        self._held = bytearray()
        self._needed = 2
        self._foreign = 0
        self._fragmented = False
        self._message = bytearray()
        self._fragments = 0
        self._out: list[bytes] = []
        self._over = False
        self._closing = False
        # Pings answered in the second that began at `_second`; the latest one beyond the allowance waits for its end.
        self._second: Instant = float("-inf")
        self._answered = 0
        self._late_ping: bytes | None = None
        # Bytes sent so far, how many of them the peer has read, and the mark that is under way.
        self._sent = 0
        self._confirmed = 0
        self._marked: int | None = None

    def __repr__(self) -> str:
        return f"WebSocket(over={self._over}, unconfirmed={self.unconfirmed})"

    @property
    def unconfirmed(self) -> int:
        """Bytes that were sent and that the peer may not have read yet; up to MARK_EVERY of them are not news."""
        return self._sent - self._confirmed

    def receive(self, data: Data, now: Instant) -> Iterator[FrameEvent]:
        """Take bytes from the link and give what they complete, one by one.

        The caller acts on each before it asks for the next, so that it matters to no one how the bytes were cut.
        """
        wire = bytes(data)
        at = 0
        while at < len(wire) and not self._over:
            if self._foreign:
                piece = wire[at : at + self._foreign]
                at += len(piece)
                self._foreign -= len(piece)
                yield from self._judged(piece, now)
                continue
            if self._held:
                more = self._needed - len(self._held)
                self._held += wire[at : at + more]
                at += more
                if len(self._held) < self._needed:
                    return
                wire, at = bytes(self._held) + wire[at:], 0
                self._held = bytearray()
            size = self._next_frame(wire, at)
            if len(wire) - at < self._needed:
                self._held += wire[at:]
                return
            if not self._foreign:
                event = self._text(wire[at + self._needed - size : at + self._needed], wire, at)
                at += self._needed
                yield event
            self._needed = 2

    def _next_frame(self, wire: bytes, at: int) -> int:
        """Look at the head of a frame, as far as it is here; return the size of an ordinary one's payload.

        `_needed` is how many bytes must be here before it can be read on; `_foreign` is set for what is not ordinary.
        """
        here = len(wire) - at
        if here < 2:
            return 0
        first, second = wire[at], wire[at + 1]
        size, self._needed, least = second & 0x7F, 2, 0
        if size >= 126:
            self._needed, least = (4, 126) if size == 126 else (10, 0x10000)
            if here < self._needed:
                return 0
            size = int.from_bytes(wire[at + 2 : at + self._needed], "big")
        masks = 4 if second & 0x80 else 0
        whole = self._needed + masks + size
        mine = first == _WHOLE_TEXT and not self._fragmented and bool(masks) != self._client
        if mine and least <= size <= self._bound:
            self._needed = whole
            return size
        if first & 0x0F < CLOSE:
            self._fragmented = first < 0x80
        self._foreign = whole
        return 0

    def _text(self, payload: bytes, wire: bytes, at: int) -> Text | Violated:
        """Return the message of an ordinary frame."""
        if not self._client:
            start = at + self._needed - len(payload)
            payload = bytes(masked(payload, wire[start - 4 : start]))
        if not payload.isascii():
            try:
                payload.decode()
            except UnicodeDecodeError:
                return self._violated(CloseReason.INVALID_FRAME_PAYLOAD_DATA, _NOT_UTF8)
        return Text(payload)

    def _judged(self, piece: bytes, now: Instant) -> Iterator[FrameEvent]:
        """Let wsproto read bytes of a frame that is not ordinary."""
        try:
            self._frames.receive_bytes(piece)
            for part in self._frames.received_frames():
                event = self._take(part, now)
                if event is not None:
                    yield event
                if self._over:
                    return
        except ParseFailed as broken:
            # wsproto names the place of the byte in its piece, which depends on how the stream was cut.
            bad_text = broken.code == CloseReason.INVALID_FRAME_PAYLOAD_DATA
            yield self._violated(int(broken.code), _NOT_UTF8 if bad_text else str(broken))

    def send_text(self, payload: Data) -> None:
        """Queue one text message: UTF-8 bytes."""
        if not self._closing:
            self._write(TEXT, payload)
            self._mark()

    def send_close(self, code: int | None = None) -> None:
        """Queue a close frame; nothing is sent after it."""
        if not self._closing:
            self._write(CLOSE, b"" if code is None else code.to_bytes(2, "big"))
            self._closing = True

    def silence(self) -> None:
        """The link ended: there is nobody to say goodbye to."""
        self._over = self._closing = True
        self._out.clear()

    def output(self) -> list[bytes]:
        """Return the bytes to transmit, and forget them."""
        out, self._out = self._out, []
        return out

    def deadline(self) -> Instant | None:
        return self._second + 1.0 if self._late_ping is not None else None

    def wake(self, now: Instant) -> None:
        """Answer the ping that waited for the next second."""
        if self._late_ping is not None and now >= self._second + 1.0:
            payload, self._late_ping = self._late_ping, None
            self._answer_ping(payload, now)

    def _take(self, part: Frame, now: Instant) -> FrameEvent | None:
        opcode, payload = part.opcode, part.payload
        if isinstance(payload, tuple):
            code = None if payload[0] == CloseReason.NO_STATUS_RCVD else int(payload[0])
            self.send_close(code)
            self._over = True
            return PeerClosed(code)
        data = payload.encode() if isinstance(payload, str) else bytes(payload)
        if opcode is Opcode.PING:
            self._answer_ping(data, now)
        elif opcode is Opcode.PONG:
            self._confirm(data)
        else:
            self._message += data
            self._fragments += part.frame_finished
            if self._fragments > self._limits.ws_fragments:
                return self._violated(CloseReason.POLICY_VIOLATION, "too many fragments in one message")
            if part.message_finished:
                whole = bytes(self._message)
                self._message, self._fragments = bytearray(), 0
                return Text(whole) if opcode is Opcode.TEXT else Binary(whole)
        return None

    def _answer_ping(self, payload: bytes, now: Instant) -> None:
        if now >= self._second + 1.0:
            self._second, self._answered, self._late_ping = now, 0, None
        if self._answered >= self._limits.ws_controls_per_second:
            self._late_ping = payload
        elif not self._closing:
            self._answered += 1
            self._write(PONG, payload)

    def _mark(self) -> None:
        if self._marked is None and self._sent - self._confirmed >= MARK_EVERY:
            self._marked = self._sent
            self._write(PING, MARK + self._marked.to_bytes(8, "big"))

    def _confirm(self, payload: bytes) -> None:
        # The mark's own frame is counted as sent and never confirmed by itself: a few bytes, gone with the next.
        if self._marked is not None and payload == MARK + self._marked.to_bytes(8, "big"):
            self._confirmed, self._marked = self._marked, None
            self._mark()

    def _violated(self, code: int, why: str) -> Violated:
        self.send_close(code)
        self._over = True
        self._message.clear()
        return Violated(code, why)

    def _write(self, opcode: int, payload: Data) -> None:
        data = frame(opcode, payload, self._entropy.bytes(4) if self._client else None)
        self._sent += len(data)
        self._out.append(data)
