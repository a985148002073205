"""Scripts over links, against a peer that says anything at any time."""

from __future__ import annotations

from machines.http import SMALL, pull

from fuzz.harness import hold_to_promises, peer_facts
from towline.core.http import Courier


def run(data: bytes) -> None:
    hold_to_promises(lambda: Courier(pull(), limits=SMALL, total=600.0), peer_facts(data, links=(1, 3, 5, 7)))
