"""The vendors' transcripts over real sockets, asked by a running agent through its own API.

An agent asks for pages of its own size, so the transcripts' size of pages is left out of the comparison.
"""

from __future__ import annotations

import base64
import io
import json
import time
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import anyio
import msgspec
import pytest
from agent_tools import ApiReply, call
from anyio import to_thread
from drivers.loops import LOOPS, Loop
from vectors import registry_b, served, transcripts
from vectors.transcripts import Player

from towline.core import LIMITS, Head, Request, Secret
from towline.core.registry import Surroundings
from towline.drivers import Dialer, TlsSettings
from towline.runtimes.agent import Running, registries, serve
from towline.runtimes.agent.config import AgentConfig
from towline.runtimes.logs import Log

pytestmark = pytest.mark.timeout(300)

PAGE_SIZES = ("n", "per_page", "page_size", "pageSize")
# What the agent answers to, by the transcripts' words.
PATHS = {
    "check": "/systemcheck",
    "connect-check": "/systemcheck",
    "list_repositories": "/list",
    "list-repositories": "/list",
    "list_tags": "/list/",
    "list-tags": "/list/",
}
LEAST = 75


def without_page_size(url: str) -> str:
    """Return an address without the number of items of a page."""
    split = urlsplit(url)
    kept = [pair for pair in parse_qsl(split.query, keep_blank_values=True) if pair[0] not in PAGE_SIZES]
    return split._replace(query=urlencode(kept)).geturl()


class Sizeless:
    """Compares requests without the size of pages."""

    def __init__(self, player: Player) -> None:
        self._player = player
        for step in player.steps:
            expect = step.get("expect") or step["request"]
            expect["url"] = without_page_size(expect["url"])
            if "query" in expect:
                expect["query"] = [pair for pair in expect["query"] if pair[0] not in PAGE_SIZES]
            expect.get("body", {}).get("json", {}).pop("maxResults", None)

    @property
    def body(self) -> Any:
        return self._player.body

    @property
    def pending(self) -> Any:
        return self._player.pending

    def answer(self, request: Request) -> Head:
        body = request.body
        if b"maxResults" in body:
            asked = json.loads(body)
            del asked["maxResults"]
            # The signature is over what was sent, so it is looked at before.
            body = json.dumps(asked).encode()
        return self._player.answer(msgspec.structs.replace(request, url=without_page_size(request.url), body=body))


class Run:
    """One transcript as the agent meets it."""

    def __init__(self, player: Player, path: str, login: dict[str, Any], base: str, urls: list[str]) -> None:
        self.player = Sizeless(player)
        self.path = path
        self.login = login
        self.base = base
        self.urls = urls
        self.realm_hosts: tuple[str, ...] = ()
        self.surroundings = Surroundings()
        self.moment: float | None = None
        self.items: list[str] | None = None
        self.kinds: set[str] = set()


def run_of_scenario(document: dict[str, Any], scenario: dict[str, Any]) -> Run | None:
    config, operation, result = document["config"], scenario["operation"], scenario["result"]
    who = operation.get("credentials", config) or {}
    if operation["op"] not in PATHS or not served.scenario_is_served(scenario) or "oauth_token" in who:
        return None
    named = [operation[name] for name in ("namespace", "group", "registry") if name in operation]
    base = config["base_url"].removeprefix("https://")
    login = {
        "type": document["type"],
        "username": who.get("username", ""),
        "password": who.get("password", ""),
        "registryBase": base,
        "api": config.get("api_url", ""),
        "namespaces": named or config.get("namespaces", []),
    }
    path = PATHS[operation["op"]] + operation.get("repository", "")
    run = Run(Player(deepcopy(scenario["steps"])), path, login, base, [it["expect"]["url"] for it in scenario["steps"]])
    run.realm_hosts = tuple(config.get("extra_realm_hosts", ()))
    run.items = result.get("tags", result.get("repositories"))
    run.kinds = transcripts.ERRORS[result["error"]] if "error" in result else set()
    return run


