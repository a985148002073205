"""Many idle tunnels on one server of ours, and requests spread over them; prints JSON.

    python broker_idle.py idle|idle-tls FOLDER TUNNELS RATE SECONDS

This process starts the server, is the far end of every tunnel, and is the callers. Requests are sent by the clock,
whatever the answers do, and a latency counts from the instant at which its request was due.
"""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import ssl
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from broker_pairs import Missing, Program, command_of, free_port, start_server

CALLERS = 64
IDENTITY = {"capabilities": ["post-streams"], "clientId": "bench", "version": "4.200.0", "role": "primary"}


def token_of(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def frame(text: bytes) -> bytes:
    """A text frame under a mask of zeros, which leaves the text as it is."""
    size = len(text)
    head = bytes([0x81, 0x80 | size]) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    return head + b"\0\0\0\0" + text


class Wire:
    """A blocking connect, then a socket that does not block; TLS over it where asked for."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        sock = socket.create_connection(("127.0.0.1", port), 20)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock if context is None else context.wrap_socket(sock, server_hostname="localhost")
        self.data = b""

    def send(self, data: bytes) -> None:
        self.sock.send(data)

    def more(self) -> None:
        """Read what is there."""
        while True:
            try:
                data = self.sock.recv(65536)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            if not data:
                raise SystemExit("idle: the server closed a connection")
            self.data += data
            if len(data) < 65536 and not (isinstance(self.sock, ssl.SSLSocket) and self.sock.pending()):
                return


class Tunnel(Wire):
    """The client's end of one tunnel: shakes hands, says who it is, and answers what it is asked."""

    def __init__(self, number: int, port: int, context: ssl.SSLContext | None) -> None:
        super().__init__(port, context)
        token = token_of(number)
        key = base64.b64encode(os.urandom(16)).decode()
        target = f"/primus/{token}/?EIO=4&transport=websocket&connection_role=primary"
        self.send(
            f"GET {target} HTTP/1.1\r\nHost: localhost:{port}\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "\r\n".encode()
        )
        while b"\r\n\r\n" not in self.data:
            self.data += self.sock.recv(4096)
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise SystemExit(f"idle: expected 101, got {head[:80]!r}")
        said = {"type": 0, "data": ["identify", {"token": token, "metadata": IDENTITY}]}
        self.send(frame(b"4" + json.dumps(said).encode()))
        self.sock.setblocking(False)

    def answer(self) -> None:
        """Answer every whole frame that is here."""
        self.more()
        data = self.data
        while len(data) >= 2:
            size, at = data[1] & 0x7F, 2
            if size == 126:
                size, at = int.from_bytes(data[2:4], "big"), 4
            if len(data) < at + size:
                break
            text, data = data[at : at + size], data[at + size :]
            if text == b"2":
                self.send(frame(b"3"))
            elif text.startswith(b"4{"):
                event = json.loads(text[1:]).get("data", [None])
                if event[0] == "request":
                    head = {"status": 200, "headers": {"content-type": "application/json"}}
                    said = {"type": 0, "data": ["chunk", event[1]["streamingID"], '{"small":true}', True, head]}
                    self.send(frame(b"4" + json.dumps(said).encode()))
        self.data = data


class Caller(Wire):
    """One kept connection of a caller; what it is asked to send waits for the answer before it."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        super().__init__(port, context)
        self.sock.setblocking(False)
        self.due: deque[tuple[float, bytes]] = deque()

    def ask(self, due: float, request: bytes) -> None:
        self.due.append((due, request))
        if len(self.due) == 1:
            self.send(request)

    def answered(self, now: float) -> float | None:
        """Return the latency of an answer that is whole by now."""
        self.more()
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self.data[:end].lower()
        at = head.index(b"content-length:") + 15
        whole = end + 4 + int(head[at:].split(b"\r", 1)[0])
        if len(self.data) < whole:
            return None
        if not self.data.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"idle: expected 200, got {self.data[:60]!r}")
        self.data = self.data[whole:]
        due, _ = self.due.popleft()
        if self.due:
            self.send(self.due[0][1])
        return now - due


def certificate(folder: Path) -> tuple[str, str]:
    """Make a certificate for localhost; return its file and its key's."""
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    made = subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost "
        f"-addext subjectAltName=DNS:localhost -out {cert} -keyout {key}".split(),
        capture_output=True,
        text=True,
    )
    if made.returncode != 0:
        raise Missing(f"openssl made no certificate: {made.stderr[-200:]}")
    return cert, key


