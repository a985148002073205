"""The client's side against a scripted server: how it dials, what it survives, when it gives up."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from tunnelkit.pair import Pair
from tunnelkit.recorded import frames
from tunnelkit.roots import EPOCH, METADATA, TOKEN, HostRoot, make_client

from towline.core import (
    LIMITS,
    WAKE,
    Close,
    Drained,
    Drop,
    Ended,
    Lost,
    Note,
    Open,
    Opened,
    Received,
    RemoteProtocolError,
    Secret,
    Share,
    TowlineError,
    Transmit,
)
from towline.core.tunnel import (
    Acked,
    Arrived,
    HostConfig,
    Identified,
    TunnelBusy,
    TunnelClient,
    TunnelClosed,
    TunnelIdentified,
    TunnelOpened,
)
from towline.core.tunnel._websocket import CLOSE, PONG, TEXT, accept_value, frame

OPENING = b'0{"sid":"abc","upgrades":[%s],"pingInterval":25000,"pingTimeout":20000,"maxPayload":22020096}'
IDENTIFY = b'4{"type":0,"data":["identify",{"capabilities":["receive-post-streams"]}]}'


class Server:
    """The other end of a client's links, told what to say by the test."""

    def __init__(self, client: TunnelClient | None = None, **settings: Any) -> None:
        self.client = client or make_client(**settings)
        self.now = 0.0
        self.dials: list[Open] = []
        self.came: dict[int, bytearray] = {}
        self.over: list[int] = []
        self.events: list[Any] = []
        self.tell(WAKE)

    def tell(self, fact: Any) -> None:
        self.client.handle(fact, self.now)
        self.drain()

    def drain(self) -> None:
        while (wish := self.client.poll()) is not None:
            if isinstance(wish, Open):
                self.dials.append(wish)
            elif isinstance(wish, Transmit):
                self.came.setdefault(wish.link, bytearray()).extend(wish.data)
            elif isinstance(wish, Close | Drop):
                self.over.append(wish.link)
            elif not isinstance(wish, Share | Note):
                self.events.append(wish)

    def run(self, until: float) -> None:
        while (at := self.client.deadline()) is not None and at <= until:
            self.now = max(self.now, at)
            self.tell(WAKE)
        self.now = until

    def head(self, link: int) -> dict[str, str]:
        lines = bytes(self.came[link]).partition(b"\r\n\r\n")[0].decode().split("\r\n")
        return {"": lines[0]} | {
            name.lower(): value.strip() for name, _, value in (ln.partition(":") for ln in lines[1:])
        }

    def accept(self, link: int, **changed: str) -> None:
        """Answer an upgrade."""
        self.tell(Opened(link))
        fields = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Accept": accept_value(self.head(link)["sec-websocket-key"]),
        }
        fields |= {name.replace("_", "-"): value for name, value in changed.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
        del self.came[link]
        self.tell(Received(link, f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n".encode()))

    def http(self, link: int, status: int, body: bytes = b"", *more: str) -> None:
        lines = "".join(f"{line}\r\n" for line in (f"Content-Length: {len(body)}", *more))
        self.tell(Received(link, f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + body))

    def say(self, link: int, *texts: bytes) -> None:
        self.tell(Received(link, b"".join(frame(TEXT, text) for text in texts)))

    def open(self) -> int:
        """Let the newest dial become an open tunnel by websocket."""
        link = self.dials[-1].link
        self.accept(link)
        self.say(link, OPENING % b"", IDENTIFY)
        return link

    def heard(self, link: int) -> list[tuple[int, str]]:
        return [(opcode, payload.decode("latin-1")) for opcode, payload in frames(bytes(self.came.pop(link, b"")))]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


# ── dialling ──────────────────────────────────────────────────────────────────
def test_the_url_and_the_headers() -> None:
    server = Server(
        server_url="https://broker.example:8443/dropped/path?region=eu%201",
        token=Secret("a b/c%ü"),
        extra_query=(("server_id", "7"),),
        authorization=Secret("Bearer x"),
        route="proxy",
        role="secondary",
    )
    (dial,) = server.dials
    assert (dial.host, dial.port, dial.tls, dial.purpose, dial.route) == (
        "broker.example",
        8443,
        True,
        "configured",
        "proxy",
    )
    server.tell(Opened(dial.link))
    head = server.head(dial.link)
    method, target, _ = head[""].split(" ")
    path, _, query = target.partition("?")
    assert (method, path) == ("GET", "/primus/a%20b/c%%C3%BC/")
    names = [pair.partition("=")[0] for pair in query.split("&")]
    assert names == ["region", "server_id", "connection_role", "_primuscb", "EIO", "transport", "t", "b64"]
    assert query.startswith("region=eu%201&server_id=7&connection_role=secondary&_primuscb=")
    assert head["host"] == "broker.example:8443"
    assert head["origin"] == "https://broker.example:8443"
    assert head["authorization"] == "Bearer x"
    assert head["x-snyk-broker-client-role"] == "secondary"
    assert head["x-broker-client-version"] == "local"
    assert "sec-websocket-extensions" not in head
    assert "a b" not in repr(server.client)
    assert repr(server.client._transport) == "Transport(state=dialling, links=[])"


def test_a_websocket_is_open_at_once_and_identifies_first() -> None:
    server = Server()
    handle = server.client.emit("early", [b"\1"], ack=True, now=0.0)
    link = server.open()
    texts = [text for _, text in server.heard(link)]
    assert json.loads(texts[0][1:])["data"] == ["identify", {"token": TOKEN, "metadata": METADATA}]
    assert texts[1] == '4{"type":0,"data":["early",{"$binary":"AQ=="}],"id":1}'
    assert server.events == [
        TunnelOpened(1, "primary", "websocket"),
        TunnelIdentified(1, "primary", ("receive-post-streams",)),
    ]
    server.say(link, b'4{"id":1,"type":1,"data":["done"]}', b'4{"id":1,"type":1,"data":["again"]}')
    assert server.of(Acked) == [Acked(1, handle or 0, ("done",))]
    assert (server.client.transport, server.client.state) == ("websocket", "open")


def test_a_server_that_refuses_a_bare_websocket_is_polled_in_the_same_attempt() -> None:
    server = Server()
    socket = server.dials[0].link
    server.tell(Opened(socket))
    server.http(socket, 400, b"Bad request", "Connection: close")
    poll = server.dials[1].link
    server.tell(Opened(poll))
    assert "transport=polling" in server.head(poll)[""]
    server.http(poll, 200, OPENING % b"")
    assert server.of(TunnelOpened) == [TunnelOpened(1, "primary", "polling")]
    post, fetch = (dial.link for dial in server.dials[2:])
    for link in (post, fetch):
        server.tell(Opened(link))
    assert server.head(post)[""].startswith("POST ")
    assert bytes(server.came[post]).partition(b"\r\n\r\n")[2].startswith(b'4{"type":0,"data":["identify"')
    assert server.head(post)["content-type"] == "text/plain;charset=UTF-8"
    assert server.head(fetch)["connection"] == "close"
    server.client.emit("later", [], now=0.0)
    server.client.emit("latest", [], now=0.0)
    server.drain()
    assert len(server.dials) == 4, "one post at a time"
    server.http(post, 200, b"ok")
    second = server.dials[4].link
    server.tell(Opened(second))
    body = bytes(server.came[second]).partition(b"\r\n\r\n")[2]
    assert body == b'4{"type":0,"data":["later"]}\x1e4{"type":0,"data":["latest"]}'
    server.http(fetch, 200, IDENTIFY + b"\x1e2")
    assert len(server.of(TunnelIdentified)) == 1
    assert server.client.transport == "polling"


@pytest.mark.parametrize("status", [301, 302, 401, 403, 429])
def test_answers_that_polling_would_get_too(status: int) -> None:
    server = Server()
    link = server.dials[0].link
    server.tell(Opened(link))
    server.http(link, status, b"", "Location: http://evil.example/")
    assert len(server.dials) == 1
    (closed,) = server.of(TunnelClosed)
    assert str(status) in closed.reason
    assert (closed.session, closed.final, closed.retry_at) == (0, False, 0.5)


@pytest.mark.parametrize(
    "changed",
    [
        {"Sec_WebSocket_Accept": "AAAAAAAAAAAAAAAAAAAAAAAAAAA="},
        {"Sec_WebSocket_Accept": ""},
        {"Upgrade": "h2c"},
        {"Connection": "close"},
        {"Sec_WebSocket_Extensions": "permessage-deflate"},
        {"Sec_WebSocket_Protocol": "chat"},
    ],
)
def test_a_101_that_proves_nothing(changed: dict[str, str]) -> None:
    server = Server()
    link = server.dials[0].link
    server.accept(link, **changed)
    server.say(link, OPENING % b"")
    assert server.of(TunnelOpened) == []
    assert len(server.of(TunnelClosed)) == 1
    assert link in server.over


@pytest.mark.parametrize("ending", [Ended, Lost])
def test_a_websocket_cut_before_its_answer_is_polled_next_time(ending: type) -> None:
    server = Server()
    for attempt, kind in enumerate(["websocket", "polling", "websocket"]):
        link = server.dials[-1].link
        server.tell(Opened(link))
        assert f"transport={kind}" in server.head(link)[""]
        server.tell(Ended(link) if ending is Ended else Lost(link, "reset"))
        assert len(server.of(TunnelClosed)) == attempt + 1
        server.run(server.of(TunnelClosed)[-1].retry_at)


def test_a_dial_that_fails_does_not_make_us_poll() -> None:
    server = Server()
    server.tell(Lost(server.dials[0].link, "refused"))
    server.run(0.5)
    server.tell(Opened(server.dials[1].link))
    assert "transport=websocket" in server.head(server.dials[1].link)[""]


def test_a_handshake_without_answer() -> None:
    server = Server()
    server.tell(Opened(server.dials[0].link))
    server.run(9.9)
    assert server.events == []
    server.run(10.0)
    assert server.over == [server.dials[0].link]
    server.run(10.5)
    server.run(40.4)
    assert len(server.of(TunnelClosed)) == 1
    server.run(40.5)
    assert len(server.of(TunnelClosed)) == 2


@pytest.mark.parametrize("first", [b"", b"4x", b"0{}", b"0", b"x"])
def test_a_websocket_that_does_not_begin_with_a_handshake(first: bytes) -> None:
    server = Server()
    link = server.dials[0].link
    server.accept(link)
    server.say(link, first)
    assert len(server.of(TunnelClosed)) == 1
    assert server.of(TunnelOpened) == []


@pytest.mark.parametrize("body", [b"", b"4x", b"0{}", b"\xff", b"0{}\x1e9"])
def test_a_poll_that_does_not_begin_with_a_handshake(body: bytes) -> None:
    server = Server(polling_first=True)
    link = server.dials[0].link
    server.tell(Opened(link))
    server.http(link, 200, body)
    assert len(server.of(TunnelClosed)) == 1
    assert server.of(TunnelOpened) == []


def test_a_setting_that_http_cannot_carry() -> None:
    server = Server(client_id="a\r\nb: c")
    server.tell(Opened(server.dials[0].link))
    assert server.came == {}
    assert len(server.of(TunnelClosed)) == 1


# ── polling and the upgrade ───────────────────────────────────────────────────
def polled(**settings: Any) -> tuple[Server, int, int, int]:
    """A client that polled first, with its post, websocket and poll under way."""
    server = Server(polling_first=True, **settings)
    server.tell(Opened(server.dials[0].link))
    server.http(server.dials[0].link, 200, OPENING % b'"websocket"')
    post, socket, fetch = (dial.link for dial in server.dials[1:])
    server.tell(Opened(post))
    server.tell(Opened(fetch))
    return server, post, socket, fetch


def test_the_upgrade_waits_for_the_polls_under_way() -> None:
    server, post, socket, fetch = polled()
    server.accept(socket)
    assert server.heard(socket) == [(TEXT, "2probe")]
    server.client.emit("meanwhile", [], now=0.0)
    server.say(socket, b"3probe")
    server.http(post, 200, b"ok")
    assert server.heard(socket) == []
    server.http(fetch, 200, b"6")
    assert server.heard(socket) == [(TEXT, "5"), (TEXT, '4{"type":0,"data":["meanwhile"]}')]
    assert server.client.transport == "websocket"
    assert len(server.dials) == 4
    server.say(socket, b"2")
    assert server.heard(socket) == [(TEXT, "3")]


def test_posts_respect_the_servers_largest_payload() -> None:
    server = Server(polling_first=True)
    server.tell(Opened(server.dials[0].link))
    small = (OPENING % b"").replace(b"22020096", b"100")
    server.http(server.dials[0].link, 200, small)
    for _ in range(3):
        server.client.emit("a", ["x" * 40], now=0.0)
    server.drain()
    bodies = []
    for number in (1, 3, 4):
        link = server.dials[number].link
        server.tell(Opened(link))
        bodies.append(bytes(server.came[link]).partition(b"\r\n\r\n")[2])
        server.http(link, 200, b"ok")
    assert [body.count(b"\x1e") for body in bodies] == [0, 0, 0]
    assert len(bodies[0]) > 100, "what is too large alone goes alone"
    assert "Transport(state=polling" in repr(server.client._transport)
    assert "TunnelClient(role=primary, state=open" in repr(server.client)


@pytest.mark.parametrize("failure", ["refused", "lost", "403", "bad accept", "closed", "silence", "other", "half way"])
def test_a_websocket_that_fails_leaves_the_tunnel_polling(failure: str) -> None:
    server, post, socket, fetch = polled()
    server.http(post, 200, b"ok")
    if failure == "refused":
        server.tell(Lost(socket, "refused"))
    elif failure == "403":
        server.tell(Opened(socket))
        server.http(socket, 403)
    elif failure == "bad accept":
        server.accept(socket, Sec_WebSocket_Accept="x")
    else:
        server.accept(socket)
        if failure == "lost":
            server.tell(Lost(socket, "reset"))
        elif failure == "closed":
            server.tell(Received(socket, frame(CLOSE, b"")))
        elif failure == "other":
            server.say(socket, b"4x", b"9", b"3")
            server.tell(Ended(socket))
        elif failure == "half way":
            server.say(socket, b"3probe")
            server.tell(Ended(socket))
        else:
            server.run(10.0)
    assert server.of(TunnelClosed) == []
    assert (server.client.state, server.client.transport) == ("open", "polling")
    server.http(fetch, 200, IDENTIFY)
    assert len(server.of(TunnelIdentified)) == 1
    again = server.dials[-1].link
    server.tell(Opened(again))
    assert "transport=polling" in server.head(again)[""]
    assert server.head(again)[""].startswith("GET ")


def test_a_pause_that_fails_polls_again() -> None:
    server, post, socket, fetch = polled()
    server.accept(socket)
    server.say(socket, b"3probe")
    server.http(fetch, 200, b"6")
    before = len(server.dials)
    server.tell(Lost(socket, "reset"))
    assert len(server.dials) == before + 1
    server.http(post, 200, b"ok")
    assert server.client.transport == "polling"


@pytest.mark.parametrize("which", ["post", "fetch"])
@pytest.mark.parametrize("failure", ["status", "lost", "ended", "junk"])
def test_a_poll_that_fails_loses_the_tunnel(which: str, failure: str) -> None:
    server, post, _, fetch = polled()
    link = post if which == "post" else fetch
    if failure == "status":
        server.http(link, 400)
    elif failure == "lost":
        server.tell(Lost(link, "reset"))
    elif failure == "ended":
        server.tell(Ended(link))
    else:
        server.tell(Received(link, b"SSH-2.0-x\r\n\r\n"))
    (closed,) = server.of(TunnelClosed)
    assert (closed.session, closed.final) == (1, False)
    assert set(server.over) >= {dial.link for dial in server.dials[1:]}


def test_a_poll_answer_past_its_limit() -> None:
    server, _, _, fetch = polled(limits=msgspec.structs.replace(LIMITS, ws_message=1000))
    server.http(fetch, 200, b"4" * 1001)
    assert len(server.of(TunnelClosed)) == 1


def test_a_close_packet_by_poll() -> None:
    server, post, _, fetch = polled()
    server.http(post, 200, b"ok")
    server.http(fetch, 200, b"1")
    assert server.of(TunnelClosed)[0].reason == "the server closed the session"


# ── heartbeats ────────────────────────────────────────────────────────────────
def test_both_heartbeats() -> None:
    server = Server()
    link = server.open()
    server.heard(link)
    server.run(20.0)
    server.say(link, b"2")
    assert server.heard(link) == [(TEXT, "3")]
    server.run(25.0)
    assert server.heard(link) == [(TEXT, f'4"primus::ping::{int((EPOCH + 25) * 1000)}"')]
    server.run(26.0)
    server.say(link, b'4"primus::pong::1"')
    server.run(50.9)
    assert server.heard(link) == []
    server.run(51.0)
    assert len(server.heard(link)) == 1
    server.run(60.9)
    assert server.of(TunnelClosed) == []
    server.run(61.0)
    assert "pong" in server.of(TunnelClosed)[0].reason


def test_45_seconds_without_a_ping() -> None:
    server = Server()
    link = server.open()
    for now in range(5, 45, 5):
        server.run(float(now))
        server.say(link, b'4"primus::pong::1"', b"6", b'4{"type":0,"data":["x"]}')
    server.run(44.9)
    assert server.of(TunnelClosed) == []
    server.run(45.0)
    assert "engine.io ping" in server.of(TunnelClosed)[0].reason


@pytest.mark.parametrize(
    ("said", "patience"), [(b'1,"pingTimeout":1', 10.0), (b'999999999,"pingTimeout":1e300', 240.0)]
)
def test_advertised_heartbeats_are_clamped(said: bytes, patience: float) -> None:
    server = Server(primus_pong=1000.0)
    link = server.dials[0].link
    server.accept(link)
    server.say(link, b'0{"sid":"abc","upgrades":[],"pingInterval":%s}' % said)
    server.run(patience - 0.1)
    assert server.of(TunnelClosed) == []
    server.run(patience)
    assert len(server.of(TunnelClosed)) == 1


# ── what a server may send ────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"4",
        b"4null",
        b"4{",
        b"9",
        b"bAAA",
        b"3",
        b"5",
        b"6",
        OPENING % b"",
        b'4"primus::nothing"',
        b'4{"type":0,"data":["open"]}',
        b'4{"type":1,"data":[],"id":5}',
        b'4{"type":9,"data":[1]}',
        b"4" + b"[" * 200_000,
    ],
)
def test_junk_is_ignored(text: bytes) -> None:
    server = Server()
    link = server.open()
    before = list(server.events)
    server.heard(link)
    server.tell(Drained(link))
    server.say(link, text, b"2")
    server.tell(Received(link, frame(2, b"4binary")))
    assert server.heard(link) == [(TEXT, "3")]
    assert server.events == before


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (frame(TEXT, b"4", b"mask"), 1002),
        (b"\x81\x7f" + (1 << 62).to_bytes(8, "big"), 1009),
        (frame(TEXT, b"\xff"), 1007),
    ],
)
def test_a_server_that_breaks_the_protocol(wire: bytes, code: int) -> None:
    server = Server()
    link = server.open()
    server.heard(link)
    server.tell(Received(link, wire))
    assert server.heard(link) == [(CLOSE, code.to_bytes(2, "big").decode("latin-1"))]
    assert "broke the websocket protocol" in server.of(TunnelClosed)[0].reason


