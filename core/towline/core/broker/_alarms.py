"""Deadlines of many things in one lazy heap: moving one later costs nothing, and nobody walks over all of them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

from towline.core._contract import Instant
from towline.core._contract import earliest as earliest


class Timed:
    """Something with one deadline. `until` is None while it waits for nothing."""

    __slots__ = ("armed", "until")

    def __init__(self) -> None:
        self.until: Instant | None = None
        # The instant of its live entry in the heap. Never later than `until` while that is set.
        self.armed: Instant | None = None


TimedT = TypeVar("TimedT", bound=Timed)


class Alarms(Generic[TimedT]):
    """When the next of them is due, and which."""

    __slots__ = ("_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[Instant, int, TimedT]] = []
        self._serial = 0

    def set(self, thing: TimedT, until: Instant | None) -> None:
        """Move a thing's deadline."""
        thing.until = until
        if until is not None and (thing.armed is None or until < thing.armed):
            self._arm(thing, until)

    def deadline(self) -> Instant | None:
        """Return an instant no later than the first deadline; at a false alarm `due` has nothing."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: Instant) -> Iterator[TimedT]:
        """Yield what is due, each with its deadline cleared."""
        while self._heap and self._heap[0][0] <= now:
            at, _, thing = heapq.heappop(self._heap)
            if at != thing.armed:
                continue
            thing.armed = None
            if thing.until is None:
                continue
            if thing.until > now:
                self._arm(thing, thing.until)
                continue
            thing.until = None
            yield thing

    def _arm(self, thing: TimedT, at: Instant) -> None:
        thing.armed = at
        self._serial += 1
        heapq.heappush(self._heap, (at, self._serial, thing))
