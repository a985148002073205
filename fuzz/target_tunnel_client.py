"""A tunnel's client whose server says anything, by websocket or by polls."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from tunnelkit.roots import make_client

from fuzz.harness import hold_to_promises, peer_facts
from towline.core import LIMITS, Received
from towline.core.tunnel._websocket import accept_value

KIB = 1024
SMALL = msgspec.structs.replace(LIMITS, ws_message=64 * KIB, tunnel_payload=64 * KIB, tunnel_buffer=64 * KIB)
LINKS = (1, 3, 5, 7)
ACCEPT = b"ACCEPT-THIS-KEY-OF-28-CHARS="


def make(polls: bool) -> Any:
    return make_client(polling_first=polls, limits=SMALL)


def key_of(polls: bool, facts: list[tuple[float, Any]]) -> str:
    """Return the key that the client sends if it is told these facts, so that a seed can accept it."""
    client = make(polls)
    for now, fact in facts:
        client.handle(fact, now)
        while (wish := client.poll()) is not None:
            found = re.search(rb"Sec-WebSocket-Key: (\S+)", bytes(getattr(wish, "data", b"")))
            if found is not None:
                return found[1].decode()
    return ""


def run(data: bytes) -> None:
    polls = bool(data[:1] and data[0] & 1)
    facts = peer_facts(data[1:], LINKS)
    if ACCEPT in data:
        accept = accept_value(key_of(polls, facts)).encode()
        facts = [
            (now, Received(fact.link, bytes(fact.data).replace(ACCEPT, accept)) if isinstance(fact, Received) else fact)
            for now, fact in facts
        ]
    hold_to_promises(lambda: make(polls), facts)