def test_a_flood_of_pings_is_answered_within_bounds() -> None:
    server = Server()
    link = server.open()
    server.heard(link)
    server.tell(Received(link, b"".join(frame(9, b"%d" % number) for number in range(10_000))))
    assert len(server.heard(link)) == 100
    server.run(1.0)
    assert server.heard(link) == [(PONG, "9999")]


def test_a_server_that_makes_us_answer_and_does_not_read() -> None:
    small = msgspec.structs.replace(LIMITS, tunnel_buffer=1000, tunnel_payload=1000)
    server = Server(limits=small)
    link = server.open()
    for _ in range(3000):
        server.say(link, b"2")
    assert "does not read" in server.of(TunnelClosed)[0].reason


@pytest.mark.parametrize("ending", ["close frame", "close packet", "ended", "lost", "gone with the message"])
def test_the_ways_a_connection_ends(ending: str) -> None:
    server = Server()
    link = server.open()
    handle = server.client.emit("x", [], ack=True, now=0.0)
    assert handle is not None
    server.drain()
    if ending == "close frame":
        server.tell(Received(link, frame(CLOSE, b"\x03\xe8")))
    elif ending == "close packet":
        server.say(link, b"1")
    elif ending == "ended":
        server.tell(Ended(link))
    elif ending == "lost":
        server.tell(Lost(link, "reset"))
    else:
        server.tell(Received(link, frame(TEXT, b'4{"type":0,"data":["last"]}') + frame(CLOSE, b"")))
        assert server.of(Arrived) == [Arrived(1, "last", ())]
    (closed,) = server.of(TunnelClosed)
    assert closed == TunnelClosed(1, "primary", closed.reason, False, (handle,), 0.5)
    assert link in server.over
    assert not server.client.owns(link)
    assert (server.client.state, server.client.deadline(), server.client.transport) == ("waiting", 0.5, None)


