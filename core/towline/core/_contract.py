"""The contract of every machine: handle one fact, poll every wish, honour one deadline.

    machine.handle(fact, now)        # something happened
    while (wish := machine.poll()) is not None:
        ...                          # the machine wants something, or has something to say
    machine.deadline()               # call handle(WAKE, now) at this instant, or None

The law: one fact, then drain. Between `handle` and the `None` of `poll` nothing is awaited.
A driver begins by handing over WAKE once, so that a machine can speak first.

What a machine promises
1. Pure. Its wishes are a function of its constructor's arguments and the facts so far. Clock, entropy,
   environment and locale come in as arguments. The same facts twice give byte-identical wishes.
2. Total. Whatever the peer sends, `handle` returns. A broken peer is a `Failed` wish, never an exception.
   `LocalProtocolError` is raised only when the caller broke the law, and leaves the machine unchanged.
3. Split-blind. Facts that carry bytes may be cut anywhere; the concatenated bytes of the wishes are the same.
4. Final. After `Finished` or `Failed` there are no more wishes and `deadline()` is None; later facts are ignored.
5. Bounded. Every buffer has a limit with a name in `_limits.py`. Passing it is a `Failed`.
6. Quiet. It does not log, print, warn, spawn, sleep or read a file. It may say `Note(...)`, which is a wish.
7. Monotone. `now` never runs back; a driver that cannot promise it passes `max(now, last)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, TypeVar

import msgspec

FactT = TypeVar("FactT", contravariant=True)
WishT = TypeVar("WishT", covariant=True)

Instant: TypeAlias = float
"""Seconds of the driver's monotonic clock. Compared and added to, never read."""

Data: TypeAlias = bytes | bytearray | memoryview


def joined(pieces: Sequence[Data]) -> Data:
    """Return pieces as one; a single one, which may be the view of a window, is not copied."""
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Machine(Protocol[FactT, WishT]):
    """Anything that is driven by the three calls: a connection, an operation, a whole program's root."""

    def handle(self, fact: FactT, now: Instant) -> None: ...

    def poll(self) -> WishT | None: ...

    def deadline(self) -> Instant | None: ...


class Record(msgspec.Struct, frozen=True):
    """Base of every fact and wish: immutable, equal by value, printable.

    Type checkers do not inherit `frozen`, so each subclass repeats it.
    """


def earliest(*instants: Instant | None) -> Instant | None:
    """Return the first of some deadlines, None if there is none."""
    first = None
    for at in instants:
        if at is not None and (first is None or at < first):
            first = at
    return first
