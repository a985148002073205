"""Responses on a client's link: cut-blind, bounded, and never more lenient than h11.

The first byte chooses the method, the last 1 in it whether the link ends after the bytes.
"""

from __future__ import annotations

from typing import Any

import h11
from machines.oracle import BrokenPromise, show

from fuzz.harness import Bytes
from towline.core import Body, Head
from towline.core.http import ClientConnection

HOST = (("Host", "a.test"),)


def run(data: bytes) -> None:
    script = Bytes(data)
    choice = script.byte()
    method = ("GET", "HEAD", "POST", "GET")[choice >> 1 & 3]
    upgrade = (("Connection", "Upgrade"), ("Upgrade", "websocket")) if choice >> 3 & 1 else ()
    wire = script.rest()
    whole = told(method, upgrade, wire, len(wire) or 1, end=bool(choice & 1))
    for size in (1, 13):
        pieces = told(method, upgrade, wire, size, end=bool(choice & 1))
        if pieces != whole:
            raise BrokenPromise(f"split-blind: cut by {size}, expected {whole}, got {pieces}")
    if sum(len(piece) for piece in whole[1]) > len(wire):
        raise BrokenPromise("more body than bytes")
    statuses = [event for event in whole[0] if event.startswith("Head")]
    if statuses and not h11_takes(method, upgrade, wire):
        raise BrokenPromise(f"h11 refuses what was taken: {statuses}")


def told(method: str, upgrade: Any, wire: bytes, size: int, *, end: bool) -> tuple[list[str], list[bytes], str]:
    """Return the events, the body, and the state, with the wire cut into pieces of this size."""
    client = ClientConnection(1)
    client.request(method, "/", HOST + upgrade)
    events: list[str] = []
    body: list[bytes] = []

    def drain() -> None:
        while (event := client.next()) is not None:
            if isinstance(event, Body):
                body.append(bytes(event.data))
            else:
                events.append(show(event) if not isinstance(event, Head) else f"Head {show(event)}")

    for at in range(0, len(wire), size):
        client.received(wire[at : at + size])
        drain()
    if end:
        client.ended()
        drain()
    return events, [b"".join(body)], client.state


def h11_takes(method: str, upgrade: Any, wire: bytes) -> bool:
    """True if h11 alone reads a head from these bytes."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    headers = [(name.encode(), value.encode()) for name, value in HOST + upgrade]
    connection.send(h11.Request(method=method, target="/", headers=headers))
    connection.receive_data(wire)
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response) or event is h11.PAUSED:
                return True
            if event is h11.NEED_DATA:
                return connection.their_state is h11.SWITCHED_PROTOCOL
            if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                return True
    except h11.RemoteProtocolError:
        return False
