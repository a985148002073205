"""One link: a socket that does not block, what waits to be sent on it, and who waits for room."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from towline.core import KIB, Data
from towline.drivers._tls import Tls

if TYPE_CHECKING:
    from towline.drivers._windows import Lease

# A link whose queue passes HIGH holds the links that fill it until it is down to LOW: two thirds of a link's
# memory, and low enough that a slow reader holds its sender within a few round trips.
HIGH: Final = 256 * KIB
LOW: Final = 128 * KIB
# Up to here the pieces are joined and sent with one `send`; above, copying costs more than `sendmsg` does.
JOIN: Final = 64 * KIB
# Linux takes 1024 pieces in one sendmsg; 64 of them are already more than a socket buffer.
PIECES: Final = 64
# One read: a head fits into HEAD, and what follows it in the same read goes through h11 at a copy's price; while reads
# come back full, they are BULK. More leaves h11's fast range and keeps other links waiting (style.md §9).
HEAD: Final = 16 * KIB
BULK: Final = 64 * KIB
# A link reads into one window at a time, and into up to four while all of them are with workers: receiving and
# hashing overlap.
RING: Final = 4


class Box:
    """Something that fills up: a link's outbox, a stream's ring, the events nobody has read."""

    __slots__ = ("waiters",)

    def __init__(self) -> None:
        # Links whose reading is paused until this has room. Replaced and not grown: nearly all have none, for free.
        self.waiters: frozenset[Link] = frozenset()

    @property
    def full(self) -> bool:
        raise NotImplementedError


class Link(Box):
    """One byte stream, as the driver sees it. All of it is touched on the loop only."""

    __slots__ = (
        "_parted",
        "accepted",
        "appetite",
        "cancel",
        "deaf",
        "early",
        "ended",
        "fault",
        "held_by",
        "leases",
        "lent",
        "number",
        "open",
        "peer",
        "pieces",
        "queued",
        "reading",
        "relayed",
        "sent",
        "shared",
        "shut",
        "sock",
        "tls",
        "touched",
        "window",
        "writing",
    )

    def __init__(self, number: int, peer: str) -> None:
        super().__init__()
        self.number = number
        self.peer = peer
        self.sock: socket.socket | None = None
        self.tls: Tls | None = None
        # The listener's name, for a link whose Accepted has not been said yet.
        self.accepted: str | None = None
        # The machine may use it: connected, and the handshake done.
        self.open = False
        self.shared = False
        # We send no more after what is queued; over TLS that is said with a close_notify.
        self.shut = False
        self._parted = False
        # The machine has let go of it, or is over: nothing that comes is told any more.
        self.deaf = False
        # The peer sends no more.
        self.ended = False
        self.reading = False
        self.writing = False
        # Why sending failed; told as Lost once what the peer had sent before is read.
        self.fault: str | None = None
        self.held_by: frozenset[Box] = frozenset()
        # What goes on the wire, and what waits to be encrypted: until the link is open, and then until the turn's
        # flush, so that small pieces share a TLS record. `queued` counts both, `sent` what has left (or is forgotten).
        self.pieces: list[Data] = []
        self.early: list[Data] = []
        self.queued = 0
        self.sent = 0
        # It is flushed at the turn's end.
        self.touched = False
        # How much the next plain read takes, and what the machine wished a window for: 0 is no window.
        self.appetite = HEAD
        self.window = 0
        # Windows read from it that are out, and how many of those some link has yet to send.
        self.lent = 0
        self.relayed = 0
        # Windows that this link has yet to send, each with what `sent` will then be.
        self.leases: list[tuple[int, Lease]] | None = None
        # Stops the task that opens it.
        self.cancel: Callable[[], object] | None = None

    def __repr__(self) -> str:
        state = "open" if self.open else "opening"
        return f"Link({self.number}, {self.peer}, {state}, queued={self.queued})"

    @property
    def full(self) -> bool:
        return self.queued > HIGH and not self.shared

    @property
    def roomy(self) -> bool:
        """Whether links that wait for this one may go on."""
        return self.queued <= LOW or self.shared

    @property
    def empty(self) -> bool:
        """Whether the machine may use the link and nothing waits on it."""
        return self.open and not self.deaf and not self.queued and self.fault is None

    def put(self, data: Data) -> None:
        """Queue bytes that go on the wire as they are."""
        if data:
            self.pieces.append(data)
            self.queued += len(data)

    def transmit(self, data: Data) -> None:
        """Queue the machine's bytes; before the link is open they wait."""
        if self.shut or self.fault is not None:
            return
        if self.tls is None:
            self.put(data)
        elif data:
            self.early.append(data)
            self.queued += len(data)

    def _seal(self, tls: Tls) -> None:
        """Encrypt what waits, and say goodbye after the last of it. Raises OSError (ssl.SSLError is one)."""
        if self.early:
            early, self.early = self.early, []
            waiting = sum(map(len, early))
            self.queued -= waiting
            for data in [b"".join(early)] if waiting <= JOIN else early:
                for sealed in tls.seal(data):
                    self.put(sealed)
        if self.shut and not self._parted:
            self._parted = True
            tls.close()
            self.put(tls.output())

    def flush(self) -> bool:
        """Send what the socket takes without waiting; return whether all of it is sent. Raises OSError."""
        assert self.sock is not None
        if self.tls is not None and self.open:
            self._seal(self.tls)
        pieces = self.pieces
        try:
            while pieces:
                if len(pieces) > 1 and self.queued <= JOIN:
                    pieces[:] = (b"".join(pieces),)
                if len(pieces) == 1:
                    self._sent(self.sock.send(pieces[0]))
                else:
                    self._sent(self.sock.sendmsg(pieces[:PIECES]))
        except (BlockingIOError, InterruptedError):
            return False
        return True

    def _sent(self, count: int) -> None:
        self.queued -= count
        self.sent += count
        pieces, gone = self.pieces, 0
        while count:
            first = pieces[gone]
            if count < len(first):
                pieces[gone] = memoryview(first)[count:]
                break
            count -= len(first)
            gone += 1
        del pieces[:gone]

    def has_sent(self, mark: int) -> bool:
        """Whether all that was transmitted when `sent + queued` was `mark` has left.

        What waits to be encrypted counts less than it will on the wire, so before that the mark says nothing.
        """
        return not self.early and self.sent >= mark

    def discard(self) -> None:
        """Forget what is queued."""
        self.pieces.clear()
        self.early.clear()
        self.sent += self.queued
        self.queued = 0

    @property
    def blocked(self) -> bool:
        """Whether the window that is wished must wait for one that is out."""
        return bool(self.window) and (self.relayed > 0 or self.lent >= RING)

    def close(self, *, reset: bool) -> None:
        """Close the socket; with a reset, so that the peer does not take a cut for an end."""
        if self.sock is not None:
            if reset:
                try:
                    self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                except OSError:
                    pass
            self.sock.close()
            self.sock = None


def delivered(sock: socket.socket) -> bool:
    """Whether the peer's system has acknowledged all we sent. Where that cannot be asked: no."""
    try:
        import fcntl
        import termios

        unacknowledged = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except (ImportError, OSError):
        return False
    return unacknowledged == b"\0\0\0\0"


def dialled(family: int) -> socket.socket:
    """Return a socket to connect with: it does not block, and waits for no full segment."""
    # Named, because asyncio and trio set TCP_NODELAY only on sockets that say what they are.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def listening(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on every address of `host`. With port 0 they share one port. Raises OSError."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, _, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, socket.IPPROTO_TCP)
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            chosen = port or (sockets[0].getsockname()[1] if len(sockets) > 1 else 0)
            try:
                sock.bind((address[0], chosen, *address[2:]))
            except OSError as error:
                # A name may stand for an address that this system does not have (::1 in many containers).
                sockets.pop().close()
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
            else:
                sock.listen(1024)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    if not sockets:
        raise missing or OSError(errno.EADDRNOTAVAIL, "no address")
    return sockets
