"""A server's place among its nodes: the lease is kept, the tokens it holds are listed, its questions are answered.

    machine ── TokenHeld, TokenLeft, Locate ──▶ NodeService ◀──▶ Redis
            ◀──────── Leased, Located ────────

Where Redis is away the machine serves the tunnels it holds and answers 503 for others; once Redis is back, the lease
and every token are there again within a third of a lease.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio

from towline.core import LIMITS, Secret
from towline.core.broker import (
    ClusterConfig,
    Found,
    Leased,
    Locate,
    Located,
    NodeEvent,
    TokenHeld,
)
from towline.drivers import TlsSettings
from towline.drivers.directory_redis import DirectoryAway, RedisDirectory, open_directory
from towline.runtimes.logs import Log

HIGHEST_NUMBER: Final = 0xFFF
# Questions in one command, and numbers that are tried before the cluster counts as full.
_BATCH: Final = 256
_TRIES: Final = 64


class NodeService:
    """One node and the directory: `join` before the server listens, `start` once its machine runs, `run` as long."""

    def __init__(self, directory: RedisDirectory, cluster: ClusterConfig, *, grace: float, log: Log) -> None:
        # What the machine is to be told once it runs.
        self._early: list[Any] = []
        self._directory = directory
        self._cluster = cluster
        self._keys = cluster.keys()
        self._tell: Callable[[Any], None] = self._early.append
        self._grace = grace
        self._log = log
        # The number is 0 and the record empty until a number is claimed.
        self._number = 0
        self._record = ""
        self._others = -1
        self._away = False
        self._leaving = False
        # What this node holds, since when; what of it Redis has not been told; and what Redis has been told.
        self._held: dict[str, int] = {}
        self._changes: dict[str, int | None] = {}
        self._version = ""
        self._versions = 0
        self._writing = anyio.Lock()
        self._questions: deque[Locate] = deque()
        self._changed = anyio.Event()
        self._asked = anyio.Event()

    def take(self, event: NodeEvent) -> None:
        """Take what the machine says."""
        if isinstance(event, Locate):
            self._questions.append(event)
            self._asked.set()
            return
        if isinstance(event, TokenHeld):
            self._changes[event.name] = self._held[event.name] = int(time.time() * 1000)
        else:
            self._held.pop(event.name, None)
            self._changes[event.name] = None
        self._changed.set()

    async def join(self) -> None:
        """Begin the lease, if the directory is there: what is begun here can be found from the first request on."""
        try:
            await self._renew()
        except DirectoryAway as error:
            self._say_away(error)

    def start(self, tell: Callable[[Any], None]) -> None:
        """Hand facts to a machine from here on."""
        self._tell = tell
        for fact in self._early:
            tell(fact)
        self._early.clear()

    async def run(self) -> None:
        """Keep the lease, write changes, answer questions, until it is cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep)
            tasks.start_soon(self._write)
            tasks.start_soon(self._answer)

    async def withdraw(self) -> None:
        """Be found for no token any more, and wait until no other node believes otherwise."""
        self._leaving = True
        try:
            async with self._writing:
                await self._directory.leave(self._number, self._record, finishing=True)
        except DirectoryAway:
            return
        if self._others > 0:
            await anyio.sleep(LIMITS.node_memory)

    async def leave(self) -> None:
        """Be no node any more."""
        try:
            await self._directory.leave(self._number, self._record)
        except DirectoryAway:
            # The lease ends by itself.
            return

    # ── the lease ──────────────────────────────────────────────────────────────
    async def _keep(self) -> None:
        while True:
            await anyio.sleep(min(1.0, self._cluster.lease / 10) if self._away else self._cluster.lease / 3)
            try:
                await self._renew()
            except DirectoryAway as error:
                self._say_away(error)
                continue
            if self._away:
                self._away = False
                self._log.say("info", "directory of nodes is back", tokens=len(self._held))

    def _say_away(self, error: DirectoryAway) -> None:
        if not self._away:
            self._away = True
            self._log.say("warning", "directory of nodes is away", problem=str(error))

    async def _renew(self) -> None:
        for _ in range(_TRIES):
            number = self._number or 1 + secrets.randbelow(HIGHEST_NUMBER)
            record = self._cluster.record(number)
            renewal = await self._directory.renew(number, record, self._version)
            if renewal is not None:
                break
            # Another has it: the first choice was unlucky, or this node's lease had ended.
            self._number = 0
        else:
            raise DirectoryAway("no number is free for this node")
        self._number, self._record = number, record
        self._tell(Leased(number, renewal.seconds - anyio.current_time(), renewal.records))
        if len(renewal.records) - 1 != self._others:
            self._others = len(renewal.records) - 1
            self._log.say("info", "nodes", number=number, name=self._cluster.name, others=self._others)
        for stale in renewal.records:
            await self._take_over(stale)
        if not renewal.complete and not self._leaving:
            await self._write_all()

    async def _take_over(self, record: str) -> None:
        """End the lease of a node that ran at this one's address before: whoever asks it gets this one."""
        node = self._keys.node_of(record)
        if node is not None and node.url == self._cluster.url and node.incarnation != self._cluster.incarnation:
            self._log.say("warning", "a node ran here before", number=node.number, name=node.name)
            await self._directory.leave(node.number, record)

    async def _write_all(self) -> None:
        async with self._writing:
            self._changes.clear()
            await self._change("", dict(self._held))

    # ── tokens ─────────────────────────────────────────────────────────────────
    async def _write(self) -> None:
        while True:
            await self._changed.wait()
            async with self._writing:
                self._changed = anyio.Event()
                changes, self._changes = self._changes, {}
                if changes and self._version and not self._leaving:
                    try:
                        await self._change(self._version, changes)
                    except DirectoryAway:
                        # The next renewal finds that something is missing, and writes all of it.
                        self._version = ""

    async def _change(self, before: str, changes: dict[str, int | None]) -> None:
        self._versions += 1
        after = f"{self._cluster.incarnation}.{self._versions}"
        self._version = ""
        if await self._directory.change(self._number, self._record, before, after, changes, self._grace):
            self._version = after

    # ── questions ──────────────────────────────────────────────────────────────
    async def _answer(self) -> None:
        while True:
            await self._asked.wait()
            self._asked = anyio.Event()
            while self._questions:
                questions = [self._questions.popleft() for _ in range(min(_BATCH, len(self._questions)))]
                try:
                    answers = await self._find(questions)
                except DirectoryAway:
                    answers = [Located(question.question, None) for question in questions]
                for answer in answers:
                    self._tell(answer)

    async def _find(self, questions: list[Locate]) -> list[Located]:
        answers = []
        named = [(question.question, question.name) for question in questions if question.name is not None]
        if named:
            found = await self._directory.locate([name for _, name in named])
            for (number, _), there in zip(named, found, strict=True):
                records = tuple(Found(record, since) for record, since in there.holders)
                answers.append(Located(number, records, there.left))
        for question in questions:
            if question.name is None:
                record = await self._directory.node(question.number)
                answers.append(Located(question.question, (Found(record),) if record is not None else ()))
        return answers


@asynccontextmanager
async def open_nodes(
    url: Secret,
    cluster: ClusterConfig,
    *,
    grace: float,
    tls: TlsSettings,
    log: Log,
) -> AsyncIterator[NodeService]:
    """Be a node while the block lasts; `start` and `run` the service in it."""
    async with open_directory(url, cluster.keys().directory, lease=cluster.lease, tls=tls) as directory:
        service = NodeService(directory, cluster, grace=grace, log=log)
        await service.join()
        try:
            yield service
        finally:
            await service.leave()
