"""The broker client program: two tunnels out, the agent behind, its callbacks in."""

from __future__ import annotations

import os
from typing import Any

import anyio
from anyio.abc import TaskStatus

from towline.core import LIMITS, Entropy, Note
from towline.core.broker import BrokerClient, BrokerClientConfig, Stop, TunnelsEnded
from towline.drivers import Dialer, Driver, Listener
from towline.runtimes.logs import Log


async def serve_client(
    config: BrokerClientConfig,
    driver: Driver,
    listener: Listener,
    *,
    log: Log,
    stop: anyio.Event,
    dialer: Dialer | None = None,
    drain_seconds: float = LIMITS.drain,
    task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Run a broker client until `stop` is set, then finish what is under way within the drain time.

    Starts with the port of its own face; the tunnels come up afterwards, and come back by themselves.
    Raises:  TowlineError("invalid-configuration") for an address that cannot be read or a port that is taken
    """
    machine = BrokerClient(config, entropy=Entropy(os.urandom(32)))
    for warning in config.rules.warnings:
        log.say("warning", "rule without effect", rule=warning)
    async with driver.open_pump(machine, dialer=dialer, listeners={"client": listener}) as pump:
        port = pump.ports["client"]
        served = config.served()
        log.say(
            "info", "client started", address=f"{listener.host}:{port}", id=machine.client_id,
            server=", ".join(str(connection.servers()[0].origin) for connection in served),
            agent=", ".join(str(connection.agent_url) for connection in served),
        )  # fmt: skip
        task_status.started(port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_log_all, pump, log)
            await stop.wait()
            pump.tell(Stop(drain_seconds))
            await pump.finished()
            tasks.cancel_scope.cancel()
        log.say("info", "client stopped")


async def _log_all(pump: Any, log: Log) -> None:
    async for event in pump.events:
        if isinstance(event, Note):
            log.note(event)
        elif isinstance(event, TunnelsEnded):
            # The process stays up, as the stock one does: a supervisor that restarts it would reconnect a client
            # that the server has sent away. Its health check tells.
            log.say("error", "tunnels ended for good", reason=event.reason)
