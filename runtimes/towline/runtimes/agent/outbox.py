"""The outbox's pump: messages go to their receiver until it has acknowledged each, in order within a job."""

from __future__ import annotations

import time
from functools import partial
from typing import Final

import anyio
import msgspec

from towline.core import Body, Broken, Entropy, Head, Record, Request, Step, TowlineError, fetch, read
from towline.core.agent import (
    Again,
    AgentInfo,
    Message,
    Refusal,
    Smaller,
    Taken,
    Verdict,
    backoff,
    discover_message,
    done_message,
    halved,
    judge,
    part_count,
    result_message,
    sign,
)
from towline.core.http import Courier
from towline.drivers import Driver
from towline.drivers.store_sqlite import Entry, JobStore
from towline.runtimes.agent.config import AgentConfig
from towline.runtimes.logs import Log
from towline.runtimes.store_worker import StoreWorker

# Callbacks on their way at once, each of at most callback_bytes.
_AT_ONCE: Final = 4
# What is read of an answer: enough to tell a page of HTML and a code from one another.
_ANSWER_BYTES: Final = 16 * 1024
# The stock client's own limit for a request (agent.md §4.2), and how long its answer may take to begin:
# the callback goes through a tunnel to another HTTP server and back, so more than a registry gets.
_POST_SECONDS: Final = 600.0
_HEAD_SECONDS: Final = 120.0


