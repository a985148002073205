"""Streams beside the loop: threads that are few, verdicts that are one, bytes kept only when proved."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from towline.core import Abandon, Begin, Data, End, Feed, Plan, Proved, Refused, RemoteProtocolError, Store
from towline.drivers import _worker
from towline.drivers._worker import INLINE, RING, Streams


class Counting(Plan, frozen=True):
    """A stream that counts bytes and can fail at `bad`, as its peer's or as our own fault."""

    bad: str = ""


class Count:
    threads: ClassVar[set[int]] = set()

    def __init__(self, plan: Any) -> None:
        self.plan = plan
        self.thread = threading.get_ident()
        Count.threads.add(self.thread)
        self.size = 0

    def feed(self, data: Data) -> None:
        assert threading.get_ident() == self.thread
        if self.plan.bad == "peer":
            raise RemoteProtocolError("bad-archive", "expected better")
        if self.plan.bad == "ours":
            raise KeyError("a fault of the analyser")
        self.size += len(data)

    def end(self) -> Any:
        assert threading.get_ident() == self.thread
        return self.size


class Sinks:
    """A BlobStore whose sinks note what is done to them, and fail when told."""

    def __init__(self, fails: Any = None) -> None:
        self.done: list[Any] = []
        self.fails = fails or {}

    def open(self, plan: Any) -> Any:
        self.note("open")
        return self

    def write(self, data: Data) -> None:
        self.note("write")

    def commit(self) -> None:
        self.note("commit")

    def abort(self) -> None:
        self.note("abort")

    def note(self, what: Any) -> None:
        self.done.append(what)
        if what in self.fails:
            raise OSError(self.fails[what], "no")


class Bench:
    """Streams without a loop: what is posted waits until `settle`."""

    def __init__(self, store: Any = None, most_threads: int = 2) -> None:
        self.facts: list[Any] = []
        self.relieved: list[Any] = []
        self.posted: list[Callable[[], None]] = []
        self.came = threading.Condition()
        self.streams = Streams(
            Count,
            store,
            deliver=self.facts.append,
            relieve=self.relieved.append,
            post=self.post,
            most_threads=most_threads,
        )

    def post(self, call: Any) -> None:
        with self.came:
            self.posted.append(call)
            self.came.notify()

    def settle(self, done: Any) -> None:
        """Run what the threads post until `done()`."""
        while not done():
            with self.came:
                assert self.came.wait_for(lambda: self.posted, timeout=10)
                calls, self.posted = self.posted, []
            for call in calls:
                call()

    def do(self, *wishes: Any) -> None:
        for wish in wishes:
            if isinstance(wish, Begin):
                self.streams.begin(wish)
            elif isinstance(wish, Abandon):
                self.streams.abandon(wish)
            else:
                self.streams.act(wish)

    def stop(self) -> None:
        gone = []
        self.streams.stop(lambda: gone.append(True))
        self.settle(lambda: gone)


