"""Load one HTTP face over kept connections, and say what came of it as JSON: its own process, and a cheap one.

    python broker_load.py small HOST PORT TARGET CONCURRENCY SECONDS
    python broker_load.py stream HOST PORT TARGET BYTES

One epoll loop over bare sockets, standard library only: a request costs some 15 microseconds here.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from typing import Any

WINDOW = 1 << 20


def connect(host: str, port: int) -> socket.socket:
    sock = socket.create_connection((host, port), 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def request(host: str, port: int, target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()


def is_whole(answer: bytes) -> bool:
    """Whether a small answer has come to its end."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = answer[:end].lower()
    at = head.find(b"content-length:")
    if at >= 0:
        return len(answer) - end - 4 >= int(head[at + 15 :].split(b"\r\n", 1)[0])
    return answer.endswith(b"0\r\n\r\n")


def small(host: str, port: int, target: str, concurrency: int, seconds: float) -> dict[str, float]:
    """Ask again and again on each connection; return requests, their latencies, and how many were not 200."""
    asking = request(host, port, target)
    loop = select.epoll()
    peers = {sock.fileno(): sock for sock in (connect(host, port) for _ in range(concurrency))}
    partial: dict[int, bytes] = {}
    since: dict[int, float] = {}
    latencies: list[float] = []
    bad = 0
    clock = time.perf_counter
    began = clock()
    until = began + seconds
    for number, sock in peers.items():
        sock.setblocking(False)
        loop.register(number, select.EPOLLIN)
        since[number] = clock()
        sock.send(asking)
    left = concurrency
    while left:
        events = loop.poll(10)
        if not events:
            raise SystemExit(f"load: {left} requests unanswered for 10 s")
        for number, _ in events:
            answer = peers[number].recv(65536)
            if not answer:
                raise SystemExit("load: the connection was closed")
            if number in partial:
                answer = partial.pop(number) + answer
            if not is_whole(answer):
                partial[number] = answer
                continue
            now = clock()
            latencies.append(now - since[number])
            bad += not answer.startswith(b"HTTP/1.1 200")
            if now < until:
                since[number] = now
                peers[number].send(asking)
            else:
                left -= 1
    took = clock() - began
    latencies.sort()
    count = len(latencies)
    return {
        "requests": count,
        "rps": count / took,
        "p50_ms": 1000 * latencies[count // 2],
        "p99_ms": 1000 * latencies[min(count - 1, count * 99 // 100)],
        "bad": bad,
    }


def stream(host: str, port: int, target: str, size: int) -> dict[str, float]:
    """Take one large answer and return how long it took, and how many bytes of body came."""
    sock = connect(host, port)
    sock.settimeout(30)
    window = memoryview(bytearray(WINDOW))
    began = time.perf_counter()
    sock.sendall(request(host, port, target))
    head = b""
    while b"\r\n\r\n" not in head:
        if not (data := sock.recv(4096)):
            raise SystemExit("load: the connection was closed")
        head += data
    head, _, body = head.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"load: expected 200, got {head[:60]!r}")
    took_in = chunked(sock, body, window) if b"chunked" in head.lower() else counted(sock, len(body), size, window)
    return {"seconds": time.perf_counter() - began, "bytes": took_in}


def counted(sock: socket.socket, came: int, size: int, window: memoryview) -> int:
    while came < size and (count := sock.recv_into(window)):
        came += count
    return came


def chunked(sock: socket.socket, data: bytes, window: memoryview) -> int:
    """Read a chunked body to its end and return its bytes. The frames are skipped in place, nothing is joined."""
    came, owed, line = 0, 0, b""
    piece = memoryview(data)
    while True:
        at = 0
        while at < len(piece):
            if owed > 2:
                taken = min(owed - 2, len(piece) - at)
                owed, came, at = owed - taken, came + taken, at + taken
            elif owed:
                taken = min(owed, len(piece) - at)
                owed, at = owed - taken, at + taken
            else:
                rest = bytes(piece[at : at + 32])
                end = rest.find(b"\n")
                at += len(rest) if end < 0 else end + 1
                line += rest if end < 0 else rest[: end + 1]
                if end >= 0:
                    owed, line = int(line.split(b";")[0], 16) + 2, b""
                    if owed == 2:
                        return came
        count = sock.recv_into(window)
        if not count:
            return came
        piece = window[:count]


def main(arguments: list[str]) -> dict[str, Any]:
    kind, host, port, target = arguments[0], arguments[1], int(arguments[2]), arguments[3]
    if kind == "small":
        return small(host, port, target, int(arguments[4]), float(arguments[5]))
    return stream(host, port, target, int(arguments[4]))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
