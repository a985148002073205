"""Two nodes, Redis, two clients with one token: every fault under load, bytes between nodes, a balancer in front."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from agent_tools import call
from drivers.loops import make_certificate
from interop.chain import wait
from interop.nodes import CLEAR, SECRET, TOKEN, Callers, Faults, Nodes, content, nodes
from needed import need_peer
from ports import free_port

pytestmark = pytest.mark.interop

MIB = 1024 * 1024
FILE = 256 * MIB

NGINX = """
daemon off; worker_processes 1; pid {run}/nginx.pid; error_log {run}/error.log warn;
{user}
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {run}/t1; proxy_temp_path {run}/t2; fastcgi_temp_path {run}/t3;
  uwsgi_temp_path {run}/t4; scgi_temp_path {run}/t5;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream nodes {{
    server 127.0.0.1:{first} max_fails=0; server 127.0.0.1:{second} max_fails=0; keepalive 16;
  }}
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 0;
    location / {{
      proxy_pass http://nodes; proxy_http_version 1.1; proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
      proxy_buffering off; proxy_request_buffering off; proxy_read_timeout 60s;
      proxy_next_upstream off; add_header X-Node $upstream_addr always;
    }}
  }}
}}
"""


def test_no_fault_spoils_an_answer(tmp_path: Path) -> None:
    """Issue 3, "Must show" 4, with a short lease; `python -m interop.nodes` runs it with the defaults."""
    with nodes(tmp_path, lease=2.0) as cluster:
        with Callers(cluster.ports) as callers:
            Faults(cluster, callers).all(away=3.0)
        assert callers.wrong == []
        assert len(callers.told) > 500
        # What stands in Redis, and what the programs wrote, names no token and no secret.
        stored = cluster.redis.cli("--scan") + "".join(
            cluster.redis.cli("GET" if ":node:" in key else "HGETALL", key)
            for key in cluster.redis.cli("--scan").split()
            if ":node:" in key or ":held:" in key
        )
        assert ":held:" in stored
        for text in (stored, cluster.said()):
            assert TOKEN not in text
            assert SECRET not in text


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 MiB of random data: what repeats hides wrong bytes."""
    made = tmp_path_factory.mktemp("large") / "file"
    with made.open("wb") as out:
        for _ in range(FILE // MIB):
            out.write(os.urandom(MIB))
    return made


@pytest.fixture(scope="module")
def one_client(tmp_path_factory: pytest.TempPathFactory, file: Path) -> Iterator[Nodes]:
    """Two nodes, and a client at the first one only."""
    with nodes(tmp_path_factory.mktemp("nodes"), lease=2.0, file=file) as cluster:
        cluster.clients[1].stop()
        wait(lambda: [cluster.clients_seen(number) for number in (0, 1)] == [2, 2], 10, cluster.said)
        yield cluster


def get(port: int, target: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    """Return status, SHA-256 of the body, and headers of an answer of any size."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", f"/broker/{TOKEN}{target}", headers=headers)
        got = connection.getresponse()
        digest = hashlib.sha256()
        while piece := got.read(MIB):
            digest.update(piece)
        return got.status, digest.hexdigest(), {name.lower(): value for name, value in got.getheaders()}
    finally:
        connection.close()


def peak_mib(cluster: Nodes, number: int) -> float:
    """What a node's memory has been at most."""
    status = Path(f"/proc/{cluster.servers[number].running.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


def test_a_large_answer_from_node_to_node_in_bounded_memory(one_client: Nodes, file: Path) -> None:
    """First of those with this cluster: a peak stays."""
    with file.open("rb") as data:
        wanted = hashlib.file_digest(data, "sha256").hexdigest()
    for port in one_client.ports:
        assert get(port, "/file")[:2] == (200, wanted)
    for number in (0, 1):
        assert peak_mib(one_client, number) < 90, number


def test_callers_of_either_node_get_the_same(one_client: Nodes) -> None:
    for target in ("/data/seed/40", "/data/seed/70000?id=7", "/data/seed/3000000"):
        here, there = (get(port, target) for port in one_client.ports)
        _, _, seed, size = target.partition("?")[0].split("/")
        assert here[:2] == there[:2] == (200, hashlib.sha256(content(seed, int(size))).hexdigest())
        for name in ("content-type", "content-length", "x-id"):
            assert here[2].get(name) == there[2].get(name)
    body = os.urandom(5 * MIB)
    for port in one_client.ports:
        got = call(port, "POST", f"/broker/{TOKEN}/echo", body, {"content-type": "application/octet-stream"})
        assert (got.status, got.headers["x-sha256"]) == (200, hashlib.sha256(body).hexdigest())
        assert got.data == body


def test_a_caller_that_leaves_stops_the_whole_way(one_client: Nodes) -> None:
    before = peak_mib(one_client, 1)
    connection = http.client.HTTPConnection("127.0.0.1", one_client.ports[1], timeout=30)
    connection.request("GET", f"/broker/{TOKEN}/file")
    got = connection.getresponse()
    assert len(got.read(MIB)) == MIB
    time.sleep(0.5)
    got.close()
    connection.close()
    # The client's upstream link is free again: the next one is served at once, and nothing was collected on the way.
    assert get(one_client.ports[1], "/data/seed/40")[0] == 200
    assert peak_mib(one_client, 1) < before + 16


def test_a_request_in_flight_fails_clearly(one_client: Nodes) -> None:
    """Last of those with this cluster: its client does not come back."""
    told: dict[int, tuple[int, float]] = {}

    def ask(port: int) -> None:
        status, _, _ = get(port, "/slow/20")
        told[port] = status, time.monotonic()

    threads = [threading.Thread(target=ask, args=(port,), daemon=True) for port in one_client.ports]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    killed = time.monotonic()
    one_client.clients[0].kill()
    for thread in threads:
        thread.join(10)
    assert [told[port][0] for port in one_client.ports] == [502, 502]
    assert all(ended - killed < CLEAR for _, ended in told.values())
    for port in one_client.ports:
        got = call(port, "GET", f"/broker/{TOKEN}/x")
        assert (got.status, got.headers["x-broker-failure"]) == (503, "connection-not-ready")


@contextmanager
def balanced(folder: Path) -> Iterator[tuple[Nodes, int]]:
    """Two nodes, not started, behind an nginx that gives each request to the next; and its port."""
    program = need_peer("nginx")
    port, run = free_port(), folder / "nginx"
    run.mkdir()
    cluster = Nodes(folder / "cluster", lease=2.0, server_url=f"http://127.0.0.1:{port}")
    user = "user root;" if os.geteuid() == 0 else ""
    configuration = run / "nginx.conf"
    first, second = cluster.ports
    configuration.write_text(NGINX.format(run=run, port=port, first=first, second=second, user=user))
    nginx = subprocess.Popen([program, "-p", str(run), "-c", str(configuration)], stderr=subprocess.DEVNULL)
    try:
        yield cluster, port
    finally:
        nginx.terminate()
        nginx.wait(10)
        cluster.close()


def all_served(cluster: Nodes, port: int) -> None:
    """Callers of the balancer get what they asked for, each of them."""
    with Callers([port], each=6) as callers:
        wait(lambda: len(callers.told) > 300, 40, cluster.said)
    assert callers.wrong == []
    assert {it.what for it in callers.told} == {200}


def test_behind_a_balancer_that_knows_nothing(tmp_path: Path) -> None:
    """Tunnels, callers and uploads each come to the node that is next: all find each other."""
    with balanced(tmp_path) as (cluster, port):
        cluster.start()
        all_served(cluster, port)
        # A client at one node only, so that half of the callers and half of the uploads come to the wrong node.
        cluster.clients[1].stop()
        all_served(cluster, port)


def test_the_stock_client_behind_a_balancer_that_knows_nothing(tmp_path: Path) -> None:
    """It begins with polls, each of which comes to the node that is next."""
    need_peer("snyk-broker-client")
    with balanced(tmp_path) as (cluster, port):
        cluster.clients.clear()
        cluster.stock_client(port)
        cluster.start(tunnels=2)
        all_served(cluster, port)
        assert [cluster.clients_seen(it) for it in (0, 1)] == [2, 2]


def test_a_client_with_a_tunnel_to_each_node_loses_one_of_them(tmp_path: Path) -> None:
    with nodes(tmp_path, lease=2.0) as cluster:
        cluster.client_of_both().start()
        for client in cluster.clients[:2]:
            client.stop()
        wait(lambda: [cluster.clients_seen(it) for it in (0, 1)] == [2, 2], 20, cluster.said)
        with Callers(cluster.ports) as callers:
            began = time.monotonic()
            cluster.servers[0].kill()
            assert callers.await_good(1, 2.0, began, cluster.said) < 2.0
            cluster.servers[0].start()
            cluster.await_node(0)
            # Served at once, before its tunnel is back: the other node has one.
            callers.await_good(0, 2.0, time.monotonic(), cluster.said)
            wait(lambda: [cluster.clients_seen(it) for it in (0, 1)] == [2, 2], 60, cluster.said)
        assert callers.wrong == []


def test_nodes_speak_tls_to_each_other(tmp_path: Path) -> None:
    need_peer("openssl")
    certificate = make_certificate(tmp_path)
    context = ssl.create_default_context(cafile=certificate[0])
    cluster = Nodes(tmp_path / "cluster", lease=2.0, certificate=certificate)

    def ask() -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection("localhost", cluster.ports[1], context=context, timeout=10)
        try:
            connection.request("GET", f"/broker/{TOKEN}/data/seed/300000")
            got = connection.getresponse()
            return got.status, got.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    try:
        cluster.redis.start()
        for program in (*cluster.servers, cluster.clients[0]):
            program.start()
        assert wait(lambda: (got := ask())[0] == 200 and got, 20, cluster.said) == (200, content("seed", 300_000))
    finally:
        cluster.close()


def test_the_stock_client_serves_callers_of_both_nodes(tmp_path: Path) -> None:
    need_peer("snyk-broker-client")
    with nodes(tmp_path, lease=2.0) as cluster:
        for client in cluster.clients:
            client.stop()
        cluster.stock_client(cluster.ports[0]).start()
        wait(lambda: [cluster.clients_seen(it) for it in (0, 1)] == [2, 2], 30, cluster.said)
        with Callers(cluster.ports) as callers:
            wait(lambda: len(callers.since(0.0, 1)) > 100, 30, cluster.said)
        assert callers.wrong == []
        assert {it.what for it in callers.told} == {200}


def test_a_node_that_freezes_is_given_up_with_its_lease(tmp_path: Path) -> None:
    """Its sockets stand, and nothing comes: only the lease tells."""
    lease = 2.0
    with nodes(tmp_path, lease=lease) as cluster:
        cluster.clients[0].stop()
        wait(lambda: [cluster.clients_seen(it) for it in (0, 1)] == [2, 2], 20, cluster.said)
        with Callers(cluster.ports[:1]) as callers:
            callers.await_good(0, lease, time.monotonic(), cluster.said)
            frozen = time.monotonic()
            cluster.servers[1].send(signal.SIGSTOP)
            cluster.clients[0].start()
            # Whoever comes once a client is here is served; whoever waits for the frozen node is told at last.
            wait(lambda: any(it.what == 200 and it.began > frozen for it in callers.since(frozen)), 20, cluster.said)
            wait(lambda: any(it.what == 502 for it in callers.since(frozen)), 20, cluster.said)
            told = [it for it in callers.since(frozen) if it.what != 200]
            assert {it.what for it in told} <= {502, 503}
            assert max(it.ended for it in told) - frozen < 2 * lease + 3.0
            cluster.servers[1].send(signal.SIGCONT)
        assert callers.wrong == []


def test_a_node_that_stops_fails_nobody_that_asks_again(tmp_path: Path) -> None:
    """A rolling restart, one node at a time: no answer is wrong, and whoever asks again is served."""
    with nodes(tmp_path, lease=2.0) as cluster:
        with Callers(cluster.ports) as callers:
            for number in (0, 1):
                other = 1 - number
                began = time.monotonic()
                assert cluster.servers[number].stop() == 0
                cluster.servers[number].start()
                cluster.await_node(number)
                callers.await_good(number, 10, began, cluster.said)
                bad = [it.what for it in callers.since(began, other) if it.what != 200]
                assert bad == [], (bad, cluster.said())
                wait(lambda: [cluster.clients_seen(it) for it in (0, 1)] == [4, 4], 60, cluster.said)
        assert callers.wrong == []
