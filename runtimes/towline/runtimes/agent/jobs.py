"""The agent's work: queued jobs become scans, so many at a time, and end in the outbox."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any, Final

import anyio

from towline.core import Record, RemoteProtocolError, TowlineError
from towline.core.agent import (
    WORKING,
    Job,
    JobError,
    Outcome,
    RegistryLogin,
    job_error,
    join_key,
)
from towline.drivers.store_sqlite import JobStore
from towline.runtimes.agent.config import AgentConfig
from towline.runtimes.agent.desk import RegistryDesk, Scanned
from towline.runtimes.agent.outbox import OutboxPump
from towline.runtimes.logs import Log
from towline.runtimes.store_worker import StoreWorker

# Results kept in memory for the queued requests of the same image behind the one that pulled it.
_RECENT: Final = 4
_RECENT_BYTES: Final = 64 * 1024 * 1024
# A full disk is looked at again this often, in seconds.
_DISK_PAUSE: Final = 10.0

_CANCELLED: Final = job_error(RemoteProtocolError("cancelled", "the job was cancelled"))
_FAULT: Final = job_error(RemoteProtocolError("internal", "a fault of the agent; its log has more"))


class Settled(Record, frozen=True):
    """How a job's work ended."""

    outcome: Outcome
    scanned: Any = None
    error: JobError | None = None
    state_identifier: str | None = None


class _Active:
    """A job that a worker is on: how to stop it, and how to learn that it has stopped."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.over = anyio.Event()


class _Shared:
    """A pull that others wait for. `scanned` stays None when it failed or was stopped."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.scanned: Scanned | None = None


