"""The broker server program: tunnels and callers in front, the results box behind."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from anyio.abc import TaskStatus

from towline.core import LIMITS, Entropy, Limits, Note, Secret
from towline.core.broker import BrokerServer, BrokerServerConfig, CallbackArrived, NodeEvent, Stop
from towline.core.http import Asked
from towline.drivers import Dialer, Driver, Listener, TlsSettings
from towline.runtimes.logs import Log
from towline.runtimes.results import Results, open_results

if TYPE_CHECKING:
    from towline.runtimes.metrics import Exposition
    from towline.runtimes.nodes import NodeService


async def serve_server(
    config: BrokerServerConfig,
    driver: Driver,
    listener: Listener,
    results: Path,
    *,
    log: Log,
    stop: anyio.Event,
    token: Secret | None = None,
    dialer: Dialer | None = None,
    drain_seconds: float = LIMITS.drain,
    limits: Limits = LIMITS,
    metrics: Listener | None = None,
    metrics_public: bool = False,
    redis: Secret | None = None,
    task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Run a broker server until `stop` is set, then finish what is under way within the drain time.

    `results` is the file of the results box, `token` opens it to other machines. Metrics are shown at `metrics`, and
    with `metrics_public` at /metrics of the server's own port. `redis` is the address of the directory of nodes, for a
    server that is one of several (`config.cluster`). Starts with the port.
    Raises:  TowlineError("invalid-configuration") for a port that is taken or a file that cannot be used
    """
    # A loop's clock begins anywhere, so what it lacks to the wall's is known only inside the loop.
    epoch = time.time() - anyio.current_time()
    config = msgspec.structs.replace(config, note_passages=log.shows("debug"), epoch=epoch)
    machine = BrokerServer(config, entropy=Entropy(os.urandom(32)), limits=limits)
    for warning in config.rules.warnings:
        log.say("warning", "rule without effect", rule=warning)
    exposition = None
    if metrics is not None or metrics_public:
        # Costs memory and a longer start: only whoever wants metrics pays for it.
        from towline.runtimes.metrics import Exposition, serve_metrics

        exposition = Exposition("server", machine.figures)
    async with (
        open_results(results, log=log, token=token) as box,
        _open_node(config, redis, dialer, log) as node,
        driver.open_pump(machine, dialer=dialer, listeners={"broker": listener}) as pump,
    ):
        if node is not None:
            node.start(pump.tell)
        port = pump.ports["broker"]
        log.say("info", "server started", address=f"{listener.host}:{port}", results=str(results))
        task_status.started(port)
        async with anyio.create_task_group() as tasks:
            if exposition is not None and metrics is not None:
                tasks.start_soon(serve_metrics, exposition, driver, metrics, log)
            if node is not None:
                tasks.start_soon(node.run)
            tasks.start_soon(_answer_all, pump, box, exposition if metrics_public else None, node, log)
            await stop.wait()
            if node is not None:
                await node.withdraw()
            pump.tell(Stop(drain_seconds))
            await pump.finished()
            tasks.cancel_scope.cancel()
        log.say("info", "server stopped")


@asynccontextmanager
async def _open_node(
    config: BrokerServerConfig, redis: Secret | None, dialer: Dialer | None, log: Log
) -> AsyncIterator[NodeService | None]:
    """Be one of several nodes while the block lasts, if the configuration says so."""
    if config.cluster is None or redis is None:
        yield None
        return
    # Like metrics: only whoever runs several nodes pays for it.
    from towline.runtimes.nodes import open_nodes

    tls = dialer.tls if dialer is not None else TlsSettings()
    opened = open_nodes(redis, config.cluster, grace=config.grace_seconds, tls=tls, log=log)
    async with opened as service:
        yield service


async def _answer_all(
    pump: Any, box: Results, exposition: Exposition | None, node: NodeService | None, log: Log
) -> None:
    async with anyio.create_task_group() as tasks:
        async for event in pump.events:
            if exposition is not None and isinstance(event, Asked) and event.request.path == "/metrics":
                from towline.runtimes.metrics import answer

                pump.tell(answer(exposition, event))
            elif isinstance(event, CallbackArrived | Asked):
                tasks.start_soon(_answer, pump, box, event)
            elif node is not None and isinstance(event, NodeEvent):
                node.take(event)
            elif isinstance(event, Note):
                log.note(event)


async def _answer(pump: Any, box: Results, event: CallbackArrived | Asked) -> None:
    if isinstance(event, CallbackArrived):
        pump.tell(await box.callback(event.exchange, event.token, event.request))
    else:
        pump.tell(await box.asked(event.exchange, event.request))
