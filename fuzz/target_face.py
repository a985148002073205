"""A small API server whose every request is answered at once, against callers that say anything."""

from __future__ import annotations

from typing import Any

from machines.http import SMALL

from fuzz.harness import hold_to_promises, peer_facts
from towline.core import Accepted
from towline.core.http import Answer, Asked, Face


class Answering:
    """A face whose owner answers in the same turn."""

    def __init__(self) -> None:
        self._face = Face(SMALL)

    def handle(self, fact: Any, now: float) -> None:
        self._face.handle(fact, now)
        self._now = now

    def poll(self) -> Any:
        wish = self._face.poll()
        if isinstance(wish, Asked):
            self._face.handle(Answer(wish.exchange, 200, (), wish.request.path.encode()), self._now)
        return wish

    def deadline(self) -> float | None:
        return self._face.deadline()


def run(data: bytes) -> None:
    accepted = [(0.0, Accepted(link, "api", "peer")) for link in (2, 4)]
    hold_to_promises(Answering, [*accepted, *peer_facts(data, links=(2, 4), opened=False)])
