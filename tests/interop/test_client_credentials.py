"""The client program with credentials, before servers that let nobody in without: ours, and the stock one."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from agent_tools import _Server, call, reply
from interop.chain import Program, towline, wait
from needed import SNYK_BROKER_CACHE, need_peer
from ports import free_port

pytestmark = pytest.mark.interop

TOKEN = str(uuid.uuid4())
SECRET = uuid.uuid4().hex
LARGE = 1024 * 1024


def jwt(**claims: str) -> str:
    """Return a token of the form that the stock server reads; nobody here checks who signed it."""
    parts = ({"alg": "none"}, claims)
    texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*texts, "signed"])


def read_body(asked: BaseHTTPRequestHandler) -> bytes:
    """Return a request's body, which the stock server sends in chunks."""
    if asked.headers.get("transfer-encoding") != "chunked":
        return asked.rfile.read(int(asked.headers.get("content-length", "0")))
    body = b""
    while size := int(asked.rfile.readline(), 16):
        body += asked.rfile.read(size)
        asked.rfile.readline()
    asked.rfile.readline()
    return body


class Vendor(_Server):
    """API and gateway of the vendor: gives out a token, and says whether one is good."""

    def __init__(self) -> None:
        self.bearer = "Bearer " + jwt(azp="towline", jti=uuid.uuid4().hex)
        self.judged: list[tuple[str, str | None]] = []
        self.forms: list[dict[str, list[str]]] = []
        super().__init__()

    def serve(self, asked: BaseHTTPRequestHandler) -> None:
        body = read_body(asked)
        if asked.path == "/oauth2/token":
            self.forms.append(parse_qs(body.decode()))
            token = {"access_token": self.bearer.removeprefix("Bearer "), "token_type": "bearer", "expires_in": 3600}
            return reply(asked, 200, json.dumps(token).encode(), Content_Type="application/json")
        if "/auth/validate" in asked.path:
            shown = asked.headers.get("authorization")
            self.judged.append((asked.path, shown))
            return reply(asked, 201 if shown == self.bearer else 401, b"{}")
        return reply(asked, 404)


class Upstream(_Server):
    def serve(self, asked: BaseHTTPRequestHandler) -> None:
        reply(asked, 200, b"x" * (LARGE if asked.path == "/list" else 2), Content_Type="text/plain")


class Scene:
    def __init__(self, folder: Path, *, stock: bool, secret: bool) -> None:
        self.vendor, self.upstream = Vendor(), Upstream()
        self.server_port, self.client_port = free_port(), free_port()
        gateway = f"http://127.0.0.1:{self.vendor.port}"
        wanted = {"BROKER_SERVER_MANDATORY_AUTH_ENABLED": "true", "GATEWAY_HOSTNAME": gateway}
        if stock:
            argv = [need_peer("snyk-broker-server"), "--port", str(self.server_port)]
            for name, value in wanted.items():
                argv += ["--env", f"{name}={value}"]
            self.server = Program(folder, "stock-server", argv, {"SNYK_BROKER_CACHE": str(SNYK_BROKER_CACHE)})
        else:
            self.server = towline(folder, "server", PORT=str(self.server_port), **wanted)
        client = {
            "PORT": str(self.client_port),
            "BROKER_TOKEN": TOKEN,
            "BROKER_SERVER_URL": f"http://127.0.0.1:{self.server_port}",
            "CR_AGENT_URL": f"http://127.0.0.1:{self.upstream.port}",
            "API_BASE_URL": gateway,
            "LOG_LEVEL": "debug",
        }
        if secret:
            client |= {"TOWLINE_AUTHENTICATE": "true", "CLIENT_ID": "me", "CLIENT_SECRET": SECRET}
        self.client = towline(folder, "client", **client)
        for program in (self.server, self.client):
            program.start()

    def said(self) -> str:
        return "\n".join(program.said()[-3000:] for program in (self.server, self.client))

    def health(self) -> int:
        try:
            return call(self.client_port, "GET", "/healthcheck").status
        except OSError:
            return 0

    def close(self) -> None:
        for program in (self.client, self.server):
            program.close()
        self.vendor.close()
        self.upstream.close()


@pytest.fixture(params=["ours", "stock"])
def stock(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "stock")


@pytest.fixture
def scenes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_client_with_credentials_is_let_in(stock: bool, tmp_path: Path, scenes: ExitStack) -> None:
    scene = scenes.enter_context(closing(Scene(tmp_path, stock=stock, secret=True)))
    wait(lambda: scene.health() == 200, what=scene.said)
    assert scene.vendor.forms[0]["client_secret"] == [SECRET]
    assert {shown for _, shown in scene.vendor.judged} == {scene.vendor.bearer}
    assert TOKEN in scene.vendor.judged[0][0]
    small = wait(lambda: _answered(scene, "/healthcheck"), what=scene.said)
    assert small == b"xx"
    # What does not fit into an event is uploaded, with the token.
    large = wait(lambda: _answered(scene, "/list"), what=scene.said)
    assert len(large or b"") == LARGE
    assert scene.client.stop() == 0
    said = scene.client.said()
    assert SECRET not in said
    assert scene.vendor.bearer.removeprefix("Bearer ") not in said


def test_a_client_without_is_not(stock: bool, tmp_path: Path, scenes: ExitStack) -> None:
    scene = scenes.enter_context(closing(Scene(tmp_path, stock=stock, secret=False)))
    wait(lambda: "401" in scene.client.said(), what=scene.said)
    assert scene.health() == 500
    assert scene.vendor.forms == []


def _answered(scene: Scene, path: str) -> bytes | None:
    got = call(scene.server_port, "GET", f"/broker/{TOKEN}{path}")
    return got.data if got.status == 200 else None
