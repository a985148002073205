"""Requests on a server's link, answered as they come: cut-blind, bounded, and never more lenient than h11."""

from __future__ import annotations

import h11
from machines.oracle import BrokenPromise, show

from towline.core import Body, Drop, Shut, Tail, Transmit
from towline.core.http import RequestHead, ServerConnection


def run(data: bytes) -> None:
    whole = told(data, len(data) or 1)
    for size in (1, 13):
        pieces = told(data, size)
        if pieces != whole:
            raise BrokenPromise(f"split-blind: cut by {size}, expected {whole}, got {pieces}")
    if len(whole[1]) > len(data):
        raise BrokenPromise("more body than bytes")
    if whole[0] and not h11_takes(data):
        raise BrokenPromise(f"h11 refuses what was taken: {whole[0][0]}")


def told(wire: bytes, size: int) -> tuple[list[str], bytes, bytes, list[str], str]:
    """Return events, bodies, answers, ends and state, with the wire cut into pieces of this size."""
    server = ServerConnection(2, 0.0)
    events: list[str] = []
    body = out = b""
    ends: list[str] = []

    def settle() -> None:
        nonlocal body, out
        while (event := server.next()) is not None:
            if isinstance(event, Body):
                body += bytes(event.data)
                continue
            events.append(
                f"{event.method} {event.target} {show(event)}" if isinstance(event, RequestHead) else show(event)
            )
            if isinstance(event, Tail) and server.answerable:
                server.respond(200, (), b"ok", now=0.0)
        for wish in server.wishes():
            if isinstance(wish, Transmit):
                out += bytes(wish.data)
            else:
                ends.append(type(wish).__name__)

    for at in range(0, len(wire), size):
        server.received(wire[at : at + size], 0.0)
        settle()
    server.ended(0.0)
    settle()
    if server.closed and not ends:
        raise BrokenPromise("closed without a wish to close")
    return events, body, out, [end for end in ends if end in (Drop.__name__, Shut.__name__)], server.state


def h11_takes(wire: bytes) -> bool:
    """True if h11 alone reads a head from these bytes."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(wire)
    try:
        return isinstance(connection.next_event(), h11.Request)
    except h11.RemoteProtocolError:
        return False
