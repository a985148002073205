"""The agent's store: order, bounds, request ids, restarts, kills at any instruction, broken files."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from towline.core import LIMITS, RemoteProtocolError, Secret
from towline.core.agent import Job, JobRegistry, RegistryLogin, job_error, new_job, parse_job
from towline.drivers.store_sqlite import DEAD_LIFE, JOB_LIFE, JobStore

ANYONE = JobRegistry("oci", "127.0.0.1:5000", "http", "anonymous")


def request(**changes: Any) -> Any:
    body = {"image": {"repository": "a/b", "reference": "1"}, "callback": {"baseUrl": "http://b:8000"}} | changes
    return parse_job("scan", json.dumps(body).encode())


def job(name: str, registry: JobRegistry = ANYONE, **changes: Any) -> Job:
    return new_job(name, request(**changes), registry, 1.0)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    made = JobStore(tmp_path / "agent.sqlite")
    yield made
    made.close()


def kind(call: Any, *args: Any, **named: Any) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        call(*args, **named)
    return caught.value.kind


def test_a_job_from_admission_to_done(store: JobStore) -> None:
    assert store.admit(job("j1"), "d", 1.0).position == 1
    assert store.admit(job("j2"), "d", 1.0).position == 2
    first = store.start_next(2.0)
    assert first is not None
    assert (first.id, first.state) == ("j1", "resolving")
    for fed in ("resolved", "pulled"):
        store.advance("j1", fed, 2.0)
    second = store.start_next(2.0)
    assert second is not None
    assert second.id == "j2"
    assert store.start_next(2.0) is None
    settled = store.settle("j1", "done", 3.0, results=[b'{"a":1}', b'{"a":2}'], part_bytes=1 << 20)
    assert (settled.state, settled.outcome, settled.result_count) == ("delivering", "done", 2)
    assert store.waiting_jobs() == ["j1"]
    seen = []
    while (entry := store.head("j1")) is not None:
        seen.append((entry.kind, entry.number, entry.body))
        store.taken(entry, 4.0)
    assert seen == [("result", 0, b'{"a":1}'), ("result", 1, b'{"a":2}'), ("done", 0, b"")]
    assert store.get("j1").state == "done"
    assert "announcing" in store.get("j1").changed_at
    assert store.totals().outbox_entries == 0


def test_priority_goes_first(store: JobStore) -> None:
    store.admit(job("low", options={"priority": 1}), "d", 1.0)
    assert store.admit(job("high", options={"priority": 9}), "d", 1.0).position == 1
    found = store.start_next(1.0)
    assert found is not None
    assert found.id == "high"


def test_request_ids(store: JobStore) -> None:
    assert not store.admit(job("j1", requestId="r"), "d1", 1.0).duplicate
    again = store.admit(job("j2", requestId="r"), "d1", 2.0)
    assert again.duplicate
    assert again.job.id == "j1"
    assert store.find("j2") is None
    assert kind(store.admit, job("j3", requestId="r"), "d2", 2.0) == "idempotency-conflict"
    assert not store.admit(job("j4", requestId="r"), "d2", 1.0 + 24 * 3600).duplicate


def test_bounds(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(LIMITS, jobs_queued=2, outbox_entries=3, outbox_bytes=100)
    store = JobStore(tmp_path / "a", limits=limits)
    store.admit(job("1"), "d", 1.0)
    store.admit(job("2"), "d", 1.0)
    assert kind(store.admit, job("3"), "d", 1.0) == "queue-full"
    store.settle("1", "done", 1.0, results=[b"x" * 200], part_bytes=1)
    assert kind(store.admit, job("3"), "d", 1.0) == "queue-full"
    store.refuse("1", "no rule", 1.0)
    assert kind(store.admit, job("3"), "d", 1.0) == "queue-full"
    store.prune(2.0 + DEAD_LIFE)
    assert store.admit(job("3"), "d", 1.0).position == 2
    store.close()


def test_what_is_delivered(store: JobStore) -> None:
    store.admit(job("none", deliver=[]), "d", 1.0)
    assert store.settle("none", "done", 2.0, results=[b"{}"], part_bytes=1).state == "done"
    store.admit(job("only", deliver=["done"]), "d", 1.0)
    store.settle("only", "done", 2.0, results=[b"{}"], part_bytes=1)
    entry = store.head("only")
    assert entry is not None
    assert entry.kind == "done"
    discover = new_job(
        "disc",
        parse_job("discover", b'{"image":{"repository":"a","reference":"1"},"callback":{"baseUrl":"http://b"}}'),
        ANYONE,
        1.0,
    )
    store.admit(discover, "d", 1.0)
    store.settle("disc", "done", 2.0, results=[b"{}", b"[]"], part_bytes=1)
    entry = store.head("disc")
    assert entry is not None
    assert (entry.kind, entry.body) == ("discover", b"[{},[]]")
    assert store.taken(entry, 3.0).state == "done"


def test_refused_messages_wait_and_come_again(store: JobStore) -> None:
    store.admit(job("j"), "d", 1.0)
    store.settle("j", "done", 2.0, results=[b"1", b"2"], part_bytes=1)
    entry = store.head("j")
    assert entry is not None
    store.taken(entry, 2.5)
    assert store.refuse("j", "answer 403: no rule", 3.0).state == "undeliverable"
    assert "answer 403: no rule" in store.get("j").warnings
    assert store.head("j") is None
    assert store.totals().dead_entries == 2
    assert store.redeliver("j", 4.0).state == "delivering"
    assert kind(store.redeliver, "j", 4.0) == "bad-request"
    entry = store.head("j")
    assert entry is not None
    assert entry.body == b"2"
    assert entry.waited == 0


def test_parts_and_tries(store: JobStore) -> None:
    store.admit(job("j"), "d", 1.0)
    store.settle("j", "done", 2.0, results=[b"x" * 100, b"y"], part_bytes=80)
    entry = store.head("j")
    assert entry is not None
    store.tried(entry.seq, 1.5)
    store.tried(entry.seq, 2.0)
    store.part_taken(entry.seq, 1)
    entry = store.head("j")
    assert entry is not None
    assert (entry.next_part, entry.attempts, entry.waited) == (1, 0, 3.5)
    store.resize(entry.seq, 40)
    entry = store.head("j")
    assert entry is not None
    assert (entry.next_part, entry.part_bytes) == (0, 40)
    store.taken(entry, 3.0)
    entry = store.head("j")
    assert entry is not None
    assert entry.part_bytes == 40


def test_restart(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "a")
    mine = JobRegistry("oci", "mine", "https", "request")
    other = JobRegistry("oci", "other", "https", "request")
    for name, place, steps in [
        ("anyone", ANYONE, ["start", "resolved"]),
        ("mine", mine, ["start"]),
        ("other", other, []),
        ("ready", other, ["settle"]),
    ]:
        store.admit(job(name, place), "d", 1.0)
        for fed in steps:
            if fed == "settle":
                store.settle(name, "done", 1.0, results=[b"{}"], part_bytes=1)
            else:
                store.advance(name, fed, 1.0)
    store.close()
    store = JobStore(tmp_path / "a")
    own = RegistryLogin("oci", "mine", "u", Secret("p"))
    found = store.resume(lambda job: own if job.registry.base == "mine" else None, 2.0, part_bytes=1)
    assert [(job.id, job.state, job.attempt) for job, _ in found] == [
        ("anyone", "queued", 2),
        ("mine", "queued", 2),
        ("other", "delivering", 1),
    ]
    assert [error.code if error else None for _, error in found] == [None, None, "MISSING_CREDENTIALS"]
    assert set(store.waiting_jobs()) == {"other", "ready"}
    entry = store.head("other")
    assert entry is not None
    assert entry.kind == "done"
    for _ in range(3):
        if store.get("anyone").state == "queued":
            store.advance("anyone", "start", 3.0)
        store.resume(lambda job: own, 3.0, part_bytes=1)
    assert store.get("anyone").outcome == "failed"
    assert store.get("anyone").error is not None
    store.close()


def test_pages_and_pruning(store: JobStore) -> None:
    for number in range(5):
        store.admit(job(f"j{number}"), "d", 1.0)
    first, after = store.page(None, 2, 0)
    assert [found.id for found in first] == ["j0", "j1"]
    assert after is not None
    rest, end = store.page("queued", 10, after)
    assert [found.id for found in rest] == ["j2", "j3", "j4"]
    assert end is None
    assert store.page("done", 10, 0) == ([], None)
    store.settle("j0", "failed", 2.0, part_bytes=1, error=job_error(RemoteProtocolError("internal", "x")))
    assert store.prune(1e12) == 0
    entry = store.head("j0")
    assert entry is not None
    store.taken(entry, 3.0)
    assert store.prune(4.0 + JOB_LIFE) == 1
    assert store.find("j0") is None
    assert kind(store.get, "j0") == "job-not-found"


def test_a_batch_undoes_only_what_failed(store: JobStore) -> None:
    answers = store.batch(
        [
            lambda: store.admit(job("a"), "d", 1.0).job.id,
            lambda: store.advance("nobody", "start", 1.0).id,
            lambda: store.advance("a", "pulled", 1.0).id,
            lambda: store.admit(job("b"), "d", 1.0).job.id,
        ]
    )
    assert answers[0] == "a"
    assert answers[3] == "b"
    assert [type(answer) for answer in answers[1:3]] == [RemoteProtocolError] * 2
    assert store.get("a").state == "queued"


def test_calls_of_one_operation_happen_together(store: JobStore) -> None:
    store.admit(job("a"), "d", 1.0)

    def both() -> None:
        store.advance("a", "start", 1.0)
        store.advance("nobody", "start", 1.0)

    assert isinstance(store.batch([both])[0], RemoteProtocolError)
    assert store.get("a").state == "queued"


def test_facts(store: JobStore) -> None:
    assert store.recall("x") is None
    store.remember("x", "1")
    store.remember("x", "2")
    assert store.recall("x") == "2"


# ── the file ───────────────────────────────────────────────────────────────────
def test_only_its_owner_reads_it(store: JobStore, tmp_path: Path) -> None:
    store.remember("x", "1")
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_second_process_is_refused(store: JobStore, tmp_path: Path) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        JobStore(tmp_path / "agent.sqlite")
    assert caught.value.kind == "invalid-configuration"
    assert "another process" in str(caught.value)


def test_a_newer_file_and_a_foreign_file_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    JobStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    assert kind(JobStore, path) == "invalid-configuration"
    foreign = tmp_path / "b"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE x (y)")
    connection.close()
    assert kind(JobStore, foreign) == "invalid-configuration"
    assert len(list(tmp_path.glob("*.broken-*"))) == 0


@pytest.mark.parametrize("harm", ["noise", "middle", "cut", "header"])
def test_a_broken_file_is_set_aside(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "a"
    store = JobStore(path)
    for number in range(50):
        store.admit(job(f"j{number}"), "d", 1.0)
        store.settle(f"j{number}", "done", 1.0, results=[os.urandom(20_000)], part_bytes=1)
    store.close()
    whole = path.read_bytes()
    at = len(whole) // 2
    broken = {
        "noise": os.urandom(len(whole)),
        "middle": whole[:8192] + os.urandom(at) + whole[8192 + at :],
        "cut": whole[: at - at % 4096 + 100],
        "header": b"x" * 100 + whole[100:],
    }[harm]
    path.write_bytes(broken)
    store = JobStore(path)
    assert store.notice is not None
    assert "kept as" in store.notice
    assert store.admit(job("new"), "d", 1.0).position == 1
    store.close()
    (aside,) = [found for found in tmp_path.glob("a.broken-*") if not found.name.endswith(("-wal", "-shm"))]
    assert aside.read_bytes() == broken
    store = JobStore(path)
    assert store.notice is None
    store.close()


def test_a_full_disk_refuses_and_keeps(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "a")
    store.admit(job("j"), "d", 1.0)
    connection = store._database.connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages + 2}")
    assert kind(store.settle, "j", "done", 2.0, results=[b"x" * 100_000], part_bytes=1) == "insufficient-disk"
    assert store.get("j").state == "queued"
    many: list[Any] = store.batch([lambda: store.settle("j", "done", 2.0, results=[b"x" * 100_000], part_bytes=1)])
    assert many[0].kind == "insufficient-disk"
    assert store.get("j").state == "queued"
    store.close()


CHILD = """
import json, os, sys
from pathlib import Path
from towline.core.agent import JobRegistry, new_job, parse_job
from towline.drivers.store_sqlite import JobStore

