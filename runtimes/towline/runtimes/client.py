"""The broker client program: two tunnels out, the agent behind, its callbacks in."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Final

import anyio
import msgspec
from anyio.abc import TaskStatus

from towline.core import LIMITS, Entropy, Limits, Note, RemoteProtocolError
from towline.core.broker import BrokerClient, BrokerClientConfig, RulesRead, RulesWanted, Stop, TunnelsEnded
from towline.drivers import Dialer, Driver, Listener
from towline.runtimes.logs import Log

# As the stock client does (broker-protocol.md §3.1).
_REREAD_SECONDS: Final = 24 * 3600.0


async def serve_client(
    config: BrokerClientConfig,
    driver: Driver,
    listener: Listener,
    *,
    log: Log,
    stop: anyio.Event,
    dialer: Dialer | None = None,
    drain_seconds: float = LIMITS.drain,
    limits: Limits = LIMITS,
    metrics: Listener | None = None,
    reread: Callable[[], RulesRead] | None = None,
    task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Run a broker client until `stop` is set, then finish what is under way within the drain time.

    Starts with the port of its own face; the tunnels come up afterwards, and come back by themselves. `reread` reads
    the accept files again, every day and on wish; without it the rules are those of the start. Metrics are shown at
    `metrics`.
    Raises:  TowlineError("invalid-configuration") for an address that cannot be read or a port that is taken,
             "tunnel-refused" when no tunnel of any connection could be opened in all its attempts
    """
    # A loop's clock begins anywhere, so what it lacks to the wall's is known only inside the loop.
    epoch = time.time() - anyio.current_time()
    config = msgspec.structs.replace(config, note_passages=log.shows("debug"), epoch=epoch)
    machine = BrokerClient(config, entropy=Entropy(os.urandom(32)), limits=limits)
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
            if metrics is not None:
                # Costs memory and a longer start: only whoever wants metrics pays for it.
                from towline.runtimes.metrics import Exposition, serve_metrics

                tasks.start_soon(serve_metrics, Exposition("client", machine.figures), driver, metrics, log)
            tasks.start_soon(_hear, pump, log, reread)
            if reread is not None:
                tasks.start_soon(_read_daily, pump, log, reread)
            await stop.wait()
            pump.tell(Stop(drain_seconds))
            await pump.finished()
            tasks.cancel_scope.cancel()
        log.say("info", "client stopped")


def _nothing_to_read() -> RulesRead:
    return RulesRead(fault="no file was named at the start")


def _read(pump: Any, log: Log, reread: Callable[[], RulesRead]) -> None:
    said = reread()
    log.say("error" if said.fault else "info", "rules read again", fault=said.fault)
    pump.tell(said)


async def _read_daily(pump: Any, log: Log, reread: Callable[[], RulesRead]) -> None:
    while True:
        await anyio.sleep(_REREAD_SECONDS)
        _read(pump, log, reread)


async def _hear(pump: Any, log: Log, reread: Callable[[], RulesRead] | None) -> None:
    async for event in pump.events:
        if isinstance(event, Note):
            log.note(event)
        elif isinstance(event, RulesWanted):
            _read(pump, log, reread or _nothing_to_read)
        elif isinstance(event, TunnelsEnded):
            log.say("error", "tunnels ended for good", reason=event.reason)
            if event.exhausted:
                raise RemoteProtocolError("tunnel-refused", event.reason)
            # The process stays up, as the stock one does: a supervisor that restarts it would reconnect a client
            # that the server has sent away. Its health check tells.
