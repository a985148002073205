"""The server program in operation: its metrics, its end under load, callers who leave, credentials, the dispatcher.

Each in front of our client and of the real one.
"""

from __future__ import annotations

import base64
import http.client
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from agent_tools import ApiReply, _Server, call, reply
from interop.chain import wait
from interop.server_pair import RELAY, TOKEN, Pair
from ports import free_port

pytestmark = pytest.mark.interop

WHOSE = pytest.mark.parametrize("whose", ["ours", "stock"])
Pairs = Callable[..., Pair]


@pytest.fixture
def pairs(tmp_path: Path) -> Iterator[Pairs]:
    made: list[Pair] = []

    def make(whose: str = "ours", client: dict[str, str] | None = None, **server: str) -> Pair:
        made.append(Pair(tmp_path / str(len(made)), whose, client or {}, **server))
        return made[-1]

    yield make
    for pair in made:
        pair.close()


# ── metrics ───────────────────────────────────────────────────────────────────
def read_metrics(port: int) -> dict[str, float]:
    """Return every sample by its name and labels, as Prometheus would read them."""
    from prometheus_client.parser import text_string_to_metric_families

    got = call(port, "GET", "/metrics")
    assert got.status == 200, got.data
    assert got.headers["content-type"].startswith("text/plain")
    samples = {}
    for family in text_string_to_metric_families(got.data.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}"] = sample.value
    return samples


@WHOSE
def test_metrics_tell_what_happened(pairs: Pairs, whose: str) -> None:
    shown = free_port()
    pair = pairs(whose, TOWLINE_SERVER_METRICS_PORT=str(shown), LOG_LEVEL="debug").start()
    assert call(pair.port, "GET", f"{RELAY}/list/slow/0.3").status == 200
    assert call(pair.port, "GET", "/broker/nobody/list/x").status == 404
    assert call(pair.port, "GET", f"{RELAY}/list/%2e%2e/x").status == 401
    samples = read_metrics(shown)
    assert samples["towline_tunnel_ready{}"] == 2
    assert samples["towline_requests_total{code=200,direction=inbound,rule=0}"] == 1
    assert samples["towline_requests_total{code=404,direction=inbound,rule=}"] == 1
    assert samples["towline_rejected_total{reason=denied}"] == 1
    assert samples["towline_rejected_total{reason=no-connection}"] == 1
    assert samples["towline_request_seconds_bucket{direction=inbound,le=0.25}"] == 2
    assert samples["towline_request_seconds_bucket{direction=inbound,le=2.5}"] == 3
    assert samples["towline_request_seconds_count{direction=inbound}"] == 3
    assert 0.3 <= samples["towline_request_seconds_sum{direction=inbound}"] < 2
    (build,) = (name for name in samples if name.startswith("towline_build_info"))
    assert "role=server" in build
    # The stock server's names.
    assert samples["broker_socket_connection_total{}"] == 2
    assert samples["http_request_total{flowDirection=inbound-request,rejectedByFilter=true}"] == 1
    assert samples["http_request_total{flowDirection=inbound-request,rejectedByFilter=false}"] == 2
    assert samples["broker_ws_request_total{flowDirection=inbound-request,rejectedByFilter=false}"] == 1
    assert samples["http_request_duration_seconds_count{method=GET,status_code=200}"] == 1
    sizes = {name: value for name, value in samples.items() if name.startswith("broker_response_size_bytes_sum")}
    assert sum(sizes.values()) == 2000
    assert samples["process_resident_memory_bytes{}"] > 1e6
    assert call(shown, "GET", "/").status == 404
    assert call(shown, "POST", "/metrics").status == 405
    assert call(pair.port, "GET", "/metrics").status == 404
    assert TOKEN not in call(shown, "GET", "/metrics").data.decode()
    pair.client.kill()
    wait(lambda: read_metrics(shown)["towline_tunnel_ready{}"] == 0)
    closed = {name: value for name, value in read_metrics(shown).items() if name.startswith("broker_socket_close")}
    assert sum(closed.values()) == 2


def test_a_client_has_metrics_too(pairs: Pairs) -> None:
    shown = free_port()
    pair = pairs(client={"TOWLINE_CLIENT_METRICS_PORT": str(shown)}).start()
    assert call(pair.port, "GET", f"{RELAY}/list/slow/0.1").status == 200
    assert call(pair.port, "GET", f"{RELAY}/nothing").status == 401
    assert call(pair.client_port, "POST", "/nothing", b"").status == 401
    samples = read_metrics(shown)
    assert samples["towline_tunnel_ready{}"] == 2
    assert sum(value for name, value in samples.items() if name.startswith("towline_requests_total{code=200")) == 1
    assert samples["towline_requests_total{code=401,direction=inbound,rule=}"] == 1
    assert samples["towline_requests_total{code=401,direction=outbound,rule=}"] == 1
    assert samples["towline_rejected_total{reason=denied}"] == 2
    assert not [name for name in samples if name.startswith(("broker_", "http_"))]
    pair.server.kill()
    wait(lambda: read_metrics(shown)["towline_tunnel_ready{}"] == 0)
    reconnects = [value for name, value in read_metrics(shown).items() if name.startswith("towline_tunnel_reconnects")]
    assert sum(reconnects) >= 2


