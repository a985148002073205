"""Streams: bulk bytes are hashed, inflated and stored beside the loop, and their verdicts come back as facts.

A small stream runs inline, in the turn that feeds it. A large one lives in a worker thread, joined to the loop
by a ring: the loop puts buffers in, the thread takes them out, in order. Each stream and its sink belong to one
thread from `build` to the verdict. There are at most as many threads as cores; a stream that finds all of them
busy shares the least busy one, so that no stream waits for another to *end* (two streams fed by one link would
stand still).
"""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

from towline.core import (
    KIB,
    Abandon,
    Begin,
    Data,
    End,
    Feed,
    Plan,
    Proved,
    Refused,
    Store,
    Stream,
    TowlineError,
)
from towline.drivers._config import BlobStore, Sink
from towline.drivers._links import Box

Build: TypeAlias = Callable[[Plan], Stream]
Verdict: TypeAlias = Proved | Refused
Act: TypeAlias = Literal["feed", "store", "end", "abandon"]

# Up to here a stream costs the loop less than a thread would (SHA-256 of 256 KiB: 0.15 ms).
INLINE: Final = 256 * KIB
# What is between the loop and a worker: four reads of 64 KiB that are fed and stored, so that receiving and hashing
# overlap and memory stays bounded. Counted in bytes, because a chunked body comes in pieces of any size; ENTRY is
# what a piece costs beside them. Windows are counted by the piece, by who lent them.
RING: Final = 512 * KIB
ROOM: Final = 256 * KIB
ENTRY: Final = 512


class Ring(Box):
    """One stream as the loop sees it: how much was given, and how much of that its thread took."""

    __slots__ = ("abandoned", "given", "taken", "thread", "wanted", "work")

    def __init__(self, work: _Work, thread: Thread | None) -> None:
        super().__init__()
        self.work = work
        self.thread = thread
        # Bytes; `given` and `abandoned` are written by the loop only, `taken` by the thread only; each is read by both.
        self.given = 0
        self.taken = 0
        self.abandoned = False
        # A link waits for room. Set before `full` looks, so that a thread that empties the ring meanwhile sees it.
        self.wanted = False

    @property
    def full(self) -> bool:
        if self.thread is None:
            return False
        self.wanted = True
        return self.given - self.taken >= RING


class Streams:
    """The streams of one pump. Its methods are called on the loop, inside a turn.

    `deliver` takes a verdict on the loop; `relieve` says that a ring has room; `post` runs a call on the loop
    from any thread.
    """

    def __init__(
        self,
        build: Build,
        store: BlobStore | None,
        *,
        deliver: Callable[[Verdict], None],
        relieve: Callable[[Box], None],
        post: Callable[[Callable[[], None]], None],
        most_threads: int | None = None,
    ) -> None:
        self._build = build
        self._store = store
        self._deliver = deliver
        self._relieve = relieve
        self._post = post
        self._most = most_threads or cores()
        self._rings: dict[int, Ring] = {}
        self._threads: list[Thread] = []

    def begin(self, wish: Begin) -> None:
        """Make a stream ready; nothing is built before its thread takes it up."""
        small = wish.expected_bytes is not None and wish.expected_bytes <= INLINE
        work = _Work(wish.stream, wish.plan, self._build, self._store)
        self._rings[wish.stream] = Ring(work, None if small else self._thread())

    def act(self, wish: Feed | Store | End) -> Ring | None:
        """Do one of a stream's wishes, or pass it to its thread; return the ring if there is one."""
        ring = self._rings.get(wish.stream)
        if ring is None:
            return None
        if isinstance(wish, End):
            self._give(ring, "end", b"")
        else:
            self._give(ring, "feed" if isinstance(wish, Feed) else "store", wish.data)
        return ring

    def abandon(self, wish: Abandon) -> None:
        """Forget a stream; its verdict, if one is on the way, is not delivered."""
        ring = self._rings.pop(wish.stream, None)
        if ring is not None:
            self._forget(ring)

    def abandon_all(self) -> None:
        for ring in self._rings.values():
            self._forget(ring)
        self._rings.clear()

    def stop(self, stopped: Callable[[], None]) -> None:
        """Abandon all streams and end the threads; `stopped` is called on the loop after the last one."""
        self.abandon_all()
        left = len(self._threads)
        if not left:
            stopped()
            return

        def one_less() -> None:
            nonlocal left
            left -= 1
            if not left:
                for thread in threads:
                    thread.join()
                stopped()

        threads, self._threads = self._threads, []
        for thread in threads:
            thread.stop(lambda: self._post(one_less))

    def _forget(self, ring: Ring) -> None:
        ring.abandoned = True
        self._give(ring, "abandon", b"")
        if ring.thread is not None:
            ring.thread.streams -= 1
            ring.thread = None
        self._relieve(ring)

    def _give(self, ring: Ring, act: Act, data: Data) -> None:
        if ring.thread is None:
            verdict = ring.work.do(act, data)
            if verdict is not None:
                self._verdict(ring, verdict)
            return
        ring.given += len(data) + ENTRY
        ring.thread.put(lambda: self._take(ring, act, data))

    def _take(self, ring: Ring, act: Act, data: Data) -> None:
        """In the ring's thread: do one act, and tell the loop what it must know."""
        verdict = None
        if act == "abandon" or not ring.abandoned:
            verdict = ring.work.do(act, data)
        ring.taken += len(data) + ENTRY
        if verdict is not None:
            self._post(lambda: self._verdict(ring, verdict))
        elif ring.wanted and ring.given - ring.taken <= ROOM:
            ring.wanted = False
            self._post(lambda: self._relieve(ring))

    def _verdict(self, ring: Ring, verdict: Verdict) -> None:
        # A ring that is not listed any more was abandoned while its verdict was on the way.
        if self._rings.pop(verdict.stream, None) is ring:
            if ring.thread is not None:
                ring.thread.streams -= 1
                ring.thread = None
            self._relieve(ring)
            self._deliver(verdict)

    def _thread(self) -> Thread:
        idle = min(self._threads, key=lambda thread: thread.streams, default=None)
        if idle is None or (idle.streams and len(self._threads) < self._most):
            idle = Thread()
            self._threads.append(idle)
        idle.streams += 1
        return idle


