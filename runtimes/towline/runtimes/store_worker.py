"""The store from a loop: one thread, and everybody who waits at the same time shares one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast

import anyio
from anyio import to_thread

T = TypeVar("T")
S = TypeVar("S", bound="Batching")


class Batching(Protocol):
    """A store whose calls can be run together."""

    def batch(self, operations: Sequence[Callable[[], Any]]) -> list[Any]: ...


class StoreWorker(Generic[S]):
    """Runs calls of a store in a thread, in the order in which they came, many in one transaction."""

    def __init__(self, store: S) -> None:
        self._store = store
        self._calls: list[_Call] = []
        self._news = anyio.Event()
        # One at a time: a store belongs to one thread.
        self._limiter = anyio.CapacityLimiter(1)

    async def do(self, call: Callable[[S], T]) -> T:
        """Return what a call of the store returns, once it is on the disk; raise what it raises.

        A caller that is cancelled while it waits does not undo the call.
        """
        wanted = _Call(lambda: call(self._store))
        self._calls.append(wanted)
        self._news.set()
        await wanted.done.wait()
        if isinstance(wanted.answer, BaseException):
            raise wanted.answer
        return cast(T, wanted.answer)

    async def run(self) -> None:
        """Run calls until cancelled; what was asked for before is done first."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            calls, self._calls = self._calls, []
            with anyio.CancelScope(shield=True):
                answers = await to_thread.run_sync(
                    self._store.batch, [call.run for call in calls], limiter=self._limiter
                )
            for call, answer in zip(calls, answers, strict=True):
                call.answer = answer
                call.done.set()


class _Call:
    __slots__ = ("answer", "done", "run")

    def __init__(self, run: Callable[[], Any]) -> None:
        self.run = run
        self.done = anyio.Event()
        self.answer: Any = None
