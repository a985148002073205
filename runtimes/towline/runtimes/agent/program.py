"""One agent's parts, and the order in which they start and end."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Final, Protocol

import anyio
from anyio import to_thread
from anyio.abc import TaskStatus

from towline._version import VERSION
from towline.core import Entropy, Note, Record, RemoteProtocolError
from towline.core.agent import AgentInfo
from towline.core.http import Answer, Asked, Drain, Face, Gone
from towline.core.inventory import ANALYSER_VERSION
from towline.drivers import Driver, Listener
from towline.drivers.store_sqlite import JobStore
from towline.runtimes.agent.api import AgentApi
from towline.runtimes.agent.config import AgentConfig
from towline.runtimes.agent.desk import RegistryDesk
from towline.runtimes.agent.jobs import JobRunner
from towline.runtimes.agent.outbox import OutboxPump
from towline.runtimes.logs import Log
from towline.runtimes.store_worker import StoreWorker

STORE_FILE: Final = "agent.sqlite"
# How often what is past its life is forgotten, in seconds.
_PRUNE: Final = 3600.0
# How long answers on their way may take when the program stops.
_LAST_ANSWERS: Final = 2.0


class Waitable(Protocol):
    """An event of whichever loop the caller likes."""

    async def wait(self) -> object: ...


class Running(Record, frozen=True):
    """What a caller may know of a started agent: its port, and how many jobs it found in its store."""

    port: int
    resumed: int
    failed: int


async def serve(
    config: AgentConfig,
    driver: Driver,
    *,
    log: Log,
    stop: Waitable,
    seed: bytes | None = None,
    task_status: TaskStatus[Running] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Run an agent until `stop` is set, then drain: finish what is in flight within the drain time, keep the rest.

    Raises:  TowlineError("invalid-configuration") when the work directory cannot be used or the port is taken
    """
    store = await to_thread.run_sync(_open_store, config)
    try:
        if store.notice is not None:
            log.say("error", "store set aside", notice=store.notice)
        await _Agent(config, driver, StoreWorker(store), log, Entropy(seed or os.urandom(32))).serve(stop, task_status)
    except BaseExceptionGroup as group:
        # A port that is taken is one error, however many blocks it came through.
        raise _only(group) from None
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(store.close)


def _only(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _open_store(config: AgentConfig) -> JobStore:
    folder = Path(config.workdir)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return JobStore(folder / STORE_FILE, limits=config.limits)
    except OSError as error:
        raise RemoteProtocolError(
            "invalid-configuration", f"the work directory {folder} cannot be used: {error.strerror}"
        ) from None


class _Agent:
    """The parts of one agent, and the order in which they start and end."""

    def __init__(
        self, config: AgentConfig, driver: Driver, store: StoreWorker[JobStore], log: Log, entropy: Entropy
    ) -> None:
        self._config = config
        self._driver = driver
        self._store = store
        self._log = log
        info = AgentInfo(VERSION, f"towline {ANALYSER_VERSION}", config.instance)
        desk = RegistryDesk(config, driver, entropy.fork())
        self._outbox = OutboxPump(config, driver, store, info, entropy.fork(), log)
        self._jobs = JobRunner(config, store, desk, self._outbox, log)
        self._api = AgentApi(config, store, desk, self._jobs, self._outbox, info, entropy.fork(), log)

    async def serve(self, stop: Waitable, task_status: TaskStatus[Running]) -> None:
        config = self._config
        listener = Listener(config.host, config.port, config.https_cert, config.https_key)
        async with anyio.create_task_group() as base:
            base.start_soon(self._store.run)
            resumed, failed = await self._resume()
            async with self._driver.open_pump(
                Face(config.limits), dialer=config.dialer, listeners={"api": listener}
            ) as pump:
                async with anyio.create_task_group() as work:
                    work.start_soon(self._jobs.run)
                    work.start_soon(self._outbox.run)
                    work.start_soon(self._prune)
                    work.start_soon(self._answer_all, pump)
                    port = pump.ports["api"]
                    self._log.say(
                        "info", "agent started", version=VERSION, address=f"{config.host}:{port}",
                        registry=None if config.login is None else config.login.base, resumed=resumed, failed=failed,
                        callbacks=", ".join(config.callback_urls) or "the first that a request names",
                    )  # fmt: skip
                    if insecure := config.insecure_hosts - config.dialer.tls.insecure_hosts:
                        hosts = ", ".join(sorted(insecure))
                        self._log.say("warning", "certificates are not verified", hosts=hosts)
                    task_status.started(Running(port, resumed, failed))
                    await stop.wait()
                    await self._drain(pump)
                    work.cancel_scope.cancel()
            base.cancel_scope.cancel()

    async def _resume(self) -> tuple[int, int]:

        found = await self._store.do(
            lambda store: store.resume(self._config.login_of, time.time(), part_bytes=self._config.callback_bytes)
        )
        for job, error in found:
            self._log.say(
                "info" if error is None else "warning", "job found again", job=job.id, state=job.state,
                attempt=job.attempt, code=None if error is None else error.code,
                error=None if error is None else error.message,
            )  # fmt: skip
        failed = sum(error is not None for _, error in found)
        return len(found) - failed, failed

    async def _drain(self, pump: Any) -> None:
        """Refuse new scans, let running ones end and their results go out, then answer what is being asked."""
        self._api.stopping = True
        self._log.say("info", "agent stopping", active=self._jobs.active)
        with anyio.move_on_after(self._config.drain_seconds):
            await self._jobs.stop()
            await self._outbox.quiet()
        pump.tell(Drain())
        with anyio.move_on_after(_LAST_ANSWERS):
            await pump.finished()

    async def _answer_all(self, pump: Any) -> None:
        asking: dict[int, anyio.CancelScope] = {}
        async with anyio.create_task_group() as tasks:
            async for event in pump.events:
                if isinstance(event, Asked):
                    scope = asking[event.exchange] = anyio.CancelScope()
                    tasks.start_soon(self._answer_one, pump, event, scope, asking)
                elif isinstance(event, Gone) and event.exchange in asking:
                    # Nobody waits for it, so nobody is asked for it.
                    asking[event.exchange].cancel()
                elif isinstance(event, Note):
                    self._log.note(event)

    async def _answer_one(
        self, pump: Any, asked: Asked, scope: anyio.CancelScope, asking: dict[int, anyio.CancelScope]
    ) -> None:
        try:
            with scope:
                status, headers, body = await self._api.answer(asked.request)
                pump.tell(Answer(asked.exchange, status, headers, body))
        finally:
            del asking[asked.exchange]

    async def _prune(self) -> None:

        while True:
            await self._store.do(lambda store: store.prune(time.time()))
            await anyio.sleep(_PRUNE)
