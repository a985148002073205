"""The demo: server, client, agent and an embedded registry on loopback, and one image scanned through all of them.

It is the programs themselves that run, with nothing left out: the registry wants a token, the client's allow-list is
the shipped one, the agent keeps its job in its store, and the inventory is read back from the server's results box.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
import trio
from anyio.abc import TaskGroup

from towline.core import (
    Body,
    Broken,
    Entropy,
    HeaderList,
    Record,
    RemoteProtocolError,
    Request,
    Secret,
    Step,
    Tail,
    TowlineError,
    fetch,
    read,
)
from towline.core.agent import RegistryLogin
from towline.core.broker import BrokerClientConfig, BrokerServerConfig
from towline.core.http import Courier
from towline.drivers import Listener, on_trio
from towline.runtimes import agent
from towline.runtimes.agent.config import AgentConfig
from towline.runtimes.client import serve_client
from towline.runtimes.demo.hops import HopLog, Hops
from towline.runtimes.demo.image import local_image
from towline.runtimes.demo.registry import DemoRegistry, Token, running
from towline.runtimes.logs import Log
from towline.runtimes.output import first, write_json, write_table
from towline.runtimes.server import serve_server

REPOSITORY: Final = "demo/this-machine"
PATIENCE: Final = 60.0
LONGEST_ANSWER: Final = 64 * 1024 * 1024
# The table's first rows say enough; the JSON form has them all.
ROWS_SHOWN: Final = 12


def run_demo(arguments: argparse.Namespace) -> int:
    """Run the demo; return 0 when the whole way worked. Raises TowlineError."""
    scene = Scene(talks=arguments.output == "table", verbose=arguments.verbose, stays=arguments.serve)
    try:
        result = trio.run(scene.play)
    except* TowlineError as group:
        raise first(group) from None
    if arguments.output == "json":
        write_json(result)
    return 0


class Ports(Record, frozen=True):
    """Where the demo's parts listen on loopback; 0 lets the system choose."""

    registry: int = 0
    server: int = 0
    client: int = 0
    agent: int = 0


# With --serve, a person types these.
SERVED: Final = Ports(registry=5050, server=7341, client=7342, agent=17500)
SERVED_LOGIN: Final = ("demo", "demo")
SERVED_TOKEN: Final = "00000000-0000-4000-8000-00000000de30"


class Scene:
    """One run of the demo."""

    def __init__(self, *, talks: bool, verbose: bool, stays: bool) -> None:
        self._hops = Hops(talks=talks, verbose=verbose)
        self._talks = talks
        self._stays = stays
        self._ports = SERVED if stays else Ports()
        self._entropy = Entropy(os.urandom(32))

    async def play(self) -> dict[str, Any]:
        """Start everything, scan through it, and return what the results box then holds."""
        image = local_image()
        username, password = SERVED_LOGIN if self._stays else ("demo", self._entropy.token(12))
        login = RegistryLogin("oci", username=username, secret=Secret(password))
        registry = DemoRegistry(
            {REPOSITORY: image.repository}, Token(username, login.secret), entropy=self._entropy.fork()
        )
        self._hops.hop(
            "registry", f"holds {REPOSITORY}, this machine's package database ({image.database or image.note})"
        )
        here = Listener("127.0.0.1", self._ports.registry)
        with tempfile.TemporaryDirectory(prefix="towline-demo-") as folder:
            async with (
                running(registry, on_trio.open_pump, here, on_reply=self._hops.replied) as address,
                anyio.create_task_group() as programs,
            ):
                stop = anyio.Event()
                urls = await self._start(programs, stop, Path(folder), address, login)
                with anyio.fail_after(PATIENCE):
                    result = await self._scan(*urls)
                if self._stays:
                    if self._talks:
                        _show(result)
                    await self._stay(address)
                stop.set()
        if self._talks and not self._stays:
            # Last, when no part has anything left to tell.
            _show(result)
        return result

    async def _stay(self, registry: str) -> None:
        """Keep everything running until a signal, and say what can be tried meanwhile."""
        username, password = SERVED_LOGIN
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            sys.stdout.write(
                f"\nserving until interrupted\n"
                f"  registry  http://{registry}  login {username}:{password}\n"
                f"  server    http://127.0.0.1:{self._ports.server}  token {SERVED_TOKEN}\n"
                f"  client    http://127.0.0.1:{self._ports.client}\n"
                f"  agent     http://127.0.0.1:{self._ports.agent}\n"
            )
            sys.stdout.flush()
            async for _ in signals:
                return

    async def _start(
        self, programs: TaskGroup, stop: anyio.Event, folder: Path, registry: str, login: RegistryLogin
    ) -> tuple[str, Secret]:
        """Start the three programs; return the server's address and the token of the connection."""
        token = Secret(SERVED_TOKEN if self._stays else self._entropy.uuid4())
        # The agent is told where results may go before the client is up, so the client's port is settled first.
        port = self._ports.client or _free_port()
        client_url = f"http://127.0.0.1:{port}"
        agent_config = AgentConfig(
            host="127.0.0.1", port=self._ports.agent, workdir=str(folder / "agent"), callback_urls=(client_url,),
            login=msgspec.structs.replace(login, base=registry), allow_http=(registry,),
        )  # fmt: skip
        up = await programs.start(_agent, agent_config, HopLog(self._hops, "agent"), stop)
        here = Listener("127.0.0.1", self._ports.server)
        server = await programs.start(_server, here, folder / "results.sqlite", HopLog(self._hops, "server"), stop)
        client_config = BrokerClientConfig(
            server_url=f"http://127.0.0.1:{server}",
            token=token,
            agent_url=f"http://127.0.0.1:{up.port}",
            client_url=client_url,
        )
        await programs.start(_client, client_config, Listener("127.0.0.1", port), HopLog(self._hops, "client"), stop)
        return f"http://127.0.0.1:{server}", token

    async def _scan(self, server: str, token: Secret) -> dict[str, Any]:
        where = f"{server}/connection-status/{token.reveal()}"
        while (await _ask("GET", where))[0] != 200:
            await anyio.sleep(0.05)
        request = {
            "requestId": self._entropy.uuid4(),
            "image": {"repository": REPOSITORY, "reference": "latest"},
            "callback": {"baseUrl": "${BROKER_CLIENT_URL}"},
            "BROKER_VAR_SUB": ["callback.baseUrl"],
        }
        self._hops.hop("backend", "POST /broker/…/scan")
        status, body = await _ask("POST", f"{server}/broker/{token.reveal()}/scan", msgspec.json.encode(request))
        if status != 202:
            raise RemoteProtocolError("internal", f"expected the scan to be accepted with 202, got {status}")
        job = msgspec.json.decode(body)["jobId"]
        self._hops.hop("backend", f"202, job {job}")
        while True:
            status, body = await _ask("GET", f"{server}/results/{job}")
            result: dict[str, Any] = msgspec.json.decode(body)
            if status == 200 and result["done"]:
                break
            await anyio.sleep(0.05)
        self._hops.hop("backend", f"GET /results/{job}: {result['state']}, {len(body)} bytes")
        if result["state"] != "done":
            raise RemoteProtocolError("internal", f"expected the scan to end done, got {result['state']}")
        return result


