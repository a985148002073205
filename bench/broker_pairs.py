"""The processes that the broker bench runs: upstream, stock pair, our pair, mixed pairs, and one nginx proxy."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

import nginx

HERE = Path(__file__).resolve().parent
STOCK = HERE.parent / "tests" / "interop" / "stock"
CACHE = HERE.parent / ".peers-cache" / "snyk-broker"
TOKEN = "00000000-0000-4000-8000-000000000001"
TICK = os.sysconf("SC_CLK_TCK")
PATIENCE = 60.0

Role = Literal["server", "client"]
Make = Literal["stock", "ours"]

PROXY = """
daemon off; master_process off; pid {run}/nginx.pid; error_log {run}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 1000000;
  client_body_temp_path {run}/t1; proxy_temp_path {run}/t2; fastcgi_temp_path {run}/t3;
  uwsgi_temp_path {run}/t4; scgi_temp_path {run}/t5;
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_buffer_size 256k; proxy_buffers 4 256k; proxy_busy_buffers_size 512k;
    }}
  }}
}}
"""


class Missing(Exception):
    """Something that a row needs is not installed."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get(port: int, path: str) -> tuple[int, bytes]:
    """Return status and body; 0 while nobody answers."""
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        asking.request("GET", path)
        answer = asking.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        asking.close()


class Program:
    """One process, and what the system says of it."""

    def __init__(self, command: list[str], folder: Path, variables: dict[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        kept = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**kept, "HOME": str(folder), **(variables or {})},
            )
        self.pid = self._process.pid

    def cpu(self) -> float:
        """User and system seconds so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def rss(self) -> float:
        """Resident memory in MiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError(f"process {self.pid} has ended:\n{self.said()}")

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds; RuntimeError when it does not in time, or the process ends."""
        end = time.monotonic() + PATIENCE
        while not holds():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"not ready: {self._process.args!r}\n{self.said()}")
            time.sleep(0.01)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def upstream(folder: Path) -> tuple[Program, int]:
    port = free_port()
    program = Program([sys.executable, "-I", str(HERE / "broker_upstream.py"), str(port)], folder)
    program.until(lambda: get(port, "/small")[0] == 200)
    return program, port


def proxy(folder: Path, upstream_port: int) -> tuple[Program, int]:
    """One nginx worker in front of the upstream."""
    found = nginx.program()
    if found is None:
        raise Missing("nginx is not installed (tests/peers.sh)")
    port = free_port()
    folder.mkdir(parents=True)
    configuration = folder / "nginx.conf"
    configuration.write_text(PROXY.format(run=folder, port=port, upstream=upstream_port))
    program = Program([found, "-c", str(configuration), "-p", str(folder), "-e", str(folder / "error.log")], folder)
    program.until(lambda: get(port, "/small")[0] == 200)
    return program, port


def command_of(make: Make, role: Role) -> list[str]:
    """Return how a program starts here; raise Missing where it cannot."""
    if make == "stock":
        if not (CACHE / "node_modules" / "snyk-broker").is_dir() or shutil.which("node") is None:
            raise Missing("the stock pair is not installed (tests/peers.sh)")
        return [str(STOCK / f"snyk-broker-{role}")]
    beside = Path(sys.executable).with_name("towline")
    if not beside.exists():
        raise Missing("towline is not installed for this Python (make .venv/.agent)")
    return [str(beside), role]


def start_server(make: Make, folder: Path, port: int, more: dict[str, str] | None = None) -> Program:
    rules = STOCK / "accept-server-any.json"
    command = command_of(make, "server")
    if make == "stock":
        command += ["--port", str(port), "--accept", str(rules)]
        return Program(command, folder, {"SNYK_BROKER_CACHE": str(CACHE)})
    return Program(command, folder, {"PORT": str(port), "ACCEPT": str(rules), **(more or {})})


def start_client(make: Make, folder: Path, port: int, server_port: int, upstream_port: int) -> Program:
    rules, server, agent = STOCK / "accept-client-cra.json", f"http://127.0.0.1:{server_port}", upstream_port
    command = command_of(make, "client")
    if make == "stock":
        command += ["--port", str(port), "--server", server, "--token", TOKEN, "--accept", str(rules)]
        command += ["--cr-agent-url", f"http://127.0.0.1:{agent}"]
        return Program(command, folder, {"SNYK_BROKER_CACHE": str(CACHE), "U_NAME": "user", "U_PASS": "pass"})
    variables = {
        "PORT": str(port),
        "ACCEPT": str(rules),
        "BROKER_TOKEN": TOKEN,
        "BROKER_SERVER_URL": server,
        "BROKER_CLIENT_URL": f"http://127.0.0.1:{port}",
        "CR_AGENT_URL": f"http://127.0.0.1:{agent}",
        "U_NAME": "user",
        "U_PASS": "pass",
    }
    return Program(command, folder, variables)


def tunnels(server_port: int) -> int:
    """Return how many tunnels the server counts for the token."""
    status, body = get(server_port, f"/connection-status/{TOKEN}")
    return len(json.loads(body)["clients"]) if status == 200 else 0


class Pair(NamedTuple):
    """A server and a client that found each other, and how long that took."""

    server: Program
    client: Program
    port: int
    server_seconds: float
    connected_seconds: float

    def stop(self) -> None:
        self.client.stop()
        self.server.stop()


def start_pair(server: Make, client: Make, folder: Path, upstream_port: int) -> Pair:
    """Start both, one after the other; connected means that the server lists both of the client's tunnels."""
    port = free_port()
    began = time.perf_counter()
    serving = start_server(server, folder / "server", port)
    try:
        serving.until(lambda: get(port, "/healthcheck")[0] == 200)
        answered = time.perf_counter()
        calling = start_client(client, folder / "client", free_port(), port, upstream_port)
        try:
            calling.until(lambda: tunnels(port) == 2)
        except BaseException:
            calling.stop()
            raise
    except BaseException:
        serving.stop()
        raise
    return Pair(serving, calling, port, answered - began, time.perf_counter() - answered)
