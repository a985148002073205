"""Two server nodes, a Redis and two clients with one token, as processes; and callers that check every byte.

    PYTHONPATH=tests python -m interop.nodes --lease 30 --away 20

runs every fault once under load, by hand, and prints what became of the requests.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import itertools
import json
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from agent_tools import call
from interop.chain import Program, towline, wait
from needed import SNYK_BROKER_CACHE, need_peer
from ports import free_port
from redis_tools import RedisServer

TOKEN: Final = "5e8f0a12-9d3b-4c64-8a51-6b8c1d2e3f40"
SECRET: Final = "c4n4ry of the cluster's secret"
# What a caller may wait for a clear failure (security.md §8).
CLEAR: Final = 5.0
SIZES: Final = (40, 9_000, 300_000)


def content(seed: str, size: int) -> bytes:
    return hashlib.shake_128(seed.encode()).digest(size)


class _Upstream(BaseHTTPRequestHandler):
    """/data/SEED/SIZE is random data, /slow/SECONDS a late answer, /file the server's file; the id comes back."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        kind, *words = path.strip("/").split("/")
        if kind == "slow":
            time.sleep(float(words[0]))
        file = getattr(self.server, "file", None)
        body = content(words[0], int(words[1])) if kind == "data" else b"late"
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("X-Id", query.removeprefix("id="))
        if kind == "file" and file is not None:
            self.send_header("Content-Length", str(file.stat().st_size))
            self.end_headers()
            with file.open("rb") as data:
                self.connection.sendfile(data)
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("X-Sha256", hashlib.sha256(body).hexdigest())
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, *args: Any) -> None:
        """A client was killed: its connections are reset."""


