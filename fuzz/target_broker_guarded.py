"""A server whose clients have to prove who they are: clients, callers and a gateway that say anything."""

from __future__ import annotations

from machines.guarded import asking, guarded, recorded

from fuzz.harness import hold_to_promises, peer_facts
from towline.core import Accepted
from towline.core.broker import Authorize

# Up to here the recorded conversation has a client that was admitted and identified itself.
PRELUDE = 16


def run(data: bytes) -> None:
    kind, said = data[:1], data[1:]
    accepted = [(0.0, Accepted(link, "http", "x")) for link in (2, 4, 6, 8)]
    if kind == b"\x01":
        before = recorded()[:PRELUDE]
        later = before[-1][0]
        facts = [(later + at, fact) for at, fact in peer_facts(said, links=(2, 4, 6, 8, 1, 3), opened=False)]
        hold_to_promises(guarded, [*before, *facts], growth=64, splits=False)
        return
    facts = peer_facts(said, links=(2, 4, 6, 8, 1, 3), opened=False)
    if kind == b"\x02":
        # The application lets in, or not, whoever asked meanwhile.
        end = facts[-1][0] if facts else 0.0
        decided = [(end, Authorize(1)), (end, Authorize(2, "Not here.")), (end, Authorize(9))]
        hold_to_promises(asking, [*accepted, *facts, *decided], growth=64, splits=False)
    else:
        hold_to_promises(guarded, [*accepted, *facts], growth=64, splits=False)
