"""A fast loopback upstream, so that what is measured is the broker: `python broker_upstream.py PORT`.

GET /small       14 bytes of JSON
GET /bytes/N     N bytes with their length announced

Requests without a body only. One epoll loop over bare sockets: a request costs a tenth of what a broker adds.
"""

from __future__ import annotations

import select
import socket
import sys

BLOCK = memoryview(bytes(range(256)) * 4096)
SMALL = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{"small":true}'
BYTES = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n"
MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class Peer:
    """One connection: the requests that came in part, and what of the answer is owed."""

    __slots__ = ("asked", "owed", "ready", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.asked = b""
        self.ready = b""
        self.owed = 0

    def take(self, data: bytes) -> None:
        """Take bytes; keep the answers to the requests that they complete."""
        self.asked += data
        while not self.owed:
            head, end, rest = self.asked.partition(b"\r\n\r\n")
            if not end:
                return
            self.asked = rest
            target = head.split(b" ", 2)[1].partition(b"?")[0]
            if target == b"/small":
                self.ready += SMALL
            elif target.startswith(b"/bytes/"):
                self.owed = int(target[7:])
                self.ready += BYTES % self.owed
            else:
                self.ready += MISSING

    def send(self) -> bool:
        """Send what the socket takes; return whether all of it is sent."""
        try:
            while self.ready:
                self.ready = self.ready[self.sock.send(self.ready) :]
            while self.owed:
                self.owed -= self.sock.send(BLOCK[: self.owed])
        except BlockingIOError:
            return False
        return True


def serve(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    listener.setblocking(False)
    loop = select.epoll()
    loop.register(listener, select.EPOLLIN)
    peers: dict[int, Peer] = {}

    def forget(number: int) -> None:
        loop.unregister(number)
        peers.pop(number).sock.close()

    while True:
        for number, _ in loop.poll():
            if number == listener.fileno():
                sock, _ = listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peers[sock.fileno()] = Peer(sock)
                loop.register(sock, select.EPOLLIN)
                continue
            peer = peers[number]
            try:
                if not (peer.owed or peer.ready):
                    data = peer.sock.recv(65536)
                    if not data:
                        forget(number)
                        continue
                    peer.take(data)
                sent = peer.send()
                if sent and peer.asked:
                    peer.take(b"")
                    sent = peer.send()
                loop.modify(number, select.EPOLLIN if sent else select.EPOLLOUT)
            except BlockingIOError:
                continue
            except OSError:
                forget(number)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
