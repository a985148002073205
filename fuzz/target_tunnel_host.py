"""A tunnel's host whose clients say anything, over three links."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from tunnelkit.roots import HostRoot

from fuzz.harness import hold_to_promises, peer_facts
from towline.core import LIMITS, WAKE, Accepted, Opened, Received

KIB = 1024
SMALL = msgspec.structs.replace(
    LIMITS, ws_message=64 * KIB, tunnel_payload=64 * KIB, tunnel_buffer=64 * KIB, http_request_body=64 * KIB
)
LINKS = (2, 4, 6)
SID = b"THE-SID-OF-SESSION-1"


def make() -> Any:
    return HostRoot(limits=SMALL)


def accepted(facts: list[tuple[float, Any]]) -> list[tuple[float, Any]]:
    """A host's links are accepted, not opened."""
    return [(now, Accepted(fact.link, "http", "::1") if isinstance(fact, Opened) else fact) for now, fact in facts]


def sid_of(facts: list[tuple[float, Any]]) -> bytes:
    """Return the first session id that the host gives out if it is told these facts, so that a seed can use it."""
    root = make()
    for now, fact in facts:
        root.handle(fact, now)
        while (wish := root.poll()) is not None:
            found = re.search(rb'"sid":"([^"]+)"', bytes(getattr(wish, "data", b"")))
            if found is not None:
                return found[1]
    return SID


def run(data: bytes) -> None:
    facts = accepted(peer_facts(data, LINKS))
    if SID in data:
        sid = sid_of(facts)
        facts = [
            (now, Received(fact.link, bytes(fact.data).replace(SID, sid)) if isinstance(fact, Received) else fact)
            for now, fact in facts
        ]
    hold_to_promises(make, [(0.0, WAKE), *facts])