def test_a_deliberate_close_comes_with_the_close_frame() -> None:
    server = Server()
    link = server.open()
    server.heard(link)
    server.tell(Received(link, frame(TEXT, b'4"primus::server::close"') + frame(CLOSE, b"")))
    assert server.of(TunnelClosed) == [TunnelClosed(1, "primary", "the server closed the tunnel for good", True)]
    assert server.heard(link) == [(CLOSE, "")]
    assert server.client.deadline() is None
    server.tell(WAKE)
    assert len(server.dials) == 1


# ── coming back ───────────────────────────────────────────────────────────────
def test_the_backoff_of_the_stock_client_and_its_end() -> None:
    server = Server()
    queued = server.client.emit("never", [], ack=True, now=0.0)
    delays = []
    for _ in range(30):
        server.tell(Lost(server.dials[-1].link, "refused"))
        at = server.of(TunnelClosed)[-1].retry_at
        delays.append(at - server.now)
        server.run(at)
    assert delays[0] == 0.5
    for number, delay in enumerate(delays[1:], 2):
        low = 0.5 * 1.5 ** (number - 1)
        assert min(low, 1200) - 0.001 <= delay <= min(2 * low, 1200) + 0.001
    assert delays[-1] == 1200
    assert len(set(delays[:20])) == 20
    server.tell(Lost(server.dials[-1].link, "refused"))
    closed = server.of(TunnelClosed)[-1]
    assert (closed.final, closed.retry_at, closed.lost_acks) == (True, None, (queued,))
    assert len(server.dials) == 31
    assert server.client.deadline() is None
    with pytest.raises(RemoteProtocolError) as gone:
        server.client.emit("x", [], now=server.now)
    assert gone.value.kind == "tunnel-lost"
    server.client.close("again", now=server.now)
    server.tell(WAKE)
    assert server.client.poll() is None