def run_of_vector(vector: dict[str, Any]) -> Run | None:
    config, result = vector["config"], vector["result"]
    # A body whose size of pages is signed cannot be compared without it; the choice of a source is the agent's own.
    if vector["operation"] not in PATHS or not served.vector_is_served(vector):
        return None
    if "listing" in (vector.get("options") or {}) or (vector["type"] == "ecr" and vector["operation"] != "check"):
        return None
    base = config.get("registryBase", "")
    login = {name: config[name] for name in ("type", "username", "password", "roleArn", "extra") if name in config}
    login["registryBase"] = base
    if "roleArn" in config:
        base = f"{config['roleArn'].split(':')[4]}.dkr.ecr.{config['extra']['region']}.amazonaws.com"
    path = PATHS[vector["operation"]] + (vector.get("arguments") or {}).get("repository", "")
    urls = [step["request"]["url"] for step in vector["steps"]]
    run = Run(registry_b.ServedPlayer(deepcopy(vector)), path, login, base, urls)
    files = config.get("files", {})
    run.surroundings = Surroundings(
        {name: Secret(value) for name, value in config.get("environment", {}).items()},
        lambda path: str(files[path]).encode(),
        registry_b.sign_rs256,
    )
    run.moment = registry_b.wall_clock(vector["clock"])
    value = result.get("value")
    run.items = value if isinstance(value, list) else None
    run.kinds = set() if result["ok"] else registry_b.ERRORS[result["error"]["kind"]]
    return run


async def ask(loop: Loop, run: Run, folder: Path, resolve: dict[Any, Any]) -> ApiReply:
    """Start an agent, ask it once, and let it end."""
    config = AgentConfig(
        host="127.0.0.1",
        port=0,
        workdir=str(folder / "work"),
        realm_hosts=run.realm_hosts,
        surroundings=run.surroundings,
        dialer=Dialer(tls=TlsSettings(ca_files=(str(folder / "ca.pem"),)), resolve=resolve),
        limits=msgspec.structs.replace(LIMITS, retries=0),
        drain_seconds=1.0,
    )
    stop, log = anyio.Event(), Log("error", "json", io.StringIO())
    credentials = base64.b64encode(json.dumps(run.login).encode()).decode()

    async with anyio.create_task_group() as tasks:

        async def agent(*, task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
            await serve(config, loop.module, log=log, stop=stop, task_status=task_status)

        running: Running = await tasks.start(agent)
        headers = {"x-registry-credentials": credentials}
        reply = await to_thread.run_sync(call, running.port, "GET", run.path, None, headers)
        stop.set()
    return reply


def misfit(run: Run, reply: ApiReply, faults: list[str]) -> str | None:
    """Say what is not as the transcript says."""
    if faults:
        return faults[0]
    if run.player.pending:
        return f"{len(run.player.pending)} steps are left: {reply.data[:200]!r}"
    if run.kinds:
        codes = {kind.upper().replace("-", "_") for kind in run.kinds}
        if reply.status == 200:
            unsupported = "CATALOG_UNSUPPORTED" in codes and reply.body.get("complete") is False
            return None if unsupported else f"expected {codes}, got {reply.data[:200]!r}"
        return None if reply.code in codes else f"expected {codes}, got {reply.data[:200]!r}"
    if reply.status != 200:
        return f"expected 200, got {reply.status} {reply.data[:200]!r}"
    if run.items is None:
        return None
    got = reply.body.get("tags", reply.body.get("repositories"))
    return None if got == run.items and reply.body["complete"] else f"expected {run.items}, got {reply.data[:200]!r}"


def runs() -> list[tuple[str, Run]]:
    found: list[tuple[str, Run | None]] = []
    here = Path(__file__).parent
    for path in sorted((here / "registry").glob("transcript-*.json")):
        document = json.loads(path.read_text())
        found += [(f"{document['type']}-{it['name']}", run_of_scenario(document, it)) for it in document["scenarios"]]
    for path in sorted((here / "registry-b").glob("*.json")):
        vectors = [it for it in json.loads(path.read_text())["vectors"] if "steps" in it]
        found += [(it["name"], run_of_vector(it)) for it in vectors]
    return [(name, run) for name, run in found if run is not None]


ALL = runs()


def test_every_type_is_asked() -> None:
    assert len(ALL) >= LEAST
    assert len({run.login["type"] for _, run in ALL}) == 12


@pytest.mark.parametrize(("name", "run"), ALL, ids=[name for name, _ in ALL])
def test_the_agent_asks_each_vendor_in_its_way(
    name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if run.moment is not None:
        lead = run.moment - time.time()
        monkeypatch.setattr(registries, "time", SimpleNamespace(time=lambda: time.time() + lead))
    split = [urlsplit(url) for url in run.urls]
    origins = {(url.scheme, url.hostname or "", url.port or served.PORTS[url.scheme]) for url in split}
    host, _, port = run.base.partition("/")[0].partition(":")
    origins.add(("https", host, int(port or 443)))
    player: Any = run.player
    with served.servers(player, origins, tmp_path) as (places, faults):
        resolve = {(host, port): ("127.0.0.1", local) for (_, host, port), local in places.items()}
        reply = LOOPS[0].run(lambda: ask(LOOPS[0], run, tmp_path, resolve))
    assert misfit(run, reply, faults) is None
