"""primus-emitter: named events with arguments, and their acknowledgements (broker-protocol.md §1.6).

Acknowledgements are counted from 1 for each connection and direction; 0 or none means that nobody waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from towline.core._contract import Record
from towline.core.tunnel import _ejson

MOST_ID: Final = (1 << 53) - 1
"""What JavaScript can count to."""

_RESERVED: Final = frozenset({"readyStateChange", "error", "data", "end"})
RESERVED_AT_CLIENT: Final = _RESERVED | {
    "open",
    "close",
    "destroy",
    "timeout",
    "online",
    "offline",
    "reconnect",
    "reconnected",
    "reconnect scheduled",
    "reconnect timeout",
    "reconnect failed",
}
RESERVED_AT_SERVER: Final = _RESERVED | {"heartbeat"}


class Event(Record, frozen=True):
    name: str
    args: tuple[Any, ...]
    id: int | None = None


class Ack(Record, frozen=True):
    id: int
    args: tuple[Any, ...]


EmitterPacket: TypeAlias = Event | Ack


def read_packet(value: Any, reserved: frozenset[str]) -> EmitterPacket | None:
    """Return the event or acknowledgement that a decoded message is; None for what is to be ignored."""
    if type(value) is not dict:
        return None
    kind, data, number = value.get("type"), value.get("data"), value.get("id")
    if type(data) is not list or type(kind) not in (int, float):
        return None
    if not number:
        number = None
    elif type(number) in (int, float) and number == number // 1 and 0 < number <= MOST_ID:
        number = int(number)
    else:
        return None
    if kind == 1:
        return Ack(number, tuple(data)) if number is not None else None
    if kind != 0 or not data or type(data[0]) is not str:
        return None
    name = data[0]
    if name in reserved or name.startswith(("incoming::", "outgoing::")):
        return None
    return Event(name, tuple(data[1:]), number)


def write_event(name: str, args: Sequence[Any], number: int | None = None) -> bytes:
    """Return the message of an event. Errors: LocalProtocolError for what JSON cannot say."""
    packet: dict[str, Any] = {"type": 0, "data": [name, *args]}
    if number is not None:
        packet["id"] = number
    return _ejson.encode(packet)


def write_ack(number: int, args: Sequence[Any]) -> bytes:
    """Return the message that answers an event. Errors: LocalProtocolError for what JSON cannot say."""
    return _ejson.encode({"id": number, "type": 1, "data": list(args)})
