"""Patterns that answer in time linear in the text: small trees of choices, run as sets of positions.

A backtracking engine lets whoever writes the text choose how long the answer takes (security.md §5.7). Here
every reachable position advances at once, and a set that was seen before is one look-up (a lazily built
deterministic automaton). Symbols are integers: code points, and for request paths also encoded bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import getitem
from typing import Final, Literal, TypeAlias

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError

Ranges: TypeAlias = tuple[tuple[int, int], ...]

# The largest program a pattern may become; "(a{1,1000}){1,1000}" would otherwise be a million positions.
MOST_POSITIONS: Final = 5_000
# Sets of positions that are remembered before the memory is wiped and filled anew.
MOST_REMEMBERED: Final = 2_000
LAST_SYMBOL: Final = 0x110000 + 0xFF


class One(Record, frozen=True):
    """One symbol out of sorted, disjoint, inclusive ranges."""

    ranges: Ranges


class Join(Record, frozen=True):
    """One part after the other."""

    parts: tuple[Tree, ...]


class Either(Record, frozen=True):
    """Any one of the options."""

    options: tuple[Tree, ...]


class Repeat(Record, frozen=True):
    """`part` at least and at most so many times; without `most`, any number."""

    part: Tree
    least: int
    most: int | None


class Edge(Record, frozen=True):
    """Nothing, but only at this end of the text."""

    at: Literal["start", "end"]


Tree: TypeAlias = One | Join | Either | Repeat | Edge


def ranges_of(pieces: Iterable[tuple[int, int]]) -> Ranges:
    """Return inclusive ranges sorted, merged and disjoint."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(pieces):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def inverse(ranges: Ranges) -> Ranges:
    """Return every code point that is not in `ranges`."""
    out, at = [], 0
    for low, high in ranges:
        if low > at:
            out.append((at, low - 1))
        at = high + 1
    if at <= 0x10FFFF:
        out.append((at, 0x10FFFF))
    return tuple(out)


def text(literal: str) -> Tree:
    """Return the tree that matches exactly this text."""
    return Join(tuple(One(((ord(char), ord(char)),)) for char in literal))


class _Program:
    """A tree flattened into positions, each with what it takes and where it leads."""

    __slots__ = ("lows", "ranges", "targets")

    def __init__(self, tree: Tree) -> None:
        # Per position: the ranges it takes, or "start"/"end" for an edge, or None for a free step.
        self.ranges: list[Ranges | str | None] = []
        self.targets: list[tuple[int, ...]] = []
        self._add(tree, self._place(None, ()))
        self.lows = [[low for low, _ in taken] if isinstance(taken, tuple) else [] for taken in self.ranges]

    @property
    def start(self) -> int:
        return len(self.ranges) - 1

    def _place(self, taken: Ranges | str | None, targets: tuple[int, ...]) -> int:
        if len(self.ranges) >= MOST_POSITIONS:
            raise RemoteProtocolError(
                "invalid-configuration", f"expected a pattern of at most {MOST_POSITIONS} positions, got a larger one"
            )
        self.ranges.append(taken)
        self.targets.append(targets)
        return len(self.ranges) - 1

    def _add(self, tree: Tree, after: int) -> int:
        """Place `tree` so that it leads to `after`; return where it begins. The last one placed is the start."""
        if isinstance(tree, One):
            return self._place(tree.ranges, (after,))
        if isinstance(tree, Edge):
            return self._place(tree.at, (after,))
        if isinstance(tree, Join):
            for part in reversed(tree.parts):
                after = self._add(part, after)
            return self._place(None, (after,))
        if isinstance(tree, Either):
            return self._place(None, tuple(self._add(option, after) for option in tree.options))
        return self._repeat(tree, after)

    def _repeat(self, tree: Repeat, after: int) -> int:
        if tree.most is None:
            loop = self._place(None, ())
            inner = self._add(tree.part, loop)
            self.targets[loop] = (inner, after)
            after = loop
        else:
            end = after
            for _ in range(tree.most - tree.least):
                after = self._place(None, (self._add(tree.part, after), end))
        for _ in range(tree.least):
            after = self._add(tree.part, after)
        return self._place(None, (after,))

    def takes(self, position: int, symbol: int) -> bool:
        at = bisect_right(self.lows[position], symbol) - 1
        if at < 0:
            return False
        taken = self.ranges[position]
        return isinstance(taken, tuple) and symbol <= taken[at][1]

    def spread(self, positions: Iterable[int], *, at_start: bool = False, at_end: bool = False) -> frozenset[int]:
        """Return every position reachable without taking a symbol; edges that do not hold yet are kept."""
        seen: set[int] = set()
        left = list(positions)
        while left:
            position = left.pop()
            if position in seen:
                continue
            seen.add(position)
            taken = self.ranges[position]
            if taken is None or (taken == "start" and at_start) or (taken == "end" and at_end):
                left.extend(self.targets[position])
        return frozenset(seen)


class _State(dict["int", "_State"]):
    """A set of positions, and for each symbol seen so far the set after it: one look-up a symbol.

    The set of no positions stays empty, so that any symbol after it is a KeyError.
    """

    __slots__ = ("_automaton", "_ends", "positions")

    def __init__(self, automaton: Automaton, positions: frozenset[int]) -> None:
        super().__init__()
        self._automaton = automaton
        self._ends: bool | None = None
        self.positions = positions

    def __missing__(self, symbol: int) -> _State:
        if not self.positions:
            raise KeyError(symbol)
        if len(self) >= MOST_REMEMBERED:
            self.clear()
        after = self[symbol] = self._automaton.step(self.positions, symbol)
        return after

    @property
    def ends(self) -> bool:
        """Whether a text may end here."""
        if self._ends is None:
            self._ends = self._automaton.is_end(self.positions)
        return self._ends


class Automaton:
    """A tree made ready: `matches` takes a whole text, from its first symbol to its last."""

    __slots__ = ("_program", "_start", "_states")

    def __init__(self, tree: Tree) -> None:
        self._program = _Program(tree)
        self._states: dict[frozenset[int], _State] = {}
        self._start = _State(self, self._program.spread([self._program.start], at_start=True))

    def matches(self, symbols: Sequence[int]) -> bool:
        """Return whether the tree matches all of `symbols`.

        Bounds:  time linear in the symbols, whatever they are; memory MOST_REMEMBERED sets
        """
        if not symbols:
            program = self._program
            return 0 in program.spread([program.start], at_start=True, at_end=True)
        try:
            return reduce(getitem, symbols, self._start).ends
        except KeyError:
            return False

    def step(self, positions: frozenset[int], symbol: int) -> _State:
        """Return the state after `symbol`, the one that is remembered if there is one."""
        program = self._program
        after = program.spread(program.targets[at][0] for at in positions if program.takes(at, symbol))
        state = self._states.get(after)
        if state is None:
            if len(self._states) >= MOST_REMEMBERED:
                # States lead to each other: forgetting them means cutting these links as well.
                for known in (self._start, *self._states.values()):
                    known.clear()
                self._states.clear()
            state = self._states[after] = _State(self, after)
        return state

    def is_end(self, positions: frozenset[int]) -> bool:
        return 0 in self._program.spread(positions, at_end=True)