def test_an_open_tunnel_resets_the_counter_once_the_server_identified_itself() -> None:
    server = Server()
    for _ in range(3):
        server.tell(Lost(server.dials[-1].link, "refused"))
        server.run(server.of(TunnelClosed)[-1].retry_at)
    link = server.dials[-1].link
    server.accept(link)
    server.say(link, OPENING % b"")
    server.tell(Ended(link))
    assert server.of(TunnelClosed)[-1].retry_at - server.now > 0.5
    server.run(server.of(TunnelClosed)[-1].retry_at)
    link = server.open()
    server.tell(Ended(link))
    assert server.of(TunnelClosed)[-1].retry_at - server.now == 0.5


def test_a_minute_of_good_service_resets_the_counter_too() -> None:
    server = Server(primus_pong=1000.0)
    server.tell(Lost(server.dials[-1].link, "refused"))
    server.run(0.5)
    link = server.dials[-1].link
    server.accept(link)
    server.say(link, OPENING % b"")
    for now in (30.0, 60.0, 61.0):
        server.run(now)
        server.say(link, b"2")
    server.tell(Ended(link))
    assert server.of(TunnelClosed)[-1].retry_at == 61.5


def test_each_attempt_has_a_request_id_of_its_own() -> None:
    server = Server()
    seen = set()
    for _ in range(3):
        link = server.dials[-1].link
        server.tell(Opened(link))
        seen.add(server.head(link)["snyk-request-id"])
        server.tell(Lost(link, "reset"))
        server.run(server.of(TunnelClosed)[-1].retry_at)
    assert len(seen) == 3


