"""Run a machine on asyncio: `open_pump` for a program with events, `perform` for an operation with a value.

    async with open_pump(machine, listeners={"http": Listener(port=8080)}) as pump:
        async for event in pump.events:
            ...

What is done with bytes is in `_turns.py`; here is what waits: for sockets, for time, for whoever listens.
Where trio has a task for a reader or a writer, asyncio has a callback of its selector; neither holds any state.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from towline.core import WAKE, Machine, Open, TowlineError
from towline.drivers._config import BlobStore, Dialer, Listener
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
        async with asyncio.TaskGroup() as group:
            pump = Pump(
                group, machine, dialer=dialer, listeners=listeners or {}, store=store, linger=linger, build=build
            )
            try:
                pump._start()
                yield pump
            except Exception as error:
                fault = error
            finally:
                stopped = asyncio.Event()
                pump._stop()
                if pump._sleeper is not None:
                    pump._sleeper.cancel()
                pump._streams.stop(stopped.set)
                await stopped.wait()
    except BaseExceptionGroup as group_of_faults:
        # A fault of the machine's own; there is one nearly always, and it needs no wrapping.
        faults = group_of_faults.exceptions
        raise (faults[0] if len(faults) == 1 else group_of_faults) from None
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
    """A running machine: `tell` it facts, read its `events`, await that it is `finished`.

    `ports` has the port each listener got, `addresses` all (host, port) pairs it is bound to.
    """

    def __init__(self, group: asyncio.TaskGroup, machine: Machine[Any, Any], **how: Any) -> None:
        super().__init__(machine, **how)
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._sleeper: asyncio.TimerHandle | None = None

    # ── what waits ─────────────────────────────────────────────────────────────
    def _start(self) -> None:
        self._listen()
        for name, sock, context in self._listening:
            self._start_accepting(name, sock, context)
        self._turn(WAKE)

    async def _opener(self, link: Link, wish: Open) -> None:
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
            found = numeric(*self._where(wish)) or await self._loop.getaddrinfo(
                *self._where(wish), type=socket.SOCK_STREAM
            )
        except (OSError, UnicodeError) as error:
            raise unreachable(f"cannot resolve {wish.host}", error) from None
        targets = self._targets(wish, found)
        failure = unreachable(f"cannot connect to {link.peer}", TimeoutError())
        for family, address in targets:
            sock = dialled(family)
            try:
                async with asyncio.timeout(self._dialer.connect_seconds / len(targets)):
                    await self._loop.sock_connect(sock, address)
                return sock
            except OSError as error:
                failure = unreachable(f"cannot connect to {link.peer}", error)
            except BaseException:
                sock.close()
                raise
            sock.close()
        raise failure

    def _reader(self, link: Link, sock: socket.socket) -> None:
        if not self._receive(link) and link.sock is sock:
            self._loop.remove_reader(sock)

    def _writer(self, link: Link, sock: socket.socket) -> None:
        if not self._write(link) and link.sock is sock:
            self._loop.remove_writer(sock)

    def _listener(self, name: str, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        if not self._accept(name, sock, context) and sock.fileno() >= 0:
            self._loop.remove_reader(sock)
            self._loop.call_later(0.1, self._guarded, self._start_accepting, name, sock, context)

    def _timer(self) -> None:
        self._sleeper = None
        self._rang()

    def _guarded(self, call: Callable[..., None], *args: Any) -> None:
        """What the loop calls is no task of ours: a fault must end this block, not be logged and forgotten."""
        try:
            call(*args)
        except Exception as error:
            self._group.create_task(_raise(error))

    # ── what the turns ask for ─────────────────────────────────────────────────
    def _now(self) -> float:
        return self._loop.time()

    def _alarm(self, at: float) -> None:
        if self._sleeper is not None:
            self._sleeper.cancel()
        self._sleeper = self._loop.call_at(at, self._guarded, self._timer)

    def _post(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._guarded, call)

    async def _change(self) -> None:
        await self._changed.wait()

    def _signal(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _start_accepting(self, name: str, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        if sock.fileno() >= 0:
            self._loop.add_reader(sock, self._guarded, self._listener, name, sock, context)

    def _start_opening(self, link: Link, wish: Open) -> None:
        link.cancel = self._group.create_task(self._opener(link, wish)).cancel

    def _start_reading(self, link: Link) -> None:
        if link.sock is not None:
            self._loop.add_reader(link.sock, self._guarded, self._reader, link, link.sock)

    def _start_writing(self, link: Link) -> None:
        if link.sock is not None:
            self._loop.add_writer(link.sock, self._guarded, self._writer, link, link.sock)

    def _unwatch(self, link: Link) -> None:
        if link.sock is not None:
            self._loop.remove_reader(link.sock)
            self._loop.remove_writer(link.sock)

    def _unlisten(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock)


def numeric(host: str, port: int) -> Any:
    """Resolve an address without a thread; return None for a name (trio does this by itself)."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        return None


async def _raise(error: Exception) -> None:
    raise error
