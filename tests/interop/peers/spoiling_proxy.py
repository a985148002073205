"""A proxy in front of a registry that spoils what passes: other bytes, fewer, more, or bytes that stop coming.

with spoiling_proxy(registry.address) as proxy:
    proxy.spoil = lambda data: data[:-1]
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_HOP = ("connection", "transfer-encoding", "content-length", "host")


@dataclass
class SpoilingProxy:
    """`spoil` changes the bytes of what `spoils` says, "layer", "config" or "manifest".

    `hold` stops a layer half-way until it is set; of `cuts` layers the link ends half-way. `blobs` counts layers.
    """

    upstream: str
    address: str = ""
    spoil: Callable[[bytes], bytes] = lambda data: data
    spoils: str = "layer"
    hold: threading.Event | None = None
    held: threading.Event = field(default_factory=threading.Event)
    cuts: int = 0
    blobs: int = 0

    def serve(self, asked: BaseHTTPRequestHandler) -> None:
        connection = http.client.HTTPConnection(self.upstream, timeout=30)
        try:
            headers = {name: value for name, value in asked.headers.items() if name.lower() not in _HOP}
            # Whoever compares origins sees one registry: the realm and the links keep the address that was asked.
            connection.request(asked.command, asked.path, headers={"Host": self.address, **headers})
            got = connection.getresponse()
            data = got.read()
            kind = _kind(asked, got.status, data)
            self.blobs += kind == "layer"
            if kind == self.spoils:
                data = self.spoil(data)
            asked.send_response(got.status)
            for name, value in got.getheaders():
                if name.lower() not in _HOP:
                    asked.send_header(name, value)
            length = got.getheader("content-length") if asked.command == "HEAD" else str(len(data))
            asked.send_header("Content-Length", length or "0")
            asked.end_headers()
            self._send(asked, data, kind == "layer")
        finally:
            connection.close()

    def _send(self, asked: BaseHTTPRequestHandler, data: bytes, is_layer: bool) -> None:
        if is_layer and self.cuts > 0:
            self.cuts -= 1
            asked.wfile.write(data[: len(data) // 2])
            asked.close_connection = True
            return
        hold = self.hold
        if is_layer and hold is not None and not hold.is_set():
            asked.wfile.write(data[: len(data) // 2])
            asked.wfile.flush()
            self.held.set()
            hold.wait(60)
            data = data[len(data) // 2 :]
        asked.wfile.write(data)


def _kind(asked: BaseHTTPRequestHandler, status: int, data: bytes) -> str:
    if asked.command != "GET" or status not in (200, 206) or not data:
        return ""
    if "/manifests/" in asked.path:
        return "manifest"
    if "/blobs/" in asked.path:
        return "config" if data[:1] == b"{" else "layer"
    return ""


class _Quiet(ThreadingHTTPServer):
    """Says nothing of callers that go: they are killed here on purpose."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextmanager
def spoiling_proxy(upstream: str) -> Iterator[SpoilingProxy]:
    """Serve on loopback until the end of the block."""
    proxy = SpoilingProxy(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            proxy.serve(self)

        do_HEAD = do_GET

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with _Quiet(("127.0.0.1", 0), Handler) as httpd:
        proxy.address = f"127.0.0.1:{httpd.server_address[1]}"
        thread = threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            if proxy.hold is not None:
                proxy.hold.set()
            httpd.shutdown()
            thread.join()