@pytest.fixture(params=[INLINE, INLINE + 1, None], ids=["inline", "thread", "unknown"])
def expected(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def bench() -> Iterator[Any]:
    bench = Bench(Sinks())
    yield bench
    bench.stop()


def test_a_stream_is_proved_once_and_its_bytes_are_kept(bench: Any, expected: Any) -> None:
    bench.do(Begin(7, Counting(), expected), Feed(7, b"ab"), Store(7, b"ab"), Feed(7, b"c"), Store(7, b"c"), End(7))
    bench.settle(lambda: bench.facts)
    assert bench.facts == [Proved(7, 3)]
    assert bench.streams._store.done == ["open", "write", "write", "commit"]
    bench.do(Feed(7, b"late"), End(7), Abandon(7))
    assert bench.facts == [Proved(7, 3)]


def test_only_the_small_run_on_the_loop(expected: Any) -> None:
    Count.threads = set()
    bench = Bench()
    bench.do(Begin(1, Counting(), expected), Feed(1, b"x"), End(1))
    bench.settle(lambda: bench.facts)
    bench.stop()
    assert (Count.threads == {threading.get_ident()}) == (expected == INLINE)


@pytest.mark.parametrize(("bad", "kind"), [("peer", "bad-archive"), ("ours", "internal")])
def test_a_refusal_comes_at_once_and_throws_the_bytes_away(bench: Any, expected: Any, bad: Any, kind: Any) -> None:
    bench.do(Begin(1, Counting(bad), expected), Store(1, b"x"), Feed(1, b"x"))
    bench.settle(lambda: bench.facts)
    (fact,) = bench.facts
    assert isinstance(fact, Refused)
    assert (fact.stream, fact.error.kind) == (1, kind)
    assert bench.streams._store.done == ["open", "write", "abort"]
    bench.do(Feed(1, b"x"), End(1))
    assert len(bench.facts) == 1


@pytest.mark.parametrize(
    ("where", "number", "kind"),
    [
        ("open", errno.EACCES, "internal"),
        ("write", errno.ENOSPC, "insufficient-disk"),
        ("write", errno.EDQUOT, "insufficient-disk"),
        ("commit", errno.EIO, "internal"),
    ],
)
def test_a_disk_that_fails_refuses_the_stream(expected: Any, where: Any, number: int, kind: Any) -> None:
    store = Sinks({where: number, "abort": errno.EIO})
    bench = Bench(store)
    bench.do(Begin(1, Counting(), expected), Store(1, b"x"), Feed(1, b"x"), End(1))
    bench.settle(lambda: bench.facts)
    bench.stop()
    (fact,) = bench.facts
    assert fact.error.kind == kind
    assert store.done.count("abort") == (where != "open")


def test_without_a_store_nothing_can_be_kept(expected: Any) -> None:
    bench = Bench()
    bench.do(Begin(1, Counting(), expected), Store(1, b"x"))
    bench.settle(lambda: bench.facts)
    bench.stop()
    assert isinstance(bench.facts[0], Refused)


def test_an_abandoned_stream_has_no_verdict(bench: Any, expected: Any) -> None:
    bench.do(Begin(1, Counting(), expected), Store(1, b"x"), Abandon(1), End(1))
    bench.do(Begin(2, Counting(), INLINE + 1), End(2))
    bench.settle(lambda: bench.facts)
    assert bench.facts == [Proved(2, 0)]
    bench.stop()
    assert "commit" not in bench.streams._store.done
    assert bench.streams._store.done.count("open") == bench.streams._store.done.count("abort")


def test_many_streams_share_few_threads_and_none_waits_for_another() -> None:
    before = threading.active_count()
    bench = Bench(most_threads=2)
    numbers = range(1, 9)
    bench.do(*(Begin(number, Counting()) for number in numbers))
    # All are open at once; the last one begun is fed and ended first.
    for number in reversed(numbers):
        bench.do(Feed(number, b"x" * number), End(number))
        bench.settle(lambda number=number: Proved(number, number) in bench.facts)
    assert threading.active_count() == before + 2
    assert [thread.streams for thread in bench.streams._threads] == [0, 0]
    bench.stop()
    assert threading.active_count() == before


def test_a_full_ring_says_so_and_is_relieved() -> None:
    gate = threading.Event()

    class Slow(Count):
        def feed(self, data: Data) -> None:
            gate.wait(10)

    bench = Bench()
    bench.streams._build = Slow
    bench.do(Begin(1, Counting()))
    ring = bench.streams.act(Feed(1, bytes(RING // 2)))
    assert ring is not None
    assert not ring.full
    assert bench.streams.act(Feed(1, bytes(RING // 2))) is ring
    assert ring.full
    gate.set()
    bench.settle(lambda: bench.relieved)
    assert bench.relieved[0] is ring
    bench.settle(lambda: True)
    bench.do(End(1))
    bench.settle(lambda: bench.facts)
    assert ring is not None
    assert not ring.full
    bench.stop()


def test_cores_are_counted() -> None:
    assert _worker.cores() >= 1


def test_the_default_build_is_the_cores_own() -> None:
    from towline.core.layer import BlobPlan

    words = b"words"
    plan = BlobPlan("sha256:af5df6f92b8ebc8dbb5c6e3b3ac1f8a2ee9cf1ca1f4bd6d0f0d95b46c0dd9d0f", len(words))
    stream = _worker.default_build(plan)
    stream.feed(words)
    with pytest.raises(RemoteProtocolError) as caught:
        stream.end()
    assert caught.value.kind == "digest-mismatch"