class Upstream:
    def __init__(self, file: Path | None = None) -> None:
        self._server = _Server(("127.0.0.1", 0), _Upstream)
        self._server.file = file  # type: ignore[attr-defined]
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Nodes:
    """The whole cluster. Node i and client i are counted from 0; client i has its tunnels to node i."""

    def __init__(
        self,
        folder: Path,
        *,
        lease: float,
        file: Path | None = None,
        server_url: str | None = None,
        certificate: tuple[str, str] | None = None,
    ) -> None:
        """`certificate` and key of localhost let everybody speak TLS; `file` is what the upstream has at /file."""
        self.folder = folder
        self._certificate = certificate
        self.lease = lease
        self.redis = RedisServer(folder / "redis")
        self.upstream = Upstream(file)
        self.ports = [free_port(), free_port()]
        self.servers = [self._server(number) for number in (0, 1)]
        urls = [server_url or self._url(number) for number in (0, 1)]
        self.clients = [self._client(number, url) for number, url in enumerate(urls)]

    def _url(self, number: int) -> str:
        if self._certificate is not None:
            return f"https://localhost:{self.ports[number]}"
        return f"http://127.0.0.1:{self.ports[number]}"

    def _trust(self) -> dict[str, str]:
        return {} if self._certificate is None else {"TOWLINE_CA_FILES": self._certificate[0]}

    def _server(self, number: int) -> Program:
        serves = {} if self._certificate is None else dict(zip(("HTTPS_CERT", "HTTPS_KEY"), self._certificate))
        return towline(
            self.folder / f"node-{number}",
            "server",
            PORT=str(self.ports[number]),
            TOWLINE_SERVER_BIND="127.0.0.1",
            TOWLINE_RESULTS="results.sqlite",
            TOWLINE_REDIS_URL=self.redis.url,
            TOWLINE_CLUSTER_SECRET=SECRET,
            TOWLINE_NODE_URL=self._url(number),
            TOWLINE_NODE_ID=f"node-{number}",
            TOWLINE_NODE_LEASE=f"{self.lease:g}s",
            **serves,
            **self._trust(),
        )

    def _client(self, number: int, url: str, **more: str) -> Program:
        return towline(
            self.folder / f"client-{number}",
            "client",
            PORT=str(free_port()),
            BROKER_TOKEN=TOKEN,
            **(more or {"BROKER_SERVER_URL": url}),
            **self._trust(),
            BROKER_CLIENT_URL="http://127.0.0.1:1",
            CR_AGENT_URL=f"http://127.0.0.1:{self.upstream.port}",
            ACCEPT=str(self._rules()),
        )

    def _rules(self) -> Path:
        rules = self.folder / "accept.json"
        rules.parent.mkdir(parents=True, exist_ok=True)
        rules.write_text(
            json.dumps({"private": [{"method": "any", "path": "/*", "origin": "${CR_AGENT_URL}"}], "public": []})
        )
        return rules

    def stock_client(self, port: int) -> Program:
        """The real snyk-broker's client, not started, that connects to this port."""
        program = need_peer("snyk-broker-client")
        words = ["--port", str(free_port()), "--server", f"http://127.0.0.1:{port}"]
        words += ["--token", TOKEN, "--cr-agent-url", f"http://127.0.0.1:{self.upstream.port}"]
        words += ["--accept", str(self._rules())]
        made = Program(
            self.folder / "stock", "client", [program, *words], {"SNYK_BROKER_CACHE": str(SNYK_BROKER_CACHE)}
        )
        self.clients.append(made)
        return made

    def client_of_both(self) -> Program:
        """A client, not started, that has one of its tunnels to each node."""
        urls = ",".join(f"http://127.0.0.1:{port}" for port in self.ports)
        both = self._client(2, "", TOWLINE_SERVER_URLS=urls)
        self.clients.append(both)
        return both

    @property
    def programs(self) -> list[Program]:
        return [*self.servers, *self.clients]

    def start(self, tunnels: int = 4) -> None:
        """Start everything, and wait until both nodes know of so many tunnels."""
        self.redis.start()
        for server in self.servers:
            server.start()
        for number in (0, 1):
            self.await_node(number)
        for client in self.clients:
            client.start()
        wait(lambda: all(self.clients_seen(number) == tunnels for number in (0, 1)), 30, self.said)

    def close(self) -> None:
        for program in self.programs:
            program.close()
        self.upstream.close()
        self.redis.kill()

    def await_node(self, number: int) -> None:
        def healthy() -> bool:
            with suppress(OSError):
                return call(self.ports[number], "GET", "/healthcheck").status == 200
            return False

        wait(healthy, 20, self.said)

    def clients_seen(self, number: int) -> int:
        """How many tunnels of the token a node knows of, here and elsewhere."""
        with suppress(OSError):
            got = call(self.ports[number], "GET", f"/connection-status/{TOKEN}")
            return len(got.body["clients"]) if got.status == 200 else 0
        return -1

    def said(self) -> str:
        return "\n".join(f"── {program.folder.parent.name}\n{program.said()[-3000:]}" for program in self.programs)


@contextmanager
def nodes(folder: Path, **how: Any) -> Iterator[Nodes]:
    """Run the cluster while the block lasts."""
    made = Nodes(folder, **how)
    with ExitStack() as closing:
        closing.callback(made.close)
        made.start()
        yield made


