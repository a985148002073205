"""The whole chain when things go wrong: spoiled bytes from a registry, and programs that are killed."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from interop.canaries import Canaries, files_below, hits
from interop.chain import Chain, chain, wait
from interop.findings import expected_packages, packages
from interop.peers.docker_registry import docker_registry, push_corpus
from interop.peers.spoiling_proxy import SpoilingProxy, spoiling_proxy

pytestmark = pytest.mark.interop

NAMES = ["deb-bookworm", "deb-distroless", "apk-alpine", "scratch-empty"]
# What each of them is found to hold does not depend on when its scan was interrupted.
NAME = "deb-bookworm"


@pytest.fixture(scope="module")
def proxy(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpoilingProxy]:
    with docker_registry(tmp_path_factory.mktemp("faulty")) as registry:
        push_corpus(registry, corpus, NAMES)
        with spoiling_proxy(registry.address) as made:
            yield made


@pytest.fixture(scope="module")
def module_chain(proxy: SpoilingProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with chain(tmp_path_factory.mktemp("faults"), proxy.address, Canaries(), MAX_ACTIVE_OPERATIONS="1") as made:
        yield made
        # After all that was done to them, they still know how to stop, and kept every secret.
        lines = {f"ps {program.name}": program.command_line() for program in made.ours}
        assert [program.stop() for program in made.programs] == [0, 0, 0], made.all_said()
        assert hits(made.canaries, lines | files_below([made.folder])) == []


@pytest.fixture
def running(module_chain: Chain, proxy: SpoilingProxy) -> Iterator[Chain]:
    """The chain with a registry in good health, all three programs up."""
    yield module_chain
    if proxy.hold is not None:
        proxy.hold.set()
    proxy.hold, proxy.spoil, proxy.spoils, proxy.cuts = None, lambda data: data, "layer", 0
    proxy.held.clear()


def kept(running: Chain, job: str) -> list[str]:
    """The kinds of the messages of a job that the server took for the first time, from its log."""
    said = (json.loads(line) for line in running.server.said().splitlines() if '"callback kept"' in line)
    return [line["kind"] for line in said if line["job"] == job and not line["repeated"]]


def is_done(running: Chain, job: str) -> bool:
    return bool(running.job(job)["state"] == "done")


@pytest.fixture
def whole(running: Chain, expected: Callable[[str], Any]) -> Callable[..., None]:
    """`whole(jobs)`: every job ended in one done message, with every result that it speaks of."""

    def check(jobs: list[str], name: str = NAME) -> None:
        for job in jobs:
            results = running.results(job)
            assert results["state"] == "done", results["done"]
            assert results["done"]["resultCount"] == len(results["scanResults"]) >= 1
            assert packages(results) == expected_packages(expected(name)["truth"])
            wait(partial(is_done, running, job), what=running.all_said)
            assert kept(running, job) == ["result"] * results["done"]["resultCount"] + ["done"]
        listed = [item["jobId"] for item in running.box("?limit=1000").body["items"]]
        assert len(listed) == len(set(listed))
        assert set(jobs) <= set(listed)

    return check


def flip(data: bytes) -> bytes:
    """Another byte in the middle: gzip would tell, too, but the digest must."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("name", "what", "spoil", "code"),
    [
        ("deb-bookworm", "layer", flip, "DIGEST_MISMATCH"),
        ("deb-distroless", "layer", lambda data: data[:-1], "SIZE_MISMATCH"),
        ("apk-alpine", "layer", lambda data: data + b"\0", "SIZE_MISMATCH"),
        ("scratch-empty", "layer", lambda data: data[: len(data) // 2], "SIZE_MISMATCH"),
        ("deb-bookworm", "config", flip, "DIGEST_MISMATCH"),
        ("deb-distroless", "config", lambda data: data[:-1], "SIZE_MISMATCH"),
        ("apk-alpine", "config", lambda data: data + b" ", "SIZE_MISMATCH"),
        ("scratch-empty", "manifest", lambda data: data + b" ", "DIGEST_MISMATCH"),
    ],
)
def test_spoiled_bytes_send_no_result(
    running: Chain, proxy: SpoilingProxy, name: str, what: str, spoil: Callable[[bytes], bytes], code: str
) -> None:
    proxy.spoil, proxy.spoils = spoil, what
    job = running.scan(name)
    results = running.results(job)
    assert (results["state"], results["done"]["error"]["code"]) == ("failed", code), results["done"]
    assert results["scanResults"] == []
    assert results["done"]["resultCount"] == 0
    wait(lambda: running.job(job)["state"] == "failed", what=running.all_said)
    assert kept(running, job) == ["done"]
    # The same image in good health is the same agent's next job.
    proxy.spoil = lambda data: data
    assert running.results(running.scan(name))["state"] == "done"


def test_links_that_end_half_way(running: Chain, proxy: SpoilingProxy, whole: Callable[..., None]) -> None:
    """What is missing is asked for, and the whole is proven as if it had come at once."""
    proxy.cuts = 3
    whole([running.scan(NAME)])
    assert proxy.cuts == 0


def stalled(running: Chain, proxy: SpoilingProxy) -> threading.Event:
    proxy.held.clear()
    proxy.hold = threading.Event()
    return proxy.hold


def test_agent_killed_after_the_202(running: Chain, proxy: SpoilingProxy, whole: Callable[..., None]) -> None:
    hold = stalled(running, proxy)
    first = running.scan(NAME)
    wait(proxy.held.is_set, what=running.all_said)
    # One at a time: these have been accepted, and nothing more.
    waiting = [running.scan(NAME) for _ in range(2)]
    assert {running.job(job)["state"] for job in waiting} == {"queued"}
    running.agent.kill()
    hold.set()
    running.agent.start()
    whole([first, *waiting])


def test_agent_killed_while_pulling(running: Chain, proxy: SpoilingProxy, whole: Callable[..., None]) -> None:
    hold = stalled(running, proxy)
    job = running.scan(NAME)
    wait(proxy.held.is_set, what=running.all_said)
    assert running.job(job)["state"] == "pulling"
    running.agent.kill()
    hold.set()
    running.agent.start()
    whole([job])
    assert running.job(job)["attempt"] == 2


def test_agent_killed_after_the_result_was_stored(
    running: Chain, proxy: SpoilingProxy, whole: Callable[..., None]
) -> None:
    hold = stalled(running, proxy)
    job = running.scan(NAME)
    wait(proxy.held.is_set, what=running.all_said)
    running.client.kill()
    hold.set()
    wait(lambda: running.job(job)["state"] == "delivering", what=running.all_said)
    pulled = proxy.blobs
    running.agent.kill()
    running.client.start()
    running.agent.start()
    running.await_ready()
    whole([job])
    assert proxy.blobs == pulled, "what was stored is not pulled again"


@pytest.mark.parametrize("program", ["server", "client"])
def test_agent_killed_during_delivery(
    running: Chain, proxy: SpoilingProxy, whole: Callable[..., None], program: str
) -> None:
    hold = stalled(running, proxy)
    job = running.scan(NAME)
    wait(proxy.held.is_set, what=running.all_said)
    frozen = getattr(running, program)
    # Stopped, it takes connections and bytes, and says nothing.
    frozen.send(signal.SIGSTOP)
    try:
        hold.set()
        wait(lambda: running.job(job)["state"] == "delivering", what=running.all_said)
        time.sleep(0.2)  # for the message to be on its way
        running.agent.kill()
    finally:
        frozen.send(signal.SIGCONT)
    running.agent.start()
    whole([job])


@pytest.mark.parametrize("end", ["kill", "stop"])
@pytest.mark.parametrize("program", ["client", "server"])
def test_a_broker_that_ends_and_is_started_again(
    running: Chain, proxy: SpoilingProxy, whole: Callable[..., None], program: str, end: str
) -> None:
    hold = stalled(running, proxy)
    jobs = [running.scan(NAME) for _ in range(2)]
    wait(proxy.held.is_set, what=running.all_said)
    ended = getattr(running, program)
    assert getattr(ended, end)() in (None, 0), ended.said()
    hold.set()
    wait(lambda: running.job(jobs[0])["state"] == "delivering", what=running.all_said)
    ended.start()
    running.await_ready()
    jobs.append(running.scan(NAME))
    whole(jobs)


def test_all_of_them_killed_at_once(running: Chain, proxy: SpoilingProxy, whole: Callable[..., None]) -> None:
    jobs = [running.scan(NAME) for _ in range(3)]
    for program in running.programs:
        program.kill()
    for program in running.programs:
        program.start()
    running.await_ready()
    whole(jobs)
