"""The whole chain on real parts: three programs as processes, docker-registry behind a login, the results box read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from agent_tools import call
from interop.canaries import Canaries, RememberingTokens, files_below, hits
from interop.chain import Chain, chain
from interop.findings import FILES, PACKAGES, PLATFORMS, expected_packages, files, globs, packages
from interop.peers.docker_registry import docker_registry, push_corpus
from interop.peers.token_server import token_server

pytestmark = pytest.mark.interop

NAMES = [*PACKAGES, *FILES, "multiarch"]


@pytest.fixture(scope="module")
def pushed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of docker-registry's with the images pushed to it."""
    root = tmp_path_factory.mktemp("chain-registry")
    with docker_registry(root) as registry:
        push_corpus(registry, corpus, NAMES)
    return root


@pytest.fixture(scope="module", params=["htpasswd", "token"])
def running(request: pytest.FixtureRequest, pushed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """The chain in front of a registry that wants a login."""
    canaries = Canaries()
    with ExitStack() as stack:
        if request.param == "token":
            tokens = RememberingTokens(canaries.login.username, canaries.login.password).remember(canaries.issued)
            stack.enter_context(token_server(tokens))
            registry = stack.enter_context(docker_registry(pushed, token=tokens))
        else:
            registry = stack.enter_context(docker_registry(pushed, htpasswd=canaries.login))
        yield stack.enter_context(chain(tmp_path_factory.mktemp("chain"), registry.address, canaries))
        assert bool(canaries.issued) == (request.param == "token")


@pytest.fixture(scope="module")
def found(running: Chain, expected: Callable[[str], Any]) -> dict[str, Any]:
    """Every image scanned once, all asked for before the first result is read; a platform of an index by its name."""
    jobs = {name: running.scan(name) for name in PACKAGES}
    jobs |= {name: running.scan(name, globs=globs(expected(name))) for name in FILES}
    jobs |= {platform: running.scan("multiarch", platform=platform) for platform in PLATFORMS}
    return {name: running.results(job) for name, job in jobs.items()}


@pytest.mark.parametrize("name", PACKAGES)
def test_packages(found: dict[str, Any], expected: Callable[[str], Any], name: str) -> None:
    assert packages(found[name]) == expected_packages(expected(name)["truth"])


@pytest.mark.parametrize("platform", PLATFORMS)
def test_platforms(found: dict[str, Any], expected: Callable[[str], Any], corpus: Path, platform: str) -> None:
    assert packages(found[platform]) == expected_packages(expected("multiarch")["truth"], platform)
    told = json.loads((corpus / "multiarch.json").read_text())["platforms"][platform]
    assert found[platform]["image"]["manifestDigest"] == told["manifest_digest"]
    assert found[platform]["image"]["platform"] == platform


@pytest.mark.parametrize("name", FILES)
def test_visible_files(found: dict[str, Any], expected: Callable[[str], Any], name: str) -> None:
    assert files(found[name]) == expected(name)["truth"]["visible_files"]


def test_the_box_lists_every_job_once(running: Chain, found: dict[str, Any]) -> None:
    items: list[Any] = []
    cursor = ""
    while (page := running.box(f"?limit=4&cursor={cursor}").body)["items"]:
        items += page["items"]
        cursor = page["nextCursor"] or page["items"][-1]["cursor"]
    assert sorted(item["jobId"] for item in items) == sorted(results["jobId"] for results in found.values())
    for results in found.values():
        assert results["state"] == "done", results
        assert results["done"]["resultCount"] == results["resultCount"] == len(results["scanResults"]) >= 1
        assert results["done"]["error"] is None
        assert running.job(results["jobId"])["state"] == "done"
    assert call(running.server_port, "GET", "/results").status == 403


def test_health(running: Chain) -> None:
    healthy = running.ask("GET", "/healthcheck")
    assert (healthy.status, healthy.body["ok"]) == (200, True)
    assert [tunnel["ok"] for tunnel in call(running.client_port, "GET", "/healthcheck").body] == [True, True]
    checked = call(running.client_port, "GET", "/systemcheck")
    assert checked.status == 200, checked.data
    assert running.canaries.core.encode() not in checked.data


def test_credentials_lists_and_state(running: Chain, corpus: Path) -> None:
    valid = running.ask("GET", "/validate-credentials")
    assert (valid.status, valid.body["valid"]) == (200, True), valid.data
    listed = running.ask("GET", "/list").body
    assert listed["complete"]
    assert sorted(listed["repositories"]) == sorted(f"corpus/{name}" for name in NAMES)
    tags = running.ask("GET", "/list/corpus/layers")
    assert (tags.status, tags.body["tags"], tags.body["complete"]) == (200, ["latest"], True)
    assert running.ask("GET", "/list/corpus/none").status == 404
    told = json.loads((corpus / "multiarch.json").read_text())["platforms"]
    for platform in PLATFORMS:
        query = f"repository=corpus/multiarch&reference=latest&platform={platform}"
        state = running.ask("GET", f"/get-state-identifier?{query}")
        assert state.body["stateIdentifier"] == told[platform]["manifest_digest"]


def test_an_image_that_is_not_there(running: Chain) -> None:
    done = running.results(running.scan("none"))["done"]
    assert (done["state"], done["error"]["code"], done["resultCount"]) == ("failed", "IMAGE_NOT_FOUND", 0)


def test_what_may_not_pass(running: Chain) -> None:
    for target in ("/metrics", "/ready", "/v2/", "/list/../jobs", "/scan"):
        denied = running.ask("GET", target)
        assert (denied.status, denied.body.get("code")) == (401, "FILTER_BLOCKED"), (target, denied)
    unlisted = call(running.client_port, "POST", "/api/v2/import/other", b"{}")
    assert unlisted.status == 401
    unknown = call(running.server_port, "GET", "/broker/99999999-0000-4000-8000-000000000009/healthcheck")
    assert (unknown.status, unknown.headers["x-broker-failure"]) == (404, "no-connection")


def test_no_secret_is_left_anywhere(running: Chain, found: dict[str, Any]) -> None:
    """The last one: it ends the programs, so that all they write is written."""
    lines = {f"ps {program.name}": program.command_line() for program in running.programs}
    # With the write-ahead logs, which a clean end empties.
    while_running = files_below([running.folder])
    assert [name for name in while_running if name.endswith("-wal")]
    assert [program.stop() for program in running.programs] == [0, 0, 0], running.all_said()
    places = (
        lines | while_running | {f"{name} at the end": data for name, data in files_below([running.folder]).items()}
    )
    assert hits(running.canaries, places) == []
    assert all(len(program.said()) > 100 for program in running.programs)
