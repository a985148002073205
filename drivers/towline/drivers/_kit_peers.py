"""The peers that `testing.py` sets against a driver: blocking sockets in threads, which need no loop."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from typing import Final, TypeAlias

from towline.core import KIB

# Long enough for a busy machine, short enough to call it a lock.
PATIENCE: Final = 20.0

Play: TypeAlias = Callable[[socket.socket], object]


class Peers:
    """Blocking sockets in threads: `serve` plays one accepted connection, `dial` one that it opens."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._faults: list[BaseException] = []
        self._sockets: list[socket.socket] = []

    def serve(self, play: Play, *, small: bool = False) -> int:
        """Listen, play the first connection, and return the port."""
        listener = socket.create_server(("127.0.0.1", 0))
        self._sockets.append(listener)
        if small:
            # Inherited by what it accepts, and only before listening does it bound the window.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * KIB)
        listener.settimeout(PATIENCE)
        self.run(lambda: self._play(listener.accept()[0], play))
        port: int = listener.getsockname()[1]
        return port

    def dial(self, port: int, play: Play, *, small: bool = False) -> None:
        """Connect, and play that connection."""
        sock = socket.socket()
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * KIB)
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
