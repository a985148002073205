"""One client program with two connections: two tokens, two registries, one agent; our server, and the stock one."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from agent_tools import CANARY, REPOSITORY, USER, ApiReply, Receiver, SmallRegistry, call, make_image
from interop.chain import CALLBACK_RULES, Program, towline, wait
from needed import SNYK_BROKER_CACHE, need_peer
from ports import free_port

pytestmark = pytest.mark.interop

TOKENS = {"first": str(uuid.uuid4()), "second": str(uuid.uuid4())}
VERSIONS = {"first": b"1.1.1-1", "second": b"2.2.2-2"}
CONTEXT = str(uuid.uuid4())
PASSWORD = json.dumps(CANARY)[1:-1]  # as it stands between the quotes of a TOML text
FILL = {"x-broker-var-sub": "x-registry-credentials", "x-registry-credentials": "${CR_CREDENTIALS}"}

CLIENT = """\
[client]
server_url = "http://127.0.0.1:{server}"
client_url = "http://127.0.0.1:{client}"
agent_url = "http://127.0.0.1:{agent}"

[connections.first]
token = "${{FIRST_TOKEN}}"
type = "oci"
CR_BASE = "{first}"
CR_USERNAME = "{user}"
CR_PASSWORD = "wrong-{password}"

[connections.first.contexts.{context}]
CR_PASSWORD = "{password}"

