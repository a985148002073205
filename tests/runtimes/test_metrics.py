"""Metrics as Prometheus reads them, and a page about the server that tells all there is."""

from __future__ import annotations

import re

import pytest
from needed import CLONE
from prometheus_client.parser import text_string_to_metric_families
from worlds.brokers import Brokers, plain

from towline.core.broker import Distribution, Figures, RequestFigures
from towline.core.http import Asked, ServerRequest
from towline.runtimes.metrics import Exposition, answer
from towline.runtimes.settings import SETTINGS

SERVER = (CLONE / "docs" / "server.md").read_text()
DOCS = "".join(path.read_text() for path in sorted((CLONE / "docs").glob("*.md")))


def families(exposition: Exposition) -> set[str]:
    return {family.name for family in text_string_to_metric_families(exposition.render().decode())}


def samples(exposition: Exposition) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition.render().decode())
        for sample in family.samples
    }


def test_two_kinds_of_request_become_one_histogram_of_a_direction() -> None:
    seconds = (0.1, 1.0)
    figures = Figures(
        2,
        1,
        (
            RequestFigures("inbound", 0, "GET", 200, Distribution(seconds, (3, 2, 0), 4.0)),
            RequestFigures("inbound", -1, "GET", 401, Distribution(seconds, (1, 0, 0), 0.0)),
            RequestFigures("outbound", 3, "POST", 0, Distribution(seconds, (0, 0, 1), 9.0)),
        ),
        {"denied": 1},
        {"heartbeat": 7},
        {True: Distribution((100,), (1, 1), 5000.0)},
        4,
        {"success": 5, "failure": 6},
    )
    got = samples(Exposition("server", lambda: figures))
    inbound = (("direction", "inbound"),)
    assert got["towline_request_seconds_count", inbound] == 6
    assert got["towline_request_seconds_sum", inbound] == 4.0
    assert got["towline_request_seconds_bucket", (*inbound, ("le", "0.1"))] == 4
    assert got["towline_request_seconds_bucket", (*inbound, ("le", "1.0"))] == 6
    assert got["towline_request_seconds_bucket", (*inbound, ("le", "+Inf"))] == 6
    assert got["towline_requests_total", (("code", "gone"), ("direction", "outbound"), ("rule", "3"))] == 1
    assert got["towline_tunnel_reconnects_total", (("reason", "heartbeat"),)] == 7
    assert got["broker_socket_close_reason_total", (("reason", "heartbeat"),)] == 7
    flow = {"flowDirection", "rejectedByFilter"}
    counted = {
        (name, *(value for _, value in labels)): value
        for (name, labels), value in got.items()
        if {label for label, _ in labels} == flow
    }
    assert counted == {
        ("http_request_total", "inbound-request", "false"): 5,
        ("http_request_total", "inbound-request", "true"): 1,
        ("http_request_total", "data-response", "false"): 4,
        ("broker_ws_request_total", "inbound-request", "false"): 5,
        ("broker_ws_request_total", "outbound-request", "false"): 1,
        ("broker_ws_request_total", "outbound-request", "true"): 0,
    }
    written = (("result", "failure"), ("target", "node-dispatcher"))
    assert got["broker_dispatcher_write_total", written] == 6
    assert got["broker_response_size_bytes_count", (("isStreaming", "true"),)] == 2


def test_both_machines_figures_render() -> None:
    brokers = Brokers(lambda head, body: plain())
    brokers.relay("/x")
    server = Exposition("server", brokers.server_machine.figures)
    client = Exposition("client", brokers.client_machine.figures)
    assert families(client) < families(server)
    assert samples(client)["towline_tunnel_ready", ()] == 2
    # A registry of its own: what another part of the process registers is not shown here.
    assert "python_info" not in families(server)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/metrics", 200), ("HEAD", "/metrics", 200), ("POST", "/metrics", 405), ("GET", "/metrics/x", 404)],
)
def test_one_page(method: str, path: str, status: int) -> None:
    exposition = Exposition("client", Brokers(lambda head, body: plain()).client_machine.figures)
    said = answer(exposition, Asked(7, ServerRequest((), method, path, path, (), (), b"", "metrics", "127.0.0.1")))
    assert (said.exchange, said.status) == (7, status)


# ── the page about the server ─────────────────────────────────────────────────
def test_every_metric_is_told() -> None:
    exposition = Exposition("server", Brokers(lambda head, body: plain()).server_machine.figures)
    told = set(re.findall(r"`((?:towline|broker|http)_[a-z_]+)", SERVER))
    named = {name for name in families(exposition) if not name.startswith("process_")}
    assert {name.removesuffix("_total") for name in told} == {name.removesuffix("_total") for name in named}


@pytest.mark.parametrize(
    "row", [row for row in SETTINGS if row.key.partition(".")[0] in ("server", "drain")], ids=lambda row: row.key
)
def test_every_setting_is_told_with_its_variables(row: object) -> None:
    setting = next(known for known in SETTINGS if known is row)
    assert f"`{setting.key}`" in DOCS
    for variable in setting.variables:
        assert f"`{variable}`" in DOCS
