"""HTTP over real sockets, on every loop: a courier against http.server, a face against other clients."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import json
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest
from drivers.loops import LOOPS, Loop

from towline.core import Body, Broken, Head, RemoteProtocolError, Request, TowlineError, fetch, read, together
from towline.core.http import (
    Answer,
    AnswerBody,
    AnswerCut,
    AnswerEnd,
    AnswerHead,
    Asked,
    Courier,
    Drain,
    Face,
    Gone,
    ServerRequest,
    Url,
    fetch_following,
)
from towline.drivers import Dialer, Guard, Listener

BLOB = random.Random(7).randbytes(5_000_000)


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.name)
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


# ── a courier against http.server ──────────────────────────────────────────────
class Served(http.server.ThreadingHTTPServer):
    """A server that remembers what it was asked."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, Site)
        self.seen: list[tuple[int, str, dict[str, str]]] = []


class Site(http.server.BaseHTTPRequestHandler):
    """What the tests ask for, by path."""

    protocol_version = "HTTP/1.1"
    server: Served

    def do_GET(self) -> None:
        self.server.seen.append((self.client_address[1], self.path, dict(self.headers)))
        getattr(self, "get_" + self.path.split("/")[1].split("?")[0])()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(200, body[::-1])

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "123456")
        self.end_headers()

    def reply(self, status: int, body: bytes, **headers: Any) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def get_small(self) -> None:
        self.reply(200, self.path.encode())

    def get_blob(self) -> None:
        self.reply(200, BLOB)

    def get_chunked(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for at in range(0, len(BLOB), 70_000):
            piece = BLOB[at : at + 70_000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def get_old(self) -> None:
        self.protocol_version = "HTTP/1.0"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(BLOB)
        self.close_connection = True

    def get_short(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 400)
        self.close_connection = True

    def get_moved(self) -> None:
        self.reply(307, b"over there", Location=f"http://127.0.0.2:{self.server.server_port}/small/elsewhere")

    def get_leaves(self) -> None:
        """Answers as if the link were kept, and closes it."""
        self.reply(200, b"bye")
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def served() -> Iterator[Any]:
    server = Served(("0.0.0.0", 0))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def site() -> Iterator[Any]:
    with served() as made:
        yield made


def whole(request: Request) -> Any:
    """Fetch a document; return status and body, or fail with what stood in the way."""
    head = yield from fetch(request)
    body = []
    piece: Any = head
    while True:
        if isinstance(piece, Broken):
            raise RemoteProtocolError(piece.kind, piece.why)
        piece = yield from read()
        if isinstance(piece, Body):
            body.append(bytes(piece.data))
        elif not isinstance(piece, Broken):
            assert isinstance(head, Head)
            return head.status, b"".join(body)


def carry(loop: Loop, steps: Any, *, networks: Any = (), **settings: Any) -> Any:
    """Run a script over real links."""

    async def main() -> Any:
        return await loop.perform(Courier(steps, **settings), dialer=Dialer(guard=Guard(networks=networks)))

    return loop.run(main)


def in_turn(*steps: Any) -> Any:
    values = []
    for step in steps:
        values.append((yield from step))
    return values


@pytest.mark.parametrize("path", ["/blob", "/chunked", "/old"])
def test_a_body_arrives_whole_however_it_is_framed(loop: Loop, site: Any, path: Any) -> None:
    status, body = carry(loop, whole(Request("GET", site[1] + path)))
    assert (status, len(body)) == (200, len(BLOB))
    assert hashlib.sha256(body).digest() == hashlib.sha256(BLOB).digest()


def test_post_and_head(loop: Loop, site: Any) -> None:
    post, head = carry(
        loop,
        in_turn(whole(Request("POST", site[1] + "/", body=b"hello" * 1000)), whole(Request("HEAD", site[1] + "/"))),
    )
    assert post == (200, b"olleh" * 1000)
    assert head == (200, b"")


def test_links_are_kept(loop: Loop, site: Any) -> None:
    server, base = site
    values = carry(loop, in_turn(*(whole(Request("GET", f"{base}/small/{number}")) for number in range(10))))
    assert [body for _, body in values] == [f"/small/{number}".encode() for number in range(10)]
    assert len({port for port, _, _ in server.seen}) <= 2


def test_links_that_the_server_closed_are_replaced(loop: Loop, site: Any) -> None:
    values = carry(loop, in_turn(*(whole(Request("GET", site[1] + "/leaves")) for _ in range(6))))
    assert values == [(200, b"bye")] * 6


def test_many_at_once(loop: Loop, site: Any) -> None:
    server, base = site
    steps = [whole(Request("GET", f"{base}/blob")) for _ in range(6)]
    values = carry(loop, together(steps, 3))
    assert all(body == BLOB for _, body in values)
    assert len({port for port, _, _ in server.seen}) <= 6


def test_a_short_body_is_told(loop: Loop, site: Any) -> None:
    with pytest.raises(TowlineError) as caught:
        carry(loop, whole(Request("GET", site[1] + "/short")))
    assert caught.value.kind == "registry-unreachable"
    assert "expected 1000 bytes of body, got 400" in caught.value.message


def test_nobody_there(loop: Loop, free_port: Callable[[], int]) -> None:
    with pytest.raises(TowlineError) as caught:
        carry(loop, whole(Request("GET", f"http://127.0.0.1:{free_port()}/?sig=hunter2")))
    assert caught.value.kind == "registry-unreachable"
    assert "hunter2" not in caught.value.message


def test_a_redirect_leaves_the_login_behind_and_passes_the_guard(loop: Loop, site: Any) -> None:
    server, base = site
    request = Request("GET", base + "/moved", (("Authorization", "Basic eDp5"), ("X-Kept", "1")))

    def steps() -> Any:
        return (yield from fetch_following(request, secure_from=Url.parse(base)))

    head, url = carry(loop, steps(), networks=("127.0.0.2/32",))
    assert (head.status, url.host, url.path) == (200, "127.0.0.2", "/small/elsewhere")
    (_, _, first), (_, _, second) = server.seen
    assert (first["Authorization"], second.get("Authorization"), second["X-Kept"]) == ("Basic eDp5", None, "1")
    blocked = carry(loop, steps())
    assert isinstance(blocked, Broken)
    assert blocked.kind == "address-blocked"
    assert len(server.seen) == 3


# ── a face against other clients ───────────────────────────────────────────────
def served_by_a_face(loop: Loop, client: Any, answer: Any) -> Any:
    """Run `client(port)` in a thread against a face whose requests `answer` turns into commands; return its value."""

    async def main() -> Any:
        async with loop.open_pump(Face(), listeners={"api": Listener()}) as pump:
            result = []
            gone = []

            async def ask() -> None:
                result.append(await anyio.to_thread.run_sync(client, pump.ports["api"]))
                pump.tell(Drain())

            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                async for event in pump.events:
                    if isinstance(event, Asked):
                        for command in answer(event.exchange, event.request):
                            pump.tell(command)
                    elif isinstance(event, Gone):
                        gone.append(event.exchange)
            await pump.finished()
            return result[0], gone

    return loop.run(main)


def echo(exchange: int, request: ServerRequest) -> Iterator[Any]:
    """Answer with what was asked; /streamed and /cut in pieces."""
    if request.path == "/streamed":
        yield AnswerHead(exchange, 200)
        for at in range(0, len(BLOB), 100_000):
            yield AnswerBody(exchange, BLOB[at : at + 100_000])
        yield AnswerEnd(exchange)
    elif request.path == "/cut":
        yield AnswerHead(exchange, 200, (("Content-Length", "1000"),))
        yield AnswerBody(exchange, b"x" * 400)
        yield AnswerCut(exchange)
    else:
        told = {"method": request.method, "query": request.query, "size": len(request.body), "peer": request.peer}
        yield Answer(exchange, 200, (("Content-Type", "application/json"),), json.dumps(told).encode())


def test_a_face_for_http_client(loop: Loop) -> None:
    def client(port: int) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        answers = []
        for method, path, body in (
            ("GET", "/a?b=c%20d", None),
            ("POST", "/a", b"x" * 300_000),
            ("PUT", "/a", iter([b"one", b"two"])),
            ("HEAD", "/a", None),
            ("GET", "/streamed", None),
        ):
            connection.request(method, path, body)
            response = connection.getresponse()
            answers.append((response.status, response.read()))
        connection.close()
        return answers

    (get, post, put, head, streamed), gone = served_by_a_face(loop, client, echo)
    assert json.loads(get[1])["query"] == [["b", "c d"]]
    assert json.loads(post[1])["size"] == 300_000
    assert json.loads(put[1])["size"] == 6
    assert head == (200, b"")
    assert streamed == (200, BLOB)
    assert gone == []


def test_a_cut_is_seen(loop: Loop) -> None:
    def client(port: int) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        with closing(connection):
            connection.request("GET", "/cut")
            try:
                with connection.getresponse() as response:
                    response.read()
            except (http.client.IncompleteRead, ConnectionError) as error:
                return type(error).__name__
            return "whole"

    value, _ = served_by_a_face(loop, client, echo)
    assert value in ("IncompleteRead", "ConnectionResetError")


def test_a_face_for_curl(loop: Loop, peer: Any) -> None:
    curl = peer("curl")

    def client(port: int) -> Any:
        base = f"http://127.0.0.1:{port}"
        run = [curl, "--silent", "--show-error", "--max-time", "20"]
        # Two over one link; a body that curl announces with Expect; one that is too large; one old protocol.
        kept = subprocess.run([*run, f"{base}/1", f"{base}/2"], capture_output=True, check=True)
        expecting = subprocess.run(
            [*run, "-H", "Expect: 100-continue", "--data-binary", "@-", base],
            input=b"x" * 2_000_000,
            capture_output=True,
        )
        large = subprocess.run(
            [*run, "-w", "%{http_code}", "-H", "Expect:", "--data-binary", "@-", base],
            input=b"x" * 11_000_000,
            capture_output=True,
        )
        old = subprocess.run([*run, "--http1.0", f"{base}/streamed"], capture_output=True, check=True)
        return kept.stdout, expecting.stdout, large.stdout, old.stdout

    (kept, expecting, large, old), _ = served_by_a_face(loop, client, echo)
    one, two = (json.loads(part + b"}") for part in kept.split(b"}")[:2])
    assert one["peer"] == two["peer"], "one link carried both"
    assert json.loads(expecting)["size"] == 2_000_000
    assert large.endswith(b"413"), large
    assert b"REQUEST_TOO_LARGE" in large
    assert old == BLOB


def test_an_asker_that_leaves_is_told(loop: Loop) -> None:
    def client(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        with closing(connection):
            connection.request("GET", "/streamed")
            with connection.getresponse() as response:
                response.read(10)

    def endless(exchange: int, request: ServerRequest) -> Iterator[Any]:
        yield AnswerHead(exchange, 200)
        for _ in range(40):
            yield AnswerBody(exchange, BLOB)

    _, gone = served_by_a_face(loop, client, endless)
    assert gone == [1]