class Posted(Record, frozen=True):
    """What came back for a callback; status 0 when nothing did."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    why: str = ""


class _Pause(Record, frozen=True):
    """Seconds until the next attempt; cut short when this receiver takes something from another job."""

    seconds: float
    receiver: str | None = None


class OutboxPump:
    """Delivers what is in the outbox. Idle until `wake`; a receiver that fails is asked ever more rarely."""

    def __init__(
        self,
        config: AgentConfig,
        driver: Driver,
        store: StoreWorker[JobStore],
        info: AgentInfo,
        entropy: Entropy,
        log: Log,
    ) -> None:
        self._config = config
        self._driver = driver
        self._store = store
        self._info = info
        self._entropy = entropy
        self._log = log
        self._limits = msgspec.structs.replace(config.limits, time_head=_HEAD_SECONDS)
        self._jobs: set[str] = set()  # those that have a task
        self._posting = 0
        self._news = anyio.Event()
        self._quiet = anyio.Event()
        self._slots = anyio.CapacityLimiter(_AT_ONCE)
        # One for each receiver that failed; set when it takes something again, so that all who wait go on.
        self._recovered: dict[str, anyio.Event] = {}

    def wake(self) -> None:
        """There is something new in the outbox."""
        self._news.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                self._news = anyio.Event()
                for job_id in await self._store.do(lambda store: store.waiting_jobs()):
                    if job_id not in self._jobs:
                        self._jobs.add(job_id)
                        self._posting += 1
                        tasks.start_soon(self._deliver, job_id)
                self._settle_down()
                await self._news.wait()

    async def quiet(self) -> None:
        """Wait until nothing is left but what a failing receiver holds up."""
        self.wake()
        await anyio.sleep(0.05)
        while self._posting or self._news.is_set():
            self._quiet = anyio.Event()
            await self._quiet.wait()

    def _settle_down(self) -> None:
        if not self._posting and not self._news.is_set():
            self._quiet.set()

    async def _deliver(self, job_id: str) -> None:
        try:
            pause: _Pause | None = _Pause(0.0)
            while pause is not None:
                # A message that waits is not held in memory: it is read anew for each attempt.
                if pause.seconds:
                    await self._wait(pause)
                async with self._slots:
                    pause = await self._deliver_head(job_id)
        finally:
            self._jobs.discard(job_id)
            self._posting -= 1
            self._settle_down()
        # What was put in between the last look and here found this task in the table.
        if await self._store.do(lambda store: store.head(job_id)) is not None:
            self.wake()

    async def _deliver_head(self, job_id: str) -> _Pause | None:
        """Send a job's oldest message, part after part; return the pause before the next attempt, None at the end."""
        entry = await self._store.do(lambda store: store.head(job_id))
        if entry is None:
            return None
        part, attempt = entry.next_part, entry.attempts + 1
        count = 1 if entry.kind == "done" else part_count(len(entry.body), entry.part_bytes)
        while part < count:
            message = self._message(entry, part)
            began = anyio.current_time()
            posted = await self._post(entry, message, attempt)
            verdict = self._verdict(entry, message, posted)
            if not isinstance(verdict, Taken):
                return await self._not_taken(entry, message, attempt, verdict, anyio.current_time() - began)
            self._took(entry)
            part, attempt = part + 1, 1
            if part < count:
                await self._store.do(partial(JobStore.part_taken, seq=entry.seq, next_part=part))
        job = await self._store.do(lambda store: store.taken(entry, time.time()))
        if job.over:
            self._log.say("info", "job delivered", job=job.id, request=job.request_id, state=job.state)
        return _Pause(0.0)

    async def _not_taken(
        self, entry: Entry, message: Message, attempt: int, verdict: Again | Smaller | Refusal, took: float
    ) -> _Pause | None:
        if isinstance(verdict, Smaller):
            size = halved(entry.part_bytes, len(message.body), self._config.limits)
            self._log.say("warning", "callback too large", job=entry.job.id, why=verdict.why, part_bytes=size)
            await self._store.do(lambda store: store.resize(entry.seq, size))
            return _Pause(0.0)
        if isinstance(verdict, Refusal):
            await self._refuse(entry, message, f"{verdict.why}: {verdict.hint}")
            return None
        pause = backoff(attempt, self._entropy, verdict.after)
        if entry.waited + took + pause > self._config.delivery_seconds:
            days = self._config.delivery_seconds / 86400
            await self._refuse(entry, message, f"not taken in {days:g} days; last: {verdict.why}")
            return None
        await self._store.do(lambda store: store.tried(entry.seq, took + pause))
        if attempt in (1, 2, 4) or attempt % 8 == 0:
            self._log.say(
                "warning", "callback not taken", job=entry.job.id, delivery=message.delivery_id, attempt=attempt,
                to=entry.job.callback.base_url + message.path, why=verdict.why, again_in=round(pause, 1),
            )  # fmt: skip
        # A pause that the receiver asked for is kept, whatever others learn of it.
        return _Pause(pause, None if verdict.after is not None else entry.job.callback.base_url)

    def _message(self, entry: Entry, part: int) -> Message:
        job = entry.job
        if entry.kind == "done":
            return done_message(job, self._info)
        if entry.kind == "discover":
            return discover_message(job, self._info, entry.body, part, entry.part_bytes)
        return result_message(job, entry.number, entry.body, part, entry.part_bytes)

    async def _post(self, entry: Entry, message: Message, attempt: int) -> Posted:
        job = entry.job
        headers = [
            *job.callback.headers,
            ("content-type", "application/json"),
            ("x-cra-delivery", message.delivery_id),
            ("x-cra-attempt", str(attempt)),
            ("x-request-id", job.request_id or job.id),
        ]
        if job.connection is not None:
            headers.append(("x-cra-connection", job.connection))
        if self._config.shared_secret is not None:
            proof = sign(self._config.shared_secret, "POST", message.path, message.body, time.time())
            headers.append(("x-cra-signature", proof))
        request = Request("POST", job.callback.base_url + message.path, tuple(headers), message.body)
        courier = Courier(_post(request), entropy=self._entropy.fork(), limits=self._limits, total=_POST_SECONDS)
        try:
            posted: Posted = await self._driver.perform(courier, dialer=self._config.dialer)
        except TowlineError as error:
            return Posted(0, why=f"{error.code}: {error.message}")
        return posted

    def _verdict(self, entry: Entry, message: Message, posted: Posted) -> Verdict:
        if posted.status == 0:
            return Again(posted.why)
        return judge(
            posted.status,
            posted.headers,
            posted.body,
            sent_bytes=len(message.body),
            part_bytes=entry.part_bytes if entry.kind != "done" else 0,
            path=message.path,
            wall=time.time(),
            limits=self._config.limits,
        )

    def _took(self, entry: Entry) -> None:
        recovered = self._recovered.pop(entry.job.callback.base_url, None)
        if recovered is not None:
            recovered.set()

    async def _wait(self, pause: _Pause) -> None:
        recovered = anyio.Event()
        if pause.receiver is not None:
            recovered = self._recovered.setdefault(pause.receiver, recovered)
        self._posting -= 1
        self._settle_down()
        try:
            with anyio.move_on_after(pause.seconds):
                await recovered.wait()
        finally:
            self._posting += 1

    async def _refuse(self, entry: Entry, message: Message, why: str) -> None:
        self._log.say(
            "error", "callback refused", job=entry.job.id, delivery=message.delivery_id, why=why,
            hint=f"mend it, then POST /jobs/{entry.job.id}/redeliver",
        )  # fmt: skip
        await self._store.do(lambda store: store.refuse(entry.job.id, why, time.time()))


def _post(request: Request) -> Step[Posted]:
    """Send a callback and return its answer, as far as it says what it means."""
    head = yield from fetch(request)
    if not isinstance(head, Head):
        return Posted(0, why=head.why)
    body = b""
    while len(body) < _ANSWER_BYTES:
        piece = yield from read()
        if isinstance(piece, Body):
            body += bytes(piece.data)
        elif isinstance(piece, Broken):
            # The status has come, and it is what counts.
            break
        else:
            break
    return Posted(head.status, head.headers, body[:_ANSWER_BYTES])
