"""Callbacks against a receiver that fails: every result arrives, in order, and done comes last and once."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from agent_tools import Receiver, SmallRegistry, agent, scan_body, until
from drivers.loops import LOOPS

from towline.core import LIMITS, Secret, canonical
from towline.drivers.results_sqlite import ResultsBox
from towline.drivers.store_sqlite import JobStore


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.name)
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def registry() -> Iterator[SmallRegistry]:
    made = SmallRegistry()
    yield made
    made.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    assert made.fault == []
    made.close()


def test_a_receiver_that_fails_and_then_takes(
    loop: Any, registry: SmallRegistry, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.script = [
        (503, b"", {}),
        (500, b"<html>", {"Content_Type": "text/html"}),
        (429, b"", {"Retry_After": "1"}),
    ]

    async def main() -> None:
        async with agent(loop, tmp_path, registry) as ask:
            job = await ask.scan(receiver)
            ended = await ask.ended(job, 30.0)
            assert ended["state"] == "done"
            assert [d.attempt for d in receiver.seen][:4] == [1, 2, 3, 4]
            assert len({d.delivery for d in receiver.seen[:4]}) == 1
            assert receiver.seen[-1].body["kind"] == "done"
            assert sum(d.body["kind"] == "done" for d in receiver.taken.values()) == 1

    loop.run(main, 60.0)


def test_a_receiver_that_is_away(registry: SmallRegistry, tmp_path: Path) -> None:
    away = Receiver()
    url, port = away.url, away.port
    away.close()

    async def main() -> None:
        async with agent(LOOPS[0], tmp_path, registry) as ask:
            accepted = await ask("POST", "/scan", scan_body(away, callback_baseUrl=url))
            job = accepted.body["jobId"]
            await ask.reached(job, {"delivering"})
            back = _receiver_at(port)
            try:
                assert (await ask.ended(job, 30.0))["state"] == "done"
                assert back.done(job)["state"] == "done"
            finally:
                back.close()

    LOOPS[0].run(main, 60.0)


def _receiver_at(port: int) -> Receiver:
    """Return a receiver at a port that was free a moment ago."""
    made = Receiver()
    made.server.shutdown()
    made.server.server_close()
    made.server = type(made.server)(("127.0.0.1", port), made.server.RequestHandlerClass)
    made.thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    made.thread.start()
    return made


def test_a_rule_that_is_missing(registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    receiver.deny = {"/api/v2/import/result"}

    async def main() -> None:
        async with agent(LOOPS[0], tmp_path, registry) as ask:
            job = await ask.scan(receiver)
            ended = await ask.ended(job)
            assert ended["state"] == "undeliverable"
            assert "no rule for POST /api/v2/import/result" in ended["warnings"][-1]
            assert "redeliver" in ask.log.getvalue()
            assert len(receiver.seen) == 1
            receiver.deny = set()
            again = await ask("POST", f"/jobs/{job}/redeliver", login=False)
            assert again.status == 202
            assert (await ask.ended(job))["state"] == "done"
            assert receiver.done(job)["state"] == "done"

    LOOPS[0].run(main)


def large_job(folder: Path, receiver: Receiver, size: int) -> bytes:
    """Put a settled job with one large result into a store that no agent has open."""
    from towline.core.agent import JobRegistry, new_job, parse_job

    store = JobStore(folder / "agent.sqlite")
    request = parse_job("scan", scan_body(receiver))
    store.admit(new_job("large", request, JobRegistry("oci", "h", "http", "anonymous"), 1.0), "d", 1.0)
    carried = canonical({"facts": ["y" * size]})
    store.settle("large", "done", 2.0, results=[carried, b"{}"], part_bytes=LIMITS.callback_bytes)
    store.close()
    return carried


@pytest.mark.parametrize("answer", ["413", "html"])
def test_a_large_result_is_cut_until_it_fits(
    registry: SmallRegistry, receiver: Receiver, tmp_path: Path, answer: str
) -> None:
    carried = large_job(tmp_path, receiver, 5_000_000)
    if answer == "413":
        receiver.largest = 900_000
    else:
        receiver.script = [(500, b"<!DOCTYPE html>", {"Content_Type": "text/html"})]

    async def main() -> None:
        async with agent(LOOPS[0], tmp_path, registry) as ask:
            assert (await ask.ended("large"))["state"] == "done"

    LOOPS[0].run(main, 60.0)
    parts = [d.body for d in receiver.taken.values() if d.body.get("resultIndex") == 0]
    count = parts[-1]["partCount"]
    assert count > 1
    parts = [part for part in parts if part["partCount"] == count]
    assert b"".join(base64.b64decode(part["data"]) for part in parts) == carried
    assert {part["bodySha256"] for part in parts} == {hashlib.sha256(carried).hexdigest()}
    box = ResultsBox(tmp_path / "box")
    for delivery in receiver.taken.values():
        box.take(Secret("t"), json.dumps(delivery.body).encode(), 1.0)
    whole = box.job("large")
    assert [bytes(raw) for raw in whole["scanResults"]] == [carried, b"{}"]
    assert whole["state"] == "done"
    box.close()


def test_what_is_never_taken_is_set_aside(registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    receiver.script = [(503, b"", {})] * 50

    async def main() -> None:
        async with agent(LOOPS[0], tmp_path, registry, delivery_seconds=0.5) as ask:
            job = await ask.scan(receiver)
            ended = await ask.ended(job, 30.0)
            assert ended["state"] == "undeliverable"
            assert "answer 503" in ended["warnings"][-1]
            receiver.script = []
            await ask("POST", f"/jobs/{job}/redeliver", login=False)
            assert (await ask.ended(job))["state"] == "done"

    LOOPS[0].run(main, 60.0)


def test_one_that_recovers_lets_all_go_on(registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    receiver.script = [(503, b"", {})] * 30

    async def main() -> None:
        limits = msgspec.structs.replace(LIMITS)
        async with agent(LOOPS[0], tmp_path, registry, limits=limits, active_operations=4) as ask:
            jobs = [await ask.scan(receiver) for _ in range(8)]
            for job in jobs:
                assert (await ask.ended(job, 40.0))["state"] == "done"

    LOOPS[0].run(main, 60.0)


def test_an_idle_agent_does_nothing(registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    async def main() -> None:
        import anyio

        async with agent(LOOPS[0], tmp_path, registry) as ask:
            await ask.ended(await ask.scan(receiver))
            counted = 0
            from towline.drivers import store_sqlite

            whole = store_sqlite.JobStore.batch

            def batch(store: JobStore, operations: Any) -> Any:
                nonlocal counted
                counted += 1
                return whole(store, operations)

            store_sqlite.JobStore.batch = batch  # type: ignore[method-assign,assignment]
            try:
                await anyio.sleep(0.5)
            finally:
                store_sqlite.JobStore.batch = whole  # type: ignore[method-assign]
            assert counted == 0

    LOOPS[0].run(main)


def test_deliveries_survive_a_stop_and_a_start(registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    receiver.stall = threading.Event()
    receiver.stall_on = ":done"
    jobs: list[str] = []

    async def main() -> None:
        async with agent(LOOPS[0], tmp_path, registry, drain_seconds=0.1) as ask:
            jobs.append(await ask.scan(receiver))
            await until(receiver.stalled.is_set)
        assert receiver.stall is not None
        receiver.stall.set()
        async with agent(LOOPS[0], tmp_path, registry) as ask:
            assert (await ask.ended(jobs[0]))["state"] == "done"

    LOOPS[0].run(main)
    done = [d for d in receiver.seen if d.body["kind"] == "done"]
    assert len(done) == 2
    assert done[0].body == done[1].body
