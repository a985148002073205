"""The server's results box as a service: callbacks go in, `/results` comes out (agent.md §6.2).

The owner of a BrokerServer passes on what the machine leaves to the application, and tells it the answer:

    async with open_results(path, token=token, log=log) as results:
        async for event in pump.events:
            if isinstance(event, CallbackArrived):
                pump.tell(await results.callback(event.exchange, event.token, event.request))
            elif isinstance(event, Asked):
                pump.tell(await results.asked(event.exchange, event.request))

Whoever reads results sees what is installed in every image, so only loopback may ask, unless a bearer token is
set, which everybody must show then.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
from anyio import to_thread

from towline.core import LIMITS, Limits, RemoteProtocolError, Secret, TowlineError
from towline.core.agent import encode, error_answer, retry_after
from towline.core.http import Answer, ServerRequest
from towline.drivers.results_sqlite import ResultsBox
from towline.runtimes.logs import Log
from towline.runtimes.store_worker import StoreWorker

_JSON: Final = ("content-type", "application/json")
# A page of a list is a few hundred bytes an item.
_PAGE: Final = 100
_PAGE_MOST: Final = 1000
# What a proxy adds: the peer's address is then the proxy's, and says nothing about who asks.
_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


class Results:
    """Takes callbacks and answers questions. Knows no socket."""

    def __init__(self, box: StoreWorker[ResultsBox], token: Secret | None, log: Log) -> None:
        self._box = box
        self._token = token
        self._log = log

    async def callback(self, exchange: int, token: Secret, request: ServerRequest) -> Answer:
        """Keep a message that an agent posted. 2xx says that it is on the disk."""
        try:
            if request.method != "POST":
                raise RemoteProtocolError("method-not-allowed", "expected POST")
            taken = await self._box.do(lambda box: box.take(token, request.body, time.time()))
        except TowlineError as error:
            self._log.say("warning", "callback not kept", path=request.path, code=error.code, error=error.message)
            return _refusal(exchange, error, request)
        self._log.say(
            "info" if taken.done else "debug", "callback kept", job=taken.job_id, kind=taken.kind,
            repeated=taken.repeated, done=taken.done,
        )  # fmt: skip
        return _answer(exchange, 200, {"ok": True, "duplicate": taken.repeated})

    async def asked(self, exchange: int, request: ServerRequest) -> Answer:
        """Answer `GET /results?cursor=&limit=` and `GET /results/{jobId}`; all else is not found."""
        try:
            return _answer(exchange, 200, await self._look_up(request))
        except TowlineError as error:
            return _refusal(exchange, error, request)

    async def _look_up(self, request: ServerRequest) -> dict[str, Any]:
        head, _, job_id = request.path.strip("/").partition("/")
        if head != "results" or "/" in job_id:
            raise RemoteProtocolError("not-found", "there is nothing at this path")
        if request.method not in ("GET", "HEAD"):
            raise RemoteProtocolError("method-not-allowed", "expected GET")
        self._check_caller(request)
        if job_id:
            return await self._box.do(lambda box: box.job(job_id))
        cursor = _number(request, "cursor", 0, 1 << 53)
        limit = _number(request, "limit", _PAGE, _PAGE_MOST)
        return await self._box.do(lambda box: box.page(cursor, max(1, limit)))

    def _check_caller(self, request: ServerRequest) -> None:
        if self._token is None:
            if not _is_local(request):
                raise RemoteProtocolError(
                    "caller-unauthorized",
                    "the results box is open to this machine only",
                    hint="set TOWLINE_RESULTS_TOKEN at the server, and send it as a bearer token",
                )
            return
        scheme, _, shown = (request.get("authorization") or "").partition(" ")
        # Secrets compare in constant time.
        if scheme.lower() != "bearer" or Secret(shown.strip()) != self._token:
            raise RemoteProtocolError("caller-unauthorized", "expected the results box's bearer token")


@asynccontextmanager
async def open_results(
    path: Path, *, log: Log, token: Secret | None = None, limits: Limits = LIMITS
) -> AsyncIterator[Results]:
    """Open the results box at a path while the block lasts.

    Raises:  TowlineError("invalid-configuration") when the file cannot be used
    """
    box = await to_thread.run_sync(lambda: _open(path, limits))
    if box.notice is not None:
        log.say("error", "results set aside", notice=box.notice)
    worker = StoreWorker(box)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            yield Results(worker, token, log)
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(box.close)


def _open(path: Path, limits: Limits) -> ResultsBox:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return ResultsBox(path, limits=limits)
    except OSError as error:
        raise RemoteProtocolError(
            "invalid-configuration", f"the results box {path} cannot be used: {error.strerror}"
        ) from None


def _is_local(request: ServerRequest) -> bool:
    """True if the asker is on this machine, and no proxy and no web page of a foreign name speaks for it."""
    if any(request.get(name) is not None for name in _FORWARDED):
        return False
    return _is_loopback(request.peer) and _is_loopback(request.get("host") or "")


def _is_loopback(address: str) -> bool:
    """Read host, host:port, [v6] or [v6]:port; a name counts only if it is `localhost`."""
    host = address
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    if host.lower() == "localhost":
        return True
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def _number(request: ServerRequest, name: str, default: int, most: int) -> int:
    text = request.parameter(name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= most):
        raise RemoteProtocolError("bad-request", f"expected {name} to be a whole number up to {most}")
    return int(text)


def _answer(exchange: int, status: int, body: dict[str, Any]) -> Answer:
    return Answer(exchange, status, (_JSON, ("cache-control", "no-store")), encode(body)[0])


def _refusal(exchange: int, error: TowlineError, request: ServerRequest) -> Answer:
    status, body = error_answer(error, request.get("snyk-request-id") or "")
    pause = retry_after(error)
    headers = (_JSON,) if pause is None else (_JSON, ("retry-after", str(pause)))
    return Answer(exchange, status, headers, encode(body)[0])
