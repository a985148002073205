"""One turn after another: the synchronous half of a pump, the same over every loop.

A turn hands one fact to the machine, drains its wishes, and then flushes each link they touched, once and
without waiting. What did not fit is a backlog, and only then is the loop asked for a writer.
"""

from __future__ import annotations

import socket
import ssl
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from math import inf
from typing import Any, Final

from towline.core import (
    WAKE,
    Abandon,
    Begin,
    Close,
    Drained,
    Drop,
    End,
    Failed,
    Feed,
    Finished,
    Machine,
    Open,
    RemoteProtocolError,
    Share,
    Shut,
    Store,
    TowlineError,
    Transmit,
    Window,
)
from towline.drivers._config import BlobStore, Dialer, Listener
from towline.drivers._flow import place, reason
from towline.drivers._links import HIGH, Box, Link, listening
from towline.drivers._reads import Reads
from towline.drivers._tls import Contexts, server_context
from towline.drivers._worker import Build, Streams, default_build

# Events nobody has read: as many hold every link that is not shared, as a full outbox does.
EVENTS: Final = 4096


class _Events(Box):
    """What the application has not read yet."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        super().__init__()
        self.waiting: deque[Any] = deque()

    @property
    def full(self) -> bool:
        return len(self.waiting) >= EVENTS


class Turns(Reads):
    """One machine, its links and its streams."""

    def __init__(
        self,
        machine: Machine[Any, Any],
        *,
        dialer: Dialer | None,
        listeners: Mapping[str, Listener],
        store: BlobStore | None,
        linger: float,
        build: Build | None,
    ) -> None:
        super().__init__(dialer or Dialer(), linger)
        self.ports: dict[str, int] = {}
        self.addresses: dict[str, list[tuple[str, int]]] = {}
        self._machine = machine
        self._listeners = listeners
        self._listening: list[tuple[str, socket.socket, ssl.SSLContext | None]] = []
        self._contexts = Contexts(self._dialer.tls)
        self._streams = Streams(
            build or default_build, store, deliver=self._turn, relieve=self._relieve, post=self._post
        )
        self._events = _Events()
        self._facts: deque[Any] = deque()
        # The streams that this turn fed, for the law of back-pressure.
        self._fed: set[Box] = set()
        self._armed = inf

    def __repr__(self) -> str:
        state = "running" if self._result is None else type(self._result).__name__
        return f"{type(self).__module__}.Pump({state}, links={len(self._links)})"

    def tell(self, fact: Any) -> None:
        """Hand the machine a fact of the application's: one turn. After the machine's end it is ignored."""
        self._turn(fact)

    @property
    def events(self) -> AsyncIterator[Any]:
        """What the machine says that is not for the driver, in order; ends with the machine. One reader at a time."""
        return _Reader(self)

    async def finished(self) -> Any:
        """Wait until the machine ended and its outboxes are empty; return its value or raise its error."""
        while self._result is None or self._links:
            await self._change()
        if isinstance(self._result, Failed):
            raise self._result.error
        return self._result.value

    # ── turns ──────────────────────────────────────────────────────────────────
    def _turn(self, fact: Any, source: Link | None = None) -> None:
        """Hand over one fact and do what the machine wishes; facts that arise meanwhile follow at once."""
        facts = self._facts
        facts.append(fact)
        if self._turning:
            return
        self._turning = True
        # A shared link is not held by what its turn filled; so its machine is told also of what left at once.
        shared = source is not None and source.shared
        machine, events, touched = self._machine, self._events.waiting, self._touched
        said, full = False, self._fed
        try:
            while facts:
                if self._result is not None:
                    facts.clear()
                    break
                machine.handle(facts.popleft(), self._now())
                while (wish := machine.poll()) is not None:
                    do = DO.get(type(wish))
                    if do is None:
                        events.append(wish)
                        said = True
                    else:
                        do(self, wish)
                for link in touched:
                    link.touched = False
                    self._flush(link)
                    if shared and link.empty and not link.shared:
                        facts.append(Drained(link.number))
                    if link.queued > HIGH:
                        full.add(link)
                touched.clear()
                shared = False
        finally:
            self._turning = False
        if said or self._result is not None:
            self._signal()
        if source is not None and not source.shared and not source.deaf:
            if len(events) >= EVENTS:
                self._hold(source, self._events)
            for box in full:
                if box.full:
                    self._hold(source, box)
        full.clear()
        self._rearm()

    def _rearm(self) -> None:
        """Move the alarm if it must ring earlier; one that rings too early only looks again."""
        at = self._machine.deadline() if self._result is None else None
        at = inf if at is None else at
        if self._expiries:
            at = min(at, self._expiries[0][0])
        if at < self._armed:
            self._armed = at
            self._alarm(at)

    def _rang(self) -> None:
        """The alarm rang: give up what took too long, and wake the machine if that is what it wished."""
        self._armed = inf
        now = self._now()
        self._give_up(now)
        at = self._machine.deadline() if self._result is None else None
        if at is not None and at <= now:
            self._turn(WAKE)
        else:
            self._rearm()

    # ── wishes ─────────────────────────────────────────────────────────────────
    def _open(self, wish: Open) -> None:
        link = self._links[wish.link] = Link(wish.link, place(wish.host, wish.port))
        try:
            if wish.route != "direct":
                raise RemoteProtocolError("proxy-error", f"there is no route {wish.route!r} to {link.peer}")
            if wish.tls:
                link.tls = self._contexts.client(wish.host)
        except TowlineError as error:
            self._lose(link, error.message, error.kind)
            return
        self._expire(link, self._dialer.connect_seconds, "opening")
        self._start_opening(link, wish)

    def _transmit(self, wish: Transmit) -> None:
        link = self._links.get(wish.link)
        if link is not None and not link.deaf:
            link.transmit(wish.data)
            self._touch(link)
            if self._lease is not None:
                self._lease.links.add(link)

    def _window(self, wish: Window) -> None:
        link = self._links.get(wish.link)
        if link is not None and not link.deaf and not link.shared and wish.limit > 0:
            link.window = wish.limit
            self._streaming.add(link)

    def _share(self, wish: Share) -> None:
        link = self._links.get(wish.link)
        if link is not None:
            link.shared = True
            self._forget_window(link)
            self._relieve(link)
            self._unhold(link)

    def _shut(self, wish: Shut) -> None:
        link = self._links.get(wish.link)
        if link is not None and not link.deaf:
            link.shut = True
            self._touch(link)

    def _close(self, wish: Close) -> None:
        link = self._links.get(wish.link)
        if link is not None and not link.deaf:
            self._let_go(link)

    def _drop(self, wish: Drop) -> None:
        link = self._links.get(wish.link)
        if link is not None:
            self._release(link, reset=True)

    def _begin(self, wish: Begin) -> None:
        self._streams.begin(wish)

    def _bulk(self, wish: Feed | Store | End) -> None:
        ring = self._streams.act(wish)
        if ring is None or ring.thread is None:
            return
        if self._lease is None:
            self._fed.add(ring)
        else:
            self._lease.threads.add(ring.thread)

    def _abandon(self, wish: Abandon) -> None:
        self._streams.abandon(wish)

    def _end(self, wish: Finished[Any] | Failed) -> None:
        """The machine is over: nothing more is told, what is queued still leaves."""
        self._result = wish
        self._streams.abandon_all()
        self._unbind()
        for link in list(self._links.values()):
            if not link.deaf:
                self._let_go(link)
        self._signal()

    # ── the pump's own life ────────────────────────────────────────────────────
    def _listen(self) -> None:
        """Bind every listener. Raises a TowlineError "invalid-configuration" that names the one that cannot be."""
        for name, listener in self._listeners.items():
            context = server_context(listener)
            try:
                sockets = listening(listener.host, listener.port)
            except OSError as error:
                raise TowlineError(
                    "invalid-configuration", f"cannot listen on {listener.host}:{listener.port}: {reason(error)}"
                ) from None
            self._listening += [(name, sock, context) for sock in sockets]
            self.addresses[name] = [sock.getsockname()[:2] for sock in sockets]
            self.ports[name] = self.addresses[name][0][1]

    def _unbind(self) -> None:
        for _, sock, _ in self._listening:
            self._unlisten(sock)
            sock.close()
        self._listening.clear()

    def _stop(self) -> None:
        """Cut what is left: the block is being left."""
        self._result = self._result or Failed(TowlineError("cancelled", "the pump was left before its machine ended"))
        self._unbind()
        self._expiries.clear()
        for link in list(self._links.values()):
            self._release(link, reset=bool(link.queued))
        self._signal()

    def _next_event(self) -> Any | None:
        """Take the oldest event nobody has read, or None."""
        waiting = self._events.waiting
        if not waiting:
            return None
        event = waiting.popleft()
        if self._events.waiters and len(waiting) <= EVENTS // 2:
            self._relieve(self._events)
        return event

    # ── what a loop adds, beside what `_flow.py` asks for ──────────────────────
    @abstractmethod
    async def _change(self) -> None:
        """Wait for the next `_signal`."""

    @abstractmethod
    def _alarm(self, at: float) -> None:
        """Call `_rang` at this instant; it replaces an alarm that would have rung later."""

    @abstractmethod
    def _unlisten(self, sock: socket.socket) -> None:
        """A listener's socket is about to be closed."""


class _Reader(AsyncIterator[Any]):
    """Not a generator, because one that is left half-read is the loop's to clean up."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    async def __anext__(self) -> Any:
        while (event := self._turns._next_event()) is None:
            if self._turns._result is not None:
                raise StopAsyncIteration
            await self._turns._change()
        return event


DO: Final[dict[type, Callable[[Turns, Any], None]]] = {
    Open: Turns._open,
    Transmit: Turns._transmit,
    Window: Turns._window,
    Share: Turns._share,
    Shut: Turns._shut,
    Close: Turns._close,
    Drop: Turns._drop,
    Begin: Turns._begin,
    Feed: Turns._bulk,
    Store: Turns._bulk,
    End: Turns._bulk,
    Abandon: Turns._abandon,
    Finished: Turns._end,
    Failed: Turns._end,
}
