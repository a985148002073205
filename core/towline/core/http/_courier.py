"""Scripts over links: a generator's questions become bytes, bytes become its answers."""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Generic, TypeVar

from towline._version import VERSION
from towline.core._contract import Instant
from towline.core._entropy import Entropy
from towline.core._errors import LocalProtocolError, RemoteProtocolError, TowlineError
from towline.core._limits import LIMITS, Limits
from towline.core._script import Answer, Fetch, Gathered, Read, Script, Sleep, Step, Together
from towline.core._wire import (
    WAKE,
    Abandon,
    Begin,
    End,
    Ended,
    Failed,
    Feed,
    Filled,
    Finished,
    LinkNumbers,
    Lost,
    Opened,
    Proved,
    Received,
    Refused,
    Store,
    Window,
    WireFact,
)
from towline.core.http._pool import Exchange, Pool

T = TypeVar("T")

USER_AGENT: Final = f"towline/{VERSION}"


class Courier(Generic[T]):
    """Run a script, and the scripts it runs together, over one pool of links: Machine[WireFact, WireWish | event].

    Questions about exchanges become Open, Transmit, Close and Drop; those about streams become wishes of the
    same name; what it does not know goes out as an event. Ends with Finished or Failed.

    While a script feeds a long body to a stream, its pieces may be views of a window: good until its next question
    that waits.

    A stream that is Refused before its End fails the script that began it at the question that is open then.
    """

    def __init__(
        self,
        steps: Step[T],
        *,
        entropy: Entropy | None = None,
        limits: Limits = LIMITS,
        user_agent: str = USER_AGENT,
        total: float | None = None,
        links: LinkNumbers | None = None,
        route: str = "direct",
    ) -> None:
        """`total` are the seconds after which the whole operation fails. `links` are the owner's, if it has other
        parts that open links. `entropy` is what every root machine is given; nothing here draws from it."""
        self.entropy: Final = entropy
        self._limits = limits
        self._total = total
        self._until: Instant | None = None
        self._wishes: deque[Any] = deque()
        self._pool = Pool(self._wishes, links or LinkNumbers(), limits=limits, user_agent=user_agent, route=route)
        self._root: Final = _Task(steps, None, 0)
        self._tasks: list[_Task] = []  # those that run, in the order they began
        self._streams: dict[int, _Task] = {}  # who began a stream that has no verdict
        self._verdicts: dict[int, Proved | Refused] = {}  # those that came and were not asked for
        self._moved = False  # a script went on, so that another question may have its answer
        self._started = False
        self._over = False

    def __repr__(self) -> str:
        return f"Courier(over={self._over}, scripts={len(self._tasks)})"

    def owns(self, link: int) -> bool:
        """True if this is an open link of this courier."""
        return self._pool.owns(link)

    # ── the contract ───────────────────────────────────────────────────────────
    def handle(self, fact: WireFact, now: Instant) -> None:
        if self._over:
            return
        if not self._started:
            self._started = True
            self._until = None if self._total is None else now + self._total
            self._start(self._root, now)
        if self._until is not None and now >= self._until and not self._over:
            why = f"expected the operation to end within {self._total:g} s"
            self._end(Failed(RemoteProtocolError("timeout", why)), now)
            return
        self._pool.wake(now)
        if isinstance(fact, Received | Filled | Opened | Ended | Lost):
            self._pool.handle(fact, now)
        elif isinstance(fact, Proved | Refused):
            self._take_verdict(fact)
        self._run(now)
        while not self._over and self._pool.advance(now):
            self._run(now)
        if isinstance(fact, Received | Filled) and not self._over:
            self._after_bytes(fact)

    def poll(self) -> Any:
        return self._wishes.popleft() if self._wishes else None

    def deadline(self) -> Instant | None:
        if self._over:
            return None
        due = [at for task in self._tasks if (at := task.script.deadline()) is not None]
        due += [at for at in (self._until, self._pool.deadline()) if at is not None]
        return min(due, default=None)

    def _after_bytes(self, fact: Received | Filled) -> None:
        """Keep what nobody took of a window, and wish for one where a script waits to feed more of it to a stream.

        Others are given bytes that stay good: a script that reads a document may keep its pieces.
        """
        if isinstance(fact, Filled):
            for task in self._tasks:
                if task.exchange is not None:
                    task.exchange.keep()
        exchange = self._pool.carried(fact.link)
        if exchange is None or exchange.unread:
            return
        feeders = (task for task in self._streams.values() if task.exchange is exchange)
        if any(isinstance(task.script.waits, Read) for task in feeders):
            limit = self._pool.window(fact.link)
            if limit is not None:
                self._wishes.append(Window(fact.link, limit))

    # ── running scripts ────────────────────────────────────────────────────────
    def _run(self, now: Instant) -> None:
        """Answer open questions until none can be answered."""
        self._moved = True
        while self._moved and not self._over:
            self._moved = False
            for task in list(self._tasks):
                if not task.running or self._over:
                    continue
                answer = self._answer(task, now)
                if answer is not None:
                    self._advance(task, answer, now)

    def _start(self, task: _Task, now: Instant) -> None:
        task.running = True
        self._tasks.append(task)
        self._advance(task, WAKE, now)

    def _advance(self, task: _Task, answer: Answer | TowlineError, now: Instant) -> None:
        """Answer a script's question, then take what it asks up to the next one that has to wait."""
        self._moved = True
        if isinstance(answer, TowlineError):
            task.failure = None
            if isinstance(task.script.waits, Fetch):
                self._give_up(task, now)
            self._kill_children(task, now)
            task.script.fail(answer, now)
        else:
            task.script.handle(answer, now)
        while (asked := task.script.poll()) is not None:
            self._take_question(task, asked, now)

    def _answer(self, task: _Task, now: Instant) -> Answer | TowlineError | None:
        """Return the answer to a script's open question, if there is one."""
        if task.failure is not None:
            return task.failure
        question = task.script.waits
        if isinstance(question, Fetch | Read):
            assert task.exchange is not None
            event = task.exchange.take()
            if event is None and isinstance(question, Read):
                task.exchange.ask(now)
            return event
        if isinstance(question, Sleep):
            return WAKE if now >= question.until else None
        if isinstance(question, End):
            return self._verdicts.pop(question.stream, None)
        assert isinstance(question, Together)
        return self._gather(task, now)

    def _take_question(self, task: _Task, asked: Any, now: Instant) -> None:
        if isinstance(asked, Finished | Failed):
            self._finish(task, asked, now)
            return
        if isinstance(asked, Fetch):
            self._give_up(task, now)
            try:
                task.exchange = self._pool.begin(asked.request, now)
            except RemoteProtocolError as error:
                task.failure = error
        elif isinstance(asked, Read):
            if task.exchange is None:
                task.failure = LocalProtocolError("expected a Fetch before a Read")
        elif isinstance(asked, Together):
            task.group = _Group(asked)
        elif isinstance(asked, Begin):
            self._streams[asked.stream] = task
            self._wishes.append(asked)
        elif isinstance(asked, Feed | Store | End | Abandon):
            # After a verdict the driver knows the stream no longer.
            if asked.stream in self._streams:
                self._wishes.append(asked)
            if isinstance(asked, Abandon):
                self._streams.pop(asked.stream, None)
                self._verdicts.pop(asked.stream, None)
        elif not isinstance(asked, Sleep):
            self._wishes.append(asked)

    def _take_verdict(self, fact: Proved | Refused) -> None:
        owner = self._streams.pop(fact.stream, None)
        if owner is None:
            return
        awaited = any(
            isinstance(task.script.waits, End) and task.script.waits.stream == fact.stream for task in self._tasks
        )
        if isinstance(fact, Refused) and not awaited:
            owner.failure = fact.error
        else:
            self._verdicts[fact.stream] = fact

    # ── scripts side by side ───────────────────────────────────────────────────
    def _gather(self, task: _Task, now: Instant) -> Gathered | TowlineError | None:
        """Start as many of a group's scripts as may run; return their values once all have ended."""
        group = task.group
        assert group is not None
        while group.left and len(group.running) < group.at_most and group.error is None:
            child = _Task(group.left.popleft(), group, len(group.values))
            group.values.append(None)
            group.running.append(child)
            self._start(child, now)
        if group.error is not None:
            return group.error
        if group.running:
            return None
        task.group = None
        return Gathered(tuple(group.values))

    def _finish(self, task: _Task, end: Finished[Any] | Failed, now: Instant) -> None:
        self._leave(task, now)
        if task.member_of is None:
            self._end(end, now)
            return
        task.member_of.running.remove(task)
        if isinstance(end, Finished):
            task.member_of.values[task.place] = end.value
        elif task.member_of.error is None:
            task.member_of.error = end.error

    def _kill_children(self, task: _Task, now: Instant) -> None:
        group, task.group = task.group, None
        if group is None:
            return
        for child in group.running:
            self._kill_children(child, now)
            child.script.close()
            self._leave(child, now)
        for steps in group.left:
            steps.close()

    def _leave(self, task: _Task, now: Instant) -> None:
        """A script is over: its exchange is given up, its streams without a verdict are abandoned."""
        task.running = False
        self._tasks.remove(task)
        self._give_up(task, now)
        for stream in [stream for stream, owner in self._streams.items() if owner is task]:
            del self._streams[stream]
            self._wishes.append(Abandon(stream))

    def _give_up(self, task: _Task, now: Instant) -> None:
        exchange, task.exchange = task.exchange, None
        if exchange is not None:
            self._pool.give_up(exchange, now)

    def _end(self, end: Finished[Any] | Failed, now: Instant) -> None:
        if self._root.running:
            self._kill_children(self._root, now)
            self._root.script.close()
            self._leave(self._root, now)
        self._pool.close()
        self._wishes.append(end)
        self._over = True


class _Task:
    """A script that runs, and what is its own."""

    __slots__ = ("exchange", "failure", "group", "member_of", "place", "running", "script")

    def __init__(self, steps: Step[Any], member_of: _Group | None, place: int) -> None:
        self.script: Script[Any] = Script(steps, serial=False)
        self.member_of = member_of  # the group that waits for its value, None for the root
        self.place = place
        self.running = False
        self.exchange: Exchange | None = None
        self.group: _Group | None = None  # the scripts it waits for
        self.failure: TowlineError | None = None  # to be raised at its open question


class _Group:
    """The scripts of one Together."""

    __slots__ = ("at_most", "error", "left", "running", "values")

    def __init__(self, asked: Together) -> None:
        self.left = deque(asked.steps)
        self.at_most = max(1, asked.at_most)
        self.running: list[_Task] = []
        self.values: list[Any] = []
        self.error: TowlineError | None = None
