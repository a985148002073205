"""Our server with the real client, and our client with the real server: the stock pair's own nine checks."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from interop.chain import Program, towline

from towline.core import Entropy, Secret
from towline.core.broker import AcceptRules, BrokerClient, BrokerClientConfig, BrokerServer, BrokerServerConfig
from towline.drivers import Listener
from towline.drivers.on_trio import Pump, open_pump

pytestmark = [pytest.mark.interop, pytest.mark.trio]

STOCK = Path(__file__).parent / "stock"
TOKEN = "00000000-0000-4000-8000-000000000001"
SEED = b"a constant seed, for a test only"


def rules(name: str) -> AcceptRules:
    return AcceptRules.load((STOCK / name).read_bytes())


async def drain(pump: Pump) -> None:
    async for _ in pump.events:
        pass


async def nine_checks(base: int, *arguments: str, environment: Mapping[str, str]) -> None:
    """Run the kit's checks beside our peers; all nine must pass."""
    command = [sys.executable, str(STOCK / "selftest.py"), "--base-port", str(base), "--token", TOKEN, *arguments]
    with trio.fail_after(100):
        done = await trio.run_process(
            command, capture_stdout=True, stderr=subprocess.STDOUT, check=False, env=dict(environment)
        )
    said: str = done.stdout.decode()
    assert done.returncode == 0, said
    assert said.count("ok   ") == 9, said


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture
def base(free_port: Callable[[], int]) -> int:
    """The first of three free ports in a row, as the kit wants them."""
    while True:
        first = free_port()
        if first < 65_000 and is_free(first + 1) and is_free(first + 2):
            return first


async def test_our_server_with_the_real_client(
    base: int, peer: Callable[[str], str], snyk_broker_environment: dict[str, str]
) -> None:
    peer("snyk-broker-client")
    config = BrokerServerConfig(
        rules=rules("accept-server-callbacks.json"), variables={"CALLBACK_ORIGIN": f"http://127.0.0.1:{base}"}
    )
    machine = BrokerServer(config, entropy=Entropy(SEED))
    async with open_pump(machine, listeners={"http": Listener("127.0.0.1", base + 1)}) as pump:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, pump)
            url = f"http://127.0.0.1:{base + 1}"
            await nine_checks(base, "--server-url", url, environment=snyk_broker_environment)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "more", [{}, {"one_event_answers": False}, {"polling_first": True}], ids=["events", "uploads", "polling-first"]
)
async def test_our_client_with_the_real_server(
    base: int, peer: Callable[[str], str], snyk_broker_environment: dict[str, str], more: dict[str, Any]
) -> None:
    peer("snyk-broker-server")
    config = BrokerClientConfig(
        server_url=f"http://127.0.0.1:{base + 1}",
        token=Secret(TOKEN),
        agent_url=f"http://127.0.0.1:{base}",
        client_url=f"http://127.0.0.1:{base + 2}",
        rules=rules("accept-client-cra.json"),
        variables={"U_NAME": "user", "U_PASS": Secret("canary")},
        **more,
    )
    machine = BrokerClient(config, entropy=Entropy(SEED))
    async with open_pump(machine, listeners={"http": Listener("127.0.0.1", base + 2)}) as pump:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, pump)
            url = f"http://127.0.0.1:{base + 2}"
            await nine_checks(base, "--client-url", url, environment=snyk_broker_environment)
            nursery.cancel_scope.cancel()


async def test_our_client_with_our_server(base: int, snyk_broker_environment: dict[str, str]) -> None:
    serving = BrokerServerConfig(
        rules=rules("accept-server-callbacks.json"), variables={"CALLBACK_ORIGIN": f"http://127.0.0.1:{base}"}
    )
    calling = BrokerClientConfig(
        server_url=f"ws://127.0.0.1:{base + 1}",
        token=Secret(TOKEN),
        agent_url=f"http://127.0.0.1:{base}",
        rules=rules("accept-client-cra.json"),
    )
    server, client = BrokerServer(serving, entropy=Entropy(SEED)), BrokerClient(calling, entropy=Entropy(SEED[::-1]))
    async with (
        open_pump(server, listeners={"http": Listener("127.0.0.1", base + 1)}) as serving_pump,
        open_pump(client, listeners={"http": Listener("127.0.0.1", base + 2)}) as calling_pump,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(drain, serving_pump)
        nursery.start_soon(drain, calling_pump)
        urls = ("--server-url", f"http://127.0.0.1:{base + 1}", "--client-url", f"http://127.0.0.1:{base + 2}")
        await nine_checks(base, *urls, environment=snyk_broker_environment)
        nursery.cancel_scope.cancel()


# ── the programs as shipped, from the stock variables ────────────────────────
@pytest.fixture
def server_program(base: int, tmp_path: Path) -> Iterator[Program]:
    rules_file = str(STOCK / "accept-server-callbacks.json")
    variables = {"PORT": str(base + 1), "ACCEPT": rules_file, "CALLBACK_ORIGIN": f"http://127.0.0.1:{base}"}
    program = towline(tmp_path, "server", **variables)
    yield program
    program.close()


@pytest.fixture
def client_program(base: int, tmp_path: Path) -> Iterator[Program]:
    variables = {
        "PORT": str(base + 2),
        "BROKER_TOKEN": TOKEN,
        "BROKER_SERVER_URL": f"http://127.0.0.1:{base + 1}",
        "BROKER_CLIENT_URL": f"http://127.0.0.1:{base + 2}",
        "CR_AGENT_URL": f"http://127.0.0.1:{base}",
        "ACCEPT": str(STOCK / "accept-client-cra.json"),
        "U_NAME": "user",
        "U_PASS": "canary",
    }
    program = towline(tmp_path, "client", **variables)
    yield program
    program.close()


async def test_the_server_program_with_the_real_client(
    base: int, server_program: Program, peer: Callable[[str], str], snyk_broker_environment: dict[str, str]
) -> None:
    peer("snyk-broker-client")
    server_program.start()
    await nine_checks(base, "--server-url", f"http://127.0.0.1:{base + 1}", environment=snyk_broker_environment)
    assert server_program.stop() == 0


async def test_the_client_program_with_the_real_server(
    base: int, client_program: Program, peer: Callable[[str], str], snyk_broker_environment: dict[str, str]
) -> None:
    peer("snyk-broker-server")
    client_program.start()
    await nine_checks(base, "--client-url", f"http://127.0.0.1:{base + 2}", environment=snyk_broker_environment)
    assert client_program.stop() == 0


async def test_both_programs(
    base: int, server_program: Program, client_program: Program, snyk_broker_environment: dict[str, str]
) -> None:
    server_program.start()
    client_program.start()
    urls = ("--server-url", f"http://127.0.0.1:{base + 1}", "--client-url", f"http://127.0.0.1:{base + 2}")
    await nine_checks(base, *urls, environment=snyk_broker_environment)
    assert (server_program.stop(), client_program.stop()) == (0, 0)