def test_metrics_are_on_the_own_port_only_when_asked_for(pairs: Pairs) -> None:
    pair = pairs(TOWLINE_SERVER_METRICS_PUBLIC="true").start()
    assert read_metrics(pair.port)["towline_tunnel_ready{}"] == 2


# ── the end ───────────────────────────────────────────────────────────────────
class Load:
    """Callers that ask one thing after the other: when each request was written, and what it got."""

    def __init__(self, port: int, count: int, path: str) -> None:
        self.answers: list[tuple[float, int | str]] = []
        self._stop = threading.Event()
        self._port, self._path = port, path
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            began, got = time.monotonic(), "refused"
            try:
                connection.connect()
                connection.request("GET", self._path)
                began, got = time.monotonic(), "broken"
                answer = connection.getresponse()
                whole = len(answer.read()) == 2000
                self.answers.append((began, answer.status if answer.status != 200 or whole else "short"))
            except (OSError, http.client.HTTPException):
                self.answers.append((began, got))
                time.sleep(0.05)
            finally:
                connection.close()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


@WHOSE
def test_a_stop_under_load_fails_nothing_that_began_before_it(pairs: Pairs, whose: str) -> None:
    pair = pairs(whose).start()
    load = Load(pair.port, 16, f"{RELAY}/list/slow/0.4")
    try:
        wait(lambda: len(load.answers) >= 48, what=pair.said)
        before = time.monotonic() - 0.1  # what was written by then has been read
        pair.server.send(signal.SIGTERM)
        assert pair.server.running.wait(15) == 0, pair.said()
        took = time.monotonic() - before
    finally:
        load.end()
    early = [got for began, got in load.answers if began < before]
    assert set(early) == {200}, pair.said()
    assert took < 5  # as long as what was under way, not as long as the drain time
    late = {got for began, got in load.answers if began >= before}
    assert late <= {200, 503, "refused", "broken"}
    assert "Traceback" not in pair.server.said()


@WHOSE
def test_after_a_restart_the_clients_come_back(pairs: Pairs, whose: str) -> None:
    pair = pairs(whose).start()
    pair.server.send(signal.SIGTERM)
    assert pair.server.running.wait(15) == 0
    pair.start_server()
    wait(lambda: pair.tunnels() == 2, what=pair.said)
    assert call(pair.port, "GET", f"{RELAY}/list/slow/0").status == 200


def test_clients_are_replaced_one_by_one_and_no_request_fails(pairs: Pairs) -> None:
    pair = pairs().start()
    old = pair.client
    load = Load(pair.port, 16, f"{RELAY}/list/slow/0.05")
    try:
        for turn in range(3):
            new = pair.another_client(turn)
            new.start()
            wait(lambda: pair.tunnels() == 4, what=pair.said)
            # The newest serves. It is the one that is stopped, so that the other has to take over.
            done = len(load.answers)
            wait(lambda done=done: len(load.answers) > done + 64, what=pair.said)  # type: ignore[misc]
            new.send(signal.SIGTERM)
            assert new.running.wait(15) == 0, new.said()
            wait(lambda: pair.tunnels() == 2, what=pair.said)
    finally:
        load.end()
    assert {got for _, got in load.answers} == {200}
    assert old.running.poll() is None


def test_while_it_stops_it_is_not_ready_and_takes_nothing(pairs: Pairs) -> None:
    pair = pairs().start()
    got: list[int] = []
    asking = threading.Thread(target=lambda: got.append(call(pair.port, "GET", f"{RELAY}/list/slow/1.5").status))
    asking.start()
    time.sleep(0.3)
    pair.server.send(signal.SIGTERM)
    wait(lambda: call(pair.port, "GET", "/healthcheck").status == 503, 1.0)
    late = call(pair.port, "GET", f"{RELAY}/list/slow/0")
    assert (late.status, late.headers["retry-after"]) == (503, "1")
    asking.join(10)
    assert got == [200]
    assert pair.server.running.wait(5) == 0