def _show(result: dict[str, Any]) -> None:
    facts = {fact["type"]: fact["data"] for fact in result["scanResults"][0]["facts"]}
    graph = facts["depGraph"]
    packages = [entry["info"] for entry in graph["pkgs"][1:]]
    rows = [(package["name"], package["version"] or "") for package in packages[:ROWS_SHOWN]]
    sys.stdout.write("\n")
    write_table([("PACKAGE", "VERSION"), *rows])
    if len(packages) > ROWS_SHOWN:
        sys.stdout.write(f"… and {len(packages) - ROWS_SHOWN} more\n")
    alias = graph["pkgManager"]["repositories"][0]["alias"]
    sys.stdout.write(f"\n{facts.get('imageOsReleasePrettyName', alias)}: {len(packages)} packages\n")


# ── the programs, each with the arguments that a task group hands on ──────────
async def _agent(config: AgentConfig, log: Log, stop: anyio.Event, *, task_status: Any) -> None:
    await agent.serve(config, on_trio, log=log, stop=stop, task_status=task_status)


async def _server(here: Listener, box: Path, log: Log, stop: anyio.Event, *, task_status: Any) -> None:
    await serve_server(BrokerServerConfig(), on_trio, here, box, log=log, stop=stop, task_status=task_status)


async def _client(config: BrokerClientConfig, here: Listener, log: Log, stop: anyio.Event, *, task_status: Any) -> None:
    await serve_client(config, on_trio, here, log=log, stop=stop, task_status=task_status)


# ── what a backend does ────────────────────────────────────────────────────────
async def _ask(method: str, url: str, body: bytes = b"") -> tuple[int, bytes]:
    headers: HeaderList = (("content-type", "application/json"),) if body else ()
    status, answer = await on_trio.perform(Courier(_exchange(Request(method, url, headers, body)), total=PATIENCE))
    return status, answer


def _exchange(request: Request) -> Step[tuple[int, bytes]]:
    head = yield from fetch(request)
    if isinstance(head, Broken):
        raise RemoteProtocolError(head.kind, head.why)
    return head.status, (yield from _whole())


def _whole() -> Step[bytes]:
    pieces: list[bytes] = []
    size = 0
    while not isinstance(piece := (yield from read()), Tail):
        if isinstance(piece, Broken):
            raise RemoteProtocolError(piece.kind, piece.why)
        assert isinstance(piece, Body)
        pieces.append(bytes(piece.data))
        size += len(pieces[-1])
        if size > LONGEST_ANSWER:
            raise RemoteProtocolError("protocol-error", f"expected an answer of at most {LONGEST_ANSWER} bytes")
    return b"".join(pieces)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
