"""A client of two connections between servers, upstreams, a dispatcher and agents that say anything."""

from __future__ import annotations

from machines.broker import recorded_of_several, several

from fuzz.harness import hold_to_promises, peer_facts
from towline.core import Accepted

LINKS = (1, 3, 5, 7, 9, 2, 4)
# Up to here the recorded conversation has its credential and its servers, and the tunnels begin to open.
PRELUDE = 24


def run(data: bytes) -> None:
    begun = data[:1] == b"\x01"
    before = recorded_of_several()[:PRELUDE] if begun else [(0.0, Accepted(link, "client", "x")) for link in (2, 4)]
    later = before[-1][0]
    said = [(later + at, fact) for at, fact in peer_facts(data[1:], links=LINKS, opened=not begun)]
    # What is relayed with an unknown length is framed as it comes: its chunks tell where it was cut.
    hold_to_promises(several, [*before, *said], growth=64, splits=False)