def test_a_second_signal_cuts(pairs: Pairs) -> None:
    pair = pairs().start()
    connection = http.client.HTTPConnection("127.0.0.1", pair.port, timeout=10)
    connection.request("GET", f"{RELAY}/list/hang")
    assert pair.upstream.began.wait(5)
    pair.server.send(signal.SIGTERM)
    wait(lambda: '"signal":"SIGTERM"' in pair.server.said(), what=pair.said)
    began = time.monotonic()
    pair.server.send(signal.SIGTERM)
    assert pair.server.running.wait(5) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 2
    with pytest.raises((http.client.HTTPException, OSError)):
        connection.getresponse()
    connection.close()


def test_what_does_not_end_is_cut_when_the_drain_time_is_over(pairs: Pairs) -> None:
    pair = pairs(TOWLINE_DRAIN_TIME="1s").start()
    answers: list[ApiReply] = []
    asking = threading.Thread(target=lambda: answers.append(call(pair.port, "GET", f"{RELAY}/list/hang")))
    asking.start()
    assert pair.upstream.began.wait(5)
    began = time.monotonic()
    pair.server.send(signal.SIGTERM)
    assert pair.server.running.wait(10) == 0
    assert 0.9 < time.monotonic() - began < 4
    asking.join(10)
    assert (answers[0].status, answers[0].body["code"]) == (502, "TUNNEL_LOST")


# ── callers who leave, answers that break ─────────────────────────────────────
@pytest.mark.parametrize(("whose", "path"), [("ours", "/list/drip"), ("ours", "/list/hang"), ("stock", "/list/drip")])
def test_a_caller_who_leaves_cancels_the_whole_chain(pairs: Pairs, whose: str, path: str) -> None:
    """The real client knows no word for it, so one that still waits for its upstream's answer waits on."""
    pair = pairs(whose).start()
    connection = http.client.HTTPConnection("127.0.0.1", pair.port, timeout=10)
    connection.request("GET", f"{RELAY}{path}")
    if path == "/list/drip":
        answer = connection.getresponse()
        assert answer.read(100_000)
        answer.close()
    assert pair.upstream.began.wait(5)
    left = time.monotonic()
    connection.close()
    wait(lambda: pair.upstream.cut_at is not None, 5.0, pair.said)
    assert (pair.upstream.cut_at or 0) - left < 1.0


@WHOSE
def test_a_failure_amid_an_answer_is_a_cut(pairs: Pairs, whose: str) -> None:
    pair = pairs(whose).start()
    connection = http.client.HTTPConnection("127.0.0.1", pair.port, timeout=10)
    connection.request("GET", f"{RELAY}/list/broken")
    answer = connection.getresponse()
    assert answer.status == 200
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    answer.close()
    connection.close()


# ── credentials ───────────────────────────────────────────────────────────────
def jwt(app: str, serial: int = 0) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"azp": app, "n": serial}).encode()).decode().rstrip("=")
    return f"Bearer e30.{claims}.c2ln"


