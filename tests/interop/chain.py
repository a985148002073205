"""The whole chain as processes: `towline server`, `client` and `agent`, each from the stock variables alone.

    with chain(folder, registry.address, canaries) as towline:
        job = towline.scan("deb-bookworm")
        towline.results(job)["scanResults"]

`stock="server"` and `stock="client"` put the real snyk-broker in the place of ours.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from agent_tools import ApiReply, call
from interop.canaries import Canaries
from needed import SNYK_BROKER_CACHE, STOCK, need_peer
from ports import free_port

T = TypeVar("T")

COMMAND = Path(sys.executable).with_name("towline")
CALLBACK_RULES = STOCK / "accept-server-callbacks.json"
PATIENCE = 40.0
LONGEST_DRAIN = 30.0


def wait(holds: Callable[[], T], seconds: float = PATIENCE, what: Callable[[], str] = str) -> T:
    """Wait until something holds, and return it."""
    end = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < end, f"it did not come to hold: {what()}"
        time.sleep(0.03)
    return value


class Program:
    """One program and its process. `log` has all that it ever wrote on stdout and stderr, over restarts."""

    def __init__(self, folder: Path, name: str, argv: list[str], variables: dict[str, str]) -> None:
        self.folder = folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log = self.folder / "log"
        self._argv = argv
        # Nothing else of this machine's environment: what is not among the stock variables has its default.
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        self._environment = {**kept, "HOME": str(self.folder), **variables}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Program:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self.folder,
            )
        return self

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    def send(self, number: signal.Signals) -> None:
        self.running.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and gone."""
        self.send(signal.SIGKILL)
        self.running.wait(10)

    def stop(self) -> int:
        """SIGTERM; return the exit code."""
        self.send(signal.SIGTERM)
        return self.running.wait(LONGEST_DRAIN)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def command_line(self) -> bytes:
        """What `ps` shows of it."""
        return Path(f"/proc/{self.running.pid}/cmdline").read_bytes()


def towline(folder: Path, command: str, **variables: str) -> Program:
    """A program of ours, not started."""
    return Program(folder, command, [str(COMMAND), command], variables)


