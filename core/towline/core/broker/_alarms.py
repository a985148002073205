"""Deadlines of many things in one lazy heap: moving one later costs nothing, and nobody walks over all of them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

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

# Fewer entries than this without a use are not worth a walk.
_FEW: Final = 64


class Alarms(Generic[TimedT]):
    """When the next of them is due, and which.

    Bounds:  entries of things that wait for nothing, and so the things, are let go as soon as they are the most
    """

    __slots__ = ("_heap", "_serial", "_useless")

    def __init__(self) -> None:
        self._heap: list[tuple[Instant, int, TimedT]] = []
        self._serial = 0
        # Entries that no deadline stands behind, at least.
        self._useless = 0

    def __len__(self) -> int:
        """How many entries there are, useless ones among them."""
        return len(self._heap)

    def set(self, thing: TimedT, until: Instant | None) -> None:
        """Move a thing's deadline."""
        before, thing.until = thing.until, until
        if until is None:
            if before is not None:
                self._forget_one()
            return
        armed = thing.armed
        if armed is None:
            self._arm(thing, until)
            return
        if before is None:
            self._useless -= 1
        if until < armed:
            self._arm(thing, until)
            self._forget_one()

    def deadline(self) -> Instant | None:
        """Return an instant no later than the first deadline; at a false alarm `due` has nothing."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: Instant) -> Iterator[TimedT]:
        """Yield what is due, each with its deadline cleared."""
        while self._heap and self._heap[0][0] <= now:
            at, _, thing = heapq.heappop(self._heap)
            if at != thing.armed:
                self._useless -= 1
                continue
            thing.armed = None
            if thing.until is None:
                self._useless -= 1
                continue
            if thing.until > now:
                self._arm(thing, thing.until)
                continue
            thing.until = None
            yield thing

    def _forget_one(self) -> None:
        """One entry more is of no use."""
        self._useless += 1
        if self._useless > _FEW and 2 * self._useless > len(self._heap):
            self._sweep()

    def _sweep(self) -> None:
        """Let go of what waits for nothing, which would be held until its old deadline otherwise."""
        kept = []
        for entry in self._heap:
            at, _, thing = entry
            if at != thing.armed:
                continue
            if thing.until is None:
                thing.armed = None
            else:
                kept.append(entry)
        heapq.heapify(kept)
        self._heap = kept
        self._useless = 0

    def _arm(self, thing: TimedT, at: Instant) -> None:
        thing.armed = at
        self._serial += 1
        heapq.heappush(self._heap, (at, self._serial, thing))