class JobRunner:
    """Works on queued jobs. Logins that came with requests live here, in memory, until their job is settled."""

    def __init__(
        self, config: AgentConfig, store: StoreWorker[JobStore], desk: RegistryDesk, outbox: OutboxPump, log: Log
    ) -> None:
        self._config = config
        self._store = store
        self._desk = desk
        self._outbox = outbox
        self._log = log
        self._logins: dict[str, RegistryLogin] = {}
        self._active: dict[str, _Active] = {}
        self._shared: dict[tuple[object, ...], _Shared] = {}
        self._recent: OrderedDict[tuple[object, ...], Scanned] = OrderedDict()
        self._news = anyio.Event()
        self._idle = anyio.Event()
        self._stopping = False
        self._taking = 0  # workers that are asking the store for a job

    @property
    def active(self) -> int:
        return len(self._active)

    def bring(self, job_id: str, login: RegistryLogin) -> None:
        """Keep the login that a request brought until its job is settled."""
        self._logins[job_id] = login

    def drop(self, job_id: str) -> None:
        """Forget a login."""
        self._logins.pop(job_id, None)

    def wake(self) -> None:
        """There is a new job in the queue."""
        self._news.set()

    async def cancel(self, job_id: str) -> Job:
        """Stop a job and return it as it then is; one that has its outcome already stays as it is."""
        while True:
            active = self._active.get(job_id)
            if active is not None:
                active.scope.cancel()
                await active.over.wait()
                return await self._store.do(lambda store: store.get(job_id))
            job = await self._store.do(lambda store: _cancel_queued(store, job_id, self._config.callback_bytes))
            if job.state not in WORKING:
                self.drop(job_id)
                self._outbox.wake()
                return job
            # A worker has just taken it and is not yet in the table.
            await anyio.sleep(0.01)

    async def run(self) -> None:
        """Work until cancelled."""
        async with anyio.create_task_group() as tasks:
            for _ in range(max(1, self._config.active_operations)):
                tasks.start_soon(self._worker)

    async def stop(self) -> None:
        """Take no further job, and wait for those at work."""
        self._stopping = True
        self.wake()
        while self._active:
            self._idle = anyio.Event()
            await self._idle.wait()

    async def _worker(self) -> None:
        while not self._stopping:
            news = self._news
            self._taking += 1
            try:
                job = await self._store.do(lambda store: store.start_next(time.time()))
            finally:
                self._taking -= 1
            if job is None:
                if not self._active and not self._taking:
                    self._recent.clear()
                await news.wait()
                if self._news is news:
                    self._news = anyio.Event()
                continue
            await self._work(job)

    async def _work(self, job: Job) -> None:
        active = self._active[job.id] = _Active()
        settled: Settled | None = None
        began = anyio.current_time()
        try:
            with active.scope:
                settled = await self._attempt(job)
            if settled is None:
                settled = Settled(
                    "cancelled", error=job_error(RemoteProtocolError("cancelled", "the job was cancelled"))
                )
            await self._settle(job, settled)
        except anyio.get_cancelled_exc_class():
            # The program stops: the job goes back unharmed, and this was no crash.
            with anyio.CancelScope(shield=True):
                await self._store.do(lambda store: _requeue(store, job.id))
            raise
        finally:
            del self._active[job.id]
            self.drop(job.id)
            active.over.set()
            self._idle.set()
        error = settled.error
        self._log.say(
            "info" if error is None else "warning", "job settled", job=job.id, request=job.request_id,
            repository=job.image.repository, reference=job.image.reference, outcome=settled.outcome,
            code=None if error is None else error.code, error=None if error is None else error.message,
            ms=round((anyio.current_time() - began) * 1000),
        )  # fmt: skip

    async def _attempt(self, job: Job) -> Settled:
        seconds = job.options.timeout_seconds
        try:
            with anyio.fail_after(seconds):
                return await self._scan(job)
        except TimeoutError:
            error = RemoteProtocolError("timeout", f"expected the job to end within {seconds} s")
            return Settled("expired", error=job_error(error))
        except TowlineError as failure:
            return Settled("failed", error=job_error(failure))
        except Exception as fault:
            # A fault of ours ends this job, not the agent; its text might quote what it was working on.
            self._log.say("error", "job fault", job=job.id, type=type(fault).__name__, where=_where(fault))
            return Settled(
                "failed", error=job_error(RemoteProtocolError("internal", "a fault of the agent; see its log"))
            )

    async def _scan(self, job: Job) -> Settled:
        login = self._login(job)
        image = job.image
        identifier = await self._desk.state(login, image.repository, image.reference, image.platform)
        if identifier == job.options.if_not_state:
            return Settled("unchanged", state_identifier=identifier)
        job = await self._store.do(lambda store: store.advance(job.id, "resolved", time.time()))
        scanned = await self._joined(join_key(job, identifier), login, job)
        return Settled("done", scanned, state_identifier=scanned.found.manifest_digest or identifier)

    def _login(self, job: Job) -> RegistryLogin:
        place = job.registry
        login = self._logins.get(job.id) or self._config.login_of(job)
        if login is None and place.login == "anonymous":
            login = self._config.settled(RegistryLogin(place.type, place.base))
        if login is None:
            raise RemoteProtocolError(
                "missing-credentials", "the job's credentials are gone", hint="send the request again"
            )
        return login

    async def _joined(self, key: tuple[object, ...], login: RegistryLogin, job: Job) -> Scanned:
        """Return what a scan found: one that is running or has just run for the same content, else an own one."""
        while (shared := self._shared.get(key)) is not None:
            await shared.done.wait()
            if shared.scanned is not None:
                return shared.scanned
        if (known := self._recent.get(key)) is not None:
            return known
        shared = self._shared[key] = _Shared()
        try:
            shared.scanned = await self._desk.scan(login, job)
            self._recent[key] = shared.scanned
            while len(self._recent) > _RECENT or sum(one.size for one in self._recent.values()) > _RECENT_BYTES:
                self._recent.popitem(last=False)
            return shared.scanned
        finally:
            del self._shared[key]
            shared.done.set()

    async def _settle(self, job: Job, settled: Settled) -> None:
        scanned: Scanned | None = settled.scanned
        changes: dict[str, Any] = {"error": settled.error, "state_identifier": settled.state_identifier}
        if scanned is not None:
            changes |= {"found": scanned.found, "warnings": scanned.warnings, "bytes": scanned.sums}

        def settle(store: JobStore) -> None:
            if scanned is not None:
                store.advance(job.id, "pulled", scanned.pulled_at)
            store.settle(
                job.id,
                settled.outcome,
                time.time(),
                results=() if scanned is None else scanned.results,
                part_bytes=self._config.callback_bytes,
                **changes,
            )

        while True:
            try:
                await self._store.do(settle)
                break
            except TowlineError as error:
                if error.kind != "insufficient-disk":
                    raise
                # The result stays in memory and this worker takes no other job, until there is room.
                self._log.say("error", "no room for a result", job=job.id, error=error.message)
                await anyio.sleep(_DISK_PAUSE)
        self._outbox.wake()


def _cancel_queued(store: JobStore, job_id: str, part_bytes: int) -> Job:
    job = store.get(job_id)
    if job.state != "queued":
        return job
    return store.settle(job_id, "cancelled", time.time(), part_bytes=part_bytes, error=_CANCELLED)


def _requeue(store: JobStore, job_id: str) -> None:
    if store.get(job_id).state in WORKING:
        store.advance(job_id, "restart", time.time())


def _where(fault: BaseException) -> str:
    trace = fault.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}"
