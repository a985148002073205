"""The tunnel alone against the stock pair: our client at the real server, the real client at our host."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h11
import pytest
import trio
from tunnelkit.roots import CLIENT_ID, TOKEN, HostRoot, make_client

from towline.core import Record, Secret, Wake
from towline.core.tunnel import (
    Acked,
    Arrived,
    HostConfig,
    Identified,
    Ponged,
    SessionClosed,
    TunnelClosed,
    TunnelIdentified,
    TunnelOpened,
)
from towline.drivers import Listener
from towline.drivers.on_trio import Pump, open_pump

pytestmark = [pytest.mark.interop, pytest.mark.trio]


class Do(Record, frozen=True):
    """Call the machine within a turn, as an owner would."""

    what: Callable[[Any, float], None]


class ThinClient:
    """A tunnel's client that acknowledges every request: a root with nothing of the broker's in it."""

    def __init__(self, server_url: str, **settings: Any) -> None:
        self.tunnel = make_client(server_url=server_url, **settings)
        self.answers: list[Any] = []

    def handle(self, fact: Any, now: float) -> None:
        if isinstance(fact, Do):
            fact.what(self.tunnel, now)
        elif isinstance(fact, Wake) or self.tunnel.owns(fact.link):
            self.tunnel.handle(fact, now)

    def poll(self) -> Any:
        return self.tunnel.poll()

    def deadline(self) -> float | None:
        return self.tunnel.deadline()


class ThinHost(HostRoot):
    def handle(self, fact: Any, now: float) -> None:
        if isinstance(fact, Do):
            fact.what(self.host, now)
            self.drain(now)
        else:
            super().handle(fact, now)


@contextmanager
def running(script: str, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([script, *arguments], env=environment, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


async def ask(port: int, target: str, **headers: str) -> tuple[int, bytes]:
    """One GET, by hand; status 0 when nobody listens."""
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return 0, b""
    async with stream:
        link = h11.Connection(h11.CLIENT)
        lines = [("Host", "x"), ("Connection", "close"), *((name.replace("_", "-"), v) for name, v in headers.items())]
        request = h11.Request(method="GET", target=target, headers=lines)
        await stream.send_all((link.send(request) or b"") + (link.send(h11.EndOfMessage()) or b""))
        status, body = 0, b""
        while True:
            event = link.next_event()
            if event is h11.NEED_DATA:
                link.receive_data(await stream.receive_some(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                return status, body


async def until(question: Callable[[], Any], seconds: float = 30.0) -> Any:
    with trio.fail_after(seconds):
        while not (answer := question()):
            await trio.sleep(0.05)
    return answer


async def listen(pump: Pump, events: list[Any], react: Callable[[Any], None] = lambda event: None) -> None:
    async for event in pump.events:
        events.append(event)
        react(event)


async def status_is(port: int, target: str, wanted: int) -> bytes:
    with trio.fail_after(60):
        while True:
            status, body = await ask(port, target)
            if status == wanted:
                return body
            await trio.sleep(0.1)


def of(events: list[Any], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


@pytest.mark.parametrize("polling_first", [False, True], ids=["websocket", "polling-first"])
async def test_our_client_at_the_real_server(
    polling_first: bool,
    free_port: Callable[[], int],
    peer: Callable[[str], str],
    snyk_broker_environment: dict[str, str],
) -> None:
    port = free_port()
    fast = ("--env", "SOCKET_PING_INTERVAL=1000", "--env", "SOCKET_PING_TIMEOUT=1000")
    script = peer("snyk-broker-server")
    machine = ThinClient(f"http://127.0.0.1:{port}", polling_first=polling_first, primus_ping=0.5, backoff_cap=2.0)
    events: list[Any] = []
    async with open_pump(machine) as pump, trio.open_nursery() as nursery:

        def react(event: Any) -> None:
            if isinstance(event, Arrived) and event.name == "request" and event.ack_id is not None:
                said = {"status": 207, "body": event.args[0]["url"], "headers": {"content-type": "text/plain"}}
                pump.tell(Do(lambda tunnel, now: tunnel.acknowledge(event.ack_id, [said], now=now)))

        nursery.start_soon(listen, pump, events, react)
        with running(script, snyk_broker_environment, "--port", str(port), *fast):
            await until(lambda: of(events, TunnelIdentified), 60)
            assert of(events, TunnelIdentified)[0].capabilities == ("receive-post-streams",)
            assert b'"local"' in await status_is(port, f"/connection-status/{TOKEN}", 200)
            answer = await ask(port, f"/broker/{TOKEN}/a/b?c=%20d", x_broker_ws_response="true")
            assert answer == (207, b"/a/b?c=%20d")
            await until(lambda: machine.tunnel.transport == "websocket")
            await trio.sleep(4.0)  # four of its heartbeats, eight of ours
            large = "x" * 2_000_000
            pump.tell(Do(lambda tunnel, now: tunnel.emit("nobody-knows-this", [large], now=now)))
            answer = await ask(port, f"/broker/{TOKEN}/again", x_broker_ws_response="true")
            assert answer == (207, b"/again")
            opened = len(of(events, TunnelOpened))
            assert not [closed for closed in of(events, TunnelClosed) if closed.session]
        await until(lambda: [closed for closed in of(events, TunnelClosed) if closed.session])
        with running(script, snyk_broker_environment, "--port", str(port), *fast):
            await until(lambda: len(of(events, TunnelOpened)) > opened)
            await status_is(port, f"/connection-status/{TOKEN}", 200)
        nursery.cancel_scope.cancel()


async def test_an_outdated_client_is_sent_away_by_the_real_server(
    free_port: Callable[[], int], peer: Callable[[str], str], snyk_broker_environment: dict[str, str]
) -> None:
    port = free_port()
    metadata = {"capabilities": ["post-streams"], "clientId": CLIENT_ID, "version": "4.50.0", "filters": {}}
    machine = ThinClient(
        f"ws://127.0.0.1:{port}", metadata={**metadata, "role": "primary", "clientConfig": {}}, backoff_cap=1.0
    )
    events: list[Any] = []
    with running(peer("snyk-broker-server"), snyk_broker_environment, "--port", str(port)):
        async with open_pump(machine) as pump, trio.open_nursery() as nursery:
            nursery.start_soon(listen, pump, events)
            await until(lambda: machine.tunnel.state == "closed", 60)
            nursery.cancel_scope.cancel()
    assert of(events, TunnelClosed)[-1].reason == "the server closed the tunnel for good"


async def test_the_real_client_at_our_host(
    free_port: Callable[[], int], peer: Callable[[str], str], snyk_broker_environment: dict[str, str]
) -> None:
    port = free_port()
    machine = ThinHost(HostConfig(ping_interval=1.0, ping_timeout=1.0, tokens=(Secret(TOKEN),)))
    events: list[Any] = []
    arguments = ["--port", str(free_port()), "--server", f"http://127.0.0.1:{port}", "--token", TOKEN]
    arguments += ["--env", "SOCKET_PING_INTERVAL=1000", "--env", "SOCKET_PONG_TIMEOUT=500"]
    async with (
        open_pump(machine, listeners={"http": Listener("127.0.0.1", port)}) as pump,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(listen, pump, events)
        with running(peer("snyk-broker-client"), snyk_broker_environment, *arguments):
            await until(lambda: len(of(events, Identified)) == 2, 60)
            assert {identified.role for identified in of(events, Identified)} == {"primary", "secondary"}
            for identified in of(events, Identified):
                assert (identified.version, identified.capabilities) == ("local", ("post-streams",))
            first, second = (identified.session for identified in of(events, Identified))
            request = {"url": "/nope", "method": "GET", "headers": {}, "streamingID": "", "requestId": ""}
            pump.tell(Do(lambda host, now: host.emit(first, "request", [request], ack=True, now=now)))
            acked = await until(lambda: of(events, Acked))
            assert acked[0].args[0]["errorType"] == "FILTER_BLOCKED"
            await trio.sleep(4.0)
            assert {ponged.session for ponged in of(events, Ponged)} == {first, second}
            assert of(events, SessionClosed) == []
            pump.tell(Do(lambda host, now: host.close_session(first, deliberate=True, now=now)))
            await trio.sleep(2.0)
            assert [closed.session for closed in of(events, SessionClosed)] == [first]
            assert len(of(events, Identified)) == 2, "it does not come back"
            pump.tell(Do(lambda host, now: host.close_session(second, deliberate=False, now=now)))
            await until(lambda: len(of(events, Identified)) == 3)
        await until(lambda: len(of(events, SessionClosed)) == 3)
        nursery.cancel_scope.cancel()
