"""The agent's HTTP API: each request becomes one answer (agent.md §5)."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import anyio

from towline._version import VERSION
from towline.core import Entropy, RemoteProtocolError, TowlineError
from towline.core.agent import (
    JOB_TABLE,
    OPEN_ROUTES,
    AgentInfo,
    CallbackPolicy,
    CallerCheck,
    Check,
    CredentialSource,
    Job,
    RegistryLogin,
    Route,
    accepted_answer,
    capabilities_answer,
    details_answer,
    encode,
    error_answer,
    find_credentials,
    find_route,
    health_answer,
    image_answer,
    image_query,
    invalid_answer,
    job_body,
    job_query,
    jobs_answer,
    list_query,
    new_job,
    parse_job,
    ready_answer,
    repositories_answer,
    repository_name,
    retry_after,
    state_answer,
    state_query,
    switch,
    systemcheck_answer,
    tags_answer,
    validate_answer,
)
from towline.core.http import ServerRequest
from towline.core.registry import DIALECTS, CheckStep
from towline.drivers.store_sqlite import Admitted, JobStore
from towline.runtimes.agent.config import AgentConfig, place_of
from towline.runtimes.agent.desk import RegistryDesk
from towline.runtimes.agent.jobs import JobRunner
from towline.runtimes.agent.outbox import OutboxPump
from towline.runtimes.logs import Log
from towline.runtimes.store_worker import StoreWorker

ApiAnswer: TypeAlias = tuple[int, dict[str, Any]]
Handler: TypeAlias = Callable[[ServerRequest, Route, str], Awaitable[ApiAnswer]]

# The stock client gives a system check 5 s (agent.md §5.2).
_CHECK_SECONDS: Final = 4.0
_PIN: Final = "callback-origin"
_CONNECTION: Final = "x-cra-connection"


class AgentApi:
    """Answers requests. Knows no socket; whoever has one calls `answer`."""

    def __init__(
        self,
        config: AgentConfig,
        store: StoreWorker[JobStore],
        desk: RegistryDesk,
        jobs: JobRunner,
        outbox: OutboxPump,
        info: AgentInfo,
        entropy: Entropy,
        log: Log,
    ) -> None:
        self._config = config
        self._store = store
        self._desk = desk
        self._jobs = jobs
        self._outbox = outbox
        self._info = info
        self._entropy = entropy
        self._log = log
        self._caller = None if config.shared_secret is None else CallerCheck(config.shared_secret)
        self._started = anyio.current_time()
        self.stopping = False
        self._handlers: dict[str, Handler] = {
            "health": self._health,
            "ready": self._ready,
            "capabilities": self._capabilities,
            "systemcheck": self._systemcheck,
            "validate": self._validate,
            "list-repositories": self._repositories,
            "page-repositories": self._repositories,
            "list-tags": self._tags,
            "page-tags": self._tags,
            "list-details": self._details,
            "image-metadata": self._image,
            "state-identifier": self._state,
            "scan": self._accept,
            "discover": self._accept,
            "list-jobs": self._list_jobs,
            "show-job": self._show_job,
            "cancel-job": self._cancel_job,
            "redeliver-job": self._redeliver_job,
        }

    async def answer(self, request: ServerRequest) -> tuple[int, tuple[tuple[str, str], ...], bytes]:
        """Return status, headers and body for a request. Never raises a TowlineError."""
        began = anyio.current_time()
        request_id = self._request_id(request)
        headers = [("content-type", "application/json"), ("x-cra-version", "1"), ("x-request-id", request_id)]
        code = None
        try:
            route = find_route(request.method, request.path)
            if self._caller is not None and route.name not in OPEN_ROUTES:
                proof = request.get("x-cra-auth")
                self._caller.check(proof, request.method, request.target, request.body, time.time())
            status, body = await self._handlers[route.name](request, route, request_id)
        except TowlineError as error:
            code = error.code
            status, body = error_answer(error, request_id, path=request.path)
            if (pause := retry_after(error)) is not None:
                headers.append(("retry-after", str(pause)))
        data, tag = encode(body)
        if status == 200 and request.method in ("GET", "HEAD"):
            headers.append(("etag", tag))
            if request.get("if-none-match") == tag:
                status, data = 304, b""
        self._log.say(
            "debug" if request.path in ("/healthcheck", "/ready") else "info", "request", request=request_id,
            method=request.method, path=request.path, status=status, code=code,
            ms=round((anyio.current_time() - began) * 1000),
        )  # fmt: skip
        return status, tuple(headers), data

    def _request_id(self, request: ServerRequest) -> str:
        for name in ("x-request-id", "snyk-request-id"):
            value = request.get(name)
            if value and len(value) <= 200 and value.isascii() and value.isprintable():
                return value
        return self._entropy.uuid4()

    # ── health ─────────────────────────────────────────────────────────────────
    async def _health(self, request: ServerRequest, route: Route, request_id: str) -> ApiAnswer:
        totals = await self._store.do(lambda store: store.totals())
        ok = not self.stopping and os.access(self._config.workdir, os.W_OK)
        uptime = anyio.current_time() - self._started
        return health_answer(ok=ok, version=VERSION, uptime=uptime, active=self._jobs.active, queued=totals.queued)

    async def _ready(self, request: ServerRequest, route: Route, request_id: str) -> ApiAnswer:
        limits = self._config.limits
        totals = await self._store.do(lambda store: store.totals())
        pinned = await self._store.do(lambda store: store.recall(_PIN))
        free = self._free_bytes()
        room = totals.outbox_entries < limits.outbox_entries and totals.outbox_bytes < limits.outbox_bytes
        target = self._config.callback_urls[0] if self._config.callback_urls else pinned
        waits = f"{totals.outbox_entries} messages, {totals.outbox_bytes} bytes wait, {totals.dead_entries} refused"
        return ready_answer(
            [
                Check("accepting", not self.stopping, 0, "stopping" if self.stopping else ""),
                Check("workdir", os.access(self._config.workdir, os.W_OK), 0),
                Check("disk", free >= self._config.disk_reserve_bytes, 0, f"{free} bytes free"),
                Check("outbox", room, 0, waits),
                Check("callbackTarget", True, 0, target or "the first that a request names"),
            ]
        )

    async def _capabilities(self, request: ServerRequest, route: Route, request_id: str) -> ApiAnswer:
        limits = {
            "maxImageBytes": self._config.max_image_bytes,
            "callbackBytes": self._config.callback_bytes,
            "activeOperations": self._config.active_operations,
            "queue": self._config.limits.jobs_queued,
        }
        insecure = sorted(self._config.insecure_hosts)
        warnings = [f"certificates of {host} are not verified" for host in insecure]
        info = self._info
        return capabilities_answer(
            version=VERSION, analyser=info.analyser, instance=info.instance, types=sorted(DIALECTS), limits=limits,
            warnings=warnings,
        )  # fmt: skip

    # ── the registry ───────────────────────────────────────────────────────────
    async def _systemcheck(self, request: ServerRequest, route: Route, request_id: str) -> ApiAnswer:
        login, _ = self._login(request)
        try:
            with anyio.fail_after(_CHECK_SECONDS + 0.5):
                steps = await self._desk.systemcheck(login, deep=switch(request.query, "deep"), seconds=_CHECK_SECONDS)
        except TowlineError as error:
            return systemcheck_answer([], error, request_id)
        except TimeoutError:
            return systemcheck_answer([], _check_timeout(), request_id)
        checks = [Check(step.name, step.ok, round(step.ms), step.detail) for step in steps]
        return systemcheck_answer(checks, _failure(steps), request_id)

    async def _validate(self, request: ServerRequest, route: Route, request_id: str) -> ApiAnswer:
        login, _ = self._login(request)
        try:
            with anyio.fail_after(_CHECK_SECONDS + 0.5):
                steps = await self._desk.systemcheck(login, deep=False, seconds=_CHECK_SECONDS)
                error = _failure(steps)
                catalog = "none" if error is not None else await self._catalog(login)
        except TimeoutError:
            error = _check_timeout()
        except TowlineError as failed:
            error = failed
        if error is None:
            return validate_answer(login.type, login.base, login.username or None, catalog)
        if request.get("x-cra-version") == "1":
            return invalid_answer(error, request_id)
        raise error

    async def _catalog(self, login: RegistryLogin) -> str:
        if self._config.disable_list:
            return "none"
        try:
            listing = await self._desk.repositories(login, limit=1)
        except TowlineError as error:
            return "none" if error.kind in _NO_CATALOGUE else "partial"
        return "full" if listing.items or listing.complete else "partial"

    async def _repositories(self, request: ServerRequest, route: Route, request_id: str) -> ApiAnswer:
        query = list_query(request.query, default_limit=1000 if route.name == "page-repositories" else None)
        login, _ = self._login(request)
        if self._config.disable_list:
            return repositories_answer([], query, complete=True, source="disabled", warnings=[])
        try:
            listing = await self._desk.repositories(login)
        except TowlineError as error:
            named = self._desk.configured(login)
            if named and error.kind in _UNLISTED:
                return repositories_answer(named, query, complete=True, source="configured", warnings=[error.message])
            if error.kind != "catalog-unsupported" or query.strict:
                raise
            return repositories_answer([], query, complete=False, source="catalog", warnings=[error.message])
        source = "catalog" if DIALECTS[login.type].repositories is None else "vendor-api"
        return repositories_answer(
            listing.items, query, complete=listing.complete, source=source, warnings=listing.warnings
        )

    async def _tags(self, request: ServerRequest, route: Route, request_id: str) -> ApiAnswer:
        query = list_query(request.query, default_limit=1000 if route.name == "page-tags" else None)
        repository = repository_name(route.rest, encoded=True)
        login, _ = self._login(request)
        listing = await self._desk.tags(login, repository)
        return tags_answer(repository, listing.items, query, complete=listing.complete, warnings=listing.warnings)

    async def _details(self, request: ServerRequest, route: Route, request_id: str) -> ApiAnswer:
        query = list_query(request.query, default_limit=1000)
        repository = repository_name(route.rest, encoded=True)
        login, _ = self._login(request)
        details, shown, cursor = await self._desk.details(login, repository, query)
        return details_answer(repository, details, shown, cursor)

    async def _image(self, request: ServerRequest, route: Route, request_id: str) -> ApiAnswer:
        asked = image_query(route.rest, request.query)
        login, _ = self._login(request)
        return image_answer(await self._desk.image(login, asked.repository, asked.reference, asked.platform))

    async def _state(self, request: ServerRequest, route: Route, request_id: str) -> ApiAnswer:
        asked = state_query(request.query)
        login, _ = self._login(request)
        identifier = await self._desk.state(login, asked.repository, asked.reference, asked.platform)
        return state_answer(identifier, "manifest", self._info.analyser)

    # ── jobs ───────────────────────────────────────────────────────────────────
    async def _accept(self, request: ServerRequest, route: Route, request_id: str) -> ApiAnswer:
        if self.stopping:
            raise RemoteProtocolError("shutting-down", "the agent is stopping")
        if self._free_bytes() < self._config.disk_reserve_bytes:
            raise RemoteProtocolError("insufficient-disk", "the disk of the work directory is nearly full")
        urls = self._config.callback_urls
        asked = parse_job(
            "discover" if route.name == "discover" else "scan",
            request.body,
            default_callback=urls[0] if urls else None,
            key=request.get("idempotency-key"),
            limits=self._config.limits,
        )
        login, source = self._login(request, asked.credentials)
        pinned = await self._store.do(lambda store: store.recall(_PIN))
        pin = CallbackPolicy(urls, pinned).pin(asked.callback.base_url)
        place = place_of(login, configured=source.login is None, registry_id=source.registry_id)
        wall = time.time()
        job = new_job(self._entropy.uuid4(), asked, place, wall, connection=_connection(request))
        if source.login is not None:
            self._jobs.bring(job.id, login)

        def admit(store: JobStore) -> Admitted:
            if pin is not None:
                store.remember(_PIN, pin)
            return store.admit(job, asked.digest, wall)

        # An asker who leaves meanwhile must not leave a job behind that nobody was woken for.
        with anyio.CancelScope(shield=True):
            try:
                admitted = await self._store.do(admit)
            except TowlineError:
                self._jobs.drop(job.id)
                raise
            if admitted.duplicate:
                self._jobs.drop(job.id)
            else:
                self._jobs.wake()
        return accepted_answer(admitted.job, admitted.position, duplicate=admitted.duplicate)

    async def _list_jobs(self, request: ServerRequest, route: Route, request_id: str) -> ApiAnswer:
        state, limit, after = job_query(request.query, JOB_TABLE.states)
        jobs, cursor = await self._store.do(lambda store: store.page(state, limit, after))
        return jobs_answer(jobs, cursor)

    async def _show_job(self, request: ServerRequest, route: Route, request_id: str) -> ApiAnswer:
        return 200, job_body(await self._job(route.rest))

    async def _cancel_job(self, request: ServerRequest, route: Route, request_id: str) -> ApiAnswer:
        await self._job(route.rest)
        return 200, job_body(await self._jobs.cancel(route.rest))

    async def _redeliver_job(self, request: ServerRequest, route: Route, request_id: str) -> ApiAnswer:
        job_id, _, verb = route.rest.rpartition("/")
        if verb != "redeliver":
            raise RemoteProtocolError("not-found", "there is nothing at this path")
        job = await self._store.do(lambda store: store.redeliver(job_id, time.time()))
        self._outbox.wake()
        return 202, job_body(job)

    async def _job(self, job_id: str) -> Job:
        return await self._store.do(lambda store: store.get(job_id))

    # ── what several need ──────────────────────────────────────────────────────
    def _login(
        self, request: ServerRequest, body: dict[str, Any] | None = None
    ) -> tuple[RegistryLogin, CredentialSource]:
        """Return the settled login for a request, and where it came from."""
        headers = [(name.lower(), str(value)) for name, value in request.headers]
        source = find_credentials(request.path, headers, request.query, body, limits=self._config.limits)
        if source.login is not None:
            for warning in source.login.warnings:
                self._log.say("warning", "credentials", path=request.path, warning=warning)
            return self._config.settled(source.login), source
        if source.registry_id is not None:
            return self._config.by_id(source.registry_id), source
        own = self._config.own()
        if own is None:
            raise RemoteProtocolError(
                "missing-credentials",
                "expected credentials or a registryId, and the agent has no login of its own",
                hint="send X-Registry-Credentials, or set CR_TYPE, CR_BASE, CR_USERNAME, CR_PASSWORD for the agent",
            )
        return own, source

    def _free_bytes(self) -> int:
        try:
            return shutil.disk_usage(self._config.workdir).free
        except OSError:
            return 0


# Why a list may not be had though the login is good.
_UNLISTED: Final = frozenset({"catalog-unsupported", "registry-forbidden", "invalid-configuration"})
_NO_CATALOGUE: Final = frozenset({"catalog-unsupported", "registry-unauthorized", "registry-forbidden"})


def _failure(steps: list[CheckStep]) -> TowlineError | None:
    """Return the error of the step that failed, or None."""
    failed = next((step for step in steps if not step.ok), None)
    if failed is None:
        return None
    kind = (failed.code or "REGISTRY_ERROR").lower().replace("_", "-")
    return RemoteProtocolError(kind, failed.detail, hint=failed.hint)


def _check_timeout() -> TowlineError:
    return RemoteProtocolError("timeout", f"expected the check to end within {_CHECK_SECONDS:g} s")


def _connection(request: ServerRequest) -> str | None:
    value = request.get(_CONNECTION)
    return value if value and len(value) <= 200 and value.isascii() and value.isprintable() else None