store = JobStore(Path(sys.argv[1]))
where = JobRegistry("oci", "h", "http", "anonymous")
store.resume(lambda job: None, 1.0, part_bytes=1)
def say(*words):
    os.write(1, (" ".join(words) + "\\n").encode())
body = b'{"image":{"repository":"a","reference":"1"},"callback":{"baseUrl":"http://b"}}'
number = int(sys.argv[2]) * 1000000
say("open")
while True:
    number += 1
    name = f"j{number}"
    store.admit(new_job(name, parse_job("scan", body), where, 1.0), "d", 1.0)
    say("admitted", name)
    store.advance(name, "start", 1.0)
    if number % 3:
        store.settle(name, "done", 1.0, results=[b"r" * (number % 7 * 3000), b"s"], part_bytes=1)
        say("settled", name)
    if number % 3 == 1:
        while (entry := store.head(name)) is not None:
            store.taken(entry, 1.0)
            say("taken", name, entry.kind, str(entry.number))
"""


def test_a_kill_at_any_instruction_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    rng = random.Random(20)
    promised: dict[str, list[str]] = {}
    for turn in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(turn)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        time.sleep(rng.uniform(0.0, 0.25))
        child.send_signal(signal.SIGKILL)
        said, _ = child.communicate()
        for line in said.decode().splitlines(keepends=True):
            if line.endswith("\n"):
                word, name, *more = line.split()
                promised.setdefault(name, []).append(" ".join([word, *more]))
        store = JobStore(path)
        assert store.notice is None
        for name, words in promised.items():
            found = store.get(name)
            gone = {word for word in words if word.startswith("taken")}
            entry = store.head(name)
            if "settled" in words:
                assert found.outcome == "done"
                assert found.state == ("delivering" if entry else "done")
            if entry is not None:
                assert f"taken {entry.kind} {entry.number}" not in gone
            elif "settled" in words:
                # Everything left the outbox only because everything was taken, up to the one being taken.
                assert len(gone) >= 2
        store.close()
    assert len(promised) > 20
