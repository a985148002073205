"""The examples run as printed: on asyncio, each against a peer of ours on trio."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import trio
from needed import CLONE

from towline.core import Entropy
from towline.core.broker import BrokerServer, BrokerServerConfig
from towline.drivers import Listener
from towline.drivers.on_trio import Pump, open_pump
from towline.runtimes.demo.image import local_image
from towline.runtimes.demo.registry import DemoRegistry, running

pytestmark = pytest.mark.trio

SEED = b"a constant seed, for a test only"
TOKEN = "00000000-0000-4000-8000-000000000005"


async def test_list_tags() -> None:
    registry = DemoRegistry({"team/app": local_image(tag="1.0").repository}, entropy=Entropy(SEED))
    async with running(registry, open_pump) as address:
        command = [sys.executable, str(CLONE / "examples" / "list_tags_asyncio.py"), f"http://{address}", "team/app"]
        with trio.fail_after(30):
            done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    assert (done.stdout, done.stderr) == (b"1.0\n", b"")


async def test_the_broker_client() -> None:
    server = BrokerServer(BrokerServerConfig(), entropy=Entropy(SEED))
    script = str(CLONE / "examples" / "tunnel_client_asyncio.py")
    async with open_pump(server, listeners={"broker": Listener()}) as pump, trio.open_nursery() as nursery:
        command = [sys.executable, script, f"http://127.0.0.1:{pump.ports['broker']}", "http://127.0.0.1:1"]
        client = await trio.lowlevel.open_process(
            command, stdout=subprocess.PIPE, env={**os.environ, "BROKER_TOKEN": TOKEN}
        )
        nursery.start_soon(_read_events, pump)
        said = b""
        try:
            with trio.fail_after(30):
                assert client.stdout is not None
                while said.count(b"tunnel.open ") < 2:
                    said += await client.stdout.receive_some()
        finally:
            client.kill()
            with trio.CancelScope(shield=True):
                await client.wait()
                if client.stdout is not None:
                    await client.stdout.aclose()
        nursery.cancel_scope.cancel()
    assert said.startswith(b"callbacks are taken on port ")
    assert TOKEN.encode() not in said


async def _read_events(pump: Pump) -> None:
    async for _ in pump.events:
        pass