# ── commands ──────────────────────────────────────────────────────────────────
def test_what_waits_is_bounded() -> None:
    server = Server(limits=msgspec.structs.replace(LIMITS, tunnel_buffer=1000, tunnel_waiting=5))
    server.client.emit("a", ["x" * 1200], now=0.0)
    with pytest.raises(TunnelBusy):
        server.client.emit("a", [], now=0.0)
    with pytest.raises(TowlineError) as large:
        server.client.emit("a", ["x" * LIMITS.tunnel_payload], now=0.0)
    assert large.value.kind == "request-too-large"
    server = Server(limits=msgspec.structs.replace(LIMITS, tunnel_waiting=5))
    handles = [server.client.emit("a", [], ack=True, now=0.0) for _ in range(5)]
    assert handles == [1, 2, 3, 4, 5]
    with pytest.raises(TunnelBusy):
        server.client.emit("a", [], now=0.0)
    server.client.forget(3)
    server.client.emit("b", [], now=0.0)
    link = server.open()
    texts = [text for _, text in server.heard(link)][1:]
    assert [json.loads(text[1:]).get("id") for text in texts] == [1, 2, 3, 4, None]
    server.client.forget(2)
    server.say(link, *(b'4{"id":%d,"type":1,"data":[]}' % number for number in range(1, 5)))
    assert [acked.ack_id for acked in server.of(Acked)] == [1, 4, 5]


