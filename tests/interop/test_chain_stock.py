"""The chain with the real snyk-broker at one end of the tunnel: once its server, once its client."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from agent_tools import Receiver, call
from interop.canaries import Canaries, RememberingTokens, files_below, hits
from interop.chain import Chain, chain, wait
from interop.findings import PACKAGES, PLATFORMS, expected_packages, files, globs, packages
from interop.peers.docker_registry import RegistryPeer, docker_registry, push_corpus
from interop.peers.token_server import token_server

pytestmark = pytest.mark.interop

FILES = ("layers", "zstd-layers")
# The least that there may be, and a scan whose result needs many of them.
PART_BYTES = 256 * 1024
# A scan asked for at the agent itself; its results go where the agent's own settings say.
AT_THE_AGENT = {"image": {"repository": "corpus/deb-bookworm", "reference": "latest"}}
MANY_FILES = {"include": ["**/copyright"]}


@pytest.fixture(scope="module")
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture(scope="module")
def registry(corpus: Path, tmp_path_factory: pytest.TempPathFactory, canaries: Canaries) -> Iterator[RegistryPeer]:
    root = tmp_path_factory.mktemp("stock-registry")
    with docker_registry(root) as open_registry:
        push_corpus(open_registry, corpus, [*PACKAGES, *FILES, "multiarch"])
    tokens = RememberingTokens(canaries.login.username, canaries.login.password).remember(canaries.issued)
    with token_server(tokens), docker_registry(root, token=tokens) as behind_tokens:
        yield behind_tokens


def results_of(receiver: Receiver, job: str) -> Any:
    """What the results box would answer, from what the receiver took: parts joined, each result's digest checked."""
    if receiver.done(job) is None:
        return None
    done = [delivery.body for delivery in receiver.of(job) if delivery.body["kind"] == "done"]
    assert len(done) == 1
    parts: dict[int, dict[int, Any]] = {}
    for delivery in receiver.of(job):
        if delivery.body["kind"] == "result":
            parts.setdefault(delivery.body["resultIndex"], {})[delivery.body["partIndex"]] = delivery.body
    results = []
    for number in range(done[0]["resultCount"]):
        cut = parts[number]
        assert set(cut) == set(range(cut[0]["partCount"]))
        if cut[0]["partCount"] == 1:
            # The real server has written the JSON anew; what was hashed has sorted keys and no spaces.
            text = json.dumps(cut[0]["scanResult"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            whole = text.encode()
        else:
            whole = b"".join(base64.b64decode(cut[at]["data"]) for at in sorted(cut))
        assert {part["bodySha256"] for part in cut.values()} == {hashlib.sha256(whole).hexdigest()}
        results.append(json.loads(whole))
    return {"scanResults": results, "done": done[0], "parts": max(len(cut) for cut in parts.values())}


def scan_all(running: Chain, expected: Callable[[str], Any]) -> dict[str, str]:
    jobs = {name: running.scan(name) for name in PACKAGES}
    jobs |= {name: running.scan(name, globs=globs(expected(name))) for name in FILES}
    return jobs | {platform: running.scan("multiarch", platform=platform) for platform in PLATFORMS}


def check_all(found: dict[str, Any], expected: Callable[[str], Any]) -> None:
    for name in PACKAGES:
        assert packages(found[name]) == expected_packages(expected(name)["truth"])
    for name in FILES:
        assert files(found[name]) == expected(name)["truth"]["visible_files"]
    for platform in PLATFORMS:
        assert packages(found[platform]) == expected_packages(expected("multiarch")["truth"], platform)
    assert {results["done"]["state"] for results in found.values()} == {"done"}


def check_tunnel(running: Chain) -> None:
    """What a backend asks for besides scans, and what it may not."""
    assert running.ask("GET", "/healthcheck").body["ok"] is True
    assert running.ask("GET", "/validate-credentials").body["valid"] is True
    assert running.ask("GET", "/list").body["complete"] is True
    assert running.ask("GET", "/list/corpus/layers").body["tags"] == ["latest"]
    denied = running.ask("GET", "/metrics")
    assert (denied.status, denied.body["code"]) == (401, "FILTER_BLOCKED")
    unknown = call(running.server_port, "GET", "/broker/99999999-0000-4000-8000-000000000009/healthcheck")
    assert (unknown.status, unknown.headers["x-broker-failure"]) == (404, "no-connection")
    assert call(running.client_port, "POST", "/api/v2/import/other", b"{}").status == 401


def check_secrets(running: Chain, canaries: Canaries) -> None:
    """End the chain; nothing of ours may hold a secret afterwards, nor have shown one to `ps`."""
    lines = {f"ps {program.name}": program.command_line() for program in running.ours}
    assert {program.name: program.stop() for program in running.ours} == {program.name: 0 for program in running.ours}
    assert canaries.issued
    assert hits(canaries, lines | files_below(program.folder for program in running.ours)) == []


def test_the_real_server(
    registry: RegistryPeer, canaries: Canaries, tmp_path: Path, expected: Callable[[str], Any]
) -> None:
    with closing(Receiver()) as receiver:
        how: dict[str, Any] = {"stock": "server", "callback_origin": receiver.url}
        more = {"TOWLINE_CALLBACK_MAX_BYTES": str(PART_BYTES)}
        with chain(tmp_path, registry.address, canaries, **how, **more) as running:
            check_tunnel(running)
            jobs = scan_all(running, expected) | {"in parts": running.scan("deb-bookworm", globs=MANY_FILES)}
            found = {
                name: wait(partial(results_of, receiver, job), what=running.all_said) for name, job in jobs.items()
            }
            check_all(found, expected)
            assert found["in parts"]["parts"] > 1
            assert len(files(found["in parts"])) > 50
            # The receiver loses its answer to the next message: it comes again, and is known.
            receiver.script = [(503, b"", {})]
            again = running.scan("scratch-empty")
            wait(lambda: results_of(receiver, again), what=running.all_said)
            assert [delivery.attempt for delivery in receiver.seen if delivery.body["jobId"] == again] == [1, 2, 1]
            assert receiver.fault == []
            check_secrets(running, canaries)


def test_the_real_client(
    registry: RegistryPeer, canaries: Canaries, tmp_path: Path, expected: Callable[[str], Any]
) -> None:
    with chain(tmp_path, registry.address, canaries, stock="client") as running:
        check_tunnel(running)
        found = {name: running.results(job) for name, job in scan_all(running, expected).items()}
        check_all(found, expected)
        # A server that is replaced, as in an update, finds the real client again.
        assert running.server.stop() == 0, running.server.said()
        job = call(running.agent_port, "POST", "/scan", json.dumps(AT_THE_AGENT).encode()).body["jobId"]
        running.server.start()
        running.await_ready()
        assert packages(running.results(job)) == expected_packages(expected("deb-bookworm")["truth"])
        check_secrets(running, canaries)


def test_the_real_server_in_front_of_our_client_after_a_restart(
    registry: RegistryPeer, canaries: Canaries, tmp_path: Path, expected: Callable[[str], Any]
) -> None:
    """A real server that is killed finds our client again, and results that waited arrive."""
    with closing(Receiver()) as receiver:
        with chain(tmp_path, registry.address, canaries, stock="server", callback_origin=receiver.url) as running:
            job = running.scan("deb-bookworm")
            running.server.kill()
            wait(lambda: running.job(job)["state"] == "delivering", what=running.all_said)
            running.server.start()
            running.await_ready()
            found = wait(lambda: results_of(receiver, job), what=running.all_said)
            assert packages(found) == expected_packages(expected("deb-bookworm")["truth"])
            assert receiver.fault == []