[connections.second]
token = "{second_token}"
type = "oci"
accept = "second.json"
CR_BASE = "{second}"
CR_USERNAME = "{user}"
CR_PASSWORD = "{password}"
"""


class Towline:
    """The programs of one test. `stock` puts the real server in the place of ours."""

    def __init__(self, folder: Path, *, stock: bool) -> None:
        self.receiver = Receiver()
        self.registries = {name: SmallRegistry({"1.0": make_image(version=VERSIONS[name])}) for name in TOKENS}
        ports = {name: free_port() for name in ("server", "client", "agent")}
        self.server_port, self.client_port, self.agent_port = ports.values()
        self.accept = folder / "client" / "second.json"
        if stock:
            argv = [need_peer("snyk-broker-server"), "--port", str(self.server_port), "--accept", str(CALLBACK_RULES)]
            argv += ["--env", f"CALLBACK_ORIGIN={self.receiver.url}"]
            self.server = Program(folder, "stock-server", argv, {"SNYK_BROKER_CACHE": str(SNYK_BROKER_CACHE)})
        else:
            own = {"ACCEPT": str(CALLBACK_RULES), "CALLBACK_ORIGIN": self.receiver.url, "PORT": str(self.server_port)}
            self.server = towline(folder, "server", **own)
        variables = {"PORT": str(self.client_port), "FIRST_TOKEN": TOKENS["first"], "LOG_LEVEL": "debug"}
        self.client = towline(folder, "client", **variables)
        self.accept_rules("/list", "/validate-credentials", "/healthcheck", "/scan")
        hosts = {name: registry.host for name, registry in self.registries.items()}
        (folder / "client" / "towline.toml").write_text(
            CLIENT.format(
                **ports, **hosts, user=USER, password=PASSWORD, context=CONTEXT, second_token=TOKENS["second"]
            )
        )
        agent = {
            "SNYK_PORT": str(self.agent_port),
            "BROKER_CLIENT_URL": f"http://127.0.0.1:{self.client_port}",
            "TOWLINE_ALLOW_HTTP": ",".join(hosts.values()),
            "LOG_LEVEL": "debug",
        }
        self.agent = towline(folder, "agent", **agent)

    @property
    def programs(self) -> list[Program]:
        return [self.server, self.client, self.agent]

    def accept_rules(self, *paths: str) -> None:
        """Write the accept file of the second connection."""
        methods = {"/scan": "POST"}
        private = [{"method": methods.get(path, "GET"), "path": path, "origin": "${CR_AGENT_URL}"} for path in paths]
        public = [{"method": "POST", "path": path} for path in ("/api/v2/import/result", "/api/v2/import/done")]
        self.accept.write_text(json.dumps({"private": private, "public": public}))

    def ask(self, name: str, method: str, target: str, body: Any = None, **headers: str) -> ApiReply:
        data = None if body is None else json.dumps(body).encode()
        named = {key.replace("_", "-"): value for key, value in headers.items()} | {"content-type": "application/json"}
        return call(self.server_port, method, f"/broker/{TOKENS[name]}{target}", data, named)

    def scan(self, name: str, **headers: str) -> ApiReply:
        body = {
            "requestId": str(uuid.uuid4()),
            "image": {"repository": REPOSITORY, "reference": "1.0"},
            "callback": {"baseUrl": "${BROKER_CLIENT_URL}"},
            "credentials": "${CR_CREDENTIALS}",
            "BROKER_VAR_SUB": ["callback.baseUrl", "credentials"],
        }
        return self.ask(name, "POST", "/scan", body, **headers)

    def said(self) -> str:
        return "\n".join(f"── {program.name}\n{program.said()[-3000:]}" for program in self.programs)

    def start(self) -> None:
        for program in self.programs:
            program.start()
        wait(self._stands, what=self.said)

    def _stands(self) -> bool:
        assert all(program.running.poll() is None for program in self.programs), self.said()
        try:
            told = call(self.client_port, "GET", "/healthcheck").body
            return all(entry["ok"] for entry in told) and call(self.agent_port, "GET", "/ready").status == 200
        except OSError:
            return False

    def close(self) -> None:
        for program in self.programs:
            program.close()
        for server in (self.receiver, *self.registries.values()):
            server.close()


@pytest.fixture(params=["ours", "stock"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Towline]:
    with ExitStack() as stack:
        made = stack.enter_context(closing(Towline(tmp_path, stock=request.param == "stock")))
        made.start()
        yield made


def test_two_connections(running: Towline) -> None:
    assert [entry["friendlyName"] for entry in call(running.client_port, "GET", "/healthcheck").body] == [
        "first",
        "first",
        "second",
        "second",
    ]
    # Each token is answered from its own registry, by its own login: the first's base login is wrong on purpose.
    assert running.ask("second", "GET", "/list", **FILL).body["repositories"] == [REPOSITORY, "team/other"]
    refused = running.ask("first", "GET", "/list", **FILL)
    assert (refused.status, refused.code) == (401, "REGISTRY_UNAUTHORIZED")
    listed = running.ask("first", "GET", "/list", **FILL, x_snyk_broker_context_id=CONTEXT)
    assert listed.body["repositories"] == [REPOSITORY, "team/other"]
    unknown = running.ask("first", "GET", "/list", **FILL, x_snyk_broker_context_id=str(uuid.uuid4()))
    assert (unknown.status, unknown.body["code"]) == (400, "UNKNOWN_CONTEXT")
    in_path = call(running.server_port, "GET", f"/broker/{TOKENS['first']}/ctx/{CONTEXT}/list", None, FILL)
    assert in_path.status == 200
    checked = call(running.client_port, "GET", "/systemcheck")
    assert [(one["connectionName"], one["validated"]) for one in checked.body] == [("first", False), ("second", True)]

    # Results come back to the connection that asked, though one agent works for both.
    jobs = {
        "first": running.scan("first", x_snyk_broker_context_id=CONTEXT).body["jobId"],
        "second": running.scan("second").body["jobId"],
    }
    for name, job in jobs.items():
        wait(lambda job=job: running.receiver.done(job), what=running.said)  # type: ignore[misc]
        deliveries = running.receiver.of(job)
        assert {delivery.headers["x-broker-token"] for delivery in deliveries} == {TOKENS[name]}
        assert {delivery.path for delivery in deliveries} == {"/api/v2/import/result", "/api/v2/import/done"}
        found = json.dumps([delivery.body for delivery in deliveries])
        assert VERSIONS[name].decode() in found
    assert running.receiver.fault == []

    # Whose it is must be clear.
    unclear = call(running.client_port, "POST", "/api/v2/import/done", b"{}")
    assert (unclear.status, unclear.body["prefixes"]) == (400, ["/connections/first", "/connections/second"])

    # The accept file is read again; one that cannot be read changes nothing.
    running.accept.write_text("{")
    kept = call(running.client_port, "POST", "/filters")
    assert kept.status == 500
    assert "second.json" in kept.body["message"]
    assert running.ask("second", "GET", "/list", **FILL).status == 200
    running.accept_rules("/healthcheck")
    assert len(call(running.client_port, "POST", "/filters").body["second"]["private"]) == 1
    assert running.ask("second", "GET", "/list", **FILL).status == 401
    assert running.ask("first", "GET", "/healthcheck").status == 200

    for program in (running.client, running.agent):
        assert program.stop() == 0, program.said()
        said = program.said()
        assert "Traceback" not in said
        assert CANARY not in said
        assert base64.b64encode(CANARY.encode()).decode()[:-4] not in said
        assert not any(token in said for token in TOKENS.values())