class Chain:
    """A running chain, as a backend and an operator see it."""

    def __init__(
        self, folder: Path, address: str, canaries: Canaries, *, stock: Literal["server", "client"] | None = None,
        callback_origin: str | None = None, own_login: bool = True, **agent_variables: str,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.registry = address
        self.canaries = canaries
        self.server_port, self.client_port, self.agent_port = free_port(), free_port(), free_port()
        self.client_url = f"http://127.0.0.1:{self.client_port}"
        own = self._ours(address, callback_origin, own_login, agent_variables)
        if stock is not None:
            own[stock] = self._stock(stock, callback_origin)
        self.server, self.client, self.agent = own["server"], own["client"], own["agent"]
        self.ours = [program for name, program in own.items() if name != stock]

    def _ours(
        self, address: str, callback_origin: str | None, own_login: bool, agent_variables: dict[str, str]
    ) -> dict[str, Program]:
        server = {
            "PORT": str(self.server_port),
            "TOWLINE_RESULTS": "results.sqlite",
            "TOWLINE_RESULTS_TOKEN": self.canaries.results_token,
            "LOG_LEVEL": "debug",
        }
        if callback_origin is not None:
            server |= {"ACCEPT": str(CALLBACK_RULES), "CALLBACK_ORIGIN": callback_origin}
        login = {
            "CR_TYPE": "oci",
            "CR_BASE": address,
            "CR_USERNAME": self.canaries.login.username,
            "CR_PASSWORD": self.canaries.login.password,
        }
        client = {
            "PORT": str(self.client_port),
            "BROKER_TOKEN": self.canaries.broker_token,
            "BROKER_SERVER_URL": f"http://127.0.0.1:{self.server_port}",
            "BROKER_CLIENT_URL": self.client_url,
            "CR_AGENT_URL": f"http://127.0.0.1:{self.agent_port}",
            "LOG_LEVEL": "debug",
            **login,
        }
        agent = {
            "SNYK_PORT": str(self.agent_port),
            "BROKER_CLIENT_URL": self.client_url,
            "TOWLINE_ALLOW_HTTP": address,
            "TOWLINE_WORKDIR": "work",
            "MAX_ACTIVE_OPERATIONS": "2",
            "LOG_LEVEL": "debug",
            **(login if own_login else {}),
            **agent_variables,
        }
        made = {"server": server, "client": client, "agent": agent}
        return {name: towline(self.folder, name, **variables) for name, variables in made.items()}

    def _stock(self, role: str, callback_origin: str | None) -> Program:
        program = need_peer(f"snyk-broker-{role}")
        if role == "server":
            more = ["--port", str(self.server_port)]
            if callback_origin is not None:
                more += ["--accept", str(CALLBACK_RULES), "--env", f"CALLBACK_ORIGIN={callback_origin}"]
        else:
            more = ["--port", str(self.client_port), "--server", f"http://127.0.0.1:{self.server_port}"]
            more += ["--token", self.canaries.broker_token, "--cr-agent-url", f"http://127.0.0.1:{self.agent_port}"]
        return Program(self.folder, f"stock-{role}", [program, *more], {"SNYK_BROKER_CACHE": str(SNYK_BROKER_CACHE)})

    # ── what an operator does ──────────────────────────────────────────────────
    @property
    def programs(self) -> list[Program]:
        return [self.server, self.client, self.agent]

    def await_ready(self) -> None:
        """Wait until both tunnels stand and the agent answers."""
        for port in (self.server_port, self.client_port, self.agent_port):
            wait(lambda port=port: self._is_healthy(port), what=self.all_said)  # type: ignore[misc]
        wait(lambda: self.tunnels() == 2, what=self.all_said)

    def _is_healthy(self, port: int) -> bool:
        try:
            return call(port, "GET", "/healthcheck").status == 200
        except OSError:
            assert all(program.running.poll() is None for program in self.programs), self.all_said()
            return False

    def tunnels(self) -> int:
        """How many tunnels the server has for our token."""
        try:
            got = call(self.server_port, "GET", f"/connection-status/{self.canaries.broker_token}")
        except OSError:
            return 0
        return len(got.body["clients"]) if got.status == 200 else 0

    def all_said(self) -> str:
        return "\n".join(f"── {program.name}\n{program.said()[-3000:]}" for program in self.programs)

    # ── what a backend does ────────────────────────────────────────────────────
    def ask(self, method: str, target: str, body: Any = None, **headers: str) -> ApiReply:
        """Ask the agent through the tunnel."""
        data = None if body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if data is not None:
            named["content-type"] = "application/json"
        return call(self.server_port, method, f"/broker/{self.canaries.broker_token}{target}", data, named)

    def scan(self, name: str, *, platform: str | None = None, credentials: str | None = None, **options: Any) -> str:
        """Have a scan of `corpus/NAME` accepted; return its job. The client may fill in the `credentials`."""
        body = {
            "requestId": str(uuid.uuid4()),
            "image": {"repository": f"corpus/{name}", "reference": "latest", "platform": platform},
            "callback": {"baseUrl": "${BROKER_CLIENT_URL}"},
            "BROKER_VAR_SUB": ["callback.baseUrl", "credentials"],
            "credentials": credentials,
            "options": options,
        }
        accepted = self.ask("POST", "/scan", body)
        assert accepted.status == 202, (accepted.data, self.all_said())
        return str(accepted.body["jobId"])

    def box(self, target: str) -> ApiReply:
        """Read the results box."""
        shown = {"authorization": f"Bearer {self.canaries.results_token}"}
        return call(self.server_port, "GET", f"/results{target}", None, shown)

    def results(self, job: str, seconds: float = PATIENCE) -> Any:
        """Return what the results box holds of a job, once it is done."""

        def look() -> Any:
            got = self.box(f"/{job}")
            return got.body if got.status == 200 and got.body["done"] else None

        return wait(look, seconds, self.all_said)

    def job(self, job: str) -> Any:
        """Ask the agent itself about a job."""
        return call(self.agent_port, "GET", f"/jobs/{job}").body


@contextmanager
def chain(folder: Path, address: str, canaries: Canaries, **how: Any) -> Iterator[Chain]:
    """Run the chain in front of a registry while the block lasts."""
    made = Chain(folder, address, canaries, **how)
    with ExitStack() as closing:
        for program in made.programs:
            closing.callback(program.close)
            program.start()
        made.await_ready()
        yield made
