"""What is read: heads and frames into bytes of their own, bodies of known length into windows; over TLS the same."""

from __future__ import annotations

import socket
from typing import Final

from towline.core import KIB, Data, Ended, Filled, Received, TowlineError
from towline.drivers._config import Dialer
from towline.drivers._flow import Flow, reason
from towline.drivers._links import BULK, HEAD, Link
from towline.drivers._tls import Tls
from towline.drivers._windows import Lease

# How much ciphertext one read takes for a window. It is decrypted before the turn ends, so one buffer serves all links.
WIRE: Final = 256 * KIB
# A record is 22 to 29 bytes longer on the wire than its 16 KiB at most: what is read beside a window's size, so that
# a body's last record is not left for a read of its own.
OVERHEAD: Final = 1 * KIB


class Reads(Flow):
    """The reading side of one machine's links."""

    def __init__(self, dialer: Dialer, linger: float) -> None:
        super().__init__(dialer, linger)
        # The window that is this turn's: whom the turn gives bytes has it.
        self._lease: Lease | None = None
        self._wire: memoryview | None = None

    def _receive(self, link: Link) -> bool:
        while self._read(link):
            if link.tls is None or not link.tls.more:
                return True
        return False

    def _read(self, link: Link) -> bool:
        """Read once, and tell it; return whether to go on."""
        sock, tls, window = link.sock, link.tls, link.window
        if sock is None or not link.reading:
            return False
        buffer = None
        if window:
            if link.blocked:
                link.reading = False
                return False
            buffer = self._pool.take(window, len(self._streaming))
        data: Data
        try:
            if buffer is not None:
                view = memoryview(buffer)[:window]
                count, ended = self._fill(link, sock, view)
                data = view[:count].toreadonly()
            elif tls is None or (link.deaf and link.open):
                data = sock.recv(link.appetite)
                ended = not data
                link.appetite = BULK if len(data) == link.appetite else HEAD
            else:
                data, ended = self._decrypt(link, sock, tls)
        except (OSError, TowlineError) as error:
            if buffer is not None:
                self._pool.give(buffer)
            if isinstance(error, BlockingIOError | InterruptedError):
                return True
            if isinstance(error, TowlineError):
                self._lose(link, error.message, error.kind)
            else:
                self._lose(link, link.fault or reason(error))
            return False
        if tls is not None and tls.ready and not link.open:
            self._opened(link)
        if buffer is not None:
            self._hand_on(link, buffer, data)
        elif data and not link.deaf:
            self._forget_window(link)
            self._turn(Received(link.number, data), link)
        if ended:
            self._ended(link)
        link.reading = not link.ended and not link.held_by and link.sock is not None and not link.blocked
        return link.reading

    def _hand_on(self, link: Link, buffer: bytearray, data: Data) -> None:
        """Tell the machine of a window that was filled, and lend it to whom the turn gives of it."""
        if not data or link.deaf:
            self._pool.give(buffer)
            return
        assert isinstance(data, memoryview)
        self._forget_window(link)
        lease = self._lease = Lease(buffer, link)
        try:
            self._turn(Filled(link.number, data), link)
        finally:
            self._lease = None
        self._lend(lease)

    def _lend(self, lease: Lease) -> None:
        """The turn that filled a window is over: it comes back when all who were given of it have done with it."""
        source = lease.source
        source.lent += 1
        for link in lease.links:
            if not link.has_sent(mark := link.sent + link.queued):
                if link.leases is None:
                    link.leases = []
                link.leases.append((mark, lease))
                lease.holders += 1
        # Whoever reads for a link is held by it; what workers have leaves room for three more.
        lease.relayed = lease.holders > 0
        source.relayed += lease.relayed
        for thread in lease.threads:
            lease.holders += 1
            thread.put(lambda: self._post(lambda: self._done(lease)))
        lease.holders += 1
        self._done(lease)

    def _forget_window(self, link: Link) -> None:
        """A window is for one read; the turn may wish the next."""
        if link.window:
            link.window = 0
            self._streaming.discard(link)

    def _fill(self, link: Link, sock: socket.socket, view: memoryview) -> tuple[int, bool]:
        """Read into a window; return how much of it is filled, and whether the peer sends no more."""
        tls = link.tls
        if tls is None:
            count = sock.recv_into(view)
            return count, not count
        if tls.more:
            count, ended = tls.fill(view, memoryview(b""))
            if count or ended:
                return count, ended
        wire = self._ciphertext(sock, len(view) + OVERHEAD)
        if not wire:
            return 0, True
        filled = tls.fill(view, wire)
        self._answer(link, tls)
        return filled

    def _decrypt(self, link: Link, sock: socket.socket, tls: Tls) -> tuple[bytes, bool]:
        wire = memoryview(b"")
        if not tls.more:
            wire = self._ciphertext(sock, link.appetite)
            if not wire:
                return b"", True
            link.appetite = BULK if len(wire) == link.appetite else HEAD
        try:
            return tls.receive(wire)
        finally:
            self._answer(link, tls)

    def _ciphertext(self, sock: socket.socket, count: int) -> memoryview:
        if self._wire is None:
            self._wire = memoryview(bytearray(WIRE))
        return self._wire[: sock.recv_into(self._wire, min(count, WIRE))]

    def _answer(self, link: Link, tls: Tls) -> None:
        """Send what reading made TLS say: the handshake, an alert, a key update."""
        if answer := tls.output():
            link.put(answer)
            self._flush(link)

    def _ended(self, link: Link) -> None:
        """The peer sends no more.

        Over TLS this is told alike for close_notify and for a bare end of the connection: many servers leave
        the first out, HTTP's own framing knows whether something is missing, and blobs are proved by digest.
        """
        if link.sock is None or link.ended:
            return
        if link.fault is not None or not link.open:
            self._lose(link, link.fault or f"{link.peer} closed the connection before it was open")
            return
        link.ended = True
        if not link.deaf:
            self._turn(Ended(link.number), link)
        self._settle(link)
