"""A broker server and client as processes, each ours or the stock one, with an upstream behind and a platform before.

with brokers(folder, server="ours", client="stock") as pair:
    pair.ask("/small")
"""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from agent_tools import call
from interop.chain import CALLBACK_RULES, Program, towline, wait
from interop.peers.broker_upstream import BrokerUpstream
from needed import SNYK_BROKER_CACHE, STOCK, need_peer
from ports import free_port

Make = Literal["ours", "stock"]
MIB = 1024 * 1024
LOGIN = ("robot", "c4n4ry:pa$$ wörd")
# What the kit's rules lack: chunked cuts, and an origin with a login in it.
FURTHER = ("/cut-chunked", "/userinfo")


class Took(NamedTuple):
    """An answer as a caller took it. `whole` is False when the link ended before the answer did."""

    status: int
    headers: dict[str, str]
    length: int
    digest: str
    whole: bool
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Brokers:
    """The pair. What it logged is in `server.said()` and `client.said()`."""

    def __init__(
        self, folder: Path, server: Make = "ours", client: Make = "ours", *,
        server_more: dict[str, str] | None = None, client_more: dict[str, str] | None = None, via: int | None = None,
        server_port: int | None = None,
    ) -> None:  # fmt: skip
        self.makes = {"server": server, "client": client}
        self.token = str(uuid.uuid4())
        self.server_port, self.client_port = server_port or free_port(), free_port()
        self.upstream, self.platform = BrokerUpstream(), BrokerUpstream()
        self._via = via
        rules = folder / "accept.json"
        rules.write_text(json.dumps(self._rules()))
        self.server = self._server(folder, server, server_more or {})
        self.client = self._client(folder, client, client_more or {}, rules)

    def _rules(self) -> Any:
        rules = json.loads((STOCK / "accept-client-cra.json").read_bytes())
        for path in FURTHER:
            rules["private"].append({"method": "GET", "path": path, "origin": "${CR_AGENT_URL}"})
        # %40 and %3A: what stands for itself in a URL.
        rules["private"][-1]["origin"] = f"http://us%40er:pass%3Aword@127.0.0.1:{self.upstream.port}"
        return rules

    def _server(self, folder: Path, make: Make, more: dict[str, str]) -> Program:
        if make == "ours":
            own = {"PORT": str(self.server_port), "ACCEPT": str(CALLBACK_RULES), "CALLBACK_ORIGIN": self.platform.url}
            return towline(folder, "server", **own, LOG_LEVEL="debug", **more)
        argv = [need_peer("snyk-broker-server"), "--port", str(self.server_port), "--accept", str(CALLBACK_RULES)]
        for item in (f"CALLBACK_ORIGIN={self.platform.url}", *(f"{name}={value}" for name, value in more.items())):
            argv += ["--env", item]
        return Program(folder, "stock-server", argv, {"SNYK_BROKER_CACHE": str(SNYK_BROKER_CACHE)})

    def _client(self, folder: Path, make: Make, more: dict[str, str], rules: Path) -> Program:
        server_url = f"http://127.0.0.1:{self._via or self.server_port}"
        login = {"U_NAME": LOGIN[0], "U_PASS": LOGIN[1]}
        if make == "ours":
            own = {
                "PORT": str(self.client_port),
                "ACCEPT": str(rules),
                "BROKER_TOKEN": self.token,
                "BROKER_SERVER_URL": server_url,
                "BROKER_CLIENT_URL": f"http://127.0.0.1:{self.client_port}",
                "CR_AGENT_URL": self.upstream.url,
                "LOG_LEVEL": "debug",
            }
            return towline(folder, "client", **own, **login, **more)
        argv = [need_peer("snyk-broker-client"), "--port", str(self.client_port), "--server", server_url]
        argv += ["--token", self.token, "--accept", str(rules), "--cr-agent-url", self.upstream.url]
        for name, value in {**login, **more}.items():
            argv += ["--env", f"{name}={value}"]
        return Program(folder, "stock-client", argv, {"SNYK_BROKER_CACHE": str(SNYK_BROKER_CACHE)})

    # ── what an operator does ──────────────────────────────────────────────────
    @property
    def ours(self) -> list[Program]:
        both = {"server": self.server, "client": self.client}
        return [program for role, program in both.items() if self.makes[role] == "ours"]

    def start(self) -> None:
        self.server.start()
        wait(lambda: _is_healthy(self.server_port, self.server), what=self.said)
        self.client.start()
        self.await_ready()

    def await_ready(self) -> None:
        wait(lambda: self.is_connected(), what=self.said)

    def is_connected(self) -> bool:
        """Whether both of the client's tunnels are there and identified, and it takes requests itself."""
        try:
            status = call(self.server_port, "GET", f"/connection-status/{self.token}")
            own = call(self.client_port, "GET", "/healthcheck")
        except OSError:
            return False
        return status.status == own.status == 200 and self.tunnels() >= 2

    def tunnels(self) -> int:
        """How many tunnels the server has: sockets that the client holds to it are more, those for uploads too."""
        own = call(self.client_port, "GET", "/healthcheck").body
        listed = own if isinstance(own, list) else [own]
        return sum(bool(tunnel.get("ok")) for tunnel in listed)

    def said(self) -> str:
        return "\n".join(f"── {program.name}\n{program.said()[-3000:]}" for program in (self.server, self.client))

    def close(self) -> None:
        for end in (self.server, self.client, self.upstream, self.platform):
            end.close()

    # ── what a backend does ────────────────────────────────────────────────────
    def path(self, target: str) -> str:
        return f"/broker/{self.token}{target}"

    def ask(self, target: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Took:
        """Ask the upstream through both."""
        return take(self.server_port, method, self.path(target), body, **headers)

    def begin(self, target: str) -> socket.socket:
        """Begin to ask, and read nothing."""
        sock = socket.create_connection(("127.0.0.1", self.server_port), 10)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        sock.sendall(f"GET {self.path(target)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return sock

    def call_back(self, target: str, body: bytes) -> Took:
        """Post what an agent posts, to the client."""
        return take(self.client_port, "POST", target, body, content_type="application/octet-stream")


def _is_healthy(port: int, program: Program) -> bool:
    try:
        return call(port, "GET", "/healthcheck").status == 200
    except OSError:
        assert program.running.poll() is None, program.said()
        return False


def take(port: int, method: str, target: str, body: bytes | None = None, **headers: str) -> Took:
    """Ask, and take the answer as it comes: large ones are hashed and not kept."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60.0)
    digest, length, kept, whole = hashlib.sha256(), 0, b"", True
    try:
        connection.request(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        try:
            while piece := answer.read(MIB):
                digest.update(piece)
                length += len(piece)
                kept += piece if length <= MIB else b""
        except (http.client.IncompleteRead, OSError) as cut:
            whole = False
            length += len(getattr(cut, "partial", b""))
        announced = answer.getheader("content-length")
        if announced is not None and length < int(announced) and method != "HEAD":
            whole = False
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Took(answer.status, found, length, digest.hexdigest(), whole, kept)
    except (http.client.RemoteDisconnected, ConnectionError):
        return Took(0, {}, 0, "", False, b"")
    finally:
        connection.close()


def memory(program: Program, row: str = "VmRSS") -> int:
    """Resident bytes of a process: at present, or with VmHWM its peak."""
    for line in Path(f"/proc/{program.running.pid}/status").read_text().splitlines():
        if line.startswith(row + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{program.name} has ended: {program.said()}")


def since(began: float) -> float:
    return time.monotonic() - began


@contextmanager
def brokers(folder: Path, server: Make = "ours", client: Make = "ours", **how: Any) -> Iterator[Brokers]:
    """Run the pair while the block lasts; ours may not have said anything of a fault in itself."""
    pair = Brokers(folder, server, client, **how)
    with ExitStack() as closing:
        closing.callback(pair.close)
        pair.start()
        yield pair
        for program in pair.ours:
            assert "Traceback" not in program.said(), program.said()
