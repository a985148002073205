"""The peers that `testing.py` sets against a driver: blocking sockets in threads, which need no loop."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from typing import Any, Final, TypeAlias

from towline.core import KIB
from towline.drivers._config import Listener

# Long enough for a busy machine, short enough to call it a lock.
PATIENCE: Final = 20.0

OpenPump: TypeAlias = Callable[..., AbstractAsyncContextManager[Any]]
HERE: Final = {"in": Listener("127.0.0.1", 0)}
Play: TypeAlias = Callable[[socket.socket], object]


class Peers:
    """Blocking sockets in threads: `serve` plays one accepted connection, `dial` one that it opens."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._faults: list[BaseException] = []
        self._sockets: list[socket.socket] = []

    def serve(self, play: Play, *, small: bool = False, size: int = 4 * KIB) -> int:
        """Listen, play the first connection, and return the port; `small` gives it buffers of `size` bytes."""
        listener = socket.create_server(("127.0.0.1", 0))
        self._sockets.append(listener)
        if small:
            # Inherited by what it accepts, and only before listening does it bound the window.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        listener.settimeout(PATIENCE)
        self.run(lambda: self._play(listener.accept()[0], play))
        port: int = listener.getsockname()[1]
        return port

    def dial(self, port: int, play: Play, *, small: bool = False, size: int = 4 * KIB) -> None:
        """Connect, and play that connection."""
        sock = socket.socket()
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", port))
        self.run(lambda: self._play(sock, play))

    def run(self, call: Callable[[], None]) -> None:
        """Run a call in a thread; its fault comes out of `join`."""

        def guarded() -> None:
            try:
                call()
            except BaseException as fault:
                self._faults.append(fault)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        self._threads.append(thread)

    def join(self) -> None:
        """Wait for every peer to have played to its end."""
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"a peer still waits: the driver is locked ({self._faults})"
        for sock in self._sockets:
            sock.close()
        if self._faults:
            raise self._faults[0]

    @staticmethod
    def _play(sock: socket.socket, play: Play) -> None:
        with closing(sock):
            sock.settimeout(PATIENCE)
            play(sock)


@contextmanager
def peers() -> Generator[Peers]:
    """Yield Peers, and join them when the block ends well."""
    crowd = Peers()
    try:
        yield crowd
    except BaseException:
        for sock in crowd._sockets:
            sock.close()
        raise
    crowd.join()


def read_all(sock: socket.socket) -> bytes:
    """Read until the peer ends."""
    pieces = []
    while piece := sock.recv(64 * KIB):
        pieces.append(piece)
    return b"".join(pieces)


def read_exactly(sock: socket.socket, size: int, *, slowly: bool = False) -> bytes:
    """Read so many bytes, or to the end if that comes first; slowly is to pause for the other side's backlog."""
    pieces, left, pauses = list[bytes](), size, [size, size // 2] if slowly else []
    while left and (piece := sock.recv(min(left, 64 * KIB))):
        pieces.append(piece)
        left -= len(piece)
        if pauses and left < pauses[0]:
            pauses.pop(0)
            time.sleep(0.15)
    return b"".join(pieces)


def both_ways(sock: socket.socket, words: bytes) -> bytes:
    """Send `words` and a half-close while reading until the peer ends."""

    def send() -> None:
        sock.sendall(words)
        sock.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    heard = read_all(sock)
    sender.join(PATIENCE)
    assert not sender.is_alive(), "the driver stopped reading"
    return heard


def eight_for_one(sock: socket.socket, heard: list[bytes]) -> None:
    """Answer each byte with eight, and read no further before they are gone."""
    while piece := sock.recv(4 * KIB):
        heard.append(piece)
        sock.sendall(piece * 8)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def open_files() -> int:
    """Return how many descriptors this process has open, or 0 where that cannot be seen."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


async def rests(value: Callable[[], int], seconds: float = 0.3) -> int:
    """Wait until a number has been the same (and not 0) for a while, and return it."""
    import anyio

    seen, quiet = -1, 0.0
    while quiet < seconds:
        await anyio.sleep(0.05)
        quiet = quiet + 0.05 if value() == seen and seen else 0.0
        seen = value()
    return seen


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    import anyio

    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.005)