@dataclass(frozen=True)
class Told:
    """What became of one request: a status, "cut" for an answer that broke off, "refused" for no connection."""

    node: int
    began: float
    ended: float
    what: int | str

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Callers:
    """Callers at both nodes, each with one request at a time. A wrong byte, id or length is never forgiven."""

    def __init__(self, ports: list[int], *, each: int = 3) -> None:
        self.told: list[Told] = []
        self.wrong: list[str] = []
        self._ports = ports
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(node, number), daemon=True)
            for node in range(len(ports))
            for number in range(each)
        ]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, node: int, number: int) -> None:
        connection: http.client.HTTPConnection | None = None
        for turn in itertools.count():
            if self._stop.is_set():
                break
            began = time.monotonic()
            connection = connection or http.client.HTTPConnection("127.0.0.1", self._ports[node], timeout=30)
            try:
                what: int | str = self._ask(connection, f"{node}-{number}-{turn}", SIZES[turn % len(SIZES)])
            except ConnectionRefusedError:
                what = "refused"
            except (http.client.HTTPException, OSError) as error:
                what = "cut" if isinstance(error, http.client.IncompleteRead) else "reset"
            self.told.append(Told(node, began, time.monotonic(), what))
            if what != 200:
                connection.close()
                connection = None
                time.sleep(0.05)
        if connection is not None:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection, seed: str, size: int) -> int:
        request = str(uuid.uuid4())
        connection.request("GET", f"/broker/{TOKEN}/data/{seed}/{size}?id={request}", headers={"x-request-id": request})
        got = connection.getresponse()
        body = got.read()
        if got.status == 200 and (body != content(seed, size) or got.headers["X-Id"] != request):
            self.wrong.append(f"{seed}: {len(body)} bytes of {size}, id {got.headers['X-Id']} for {request}")
        if got.headers["snyk-request-id"] != request:
            self.wrong.append(f"{seed}: status {got.status} with id {got.headers['snyk-request-id']} for {request}")
        if got.status == 503 and got.headers["retry-after"] != "1":
            self.wrong.append(f"{seed}: 503 without Retry-After")
        return got.status

    def since(self, instant: float, node: int | None = None) -> list[Told]:
        """Every request that ended after an instant, at one node or at all."""
        return [told for told in list(self.told) if told.ended >= instant and node in (None, told.node)]

    def await_good(self, node: int, seconds: float, since: float, said: Callable[[], str] = str) -> float:
        """Wait until a node's callers are served and go on being; return how long after `since` one last was not."""
        began = time.monotonic()
        wait(
            lambda: (last := self.since(began, node)[-20:]) and len(last) == 20 and {it.what for it in last} == {200},
            seconds + 10,
            lambda: f"{Counter(it.what for it in self.since(began, node))}\n{said()}",
        )
        return max((told.ended - since for told in self.since(since, node) if told.what != 200), default=0.0)


@dataclass
class Row:
    """One fault, and what came of it."""

    fault: str
    outcomes: dict[int, Counter[int | str]]
    slowest_failure: float
    recovered: dict[int, float]


