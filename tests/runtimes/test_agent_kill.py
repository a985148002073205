"""SIGKILL at every place that matters: each accepted job ends in exactly one done, and no result is lost.

Nothing in the product helps: the kill is placed by a registry that stalls a blob and a receiver that stalls an
answer, and by killing at random moments.
"""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from agent_tools import CANARY, USER, Receiver, SmallRegistry, call, scan_body

PROGRAM = Path(__file__).with_name("agent_process.py")


class Process:
    """An agent's process. Its log is kept in a file, to be searched."""

    def __init__(self, folder: Path, registry: SmallRegistry, *, own: bool = True, **settings: Any) -> None:
        told = {"workdir": str(folder / "work"), "allow_http": [registry.host]} | settings
        if own:
            told["login"] = registry.credentials().reveal()
        self.log = folder / "log"
        self.sent_login = {} if own else {"x-registry-credentials": registry.credentials().reveal()}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(told).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline().split()
        assert line[:1] == [b"port"], self.log.read_text()
        self.port = int(line[1])

    def scan(self, receiver: Receiver, **changes: Any) -> str:
        got = call(self.port, "POST", "/scan", scan_body(receiver, **changes), self.sent_login)
        assert got.status == 202, got.data
        return str(got.body["jobId"])

    def job(self, job_id: str) -> Any:
        return call(self.port, "GET", f"/jobs/{job_id}").body

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self._reap()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self._reap() == 0, self.log.read_text()

    def _reap(self) -> int:
        code = self.process.wait(30)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        return code


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


def wait(holds: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.02)
    return value


def check_whole(receiver: Receiver, job: str, outcome: str = "done") -> None:
    """One done message, and every result that it speaks of."""
    done = [d for d in receiver.of(job) if d.body["kind"] == "done"]
    assert len(done) == 1
    assert done[0].body["state"] == outcome, done[0].body
    results = {d.body["resultIndex"] for d in receiver.of(job) if d.body["kind"] == "result"}
    assert results == set(range(done[0].body["resultCount"]))
    assert (done[0].body["resultCount"] > 0) == (outcome == "done")


def test_after_the_202(registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    process = Process(tmp_path, registry)
    job = process.scan(receiver)
    process.kill()
    process = Process(tmp_path, registry)
    wait(lambda: receiver.done(job))
    wait(lambda: process.job(job)["state"] == "done")
    process.stop()
    check_whole(receiver, job)


def test_while_pulling(registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    registry.stall = threading.Event()
    process = Process(tmp_path, registry)
    job = process.scan(receiver)
    wait(registry.stalled.is_set)
    assert process.job(job)["state"] == "pulling"
    process.kill()
    registry.stall.set()
    assert receiver.seen == []
    process = Process(tmp_path, registry)
    wait(lambda: receiver.done(job))
    assert wait(lambda: process.job(job)["state"] == "done" and process.job(job))["attempt"] == 2
    process.stop()
    check_whole(receiver, job)


def test_after_the_result_was_stored(registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    receiver.script = [(503, b"", {"Retry_After": "600"})]
    process = Process(tmp_path, registry)
    job = process.scan(receiver)
    wait(lambda: receiver.seen)
    assert process.job(job)["state"] == "delivering"
    pulls = registry.count("/blobs/")
    process.kill()
    process = Process(tmp_path, registry)
    wait(lambda: receiver.done(job))
    process.stop()
    check_whole(receiver, job)
    assert registry.count("/blobs/") == pulls, "what was stored is not pulled again"


@pytest.mark.parametrize("where", [":0:1/1", ":done"])
def test_during_delivery(registry: SmallRegistry, receiver: Receiver, tmp_path: Path, where: str) -> None:
    receiver.stall, receiver.stall_on = threading.Event(), where
    process = Process(tmp_path, registry)
    job = process.scan(receiver)
    wait(receiver.stalled.is_set)
    process.kill()
    receiver.stall.set()
    # The receiver took it, and the agent never heard of that.
    wait(lambda: any(where in delivery for delivery in receiver.taken))
    process = Process(tmp_path, registry)
    wait(lambda: process.job(job)["state"] == "done")
    process.stop()
    check_whole(receiver, job)
    came = [d for d in receiver.seen if where in d.delivery]
    assert len(came) == 2
    assert came[0].body == came[1].body


def test_a_login_that_came_with_the_request_is_gone(
    registry: SmallRegistry, receiver: Receiver, tmp_path: Path
) -> None:
    registry.stall = threading.Event()
    process = Process(tmp_path, registry, own=False)
    jobs = [process.scan(receiver) for _ in range(3)]
    wait(registry.stalled.is_set)
    with open(f"/proc/{process.process.pid}/cmdline", "rb") as file:
        arguments = file.read()
    process.kill()
    registry.stall.set()
    process = Process(tmp_path, registry, own=False)
    for job in jobs:
        wait(partial(receiver.done, job))
        check_whole(receiver, job, "failed")
        assert receiver.done(job)["error"]["code"] == "MISSING_CREDENTIALS"
    again = process.scan(receiver)
    wait(lambda: receiver.done(again))
    process.stop()
    check_whole(receiver, again)
    held = arguments + b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (CANARY, f"{USER}:{CANARY}"):
        assert secret.encode() not in held
        assert base64.b64encode(secret.encode()).rstrip(b"=")[:-1] not in held
    assert registry.credentials().reveal().encode() not in held


def test_one_that_kills_the_agent_each_time_is_given_up(
    registry: SmallRegistry, receiver: Receiver, tmp_path: Path
) -> None:
    registry.stall = threading.Event()
    process = Process(tmp_path, registry)
    job = process.scan(receiver)
    for _ in range(3):
        registry.stalled.clear()
        wait(registry.stalled.is_set)
        process.kill()
        process = Process(tmp_path, registry)
    wait(lambda: receiver.done(job))
    registry.stall.set()
    process.stop()
    check_whole(receiver, job, "failed")
    assert receiver.done(job)["error"]["code"] == "CRASH_LOOP"


def test_at_random(registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    rng = random.Random(7)
    jobs: list[str] = []
    for _ in range(8):
        process = Process(tmp_path, registry, active_operations=2)
        jobs += [process.scan(receiver) for _ in range(2)]
        time.sleep(rng.uniform(0.0, 0.4))
        process.kill()
    process = Process(tmp_path, registry, active_operations=2)
    for job in jobs:
        wait(partial(receiver.done, job))
    wait(lambda: all(process.job(job)["state"] in ("done", "failed") for job in jobs))
    process.stop()
    for job in jobs:
        # Three kills during one job are its end, which its receiver hears of like of any other.
        check_whole(receiver, job, receiver.done(job)["state"])
        error = receiver.done(job)["error"]
        assert error is None or error["code"] == "CRASH_LOOP"
    assert {d.body["jobId"] for d in receiver.seen} == set(jobs)
