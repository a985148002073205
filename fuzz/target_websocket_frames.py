"""Websocket frames: any bytes, whole or cut, give the same messages, the same answers, the same refusal."""

from __future__ import annotations

import msgspec

from fuzz.harness import Bytes
from towline.core import LIMITS, Entropy
from towline.core.tunnel._websocket import FrameEvent, PeerClosed, Violated, WebSocket

SMALL = msgspec.structs.replace(LIMITS, ws_message=4096, ws_fragments=8)


def read(role: int, data: bytes, cut: int) -> object:
    socket = WebSocket("client" if role else "server", entropy=Entropy(b"f" * 16), limits=SMALL)
    events: list[FrameEvent] = []
    for at in range(0, len(data), cut):
        events += socket.receive(data[at : at + cut], 0.0)
    assert all(not isinstance(event, PeerClosed | Violated) for event in events[:-1])
    socket.wake(2.0)
    return events, b"".join(socket.output())


def run(data: bytes) -> None:
    script = Bytes(data)
    role, cut = script.byte() & 1, 1 + script.byte()
    rest = script.rest()
    whole = read(role, rest, len(rest) or 1)
    assert read(role, rest, cut) == whole
    assert read(role, rest, 1) == whole
