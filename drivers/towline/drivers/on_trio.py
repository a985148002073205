"""Run a machine on trio: `open_pump` for a program with events, `perform` for an operation with a value.

    async with open_pump(machine, listeners={"http": Listener(port=8080)}) as pump:
        async for event in pump.events:
            ...

What is done with bytes is in `_turns.py`; here is what waits: for sockets, for time, for whoever listens.
On Linux one task serves all links. Elsewhere a reader runs while a link may be read, a writer while it has a backlog;
none of them holds any state.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio

from towline.core import WAKE, Machine, Open, TowlineError
from towline.drivers._config import BlobStore, Dialer, Listener
from towline.drivers._epoll import HAS_EPOLL, Epoll
from towline.drivers._flow import unreachable
from towline.drivers._links import Link, dialled
from towline.drivers._turns import Turns
from towline.drivers._worker import Build


@asynccontextmanager
async def open_pump(
    machine: Machine[Any, Any],
    *,
    dialer: Dialer | None = None,
    listeners: Mapping[str, Listener] | None = None,
    store: BlobStore | None = None,
    linger: float = 5.0,
    build: Build | None = None,
) -> AsyncIterator[Pump]:
    """Drive a machine while the block lasts; it is woken once, and its listeners are bound, before the block begins.

    Leaving the block before the machine ended cuts its links; `await pump.finished()` first to let it end.
    Events that nobody reads hold the links after some thousands: read them, or use `perform`.

    Raises: TowlineError "invalid-configuration" when a listener cannot be bound or a certificate not be read
    """
    fault: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            pump = PUMP(
                nursery, machine, dialer=dialer, listeners=listeners or {}, store=store, linger=linger, build=build
            )
            try:
                pump._start()
                yield pump
            except Exception as error:
                fault = error
            finally:
                stopped = trio.Event()
                pump._stop()
                pump._streams.stop(stopped.set)
                with trio.CancelScope(shield=True):
                    await stopped.wait()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # A fault of the machine's own; there is one nearly always, and it needs no wrapping.
        raise (group.exceptions[0] if len(group.exceptions) == 1 else group) from None
    if fault is not None:
        raise fault


async def perform(
    machine: Machine[Any, Any],
    *,
    dialer: Dialer | None = None,
    listeners: Mapping[str, Listener] | None = None,
    store: BlobStore | None = None,
    linger: float = 5.0,
    build: Build | None = None,
    on_event: Callable[[Any], None] | None = None,
) -> Any:
    """Drive a machine to its end and return its value, or raise its error. Events go to `on_event` as they come."""
    async with open_pump(machine, dialer=dialer, listeners=listeners, store=store, linger=linger, build=build) as pump:
        async for event in pump.events:
            if on_event is not None:
                on_event(event)
        return await pump.finished()


class Pump(Turns):
    """A running machine: `tell` it facts, read its `events`, await that it is `finished`. Each link has its tasks.

    `ports` has the port each listener got, `addresses` all (host, port) pairs it is bound to.
    """

    def __init__(self, nursery: trio.Nursery, machine: Machine[Any, Any], **how: Any) -> None:
        super().__init__(machine, **how)
        self._nursery = nursery
        self._token = trio.lowlevel.current_trio_token()
        self._changed = trio.Event()
        self._sleeper: trio.CancelScope | None = None

    # ── tasks ──────────────────────────────────────────────────────────────────
    def _start(self) -> None:
        self._listen()
        for name, sock, context in self._listening:
            self._nursery.start_soon(self._listener, name, sock, context)
        self._nursery.start_soon(self._timer)
        self._turn(WAKE)

    async def _opener(self, link: Link, wish: Open, scope: trio.CancelScope) -> None:
        with scope:
            try:
                sock = await self._dial(link, wish)
            except TowlineError as error:
                link.cancel = None
                self._lose(link, error.message, error.kind)
            else:
                self._connected(link, wish, sock)

    async def _dial(self, link: Link, wish: Open) -> socket.socket:
        """Return a socket connected to the first address that answers; each gets its share of the time."""
        try:
            found = await trio.socket.getaddrinfo(*self._where(wish), type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise unreachable(f"cannot resolve {wish.host}", error) from None
        targets = self._targets(wish, found)
        failure = unreachable(f"cannot connect to {link.peer}", TimeoutError())
        for family, address in targets:
            sock = dialled(family)
            try:
                with trio.move_on_after(self._dialer.connect_seconds / len(targets)):
                    await _connect(sock, address)
                    return sock
            except OSError as error:
                failure = unreachable(f"cannot connect to {link.peer}", error)
            except BaseException:
                sock.close()
                raise
            sock.close()
        raise failure

    async def _reader(self, link: Link) -> None:
        with suppress(trio.ClosedResourceError):
            sock = link.sock
            while sock is not None:
                await trio.lowlevel.wait_readable(sock)
                if not self._receive(link):
                    return

    async def _writer(self, link: Link) -> None:
        with suppress(trio.ClosedResourceError):
            sock = link.sock
            while sock is not None:
                await trio.lowlevel.wait_writable(sock)
                if not self._write(link):
                    return

    async def _listener(self, name: str, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        with suppress(trio.ClosedResourceError):
            while sock.fileno() >= 0:
                await trio.lowlevel.wait_readable(sock)
                if not self._accept(name, sock, context):
                    await trio.sleep(0.1)

    async def _timer(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._armed) as self._sleeper:
                await trio.sleep_forever()
            self._rang()

    # ── what the turns ask for ─────────────────────────────────────────────────
    def _now(self) -> float:
        return trio.current_time()

    def _alarm(self, at: float) -> None:
        if self._sleeper is not None:
            self._sleeper.deadline = at

    def _post(self, call: Callable[[], None]) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._guarded, call)

    def _guarded(self, call: Callable[[], None]) -> None:
        """What is posted runs in a task of trio's own: a fault must end this block, not the program."""
        try:
            call()
        except Exception as error:
            self._nursery.start_soon(_raise, error)

    async def _change(self) -> None:
        await self._changed.wait()

    def _signal(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _start_opening(self, link: Link, wish: Open) -> None:
        scope = trio.CancelScope()
        link.cancel = scope.cancel
        self._nursery.start_soon(self._opener, link, wish, scope)

    def _start_reading(self, link: Link) -> None:
        self._nursery.start_soon(self._reader, link)

    def _start_writing(self, link: Link) -> None:
        self._nursery.start_soon(self._writer, link)

    def _unwatch(self, link: Link) -> None:
        if link.sock is not None:
            trio.lowlevel.notify_closing(link.sock)

    def _unlisten(self, sock: socket.socket) -> None:
        trio.lowlevel.notify_closing(sock)


class EpollPump(Pump):
    """A running machine whose links share one task: they are waited for through one epoll."""

    def __init__(self, nursery: trio.Nursery, machine: Machine[Any, Any], **how: Any) -> None:
        super().__init__(nursery, machine, **how)
        self._ready = Epoll()
        # What a round wrote on tunnels, which leaves at its end: a quarter of a busy broker's processor time is sends,
        # and the frames of many requests are one. None between rounds.
        self._late: dict[Link, None] | None = None

    def _start(self) -> None:
        self._nursery.start_soon(self._server)
        super()._start()

    async def _server(self) -> None:
        with suppress(trio.ClosedResourceError):
            while not self._ready.closed:
                await trio.lowlevel.wait_readable(self._ready.fileno())
                if self._ready.closed:
                    # The block was left after something had become ready, and before this task's turn.
                    return
                self._late = {}
                self._ready.serve(self._receive, self._write)
                late, self._late = self._late, None
                for link in late:
                    self._flush(link)

    def _flush(self, link: Link) -> None:
        if self._late is not None and link.shared:
            self._late[link] = None
        else:
            super()._flush(link)

    def _start_reading(self, link: Link) -> None:
        self._ready.watch(link)

    def _start_writing(self, link: Link) -> None:
        self._ready.watch(link)

    def _unwatch(self, link: Link) -> None:
        self._ready.forget(link)

    def _stop(self) -> None:
        super()._stop()
        trio.lowlevel.notify_closing(self._ready.fileno())
        self._ready.close()


PUMP: type[Pump] = EpollPump if HAS_EPOLL else Pump


async def _connect(sock: socket.socket, address: Any) -> None:
    try:
        sock.connect(address)
    except BlockingIOError:
        await trio.lowlevel.wait_writable(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code)) from None


async def _raise(error: Exception) -> None:
    raise error