class _Work:
    """A stream and its sink, and the one that touches them. `do` is called by one thread, in order."""

    def __init__(self, number: int, plan: Plan, build: Build, store: BlobStore | None) -> None:
        self._number = number
        self._plan = plan
        self._build = build
        self._store = store
        self._stream: Stream | None = None
        self._sink: Sink | None = None
        self._over = False

    def do(self, act: Act, data: Data) -> Verdict | None:
        """Do the next act; return the verdict if this was the last one that mattered."""
        if self._over:
            return None
        try:
            value = self._do(act, data)
        except TowlineError as error:
            return self._refuse(error)
        except OSError as error:
            kind = "insufficient-disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "internal"
            return self._refuse(TowlineError(kind, f"the stream's bytes cannot be kept: {error.strerror or error}"))
        except Exception as error:
            # A fault of the analyser: it ends this stream, not the thread with its other streams.
            return self._refuse(TowlineError("internal", f"a stream failed with {type(error).__name__}"))
        if act != "end":
            return None
        self._over = True
        self._stream = self._sink = None
        return Proved(self._number, value)

    def _do(self, act: Act, data: Data) -> Any:
        if act == "abandon":
            self._abort()
        elif act == "store":
            if self._sink is None:
                if self._store is None:
                    raise TowlineError("internal", "bytes are to be kept, and the driver was given no store")
                self._sink = self._store.open(self._plan)
            self._sink.write(data)
        else:
            if self._stream is None:
                self._stream = self._build(self._plan)
            if act == "feed":
                self._stream.feed(data)
            else:
                value = self._stream.end()
                if self._sink is not None:
                    self._sink.commit()
                return value
        return None

    def _refuse(self, error: TowlineError) -> Refused:
        self._abort()
        return Refused(self._number, error)

    def _abort(self) -> None:
        self._over = True
        sink, self._sink, self._stream = self._sink, None, None
        if sink is not None:
            try:
                sink.abort()
            except OSError:
                # What cannot be removed stays under a temporary name; it never had the blob's own.
                pass


class Thread:
    """A worker thread and the calls it has to make, in order."""

    def __init__(self) -> None:
        # Streams that are pinned to it, counted on the loop.
        self.streams = 0
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._stopped: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="towline stream worker", daemon=True)
        self._thread.start()

    def put(self, call: Callable[[], None]) -> None:
        self._calls.put(call)

    def stop(self, stopped: Callable[[], None]) -> None:
        """End after the calls that are queued; `stopped` is called in the thread, last."""
        self._stopped = stopped
        self._calls.put(None)

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call
        self._stopped()


def cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def default_build(plan: Plan) -> Stream:
    """Build with the core's own room of streams, loaded when the first stream begins."""
    from towline.core.layer import build

    return build(plan)