def test_a_server_that_takes_less_is_believed() -> None:
    server = Server()
    link = server.dials[0].link
    server.accept(link)
    server.say(link, b'0{"sid":"abc","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":100}')
    with pytest.raises(TowlineError) as large:
        server.client.emit("a", ["x" * 100], now=0.0)
    assert large.value.kind == "request-too-large"


def test_acknowledgements_do_not_cross_connections() -> None:
    server = Server()
    link = server.open()
    server.say(link, b'4{"type":0,"data":["request",{"url":"/"}],"id":1}')
    server.tell(Ended(link))
    server.run(0.5)
    link = server.open()
    server.heard(link)
    server.say(link, b'4{"type":0,"data":["request",{"url":"/"}],"id":1}')
    old, new = server.of(Arrived)
    assert old.ack_id != new.ack_id
    assert (old.session, new.session) == (1, 2)
    server.client.acknowledge(old.ack_id, ["old"], now=server.now)
    server.client.acknowledge(new.ack_id, ["new"], now=server.now)
    server.drain()
    assert server.heard(link) == [(TEXT, '4{"id":1,"type":1,"data":["new"]}')]


def test_close_is_for_good() -> None:
    server = Server()
    link = server.open()
    server.heard(link)
    server.client.close("shutting down", now=0.0)
    server.drain()
    assert server.heard(link) == [(CLOSE, "\x03\xe9")]
    assert server.of(TunnelClosed) == [TunnelClosed(1, "primary", "shutting down", True)]
    assert link in server.over
    server.tell(Received(link, frame(TEXT, b"2")))
    assert server.came == {}
    waiting = Server()
    waiting.tell(Lost(waiting.dials[0].link, "refused"))
    waiting.client.close("shutting down", now=0.0)
    assert waiting.client.deadline() is None
    dialling = Server()
    dialling.client.close("shutting down", now=0.0)
    dialling.drain()
    assert dialling.over == [dialling.dials[0].link]


