"""The server program as one of several nodes: its configuration, both loops, and a Redis that comes late."""

from __future__ import annotations

import gc
import io
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from agent_tools import call
from anyio import to_thread
from command_tools import towline
from drivers.loops import LOOPS, Loop
from redis_tools import RedisServer

from towline.core import Secret, TowlineError
from towline.core.broker import BrokerServerConfig, ClusterConfig
from towline.core.http import Url
from towline.drivers import Listener
from towline.runtimes.config import ConfigurationError, Settings, load
from towline.runtimes.logs import Log
from towline.runtimes.server import serve_server
from towline.runtimes.setup import cluster_config

pytestmark = pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")

CANARY = "c4n4ry-cluster-secret"
GOOD = {
    "TOWLINE_REDIS_URL": "redis://:p4ssw0rd@127.0.0.1:1/0",
    "TOWLINE_CLUSTER_SECRET": CANARY,
    "TOWLINE_NODE_URL": "https://node-1.example:8443",
}


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """coredis leaves the queues of a connection that broke to the garbage collector; they hold no descriptor."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


# ── configuration ─────────────────────────────────────────────────────────────
def settings(**environment: str) -> Settings:
    return load({name: value for name, value in environment.items() if value})


def test_one_node_needs_nothing() -> None:
    assert cluster_config(settings()) is None
    assert cluster_config(settings(**{**GOOD, "TOWLINE_REDIS_URL": ""})) is None


def test_a_cluster_as_it_is_configured() -> None:
    made = cluster_config(settings(**GOOD, TOWLINE_NODE_ID="first", TOWLINE_NODE_LEASE="5s"))
    assert made is not None
    assert (made.name, made.lease, str(made.url.origin)) == ("first", 5.0, "https://node-1.example:8443")
    assert made.secret == Secret(CANARY)
    again = cluster_config(settings(**GOOD))
    assert again is not None
    assert again.incarnation != made.incarnation
    assert again.lease == 30.0


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"TOWLINE_CLUSTER_SECRET": ""}, "server.cluster_secret is not set"),
        ({"TOWLINE_NODE_URL": ""}, "server.node_url is not set"),
        ({"TOWLINE_CLUSTER_SECRET": "too short"}, "server.cluster_secret has to have 16 characters"),
        ({"TOWLINE_NODE_URL": "http://node-1/path"}, "got a path as well"),
        ({"TOWLINE_NODE_URL": "node-1:7341"}, "server.node_url: not an address"),
        ({"TOWLINE_NODE_LEASE": "500ms"}, "server.node_lease has to be 1 s or more"),
    ],
)
def test_a_cluster_that_cannot_be(changed: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        cluster_config(settings(**{**GOOD, **changed}))
    assert told in str(caught.value)
    assert CANARY not in str(caught.value)


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    said = towline(
        "server", home=tmp_path, TOWLINE_REDIS_URL=GOOD["TOWLINE_REDIS_URL"], TOWLINE_SERVER_BIND="127.0.0.1"
    )
    assert said.code == 2
    assert "TOWLINE_CLUSTER_SECRET" in said.err
    assert "TOWLINE_NODE_URL" in said.err
    assert "p4ssw0rd" not in said.err


def test_without_coredis_the_extra_is_named(tmp_path: Path) -> None:
    program = """
import sys
sys.modules["coredis"] = None
from towline.runtimes.cli import main
sys.exit(main(["server", "--port", "0", "--bind", "127.0.0.1"]))
"""
    environment = {**GOOD, "HOME": str(tmp_path), "TOWLINE_RESULTS": str(tmp_path / "results.sqlite")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert "towline[redis]" in done.stderr
    assert "Traceback" not in done.stderr


# ── both loops ────────────────────────────────────────────────────────────────
class Program:
    """One node in this process."""

    def __init__(
        self, number: int, folder: Path, redis: RedisServer, *, lease: float = 1.5, incarnation: str = "1"
    ) -> None:
        self.number = number
        self._incarnation = incarnation * 32
        self.port = 0
        self.stop = anyio.Event()
        self.log = io.StringIO()
        self._folder = folder
        self._redis = redis
        self._lease = lease

    async def run(self, loop: Loop, *, task_status: Any) -> None:
        where = Url.parse(f"http://127.0.0.1:{self.number}")
        cluster = ClusterConfig(Secret(CANARY), where, f"node-{self.number}", self._incarnation, self._lease)
        await serve_server(
            BrokerServerConfig(cluster=cluster),
            loop.module,
            Listener(),
            self._folder / f"{self.number}.sqlite",
            log=Log("info", "json", self.log),
            stop=self.stop,
            redis=Secret(self._redis.url),
            task_status=task_status,
        )

    def said(self, event: str) -> list[dict[str, Any]]:
        records = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [record for record in records if record["event"] == event]

    async def ask(self) -> tuple[int, str | None]:
        """What a caller of a token that nobody has is told."""
        got = await to_thread.run_sync(partial(call, self.port, "GET", "/broker/nobody/x"))
        return got.status, got.headers.get("x-broker-failure")


async def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    with anyio.fail_after(seconds):
        while not holds():
            await anyio.sleep(0.05)


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
def test_nodes_find_each_other_when_redis_comes(loop: Loop, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path / "redis")
    first, second = Program(1, tmp_path, redis), Program(2, tmp_path, redis, incarnation="2")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            first.port = await tasks.start(partial(first.run, loop))
            await until(lambda: bool(first.said("directory of nodes is away")))
            assert (await first.ask())[0] == 503, "whether another node has it, nobody knows"
            await to_thread.run_sync(redis.start)
            await until(lambda: bool(first.said("directory of nodes is back")))
            assert await first.ask() == (404, "no-connection")
            second.port = await tasks.start(partial(second.run, loop))
            await until(
                lambda: all(node.said("nodes") and node.said("nodes")[-1]["others"] == 1 for node in (first, second))
            )
            second.stop.set()
            began = time.monotonic()
            await until(lambda: first.said("nodes")[-1]["others"] == 0)
            assert time.monotonic() - began < 3.0
            first.stop.set()

    try:
        loop.run(main)
        assert redis.cli("--scan") == "", "whoever stops leaves nothing behind"
    finally:
        redis.kill()
    assert CANARY not in first.log.getvalue()


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
def test_a_node_that_starts_anew_ends_its_old_lease(loop: Loop, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path / "redis").start()
    first = Program(1, tmp_path, redis, lease=600.0)
    again = Program(1, tmp_path, redis, lease=600.0, incarnation="2")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            first.port = await tasks.start(partial(first.run, loop))
            await until(lambda: bool(first.said("nodes")))
            # It is gone without a word.
            tasks.cancel_scope.cancel()
        assert redis.cli("--scan", "--pattern", "*:node:*")
        async with anyio.create_task_group() as tasks:
            again.port = await tasks.start(partial(again.run, loop))
            await until(lambda: bool(again.said("a node ran here before")))
            assert await again.ask() == (404, "no-connection")
            again.stop.set()

    try:
        loop.run(main)
        assert redis.cli("--scan") == ""
    finally:
        redis.kill()


def test_a_redis_address_that_cannot_be_read(tmp_path: Path) -> None:
    node = Program(1, tmp_path, RedisServer(tmp_path / "redis"))

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(node.run, LOOPS[0]))

    node._redis = type("Nowhere", (), {"url": "http://127.0.0.1"})()
    with pytest.raises(ExceptionGroup) as caught:
        LOOPS[0].run(main)
    assert caught.group_contains(TowlineError, match="expected redis://")