class Gateway(_Server):
    """Gives out the credential of application `good`, and admits whoever shows it; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str | None, Any]] = []

    def serve(self, asked: BaseHTTPRequestHandler) -> None:
        body = asked.rfile.read(int(asked.headers["Content-Length"]))
        if asked.path == "/oauth2/token":
            token = {"access_token": jwt("good").removeprefix("Bearer "), "token_type": "bearer", "expires_in": 3600}
            reply(asked, 200, json.dumps(token).encode(), Content_Type="application/json")
            return
        shown = asked.headers["authorization"]
        self.asked.append((asked.path, shown, json.loads(body)))
        reply(asked, 201 if shown in (jwt("good"), jwt("good", 1)) else 403)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()
    yield made
    made.close()


def guarded(pairs: Pairs, gateway: Gateway, whose: str, **client: str) -> Pair:
    url = f"http://127.0.0.1:{gateway.port}"
    return pairs(whose, client, BROKER_SERVER_MANDATORY_AUTH_ENABLED="true", GATEWAY_HOSTNAME=url)


@WHOSE
def test_a_client_without_a_credential_is_refused_and_tries_on(pairs: Pairs, gateway: Gateway, whose: str) -> None:
    pair = guarded(pairs, gateway, whose)
    pair.start_server()
    pair.client.start()
    time.sleep(6)
    assert pair.client.running.poll() is None
    assert pair.tunnels() == 0
    assert gateway.asked == []  # nothing was shown, so nobody is asked
    assert call(pair.port, "GET", f"{RELAY}/list/slow/0").status == 404
    if whose == "stock":
        assert "401" in pair.client.said() or "unauthorized" in pair.client.said().lower(), pair.said()


def test_the_gateway_judges_a_client(pairs: Pairs, gateway: Gateway) -> None:
    pair = guarded(pairs, gateway, "ours")
    pair.start_server()
    path = f"/primus/{TOKEN}/?connection_role=primary&EIO=4&transport=polling&t=x&b64=1"

    def knock(authorization: str) -> ApiReply:
        shown = {"authorization": authorization, "x-snyk-broker-client-id": "c-1"}
        return call(pair.port, "GET", path, None, shown)

    refused = knock(jwt("evil"))
    assert (refused.status, refused.body) == (401, {"error": "Invalid credentials."})
    assert (refused.headers["www-authenticate"], refused.headers["pragma"]) == ("Bearer", "no-cache")
    assert refused.headers["cache-control"] == "no-store, no-cache, must-revalidate, max-age=0"
    admitted = knock(jwt("good"))
    assert admitted.status == 200
    sid = json.loads(admitted.data[1:])["sid"]
    asked_at = f"/hidden/brokers/connections/{TOKEN}/auth/validate?version=2024-02-08~experimental"
    who = {"data": {"type": "broker_connection", "attributes": {"broker_client_id": "c-1"}}}
    assert gateway.asked == [(asked_at, jwt("evil"), who), (asked_at, jwt("good"), who)]
    # It identifies itself, and renews its credential.
    metadata = {"capabilities": ["post-streams"], "version": "local", "clientId": "c-1", "role": "primary"}
    identify = b"4" + json.dumps({"type": 0, "data": ["identify", {"token": TOKEN, "metadata": metadata}]}).encode()
    shown = {"authorization": jwt("good"), "x-snyk-broker-client-id": "c-1"}
    assert call(pair.port, "POST", f"{path}&sid={sid}", identify, shown).data == b"ok"
    assert pair.tunnels() == 1
    renew = f"/hidden/brokers/connections/{TOKEN}/auth/refresh?connection_role=primary"
    renewed = call(pair.port, "POST", renew, json.dumps(who).encode(), {"authorization": jwt("good", 1)})
    assert (renewed.status, renewed.data) == (201, b"OK")
    sent_away = call(pair.port, "POST", renew, json.dumps(who).encode(), {"authorization": jwt("evil")})
    assert (sent_away.status, sent_away.data) == (401, b"Invalid credentials.")
    assert pair.tunnels() == 0
    assert call(pair.port, "POST", f"/response-data/{TOKEN}/x", b"x").status == 404


def test_a_client_that_gets_itself_a_credential_is_admitted_and_answers(pairs: Pairs, gateway: Gateway) -> None:
    pair = guarded(
        pairs, gateway, "ours",
        TOWLINE_AUTHENTICATE="true", CLIENT_ID="me", CLIENT_SECRET="canary-oauth",
        API_BASE_URL=f"http://127.0.0.1:{gateway.port}", TOWLINE_ONE_EVENT_ANSWERS="false",
    ).start()  # fmt: skip
    answer = call(pair.port, "GET", f"{RELAY}/list/slow/0")
    assert (answer.status, len(answer.data)) == (200, 2000)  # by an upload that shows the credential
    assert {shown for _, shown, _ in gateway.asked} == {jwt("good")}
    assert len(gateway.asked) == 2  # once for each tunnel
    said = pair.client.said() + pair.server.said()
    assert "canary-oauth" not in said
    assert jwt("good").removeprefix("Bearer ") not in said


# ── the dispatcher ────────────────────────────────────────────────────────────
class Dispatcher(_Server):
    def __init__(self) -> None:
        super().__init__()
        self.reports: list[tuple[str, str, Any]] = []

    def serve(self, asked: BaseHTTPRequestHandler) -> None:
        body = asked.rfile.read(int(asked.headers.get("Content-Length") or 0))
        self.reports.append((asked.command, asked.path, json.loads(body) if body else None))
        reply(asked, 200, b"{}")


@WHOSE
def test_a_dispatcher_is_told_of_server_and_clients(pairs: Pairs, whose: str) -> None:
    dispatcher = Dispatcher()
    try:
        url = f"http://127.0.0.1:{dispatcher.port}"
        pair = pairs(whose, DISPATCHER_URL=url, HOSTNAME="broker-server-3").start()
        wait(lambda: len(dispatcher.reports) >= 2, what=pair.said)
        assert dispatcher.reports[0] == (
            "POST",
            "/internal/brokerservers/3?version=2022-12-02~experimental",
            {"data": {"attributes": {"health_check_link": "http://broker-server-3/healthcheck"}}},
        )
        connected = [path for method, path, _ in dispatcher.reports[1:] if method == "POST"]
        assert all("/internal/brokerservers/3/connections/" in path for path in connected)
        assert all("request_type=client-connected" in path for path in connected)
        assert TOKEN not in json.dumps(dispatcher.reports)
        pair.client.kill()
        wait(lambda: dispatcher.reports[-1][0] == "DELETE", what=pair.said)
        assert "/connections/" in dispatcher.reports[-1][1]
        assert pair.server.stop() == 0
        method, path, _ = dispatcher.reports[-1]
        assert (method, "/connections/" in path) == ("DELETE", False)
    finally:
        dispatcher.close()
