"""Primus: what of a tunnel's messages is control and what is data (broker-protocol.md §1.4).

Every message is EJSON. One that is a text beginning with `primus::` is control; any other is the emitter's.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

from towline.core._contract import Record

SERVER_CLOSE: Final = b'"primus::server::close"'
"""A deliberate close follows: whoever gets it does not come back."""

_CONTROL: Final = re.compile(r"primus::(ping|pong)::(\d{1,16})|primus::(server::close|id::)", re.ASCII)


class Control(Record, frozen=True):
    """A control message. `ms` is the number in a ping or pong; an unknown one is of no use to anybody."""

    kind: Literal["ping", "pong", "server-close", "ask-id", "unknown"]
    ms: int = 0


def read_control(value: Any) -> Control | None:
    """Return the control message that a decoded message is, or None if it is data."""
    if type(value) is not str or not value.startswith("primus::"):
        return None
    found = _CONTROL.fullmatch(value)
    if found is None:
        return Control("unknown")
    if found[1] is not None:
        return Control("ping" if found[1] == "ping" else "pong", int(found[2]))
    return Control("ask-id" if found[3] == "id::" else "server-close")


def ping(ms: int) -> bytes:
    """Return the message that asks whether the server is there. Units: milliseconds since 1970."""
    return b'"primus::ping::%d"' % ms


def pong(ms: int) -> bytes:
    """Return the answer to a ping with this number."""
    return b'"primus::pong::%d"' % ms


def tell_id(sid: str) -> bytes:
    """Return the answer to `primus::id::`."""
    return b'"primus::id::%s"' % sid.encode("ascii")
