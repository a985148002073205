"""The programs know the wall clock, whatever their loop's own clock shows."""

from __future__ import annotations

import io
import time
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from drivers.loops import LOOPS, Loop

from towline.core import Secret
from towline.core.broker import BrokerClientConfig, BrokerServerConfig, default_server_rules
from towline.drivers import Driver, Listener
from towline.runtimes.client import serve_client
from towline.runtimes.logs import Log
from towline.runtimes.server import serve_server

HERE = Listener("127.0.0.1", 0)


def date_of(port: int) -> float:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/healthcheck")
    said = connection.getresponse().headers["date"]
    connection.close()
    return parsedate_to_datetime(said).timestamp()


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
def test_answers_are_dated_now(loop: Loop, tmp_path: Path) -> None:
    driver: Driver = loop.module

    async def main() -> None:
        log, stop = Log("error", "json", io.StringIO()), anyio.Event()
        async with anyio.create_task_group() as tasks:
            serving = BrokerServerConfig(rules=default_server_rules())
            results = tmp_path / "results.sqlite"
            server = await tasks.start(partial(serve_server, serving, driver, HERE, results, log=log, stop=stop))
            config = BrokerClientConfig(
                server_url=f"http://127.0.0.1:{server}", token=Secret("a token"), agent_url="http://127.0.0.1:9"
            )
            client = await tasks.start(partial(serve_client, config, driver, HERE, log=log, stop=stop))
            for port in (server, client):
                assert abs(await anyio.to_thread.run_sync(date_of, port) - time.time()) < 5
            stop.set()

    loop.run(main)
