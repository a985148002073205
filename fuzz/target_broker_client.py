"""A broker client between a server, an upstream and an agent that say anything."""

from __future__ import annotations

from machines.broker import SMALL, recorded
from worlds.brokers import make_client

from fuzz.harness import hold_to_promises, peer_facts
from towline.core import Accepted

# Up to here the recorded conversation has both tunnels open and one request answered.
PRELUDE = 16


def run(data: bytes) -> None:
    begun = data[:1] == b"\x01"
    before = (
        recorded()[0][:PRELUDE] if begun else [(0.0, Accepted(2, "http", "agent")), (0.0, Accepted(4, "http", "x"))]
    )
    later = before[-1][0]
    said = [(later + at, fact) for at, fact in peer_facts(data[1:], links=(1, 3, 5, 2, 4), opened=not begun)]
    # What is relayed with an unknown length is framed as it comes: its chunks tell where it was cut.
    hold_to_promises(lambda: make_client(SMALL), [*before, *said], growth=64, splits=False)