def measure(
    server: Program, port: int, context: ssl.SSLContext | None, count: int, rate: int, seconds: float
) -> dict[str, float]:
    callers = [Caller(port, context) for _ in range(CALLERS)]
    # What is made once is not a tunnel's: a first tunnel and its request come before the count.
    first = Tunnel(0, port, context)
    loop = select.epoll()
    ends: dict[int, Tunnel | Caller] = {}
    ends[first.sock.fileno()] = first
    loop.register(first.sock, select.EPOLLIN)
    for caller in callers:
        ends[caller.sock.fileno()] = caller
        loop.register(caller.sock, select.EPOLLIN)
    spread(loop, ends, callers, 1, min(rate, 200), 0.5, port)
    before = server.rss()
    for number in range(1, count):
        tunnel = Tunnel(number, port, context)
        ends[tunnel.sock.fileno()] = tunnel
        loop.register(tunnel.sock, select.EPOLLIN)
    settle(loop, ends, 1.0)
    kib = (server.rss() - before) * 1024 / (count - 1)
    cpu = server.cpu()
    latencies = spread(loop, ends, callers, count, rate, seconds, port)
    latencies.sort()
    return {
        "kib": kib,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[len(latencies) * 99 // 100],
        "cpu_ms": 1000 * (server.cpu() - cpu) / len(latencies),
    }


def settle(loop: select.epoll, ends: dict[int, Tunnel | Caller], seconds: float) -> None:
    """Let the tunnels rest, but answer the server."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for number, _ in loop.poll(0.1):
            end = ends[number]
            if isinstance(end, Tunnel):
                end.answer()


def spread(
    loop: select.epoll,
    ends: dict[int, Tunnel | Caller],
    callers: list[Caller],
    count: int,
    rate: int,
    seconds: float,
    port: int,
) -> list[float]:
    """Send requests by the clock, round and round over the tunnels; return every latency."""
    latencies: list[float] = []
    asked, total = 0, int(rate * seconds)
    began = time.perf_counter()
    while len(latencies) < total:
        now = time.perf_counter()
        while asked < total and (due := began + asked / rate) <= now:
            target = f"GET /broker/{token_of(asked % count)}/small HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"
            callers[asked % len(callers)].ask(due, target.encode())
            asked += 1
        if now > began + seconds + 20:
            raise SystemExit(f"idle: {total - len(latencies)} of {total} requests unanswered")
        wait = max(0.0, began + asked / rate - time.perf_counter()) if asked < total else 0.1
        for number, _ in loop.poll(wait):
            end = ends[number]
            if isinstance(end, Tunnel):
                end.answer()
            elif (latency := end.answered(time.perf_counter())) is not None:
                latencies.append(latency)
    return latencies


def main(arguments: list[str]) -> dict[str, float]:
    kind, folder, count, rate, seconds = arguments[0], Path(arguments[1]), *map(float, arguments[2:5])
    command_of("ours", "server")
    context, more, port = None, {}, free_port()
    if kind == "idle-tls":
        cert, key = certificate(folder)
        context = ssl.create_default_context(cafile=cert)
        more = {"HTTPS_CERT": cert, "HTTPS_KEY": key}
    with start_server("ours", folder / "server", port, more) as server:
        server.until(lambda: listens(port))
        return measure(server, port, context, int(count), int(rate), seconds)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    try:
        print(json.dumps(main(sys.argv[1:])))
    except Missing as absent:
        print(json.dumps({"missing": str(absent)}))
