"""What stands behind a broker client, and in front of a caller: an upstream that streams, hangs and cuts on request.

GET /small                  14 bytes of JSON
GET /bytes/N, /chunked/N    N random bytes, counted or chunked
GET /cut, /cut-chunked      half of what was begun, then the end
GET /hang                   never an answer
GET /slow/SECONDS           an answer after a while
GET /redirect, /status/N    as they say
any /reflect/...            what came, as JSON
GET /auth-..., /userinfo    the Authorization that came
POST anything               keeps the body's length and digest
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import socketserver
import threading
import time
from typing import Any

# Of a length that no window or piece is a divisor of, so that no two pieces of a body are alike.
BLOCK = os.urandom(4 * 1024 * 1024 + 977)
PIECE = 256 * 1024


class Random:
    """The bytes of a body, made as they are asked for."""

    def __init__(self, size: int) -> None:
        self.size = size

    def pieces(self) -> Any:
        left, at = self.size, 0
        while left:
            piece = BLOCK[at : at + min(PIECE, left)]
            left, at = left - len(piece), (at + len(piece)) % len(BLOCK)
            yield piece

    def digest(self) -> str:
        """SHA-256 of all of it."""
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.hexdigest()


class Seen:
    """One request, and what became of its connection."""

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.length = len(body)
        self.digest = hashlib.sha256(body).hexdigest()
        self.sent = 0
        # When the peer was found gone, while it was answered; None if it was not.
        self.left_at: float | None = None


class BrokerUpstream:
    """Serves on loopback until it is closed."""

    def __init__(self, port: int = 0) -> None:
        outer = self
        self.seen: list[Seen] = []

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while outer._one(self):
                    pass

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def of(self, path: str) -> list[Seen]:
        return [seen for seen in list(self.seen) if seen.target.startswith(path)]

    # ── one request ────────────────────────────────────────────────────────────
    def _one(self, link: socketserver.StreamRequestHandler) -> bool:
        line = link.rfile.readline(65536).decode("latin-1").split()
        if len(line) != 3:
            return False
        headers: dict[str, str] = {}
        while (text := link.rfile.readline(65536).decode("latin-1").strip()) != "":
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        seen = Seen(line[0], line[1], headers, read_body(link.rfile, headers))
        self.seen.append(seen)
        try:
            return self._answer(link.connection, seen)
        except OSError:
            seen.left_at = time.monotonic()
            return False

    def _answer(self, sock: socket.socket, seen: Seen) -> bool:
        kind, _, number = seen.target.partition("?")[0][1:].partition("/")
        if kind == "bytes":
            _begin(sock, f"Content-Length: {number}")
            for piece in Random(int(number)).pieces():
                sock.sendall(piece)
                seen.sent += len(piece)
        elif kind == "chunked":
            _begin(sock, "Transfer-Encoding: chunked")
            for piece in Random(int(number)).pieces():
                sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
                seen.sent += len(piece)
            sock.sendall(b"0\r\n\r\n")
        elif kind == "cut":
            _begin(sock, "Content-Length: 2000000")
            sock.sendall(BLOCK[:1_000_000])
            return False
        elif kind == "cut-chunked":
            _begin(sock, "Transfer-Encoding: chunked")
            sock.sendall(b"%x\r\n%b\r\n" % (1_000_000, BLOCK[:1_000_000]))
            return False
        elif kind == "hang":
            if not sock.recv(1):
                seen.left_at = time.monotonic()
            return False
        elif kind == "redirect":
            sock.sendall(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")
        else:
            if kind == "slow":
                time.sleep(float(number))
            told = _reflected(seen) if kind == "reflect" else {"authorization": seen.headers.get("authorization")}
            body = b'{"small":true}' if kind == "small" else json.dumps(told).encode()
            status = int(number) if kind == "status" else 200
            _begin(sock, f"Content-Type: application/json\r\nContent-Length: {len(body)}", body, status)
        return True


def _reflected(seen: Seen) -> dict[str, Any]:
    return {"method": seen.method, "target": seen.target, "headers": seen.headers, "digest": seen.digest}


def _begin(sock: socket.socket, headers: str, body: bytes = b"", status: int = 200) -> None:
    sock.sendall(f"HTTP/1.1 {status} So\r\n{headers}\r\n\r\n".encode() + body)


def read_body(stream: Any, headers: dict[str, str]) -> bytes:
    """Read a request's body, counted or chunked; `headers` by their names in small letters."""
    if "content-length" in headers:
        return bytes(stream.read(int(headers["content-length"])))
    if headers.get("transfer-encoding") != "chunked":
        return b""
    body = b""
    while size := int(stream.readline().split(b";")[0], 16):
        body += stream.read(size)
        stream.readline()
    stream.readline()
    return body
