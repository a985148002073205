"""An agent as a process of its own, for tests that kill it. Settings come as JSON on standard input.

Prints `port N` when it listens; SIGTERM drains it.
"""

from __future__ import annotations

import json
import signal
import sys

import anyio
import trio

from towline.core.agent import decode_credentials
from towline.drivers import on_trio
from towline.runtimes.agent import Running, serve
from towline.runtimes.agent.config import AgentConfig
from towline.runtimes.logs import Log


async def main() -> None:
    told = json.loads(sys.stdin.readline())
    login = told.pop("login", None)
    config = AgentConfig(
        host="127.0.0.1",
        port=0,
        allow_http=tuple(told.pop("allow_http")),
        login=None if login is None else decode_credentials(login),
        **told,
    )
    stop = anyio.Event()

    async def announce(*, task_status: anyio.abc.TaskStatus[Running]) -> None:
        await serve(config, on_trio, log=Log("debug", "json"), stop=stop, task_status=task_status)

    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            running = await tasks.start(announce)
            print("port", running.port, flush=True)
            async for _ in signals:
                break
            stop.set()


if __name__ == "__main__":
    trio.run(main)
