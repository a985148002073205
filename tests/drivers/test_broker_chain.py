"""A long answer through server and client as they run, on each loop: right to the last byte, held by a slow caller."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import to_thread
from drivers.loops import LOOPS, Loop

from towline.core import MIB, Entropy, Secret
from towline.core.broker import AcceptRules, BrokerClient, BrokerClientConfig, BrokerServer, BrokerServerConfig
from towline.drivers import Listener

TOKEN = "00000000-0000-4000-8000-00000000000a"
RULES = AcceptRules.load({"private": [{"method": "GET", "path": "/*", "origin": "${CR_AGENT_URL}"}], "public": []})
EVERY_LOOP = pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)


def chance(size: int) -> bytes:
    """Bytes without a pattern: one that repeats would hide a window that is used again too early."""
    return hashlib.shake_128(b"a long answer").digest(size)


class Upstream:
    """Answers whatever it is asked, and counts what it could send."""

    def __init__(self, body: bytes, *, chunked: bool) -> None:
        self.sent = 0
        self.cut = threading.Event()
        self._body = body
        self._chunked = chunked
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(link,), daemon=True).start()

    def _answer(self, link: socket.socket) -> None:
        framing = "Transfer-Encoding: chunked" if self._chunked else f"Content-Length: {len(self._body)}"
        with link:
            try:
                while self._asked(link):
                    link.sendall(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
                    for at in range(0, len(self._body), 50_021):
                        piece = self._body[at : at + 50_021]
                        link.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)
                        self.sent += len(piece)
                    if self._chunked:
                        link.sendall(b"0\r\n\r\n")
            except OSError:
                self.cut.set()

    def _asked(self, link: socket.socket) -> bool:
        asked = b""
        while b"\r\n\r\n" not in asked:
            if not (data := link.recv(4096)):
                return False
            asked += data
        return True


@contextmanager
def upstream(body: bytes, *, chunked: bool = False) -> Iterator[Upstream]:
    serving = Upstream(body, chunked=chunked)
    try:
        yield serving
    finally:
        serving.close()


@asynccontextmanager
async def pair(loop: Loop, upstream_port: int) -> AsyncIterator[tuple[Any, Any]]:
    """Server and client, connected."""
    server = BrokerServer(BrokerServerConfig(), entropy=Entropy(b"server" * 4))
    async with loop.open_pump(server, listeners={"broker": Listener("127.0.0.1", 0)}) as serving:
        config = BrokerClientConfig(
            server_url=f"http://127.0.0.1:{serving.ports['broker']}",
            token=Secret(TOKEN),
            agent_url=f"http://127.0.0.1:{upstream_port}",
            rules=RULES,
        )
        client = BrokerClient(config, entropy=Entropy(b"client" * 4))
        async with loop.open_pump(client, listeners={"client": Listener("127.0.0.1", 0)}) as calling:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_drain, serving)
                tasks.start_soon(_drain, calling)
                await to_thread.run_sync(_await_tunnels, serving.ports["broker"])
                yield serving, calling
                tasks.cancel_scope.cancel()


async def _drain(pump: Any) -> None:
    async for _ in pump.events:
        pass


def _await_tunnels(port: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with socket.create_connection(("127.0.0.1", port), 5) as asking:
            asking.sendall(f"GET /connection-status/{TOKEN} HTTP/1.0\r\n\r\n".encode())
            answer = b""
            while data := asking.recv(65536):
                answer += data
        if answer.count(b'"version"') == 2:
            return
        time.sleep(0.02)
    raise AssertionError(f"no tunnels: {answer!r}")


class Caller:
    """One request on one link. `read` takes so many bytes of body, at most so many at a time."""

    def __init__(self, port: int) -> None:
        self._link = socket.create_connection(("127.0.0.1", port), 20)
        self._link.sendall(f"GET /broker/{TOKEN}/big HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        self._reader = self._link.makefile("rb")

    def head(self) -> bytes:
        return b"".join(iter(self._reader.readline, b"\r\n"))

    def digest(self, size: int, *, pause: float = 0.0, each: int = 1 << 20) -> str:
        found = hashlib.sha256()
        while size:
            data = self._reader.read(min(size, each))
            assert data, f"{size} bytes are missing"
            found.update(data)
            size -= len(data)
            time.sleep(pause)
        return found.hexdigest()

    def chunks(self) -> str:
        found = hashlib.sha256()
        while size := int(self._reader.readline(), 16):
            found.update(self._reader.read(size))
            assert self._reader.readline() == b"\r\n"
        return found.hexdigest()

    def close(self) -> None:
        self._reader.close()
        self._link.close()


def steady(value: Callable[[], int], seconds: float = 10.0) -> int:
    """Wait until a count stands still, and return it."""
    end = time.monotonic() + seconds
    before = -1
    while (count := value()) != before or not count:
        assert time.monotonic() < end, f"it goes on at {count}"
        before = count
        time.sleep(0.4)
    return count


@EVERY_LOOP
@pytest.mark.parametrize("pause", [0.0, 0.004], ids=["fast", "slow"])
def test_the_first_long_answer_of_a_fresh_client_is_right(loop: Loop, pause: float) -> None:
    body = chance(24 * MIB + 7)

    async def main() -> None:
        with upstream(body) as behind:
            async with pair(loop, behind.port) as (serving, _):
                for _ in range(2):
                    caller = await to_thread.run_sync(Caller, serving.ports["broker"])
                    head = await to_thread.run_sync(caller.head)
                    assert head.startswith(b"HTTP/1.1 200")
                    assert f"content-length: {len(body)}".encode() in head.lower()
                    digest = await to_thread.run_sync(partial(caller.digest, len(body), pause=pause, each=100_003))
                    assert digest == hashlib.sha256(body).hexdigest()
                    caller.close()

    loop.run(main)


@EVERY_LOOP
def test_an_answer_of_unknown_length_is_right(loop: Loop) -> None:
    body = chance(9 * MIB + 1)

    async def main() -> None:
        with upstream(body, chunked=True) as behind:
            async with pair(loop, behind.port) as (serving, _):
                caller = await to_thread.run_sync(Caller, serving.ports["broker"])
                head = await to_thread.run_sync(caller.head)
                assert b"transfer-encoding: chunked" in head.lower()
                assert await to_thread.run_sync(caller.chunks) == hashlib.sha256(body).hexdigest()
                caller.close()

    loop.run(main)


@EVERY_LOOP
@pytest.mark.parametrize("chunked", [False, True], ids=["known", "chunked"])
def test_a_caller_who_does_not_read_holds_the_upstream(loop: Loop, chunked: bool) -> None:
    body = chance(64 * MIB)

    async def main() -> None:
        with upstream(body, chunked=chunked) as behind:
            async with pair(loop, behind.port) as (serving, calling):
                caller = await to_thread.run_sync(Caller, serving.ports["broker"])
                stood = await to_thread.run_sync(steady, lambda: behind.sent)
                # What is on its way fills the system's buffers of three links; what we hold is a window or two.
                assert stood < 48 * MIB
                for pump in (serving, calling):
                    assert sum(link.queued for link in pump._links.values()) < 3 * MIB
                await to_thread.run_sync(caller.head)
                got = caller.chunks if chunked else lambda: caller.digest(len(body))
                assert await to_thread.run_sync(got) == hashlib.sha256(body).hexdigest()
                caller.close()

    loop.run(main)


@EVERY_LOOP
def test_a_caller_who_goes_away_ends_the_upstreams_answer(loop: Loop) -> None:
    body = chance(64 * MIB)

    async def main() -> None:
        with upstream(body) as behind:
            async with pair(loop, behind.port) as (serving, _):
                caller = await to_thread.run_sync(Caller, serving.ports["broker"])
                await to_thread.run_sync(caller.head)
                await to_thread.run_sync(caller.digest, MIB)
                caller.close()
                assert await to_thread.run_sync(behind.cut.wait, 5.0)

    loop.run(main)
