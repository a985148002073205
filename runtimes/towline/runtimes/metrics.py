"""What a program has counted, for Prometheus: read from its machine when it is asked for, and at no other time.

`towline_*` are ours, on server and client alike. A server has the stock server's names beside them, as far as they
mean something here, so that dashboards go on working (broker-protocol.md §4.6).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from towline._version import VERSION
from towline.core.broker import Distribution, Figures
from towline.core.http import Answer, Asked, Face, error_body
from towline.drivers import Driver, Listener
from towline.runtimes.logs import Log

TEXT: Final = ("content-type", "text/plain; version=0.0.4; charset=utf-8")


class Exposition(Collector):
    """The metrics of one machine, in a registry of their own."""

    def __init__(self, role: Literal["server", "client"], read: Callable[[], Figures]) -> None:
        self._role = role
        self._read = read
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """Return the metrics as they are, in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Give one family after the other; the registry asks for them."""
        figures = self._read()
        yield GaugeMetricFamily("towline_tunnel_ready", "Tunnels that are open and identified", figures.tunnels)
        yield _counter("towline_tunnel_reconnects", "Tunnels that ended", "reason", figures.closed)
        yield GaugeMetricFamily("towline_requests_in_flight", "Requests that are not answered", figures.in_flight)
        requests = CounterMetricFamily(
            "towline_requests", "Requests that are over", labels=("direction", "rule", "code")
        )
        counts: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        for row in figures.requests:
            rule = "" if row.rule < 0 else str(row.rule)
            counts[row.direction, rule, str(row.status or "gone")] += row.seconds.count
        for labels, value in counts.items():
            requests.add_metric(labels, value)
        yield requests
        yield _histogram(
            "towline_request_seconds",
            "Time from a request's end to its answer's",
            ("direction",),
            (((row.direction,), row.seconds) for row in figures.requests),
        )
        yield _counter("towline_rejected", "Requests without the answer they wanted", "reason", figures.refused)
        if figures.forwarded:
            yield _counter("towline_node_requests", "Requests to other nodes", "result", figures.forwarded)
        build = GaugeMetricFamily("towline_build_info", "Version and role of this program", labels=("version", "role"))
        build.add_metric((VERSION, self._role), 1)
        yield build
        if self._role == "server":
            yield from _stock(figures)


def _stock(figures: Figures) -> Iterator[Metric]:
    """Give the stock server's families."""
    yield GaugeMetricFamily("broker_socket_connection_total", "Tunnels that are open and identified", figures.tunnels)
    yield _counter("broker_socket_close_reason", "Tunnels that ended", "reason", figures.closed)
    counts: defaultdict[tuple[str, bool], int] = defaultdict(int)
    for row in figures.requests:
        counts[row.direction, row.rule < 0 and row.status == 401] += row.seconds.count
    sent = sum(row.seconds.count for row in figures.requests if row.direction == "inbound" and row.rule >= 0)
    labels = ("rejectedByFilter", "flowDirection")
    http = CounterMetricFamily("http_request", "Requests over HTTP", labels=labels)
    http.add_metric(("false", "inbound-request"), counts["inbound", False])
    http.add_metric(("true", "inbound-request"), counts["inbound", True])
    http.add_metric(("false", "data-response"), figures.uploads)
    yield http
    tunnel = CounterMetricFamily("broker_ws_request", "Requests over a tunnel", labels=labels)
    tunnel.add_metric(("false", "inbound-request"), sent)
    tunnel.add_metric(("false", "outbound-request"), counts["outbound", False])
    tunnel.add_metric(("true", "outbound-request"), counts["outbound", True])
    yield tunnel
    yield _histogram(
        "broker_response_size_bytes",
        "Bytes of answers",
        ("isStreaming",),
        (((str(pieces).lower(),), sizes) for pieces, sizes in figures.answers.items()),
    )
    yield _histogram(
        "http_request_duration_seconds",
        "Time of requests for clients",
        ("status_code", "method"),
        (((str(row.status), row.method), row.seconds) for row in figures.requests if row.direction == "inbound"),
    )
    written = CounterMetricFamily("broker_dispatcher_write", "Reports to the dispatcher", labels=("target", "result"))
    for result, value in figures.told.items():
        written.add_metric(("node-dispatcher", result), value)
    yield written


def _counter(name: str, meaning: str, label: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, meaning, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _histogram(
    name: str, meaning: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], Distribution]]
) -> HistogramMetricFamily:
    """Return a histogram in which rows with the same labels are added up."""
    family = HistogramMetricFamily(name, meaning, labels=labels)
    sums: dict[tuple[str, ...], tuple[tuple[float, ...], list[int], float]] = {}
    for key, found in rows:
        bounds, counts, total = sums.get(key, (found.bounds, [0] * len(found.counts), 0.0))
        sums[key] = bounds, [a + b for a, b in zip(counts, found.counts, strict=True)], total + found.total
    for key, (bounds, counts, total) in sums.items():
        running = 0
        buckets = []
        for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
            running += count
            buckets.append((bound, running))
        family.add_metric(key, buckets, total)
    return family


async def serve_metrics(exposition: Exposition, driver: Driver, listener: Listener, log: Log) -> None:
    """Answer GET /metrics at an address of its own, until cancelled.

    Raises:  TowlineError("invalid-configuration") for a port that is taken
    """
    async with driver.open_pump(Face(), listeners={"metrics": listener}) as pump:
        log.say("info", "metrics served", address=f"{listener.host}:{pump.ports['metrics']}")
        async for event in pump.events:
            if isinstance(event, Asked):
                pump.tell(answer(exposition, event))


def answer(exposition: Exposition, asked: Asked) -> Answer:
    """Return the answer to a request at a place where the metrics are."""
    request = asked.request
    if request.path != "/metrics":
        return Answer(asked.exchange, 404, (("content-type", "application/json"),), error_body("NOT_FOUND", "no page"))
    if request.method not in ("GET", "HEAD"):
        body = error_body("METHOD_NOT_ALLOWED", "expected GET")
        return Answer(asked.exchange, 405, (("content-type", "application/json"), ("allow", "GET, HEAD")), body)
    return Answer(asked.exchange, 200, (TEXT,), exposition.render())
