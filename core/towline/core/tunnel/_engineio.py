"""engine.io packets and polling payloads, revisions 4 and 3 (broker-protocol.md §1.3).

A packet is one type digit and text. A polling payload of revision 4 is packets joined by 0x1e; one of revision 3
puts a length, counted in UTF-16 units, and a colon before each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from towline.core._contract import Data, Record
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits

OPEN: Final = b"0"
CLOSE: Final = b"1"
PING: Final = b"2"
PONG: Final = b"3"
MESSAGE: Final = b"4"
UPGRADE: Final = b"5"
NOOP: Final = b"6"
PROBE: Final = b"probe"
SEPARATOR: Final = b"\x1e"

_TYPES: Final = frozenset(b"0123456")
_YEAST: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"


class Packet(Record, frozen=True):
    """One packet: `type` is one of the constants of this module."""

    type: bytes
    data: bytes = b""

    def encode(self) -> bytes:
        """Return the packet as a websocket message has it."""
        return self.type + self.data


class Handshake(Record, frozen=True):
    """What an open packet says. Units: seconds, bytes."""

    sid: str
    upgrades: tuple[str, ...]
    ping_interval: float
    ping_timeout: float
    max_payload: int


def read_packet(data: Data) -> Packet:
    """Return the packet of one websocket message or of one piece of a payload; "tunnel-protocol" if it is none."""
    text = bytes(data)
    if not text or text[0] not in _TYPES:
        raise RemoteProtocolError("tunnel-protocol", "expected an engine.io packet type of 0 to 6")
    return Packet(text[:1], text[1:])


def read_payload(body: Data, revision: Literal[3, 4], limits: Limits = LIMITS) -> list[Packet]:
    """Return the packets of a poll's body; "tunnel-protocol" if one of them is none, or they are too many.

    Source:  engine.io protocol 4, "Payload"; protocol 3, "Payload" (text form)
    """
    data = bytes(body)
    pieces = data.split(SEPARATOR, limits.tunnel_packets) if revision == 4 else _counted(data, limits.tunnel_packets)
    if len(pieces) > limits.tunnel_packets:
        raise RemoteProtocolError("tunnel-protocol", f"expected at most {limits.tunnel_packets} packets in one payload")
    try:
        data.decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError("tunnel-protocol", "expected a payload of UTF-8") from None
    return [read_packet(piece) for piece in pieces]


def write_payload(packets: Sequence[bytes], revision: Literal[3, 4]) -> bytes:
    """Return the body of a poll that carries these packets, each as `Packet.encode` gives it."""
    if revision == 4:
        return SEPARATOR.join(packets)
    return b"".join(str(_units(packet)).encode() + b":" + packet for packet in packets)


def read_handshake(data: Data) -> Handshake:
    """Return what an open packet's JSON says; "tunnel-protocol" if it is not as it should be."""
    try:
        said = msgspec.json.decode(data, type=_Handshake)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise RemoteProtocolError("tunnel-protocol", "expected an engine.io handshake") from None
    if not 1 <= len(said.sid) <= 256 or not said.sid.isascii() or not said.sid.isprintable():
        raise RemoteProtocolError("tunnel-protocol", "expected a session id of 1 to 256 printable characters")
    return Handshake(
        said.sid, tuple(said.upgrades[:8]), said.pingInterval / 1000, said.pingTimeout / 1000, said.maxPayload
    )


def write_handshake(said: Handshake) -> bytes:
    """Return the open packet."""
    wire = _Handshake(
        said.sid,
        list(said.upgrades),
        round(said.ping_interval * 1000),
        round(said.ping_timeout * 1000),
        said.max_payload,
    )
    return OPEN + msgspec.json.encode(wire)


class Yeast:
    """Cache busters: the time in base 64, and a counter behind it when one millisecond sees several."""

    __slots__ = ("_count", "_last")

    def __init__(self) -> None:
        self._last = -1
        self._count = 0

    def next(self, ms: int) -> str:
        """Return the text for this wall-clock millisecond."""
        if ms == self._last:
            self._count += 1
            return f"{_base64(ms)}.{_base64(self._count - 1)}"
        self._last, self._count = ms, 0
        return _base64(ms)


class _Handshake(msgspec.Struct):
    sid: str
    upgrades: list[str]
    pingInterval: float
    pingTimeout: float
    maxPayload: int = 1_000_000  # engine.io's own default, where an older server does not say


def _base64(number: int) -> str:
    text = ""
    while True:
        number, digit = divmod(max(number, 0), 64)
        text = _YEAST[digit] + text
        if number == 0:
            return text


def _units(packet: bytes) -> int:
    return len(packet.decode("utf-8", "replace").encode("utf-16-le")) // 2


def _counted(data: bytes, most: int) -> list[bytes]:
    pieces: list[bytes] = []
    wrong = RemoteProtocolError("tunnel-protocol", "expected <length>:<packet> in a payload of revision 3")
    try:
        text = data.decode().encode("utf-16-le")
    except UnicodeDecodeError:
        raise wrong from None
    at = 0
    while at < len(text) and len(pieces) <= most:
        colon = text.find(b":\0", at, at + 20)
        length = text[at:colon].decode("utf-16-le", "replace") if colon > at else ""
        if not (length.isascii() and length.isdigit()):
            raise wrong
        begin = colon + 2
        end = begin + 2 * int(length)
        if end > len(text):
            raise wrong
        pieces.append(text[begin:end].decode("utf-16-le", "replace").encode("utf-8", "replace"))
        at = end
    return pieces
