"""Links at work: greeted, written, held, closed. Synchronous, and the same over every loop.

Facts go up through `_turn`, which `_turns.py` adds, and `_reads.py` what reads; the loop's file adds what waits.
Reading a link stops after a turn that filled something, and goes on when that has room again. So there is no lock, no
queue between tasks, and no state in which a cancellation could leave half a turn.
"""

from __future__ import annotations

import heapq
import os
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from itertools import zip_longest
from typing import Any, Final

from towline.core import (
    Accepted,
    Drained,
    Failed,
    Finished,
    Lost,
    Open,
    Opened,
    RemoteProtocolError,
    TowlineError,
)
from towline.drivers._config import Dialer
from towline.drivers._links import Box, Link, delivered
from towline.drivers._tls import Tls
from towline.drivers._windows import Lease, Pool

# How long a link that sent its last byte is read on, so that a reset does not overtake that byte.
GRACE: Final = 1.0


class Flow(ABC):
    """The links of one machine."""

    def __init__(self, dialer: Dialer, linger: float) -> None:
        self._dialer = dialer
        self._linger = linger
        self._links: dict[int, Link] = {}
        self._next_accepted = 2
        # What this turn queued on, for the flush at its end.
        self._touched: list[Link] = []
        self._turning = False
        self._result: Finished[Any] | Failed | None = None
        self._pool = Pool()
        # Links that read, or are about to read, into windows.
        self._streaming: set[Link] = set()
        # (when, link, phase): a link that is still in that phase then is given up. Settled ones are skipped.
        self._expiries: list[tuple[float, int, str]] = []

    # ── opening ──────────────────────────────────────────────────────────────────
    def _targets(self, wish: Open, found: list[Any]) -> list[tuple[int, Any]]:
        """Return (family, address) of each place to try, in turn of family, or raise what the guard says."""
        addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        self._judge(wish, [address[0] for _, address in addresses])
        by_family: dict[int, list[tuple[int, Any]]] = {}
        for family, address in addresses:
            by_family.setdefault(family, []).append((family, address))
        turns = zip_longest(*by_family.values())
        return [target for turn in turns for target in turn if target is not None]

    def _judge(self, wish: Open, addresses: list[str]) -> None:
        moved = (wish.host, wish.port) in self._dialer.resolve
        self._dialer.guard.judge("configured" if moved else wish.purpose, wish.host, wish.port, addresses)

    def _where(self, wish: Open) -> tuple[str, int]:
        """Return where the target lives: at its own name, or where the operator said."""
        return self._dialer.resolve.get((wish.host, wish.port), (wish.host, wish.port))

    def _connected(self, link: Link, wish: Open, sock: socket.socket) -> None:
        """The loop has a connected socket for a link that was wished for."""
        if self._links.get(link.number) is not link:
            # It was dropped, or the block left, between the system's word and the loop's.
            sock.close()
            return
        link.cancel = None
        link.sock = sock
        try:
            self._judge(wish, [sock.getpeername()[0]])
        except TowlineError as error:
            self._lose(link, error.message, error.kind)
        except OSError as error:
            self._lose(link, f"cannot connect to {link.peer}: {reason(error)}")
        else:
            self._greet(link)

    def _accept(self, name: str, listener: socket.socket, context: ssl.SSLContext | None) -> bool:
        """Take the connections that wait; return False when the system has no room for more."""
        for _ in range(64):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return True
            except OSError:
                return False
            sock.setblocking(False)
            with suppress(OSError):
                # Some systems refuse it on a connection that is gone already; its first read will tell.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number, self._next_accepted = self._next_accepted, self._next_accepted + 2
            link = self._links[number] = Link(number, place(*address[:2]))
            link.sock = sock
            link.accepted = name
            if context is not None:
                link.tls = Tls(context, server_name=None)
                self._expire(link, self._dialer.connect_seconds, "opening")
            self._greet(link)
        return True

    def _greet(self, link: Link) -> None:
        """The bytes can flow: shake hands if it is TLS, else the link is open."""
        if link.tls is None:
            self._opened(link)
        else:
            try:
                link.tls.start()
            except TowlineError as error:
                self._lose(link, error.message, error.kind)
                return
            self._say(link, link.tls)
        self._read_on(link)

    def _say(self, link: Link, tls: Tls) -> None:
        """Send what TLS has to say of its own: the handshake, an alert, a key update."""
        link.put(tls.output())
        self._flush(link)

    def _opened(self, link: Link) -> None:
        link.open = True
        if link.deaf:
            self._flush(link)
        elif link.accepted is not None:
            self._turn(Accepted(link.number, link.accepted, link.peer), link)
        else:
            self._touch(link)
            self._turn(Opened(link.number), link)

    def _flush(self, link: Link) -> None:
        """Send what goes out now; ask for a writer if something is left."""
        if link.sock is None or link.writing:
            return
        if not self._send(link):
            link.writing = True
            self._start_writing(link)

    def _write(self, link: Link) -> bool:
        """Send more of a backlog, now that the link is writable; return whether to go on."""
        if link.sock is None:
            return False
        link.writing = not self._send(link)
        if not link.writing and link.open and not link.deaf and link.fault is None:
            self._turn(Drained(link.number))
        return link.writing

    def _send(self, link: Link) -> bool:
        """Send; return whether nothing is left. What cannot be sent any more is forgotten."""
        try:
            done = link.flush()
        except OSError as error:
            # The peer may have answered before it went: the reader finds that first, and the end after it.
            link.discard()
            link.fault = reason(error)
            if isinstance(error, ssl.SSLError):
                self._lose(link, link.fault, "tls-error")
            elif link.ended or link.deaf:
                self._lose(link, link.fault)
            done = True
        if link.leases:
            self._pass_on(link)
        if link.waiters and link.roomy:
            self._relieve(link)
        if done:
            self._settle(link)
        return done

    def _settle(self, link: Link) -> None:
        """Everything is sent: say so if it was the last, and let go of a link that both sides are done with."""
        if not link.shut or link.queued or link.sock is None or not link.open:
            return
        if link.ended or (link.deaf and delivered(link.sock)):
            self._release(link, reset=False)
            return
        try:
            link.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        if link.deaf:
            self._expire(link, GRACE, "closing")

    def _let_go(self, link: Link) -> None:
        """Close after what is queued. It is read on, unheard, because a peer may write before it reads."""
        link.deaf = True
        if not link.open and not link.queued:
            self._release(link, reset=True)
            return
        link.shut = True
        link.window = 0
        self._expire(link, self._linger, "closing")
        self._relieve(link)
        self._unhold(link)
        if self._turning:
            self._touch(link)
        else:
            self._flush(link)

    def _touch(self, link: Link) -> None:
        """Flush the link at the turn's end."""
        if not link.touched:
            link.touched = True
            self._touched.append(link)

    def _expire(self, link: Link, seconds: float, phase: str) -> None:
        """Give the link up if it is still in this phase then."""
        heapq.heappush(self._expiries, (self._now() + seconds, link.number, phase))
        if not self._turning:
            self._rearm()

    def _lose(self, link: Link, why: str, kind: str = "registry-unreachable") -> None:
        """The link is gone, and the machine is told unless it never heard of it or has let go of it."""
        told = not link.deaf and (link.open or link.accepted is None)
        self._release(link, reset=False)
        if told:
            self._turn(Lost(link.number, why, kind))

    def _release(self, link: Link, *, reset: bool) -> None:
        """Close the socket and forget the link; whoever waits for it waits no more."""
        self._links.pop(link.number, None)
        link.deaf = True
        link.reading = link.writing = False
        if link.cancel is not None:
            link.cancel()
            link.cancel = None
        if link.sock is not None:
            self._unwatch(link)
            link.close(reset=reset)
        link.discard()
        if link.leases:
            self._pass_on(link)
        self._streaming.discard(link)
        self._relieve(link)
        for box in link.held_by:
            box.waiters -= {link}
        link.held_by = frozenset()
        if self._result is not None and not self._links:
            self._signal()

    def _give_up(self, now: float) -> None:
        """Part with the links that took too long to open, or to close."""
        while self._expiries and self._expiries[0][0] <= now:
            _, number, phase = heapq.heappop(self._expiries)
            link = self._links.get(number)
            if link is None:
                continue
            if phase == "opening" and not link.open:
                self._lose(link, f"no connection to {link.peer} in {self._dialer.connect_seconds:g} s", "timeout")
            elif phase == "closing":
                self._release(link, reset=bool(link.queued))

    # ── back-pressure ──────────────────────────────────────────────────────────
    def _hold(self, link: Link, box: Box) -> None:
        """Read the link no further until the box has room."""
        link.held_by |= {box}
        box.waiters |= {link}

    def _relieve(self, box: Box) -> None:
        """A box has room: the links that waited for it, and for nothing else, are read again."""
        waiters, box.waiters = box.waiters, frozenset()
        for link in waiters:
            link.held_by -= {box}
            if not link.held_by:
                self._read_on(link)

    def _unhold(self, link: Link) -> None:
        for box in link.held_by:
            box.waiters -= {link}
        link.held_by = frozenset()
        self._read_on(link)

    def _read_on(self, link: Link) -> None:
        if link.sock is None or link.reading or link.ended or link.held_by or link.blocked:
            return
        link.reading = True
        if link.tls is not None and link.tls.more:
            # The socket does not tell of what is decrypted already.
            self._post(lambda: self._resume(link))
        else:
            self._start_reading(link)

    def _resume(self, link: Link) -> None:
        if self._receive(link):
            self._start_reading(link)

    # ── the law of windows ───────────────────────────────────────────────────────
    def _pass_on(self, link: Link) -> None:
        """A link has sent, or forgotten, what it had: the windows that were part of it come back."""
        assert link.leases is not None
        while link.leases and link.has_sent(link.leases[0][0]):
            self._done(link.leases.pop(0)[1])

    def _done(self, lease: Lease) -> None:
        """One of a window's holders has done with it; after the last it is read into again."""
        lease.holders -= 1
        if lease.holders:
            return
        source = lease.source
        source.lent -= 1
        source.relayed -= lease.relayed
        self._pool.give(lease.buffer)
        self._read_on(source)

    # ── what the turns add ─────────────────────────────────────────────────────
    @abstractmethod
    def _turn(self, fact: Any, source: Link | None = None) -> None:
        """Hand the machine a fact and do what it wishes."""

    @abstractmethod
    def _receive(self, link: Link) -> bool:
        """Read a link, now that it is readable; return whether to go on reading it."""

    @abstractmethod
    def _rearm(self) -> None:
        """Look again at when the alarm must ring."""

    # ── what a loop adds ───────────────────────────────────────────────────────
    @abstractmethod
    def _now(self) -> float:
        """Return the loop's monotonic clock."""

    @abstractmethod
    def _signal(self) -> None:
        """Wake who waits for events or for the end."""

    @abstractmethod
    def _post(self, call: Callable[[], None]) -> None:
        """Run a call on the loop, from any thread; silently nothing if the loop is over."""

    @abstractmethod
    def _start_opening(self, link: Link, wish: Open) -> None:
        """Resolve and connect, then `_connected` or `_lose`; set `link.cancel`."""

    @abstractmethod
    def _start_reading(self, link: Link) -> None:
        """Call `_receive` each time the link is readable, until it returns False."""

    @abstractmethod
    def _start_writing(self, link: Link) -> None:
        """Call `_write` each time the link is writable, until it returns False."""

    @abstractmethod
    def _unwatch(self, link: Link) -> None:
        """The link's socket is about to be closed."""


def place(host: str, port: int) -> str:
    """Write an address as URLs do."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unreachable(what: str, error: OSError | UnicodeError) -> RemoteProtocolError:
    """Return the error of a link that could not be opened."""
    kind = "timeout" if isinstance(error, TimeoutError) else "registry-unreachable"
    return RemoteProtocolError(kind, f"{what}: {reason(error)}")


def reason(error: OSError | UnicodeError) -> str:
    """Say in the system's words what went wrong, without its number or an address."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno).lower()
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
