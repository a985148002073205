"""High availability and a server that wants credentials, with the stock peers: which server, and what if none may."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from agent_tools import _Server, call, reply
from interop.brokers import Brokers, Make, brokers
from interop.chain import wait
from interop.peers.broker_upstream import read_body
from ports import free_port

pytestmark = pytest.mark.interop

PAIRS: list[tuple[Make, Make]] = [("ours", "ours"), ("ours", "stock"), ("stock", "ours")]
NUMBER = "7"
LINE = re.compile(rb"(GET|POST) (/(?:primus|response-data)/[^ ]*)")


class Dispatcher(_Server):
    """Stands in for the vendor's: gives every client the same server."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        super().__init__()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, asked: BaseHTTPRequestHandler) -> None:
        body = read_body(asked.rfile, {name.lower(): value for name, value in asked.headers.items()})
        self.asked.append((f"{asked.command} {asked.path}", json.loads(body or b"null")))
        told = {"data": {"attributes": {"server_id": NUMBER}}}
        reply(asked, 200, json.dumps(told).encode(), Content_Type="application/vnd.api+json")


class Listening:
    """A wire that notes what clients ask for on it."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.lines: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                # The server is not up yet, or no more.
                near.close()
                continue
            for source, sink, noted in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._copy, args=(source, sink, noted), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, noted: bool) -> None:
        with source, sink:
            try:
                while data := source.recv(65536):
                    if noted:
                        self.lines += [match[2].decode() for match in LINE.finditer(data)]
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    def of(self, path: str) -> list[str]:
        return [line for line in list(self.lines) if line.startswith(path)]


@pytest.fixture(params=PAIRS, ids=[f"server-{server}-client-{client}" for server, client in PAIRS])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Brokers, Dispatcher, Listening]]:
    port = free_port()
    with closing(Dispatcher()) as dispatcher, closing(Listening(port)) as wire:
        client = {
            "BROKER_HA_MODE_ENABLED": "true",
            "API_BASE_URL": dispatcher.url,
            "DISPATCHER_URL_PREFIX": "/hidden/broker",
        }
        server, made = request.param
        with brokers(tmp_path, server, made, client_more=client, via=wire.port, server_port=port) as running:
            yield running, dispatcher, wire


def test_a_client_goes_to_the_server_that_the_dispatcher_names(pair: tuple[Brokers, Dispatcher, Listening]) -> None:
    running, dispatcher, wire = pair
    assert running.ask("/small").status == 200
    assert running.ask("/bytes/100000").status == 200
    hashed = hashlib.sha256(running.token.encode()).hexdigest()
    # The preflight checks ask the API, too.
    line, body = next(asked for asked in dispatcher.asked if asked[0].startswith("POST "))
    assert re.fullmatch(
        rf"POST /hidden/broker/{hashed}/connections/[0-9a-f-]{{36}}\?version=2022-12-01%7Eexperimental", line
    )
    assert body["data"]["attributes"]["broker_token_first_char"] == running.token[0]
    tunnels, uploads = wire.of("/primus/"), wire.of("/response-data/")
    assert tunnels
    assert uploads
    for line in (*tunnels, *uploads):
        assert f"server_id={NUMBER}" in line, line
    assert {role for line in tunnels for role in re.findall(r"connection_role=(\w+)", line)} == {"primary", "secondary"}


# ── a server that wants credentials ──────────────────────────────────────────
class Gateway(_Server):
    """Stands in for what the server asks about credentials: takes none."""

    def serve(self, asked: BaseHTTPRequestHandler) -> None:
        reply(asked, 401)


def test_our_client_backs_off_from_a_stock_server_that_wants_credentials(tmp_path: Path) -> None:
    """It says so, waits longer each time, and its health check tells."""
    with closing(Gateway()) as gateway, closing(Listening(port := free_port())) as wire:
        more = {"BROKER_SERVER_MANDATORY_AUTH_ENABLED": "true", "GATEWAY_HOSTNAME": f"http://127.0.0.1:{gateway.port}"}
        pair = Brokers(tmp_path, "stock", "ours", server_more=more, via=wire.port, server_port=port)
        with closing(pair):
            pair.server.start()
            wait(lambda: _answers(port), what=pair.said)
            pair.client.start()
            wait(lambda: pair.client.said().count("tunnel.closed") >= 8, what=pair.said)
            told = [json.loads(line) for line in pair.client.said().splitlines() if '"tunnel.closed"' in line]
            assert any("401" in entry["reason"] for entry in told), told[0]
            waits = [entry["retry_in"] for entry in told if entry["role"] == "primary"]
            assert waits[-1] > 1.5 * waits[0], waits
            time.sleep(0.1)
            health = call(pair.client_port, "GET", "/healthcheck")
            assert (health.status, [tunnel["ok"] for tunnel in health.body]) == (500, [False, False])
            assert pair.token not in pair.client.said()
            assert pair.client.stop() == 0


def _answers(port: int) -> bool:
    try:
        return call(port, "GET", "/healthcheck").status == 200
    except OSError:
        return False
