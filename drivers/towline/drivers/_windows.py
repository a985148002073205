"""Windows: the buffers that bodies of known length are read into, and the law by which each is used again.

A machine wished `Window`; the driver reads into a buffer of its pool and says `Filled`. The buffer is then *lent*: to
every link that the turn transmitted to and to every worker whose streams it fed or stored, until they have sent,
hashed and written all of it. Then it goes back, and only then is it read into again. A link that still opens, or has a
backlog, has not sent; one that is lost or dropped has forgotten what it had, and keeps nothing.
"""

from __future__ import annotations

from typing import Final

from towline.core import KIB, MIB
from towline.drivers._links import Link
from towline.drivers._worker import Thread

# What a read mostly finds on a fast link, and it stays in a core's own cache between the read and the send.
SMALL: Final = 256 * KIB
# While at most FEW links stream a buffer is LARGE: fewer turns, and fewer hand-overs to a worker.
LARGE: Final = 1 * MIB
FEW: Final = 4
# What all buffers that are out may hold. A link that would pass it reads as links without windows do, so that slow
# readers, who keep buffers out for as long as they like, never stop anybody else.
OUT: Final = 16 * MIB
# How many of each are kept for the next stream while nobody uses them.
KEPT: Final = {SMALL: 16, LARGE: 4}


class Pool:
    """The buffers of one pump."""

    __slots__ = ("_kept", "out")

    def __init__(self) -> None:
        self._kept: dict[int, list[bytearray]] = {SMALL: [], LARGE: []}
        # Bytes of the buffers that are out.
        self.out = 0

    def take(self, limit: int, streaming: int) -> bytearray | None:
        """Return a buffer for a read of up to `limit` bytes while so many links stream; None if too many are out."""
        size = LARGE if limit > SMALL and streaming <= FEW else SMALL
        if self.out + size > OUT:
            return None
        self.out += size
        kept = self._kept[size]
        return kept.pop() if kept else bytearray(size)

    def give(self, buffer: bytearray) -> None:
        """Take a buffer back that nobody reads any more."""
        size = len(buffer)
        self.out -= size
        if len(self._kept[size]) < KEPT[size]:
            self._kept[size].append(buffer)


class Lease:
    """One buffer, from the read that fills it until everyone it was lent to has done with it."""

    __slots__ = ("buffer", "holders", "links", "relayed", "source", "threads")

    def __init__(self, buffer: bytearray, source: Link) -> None:
        self.buffer = buffer
        self.source = source
        # To whom the turn gave of it.
        self.links: set[Link] = set()
        self.threads: set[Thread] = set()
        # How many of them have not done with it, and whether one was a link.
        self.holders = 0
        self.relayed = False