class Faults:
    """Each fault of issue 3's list, once, under load."""

    def __init__(self, cluster: Nodes, callers: Callers) -> None:
        self.cluster = cluster
        self.callers = callers
        self.rows: list[Row] = []

    def _after(self, fault: str, began: float, watched: tuple[int, ...]) -> None:
        """Wait until the watched nodes serve their callers again, and note what came of those meanwhile."""
        recovered = {
            node: self.callers.await_good(node, self.cluster.lease, began, self.cluster.said) for node in watched
        }
        told = self.callers.since(began)
        failures = [it.seconds for it in told if it.what not in (200, "refused")]
        outcomes = {node: Counter(it.what for it in told if it.node == node) for node in (0, 1)}
        row = Row(fault, outcomes, max(failures, default=0.0), recovered)
        self.rows.append(row)
        assert self.callers.wrong == [], self.callers.wrong
        assert {it.what for it in told} <= {200, 502, 503, "refused", "reset", "cut"}, (row, self.cluster.said())
        assert row.slowest_failure <= CLEAR, (row, self.cluster.said())
        assert all(seconds <= self.cluster.lease for seconds in recovered.values()), (row, self.cluster.said())

    def kill_client(self, number: int) -> None:
        """Callers of its node are served by the other node's client; then it comes back."""
        began = time.monotonic()
        self.cluster.clients[number].kill()
        self._after(f"client {number} killed", began, (0, 1))
        self.cluster.clients[number].start()
        wait(lambda: self.cluster.clients_seen(number) == 4, 20, self.cluster.said)

    def kill_node(self, number: int) -> None:
        began = time.monotonic()
        self.cluster.servers[number].kill()
        self._after(f"node {number} killed", began, (1 - number,))
        self.cluster.servers[number].start()
        self.cluster.await_node(number)
        began = time.monotonic()
        self._after(f"node {number} back", began, (0, 1))
        wait(lambda: self.cluster.clients_seen(number) == 4, 60, self.cluster.said)

    def kill_node_with_the_only_client(self, number: int) -> None:
        """Callers of the other node lose what is in flight there; nobody serves until the client is elsewhere."""
        other = 1 - number
        self.cluster.clients[other].kill()
        self.callers.await_good(other, self.cluster.lease, time.monotonic(), self.cluster.said)
        began = time.monotonic()
        self.cluster.servers[number].kill()
        wait(lambda: any(it.what in (502, 503) for it in self.callers.since(began, other)), 10, self.cluster.said)
        self.cluster.clients[other].start()
        self._after(f"node {number} killed, which alone had a client", began, (other,))
        self.cluster.servers[number].start()
        self.cluster.await_node(number)
        wait(lambda: self.cluster.clients_seen(number) == 4, 60, self.cluster.said)

    def redis_away(self, seconds: float) -> None:
        """Each node serves the tunnels it has."""
        began = time.monotonic()
        self.cluster.redis.kill()
        time.sleep(seconds)
        told = self.callers.since(began)
        assert {it.what for it in told} == {200}, (Counter(it.what for it in told), self.cluster.said())
        self.cluster.redis.start()
        self._after(f"Redis away for {seconds:g} s", began, (0, 1))

    def redis_away_without_a_client(self, number: int, seconds: float) -> None:
        """Callers of a node without a tunnel are told to come again, and served once Redis is back."""
        self.cluster.clients[number].kill()
        self.callers.await_good(number, self.cluster.lease, time.monotonic(), self.cluster.said)
        began = time.monotonic()
        self.cluster.redis.kill()
        time.sleep(seconds)
        told = self.callers.since(began + 2.0, number)
        assert {it.what for it in told} == {503}, (Counter(it.what for it in told), self.cluster.said())
        assert {it.what for it in self.callers.since(began, 1 - number)} == {200}
        back = time.monotonic()
        self.cluster.redis.start()
        self._after(f"Redis away for {seconds:g} s, node {number} without a client", back, (0, 1))
        self.cluster.clients[number].start()
        wait(lambda: self.cluster.clients_seen(number) == 4, 20, self.cluster.said)

    def all(self, away: float) -> None:
        for number in (0, 1):
            self.kill_client(number)
        for number in (0, 1):
            self.kill_node(number)
        self.kill_node_with_the_only_client(1)
        self.redis_away(away)
        self.redis_away_without_a_client(0, away)

    def table(self) -> str:
        lines = []
        for row in self.rows:
            counts = "; ".join(
                f"node {node}: " + ", ".join(f"{count} × {what}" for what, count in sorted(told.items(), key=str))
                for node, told in row.outcomes.items()
            )
            good = ", ".join(f"node {node} {seconds:.2f} s" for node, seconds in row.recovered.items())
            lines.append(
                f"{row.fault}\n    {counts}\n    slowest failure {row.slowest_failure:.2f} s; good after {good}"
            )
        return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lease", type=float, default=30.0)
    parser.add_argument("--away", type=float, default=20.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, nodes(Path(folder), lease=arguments.lease) as cluster:
        with Callers(cluster.ports) as callers:
            faults = Faults(cluster, callers)
            try:
                faults.all(arguments.away)
            finally:
                print(faults.table())
        total = Counter(it.what for it in callers.told)
        print(f"{len(callers.told)} requests: {dict(total)}; wrong: {len(callers.wrong)}")


if __name__ == "__main__":
    main()
