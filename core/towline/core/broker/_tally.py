"""What a broker counts: integers in the machine, which a program reads when its metrics are asked for.

Counting costs an addition: nothing is formatted, and no name is looked up, before somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final, Literal

import msgspec

from towline.core._contract import Record

Direction = Literal["inbound", "outbound"]

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Bounds of the buckets in which durations are counted; what is longer goes into one more."""

BYTES: Final = (1024, 5120, 16384, 65536, 262144, 1048576, 4194304, 20971520, 104857600, 1073741824)
"""Bounds of the buckets in which the sizes of answers are counted."""

NO_RULE: Final = -1
_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class Buckets:
    """A distribution, as it grows."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def read(self) -> Distribution:
        return Distribution(self._bounds, tuple(self._counts), self._total)


class Distribution(Record, frozen=True):
    """How many values fell at or below each bound but above the one before; `counts` has one more, for the rest."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        return sum(self.counts)


class RequestFigures(Record, frozen=True):
    """Requests of one kind that are over. `rule` is the number of the accept rule, NO_RULE where none let it in;
    `status` 0 means that nobody waited for the answer any more."""

    direction: Direction
    rule: int
    method: str
    status: int
    seconds: Distribution


class Figures(Record, frozen=True):
    """What a broker has counted since it began, and what it has at the moment.

    Shape:  `tunnels` are open and identified; `closed` and `refused` count by reason; `answers` are the bytes of
            answers, by whether they came in pieces; `uploads` are answers that were posted; `told` counts reports to
            the dispatcher, `forwarded` requests to other nodes, by what became of them
    """

    tunnels: int
    in_flight: int
    requests: tuple[RequestFigures, ...]
    refused: dict[str, int]
    closed: dict[str, int]
    answers: dict[bool, Distribution] = msgspec.field(default_factory=dict)
    uploads: int = 0
    told: dict[str, int] = msgspec.field(default_factory=dict)
    forwarded: dict[str, int] = msgspec.field(default_factory=dict)


class Tally:
    """The counters of one broker."""

    def __init__(self) -> None:
        self._requests: dict[tuple[Direction, int, str, int], Buckets] = {}
        self._refused: dict[str, int] = {}
        self._closed: dict[str, int] = {}
        self._forwarded: dict[str, int] = {}
        self._answers: dict[bool, Buckets] = {}
        self.uploads = 0

    def request(self, direction: Direction, rule: int, method: str, status: int, seconds: float) -> None:
        """Count a request that is over."""
        key = (direction, rule, method, status)
        found = self._requests.get(key)
        if found is None:
            # A method from outside names no more than one counter.
            key = (direction, rule, method if method in _METHODS else "other", status)
            found = self._requests.setdefault(key, Buckets(SECONDS))
        found.add(seconds)

    def answer(self, size: int, pieces: bool) -> None:
        """Count an answer's bytes."""
        found = self._answers.get(pieces)
        if found is None:
            found = self._answers[pieces] = Buckets(BYTES)
        found.add(size)

    def refuse(self, reason: str) -> None:
        """Count a request that did not get the answer it wanted. `reason` is a word of ours."""
        self._refused[reason] = self._refused.get(reason, 0) + 1

    def close(self, reason: str) -> None:
        """Count a tunnel that ended. `reason` is a word of ours."""
        self._closed[reason] = self._closed.get(reason, 0) + 1

    def forward(self, result: str) -> None:
        """Count what became of a request at another node. `result` is a word of ours."""
        self._forwarded[result] = self._forwarded.get(result, 0) + 1

    def read(self, *, tunnels: int, in_flight: int, told: dict[str, int] | None = None) -> Figures:
        """Return all of it as it is."""
        return Figures(
            tunnels,
            in_flight,
            tuple(RequestFigures(*key, found.read()) for key, found in self._requests.items()),
            dict(self._refused),
            dict(self._closed),
            {pieces: found.read() for pieces, found in self._answers.items()},
            self.uploads,
            told or {},
            dict(self._forwarded),
        )