# ── with our host ─────────────────────────────────────────────────────────────
@pytest.mark.parametrize("polling_first", [False, True])
def test_a_pair_stays_up_for_hours(polling_first: bool) -> None:
    pair = Pair(make_client(polling_first=polling_first), HostRoot())
    pair.run(3 * 3600.0)
    assert [type(event) for event in pair.heard] == [TunnelOpened, TunnelIdentified]
    assert pair.client.transport == "websocket"
    assert len([event for event in pair.host_heard if isinstance(event, Identified)]) == 1


def test_a_pair_that_may_only_poll_stays_up_too() -> None:
    pair = Pair(make_client(polling_first=True), HostRoot())
    pair.refuse = lambda data: b"Upgrade: websocket" in data
    pair.run(3600.0)
    assert pair.client.transport == "polling"
    assert [type(event) for event in pair.heard] == [TunnelOpened, TunnelIdentified]


def test_a_proxy_that_cuts_websockets_costs_one_attempt() -> None:
    pair = Pair(make_client(), HostRoot())
    pair.refuse = lambda data: b"Upgrade: websocket" in data
    pair.run(60.0)
    assert pair.client.transport == "polling"
    assert [type(event) for event in pair.heard] == [TunnelClosed, TunnelOpened, TunnelIdentified]


def test_a_silent_path_is_noticed_by_both_and_healed() -> None:
    pair = Pair(make_client(), HostRoot())
    pair.run(1.0)
    pair.freeze()
    pair.run(36.0)
    assert pair.client.state != "open"
    pair.run(20.0)
    assert "sessions=0" in repr(pair.root.host)
    pair.freeze(False)
    pair.run(60.0)
    assert pair.client.state == "open"


def test_a_refusal_by_an_old_version_is_final() -> None:
    metadata = {**METADATA, "version": "4.0.0"}
    pair = Pair(make_client(metadata=metadata), HostRoot(HostConfig()))
    pair.run(5.0)
    assert [type(event) for event in pair.heard] == [TunnelOpened, TunnelIdentified, Arrived, TunnelClosed]
    assert pair.heard[-1].final
    assert "outdated" in pair.heard[-2].args[0]["message"]
