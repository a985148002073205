"""nginx in front of a registry: TLS by a private authority, a path prefix, and a log of what passed.

with nginx_front(registry.address, tmp, prefix="/some/prefix") as front:
    towline("repos", front.base, "--ca-file", front.ca_file, ...)
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from needed import need_peer
from ports import free_port
from vectors.certificates import certificate

READY_SECONDS = 10.0
CONFIGURATION = """
daemon off; worker_processes 1; pid {run}/nginx.pid; error_log {run}/error.log warn;
{user}
events {{ worker_connections 256; }}
http {{
  log_format passed '$status $body_bytes_sent $request_method $request_uri';
  access_log {run}/passed.log passed;
  client_body_temp_path {run}/t1; proxy_temp_path {run}/t2; fastcgi_temp_path {run}/t3;
  uwsgi_temp_path {run}/t4; scgi_temp_path {run}/t5;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; client_max_body_size 0;
  {pace}
  proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;
  server {{
    listen 127.0.0.1:{port}{ssl};
    {locations}
  }}
}}
"""


@dataclass(frozen=True)
class Passed:
    """One request that passed: what was asked, and what was answered. `size` is that of the body."""

    status: int
    size: int
    method: str
    target: str


@dataclass(frozen=True)
class NginxFront:
    """A running nginx. `base` is host:port and the prefix; `ca_file` is empty without TLS."""

    address: str
    base: str
    ca_file: str
    log: Path

    def passed(self) -> list[Passed]:
        """Return the requests so far, in the order of their ends."""
        # nginx writes a request's line after its last byte; a caller that has the answer may be a moment early.
        time.sleep(0.05)
        lines = [line.split(" ", 3) for line in self.log.read_text().splitlines()]
        return [Passed(int(status), int(size), method, target) for status, size, method, target in lines]


@contextmanager
def nginx_front(
    upstream: str, run: Path, *, prefix: str = "", strip: bool = True, tls: bool = True, more: str = "", port: int = 0,
    rate: int = 0, keys: tuple[Path, Path] | None = None,
) -> Iterator[NginxFront]:  # fmt: skip
    """Serve `upstream` (host:port) on loopback, below `prefix`, which `strip` takes off. `more` are other locations.

    `port` is for who must know it beforehand; `rate` lets so many requests through each second, and the others wait;
    `keys` are a certificate's and its key's file, of which ca.pem is beside them.
    """
    program = need_peer("nginx")
    run.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    if tls and keys is None:
        keys = certificate(run, ["localhost", "127.0.0.1"])
    proof = f"ssl_certificate {keys[0]}; ssl_certificate_key {keys[1]};" if keys else ""
    # An address without a path leaves the request's path as it came.
    main = f"location {prefix}/ {{ proxy_pass http://{upstream}{'/' if strip else ''}; }}"
    configuration = run / "nginx.conf"
    configuration.write_text(
        CONFIGURATION.format(
            run=run,
            port=port,
            pace=f"limit_req_zone $server_addr zone=pace:64k rate={rate}r/s; limit_req zone=pace burst=500;"
            if rate
            else "",
            ssl=" ssl" if keys else "",
            locations="\n    ".join((proof, main, more)),
            # As root, workers would drop to a user that may not read a private folder.
            user="user root;" if os.getuid() == 0 else "",
        )
    )
    server = subprocess.Popen(
        [program, "-c", str(configuration), "-p", str(run), "-e", str(run / "error.log")],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _await(port, server, run / "error.log")
        address = f"127.0.0.1:{port}"
        yield NginxFront(
            address, address + prefix, str(keys[0].with_name("ca.pem")) if keys else "", run / "passed.log"
        )
    finally:
        server.terminate()
        server.wait(10)


def _await(port: int, server: subprocess.Popen[bytes], errors: Path) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        said = errors.read_text() if errors.exists() else ""
        assert server.poll() is None, f"nginx ended: {said}"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError("nginx did not begin to listen")
