"""A broker server between callers, clients and a platform that say anything."""

from __future__ import annotations

from machines.broker import SMALL, recorded
from worlds.brokers import make_server

from fuzz.harness import hold_to_promises, peer_facts
from towline.core import Accepted

# Up to here the recorded conversation has both tunnels identified and one request answered.
PRELUDE = 16


def run(data: bytes) -> None:
    begun = data[:1] == b"\x01"
    before = recorded()[1][:PRELUDE] if begun else [(0.0, Accepted(link, "http", "x")) for link in (2, 4, 6, 8)]
    later = before[-1][0]
    said = [(later + at, fact) for at, fact in peer_facts(data[1:], links=(2, 4, 6, 8, 1), opened=False)]
    # What is relayed with an unknown length is framed as it comes: its chunks tell where it was cut.
    hold_to_promises(lambda: make_server(SMALL), [*before, *said], growth=64, splits=False)
