"""The server's side: the error table, the session rules, what a client may not do."""

from __future__ import annotations

import base64
import json
from typing import Any

import h11
import msgspec
import pytest
from tunnelkit.recorded import frames
from tunnelkit.roots import CLIENT_ID, METADATA, TOKEN, HostRoot, Whole

from towline.core import (
    LIMITS,
    WAKE,
    Accepted,
    Close,
    Drained,
    Ended,
    Limits,
    Lost,
    Received,
    RemoteProtocolError,
    Secret,
    TowlineError,
    Transmit,
)
from towline.core.tunnel import (
    Acked,
    Arrived,
    HostConfig,
    Identified,
    Ponged,
    Reply,
    SessionClosed,
    SessionOpened,
    TunnelBusy,
)
from towline.core.tunnel._websocket import PING, PONG, TEXT, frame

PATH = f"/primus/{TOKEN}/"
KEY = base64.b64encode(b"k" * 16).decode()
MASK = b"\x05\x06\x07\x08"


class World:
    """A host and hand-made clients."""

    def __init__(self, config: HostConfig | None = None, limits: Limits = LIMITS) -> None:
        self.root = HostRoot(config, limits=limits)
        self.now = 0.0
        self.events: list[Any] = []
        self.said: dict[int, bytearray] = {}
        self.closed: set[int] = set()
        self._links = 0
        self.tell(WAKE)

    def tell(self, fact: Any) -> None:
        self.root.handle(fact, self.now)
        self.drain()

    def drain(self) -> None:
        while (wish := self.root.poll()) is not None:
            if isinstance(wish, Transmit):
                self.said.setdefault(wish.link, bytearray()).extend(wish.data)
            elif isinstance(wish, Close):
                self.closed.add(wish.link)
            elif not hasattr(wish, "link"):
                self.events.append(wish)

    def run(self, until: float) -> None:
        while (at := self.root.deadline()) is not None and at <= until:
            self.now = max(self.now, at)
            self.tell(WAKE)
        self.now = until

    def connect(self) -> int:
        self._links += 2
        self.tell(Accepted(self._links, "http", "127.0.0.1"))
        return self._links

    def send(self, link: int, method: str, target: str, *, body: bytes = b"", **headers: str) -> int:
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        lines += ["Host: x", f"Content-Length: {len(body)}"] if body or method == "POST" else ["Host: x"]
        head = "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""])
        self.tell(Received(link, head.encode() + body))
        return link

    def ask(self, method: str, query: str, **more: Any) -> int:
        return self.send(self.connect(), method, f"{PATH}?{query}", **more)

    def upgrade(self, query: str, *, key: str = KEY, path: str = PATH, **more: Any) -> int:
        return self.send(
            self.connect(),
            "GET",
            f"{path}?{query}",
            Upgrade="websocket",
            Connection="Upgrade",
            Sec_WebSocket_Version="13",
            Sec_WebSocket_Key=key,
            **more,
        )

    def answer(self, link: int, method: str = "GET") -> tuple[int, dict[str, str], str]:
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        parser.send(h11.EndOfMessage())
        parser.receive_data(bytes(self.said.pop(link)))
        head, body = parser.next_event(), b""
        assert isinstance(head, h11.Response | h11.InformationalResponse)
        while isinstance(event := parser.next_event(), h11.Data):
            body += event.data
        told = {name.decode().lower(): value.decode() for name, value in head.headers}
        return head.status_code, told, body.decode()

    def heard(self, link: int) -> list[tuple[int, str]]:
        """What came on a websocket since it was last asked."""
        raw = bytes(self.said.pop(link, b""))
        if raw.startswith(b"HTTP/1.1 101"):
            raw = raw.partition(b"\r\n\r\n")[2]
        return [(opcode, payload.decode()) for opcode, payload in frames(raw)]

    def say(self, link: int, text: str | bytes) -> None:
        self.tell(Received(link, frame(TEXT, text.encode() if isinstance(text, str) else text, MASK)))

    # ── whole conversations ────────────────────────────────────────────────────
    def websocket(self, *, identify: bool = True, query: str = "EIO=4&transport=websocket") -> int:
        link = self.upgrade(query, x_snyk_broker_client_id=CLIENT_ID, x_snyk_broker_client_role="primary")
        assert len(self.heard(link)) == 2
        if identify:
            self.say(link, identify_packet())
        return link

    def polling(self, *, identify: bool = True) -> str:
        _, _, body = self.answer(self.ask("GET", "EIO=4&transport=polling"))
        sid = str(json.loads(body[1:])["sid"])
        if identify:
            self.post(sid, identify_packet())
        return sid

    def post(self, sid: str, text: str) -> int:
        return self.ask("POST", f"EIO=4&transport=polling&sid={sid}", body=text.encode())

    def get(self, sid: str) -> int:
        return self.ask("GET", f"EIO=4&transport=polling&sid={sid}")

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def identify_packet(token: str = TOKEN, **changes: Any) -> str:
    metadata = {key: value for key, value in {**METADATA, **changes}.items() if value is not ...}
    return "4" + json.dumps({"type": 0, "data": ["identify", {"token": token, "metadata": metadata}]})


def event(name: str, *args: Any, **more: Any) -> str:
    return "4" + json.dumps({"type": 0, "data": [name, *args], **more})


# ── before a session ──────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("method", "query", "body"),
    [
        ("GET", "EIO=4&transport=flashsocket", '{"code":0,"message":"Transport unknown"}'),
        ("GET", "EIO=4", '{"code":0,"message":"Transport unknown"}'),
        ("GET", "EIO=4&transport=polling&sid=nobody", '{"code":1,"message":"Session ID unknown"}'),
        ("POST", "EIO=4&transport=polling", '{"code":2,"message":"Bad handshake method"}'),
        ("GET", "EIO=4&transport=websocket", '{"code":3,"message":"Bad request"}'),
    ],
)
def test_refusals_of_polls(method: str, query: str, body: str) -> None:
    world = World()
    status, headers, told = world.answer(world.ask(method, query))
    assert (status, headers["content-type"], told) == (400, "application/json", body)
    assert world.events == []


@pytest.mark.parametrize(
    ("query", "key", "text"),
    [
        ("EIO=4&transport=x", KEY, "Transport unknown"),
        ("EIO=4&transport=websocket&sid=nobody", KEY, "Session ID unknown"),
        ("EIO=4&transport=polling", KEY, "Bad request"),
        ("EIO=4&transport=websocket", "short", "Bad request"),
    ],
)
def test_refusals_of_upgrades(query: str, key: str, text: str) -> None:
    world = World()
    link = world.upgrade(query, key=key)
    status, headers, told = world.answer(link)
    assert (status, headers["content-type"], headers["connection"].lower(), told) == (400, "text/html", "close", text)
    assert link in world.closed
    assert world.root.host.deadline() is None


def test_the_service_description_and_cors() -> None:
    world = World()
    _, headers, told = world.answer(world.send(world.connect(), "GET", "/primus/spec", Origin="http://a"))
    assert told == '{"timeout":35000,"pathname":"/primus","version":"6.1.0","parser":"ejson","transformer":"engine.io"}'
    assert headers["access-control-allow-origin"] == "http://a"
    assert headers["access-control-allow-credentials"] == "true"
    status, headers, told = world.answer(world.ask("OPTIONS", "", Origin="http://a"), "OPTIONS")
    assert (status, told) == (200, "")
    assert headers["access-control-allow-methods"] == "GET, HEAD, PUT, POST, DELETE, OPTIONS"
    assert headers["access-control-max-age"] == "2592000"


def test_listed_tokens_only() -> None:
    world = World(HostConfig(tokens=(Secret("other"), Secret(TOKEN.upper()))))
    world.websocket()
    status, headers, told = world.answer(world.send(world.connect(), "GET", "/primus/unknown/?EIO=4&transport=polling"))
    assert (status, told) == (401, '{"error":"Invalid credentials."}')
    assert headers["www-authenticate"] == "Bearer"
    assert headers["pragma"] == "no-cache"
    link = world.upgrade("EIO=4&transport=websocket", path="/primus/unknown/")
    assert world.answer(link)[0] == 401
    assert link in world.closed


def test_too_many_sockets_for_a_token_and_in_all() -> None:
    world = World(limits=msgspec.structs.replace(LIMITS, tunnel_sockets_per_token=2, tunnel_sockets=3))
    first = world.websocket()
    world.websocket()
    assert world.answer(world.ask("GET", "EIO=4&transport=polling"))[0] == 503
    assert world.answer(world.send(world.connect(), "GET", "/primus/b/?EIO=4&transport=polling"))[0] == 200
    assert world.answer(world.send(world.connect(), "GET", "/primus/c/?EIO=4&transport=polling"))[0] == 503
    world.tell(Lost(first, "reset"))
    assert world.answer(world.ask("GET", "EIO=4&transport=polling"))[0] == 200


def test_session_ids_cannot_be_guessed() -> None:
    world = World()
    sids = {world.polling(identify=False) for _ in range(8)}
    assert len(sids) == 8
    assert {len(sid) for sid in sids} == {20}


def test_a_session_is_not_found_under_another_token() -> None:
    world = World()
    sid = world.polling()
    link = world.send(world.connect(), "GET", f"/primus/other/?EIO=4&transport=polling&sid={sid}")
    assert world.answer(link)[0] == 400
    assert world.of(SessionClosed) == []


# ── polling ───────────────────────────────────────────────────────────────────
def test_polls_that_overlap_end_the_session() -> None:
    world = World()
    sid = world.polling()
    assert "identify" in world.answer(world.get(sid))[2]
    pending = world.get(sid)
    assert pending not in world.said
    status, _, body = world.answer(world.get(sid))
    assert (status, body) == (400, '{"code":3,"message":"Bad request"}')
    assert world.answer(pending)[2] == "6"
    assert [closed.reason for closed in world.of(SessionClosed)] == ["polls overlapped"]
    assert world.answer(world.get(sid))[0] == 400


def test_a_pending_poll_gets_all_of_a_turn_at_once() -> None:
    world = World()
    sid = world.polling()
    world.answer(world.get(sid))
    pending = world.get(sid)
    world.post(sid, '4"primus::ping::5"\x1e4"primus::id::"\x1e4"primus::ping::6"')
    assert world.answer(pending)[2] == f'4"primus::pong::5"\x1e4"primus::id::{sid}"\x1e4"primus::pong::6"'
    assert [ponged.sent_ms for ponged in world.of(Ponged)] == [5, 6]


@pytest.mark.parametrize("body", ["", "9", "4\x1e", "\x1e"])
def test_a_post_of_junk_ends_the_session(body: str) -> None:
    world = World()
    sid = world.polling()
    assert world.answer(world.post(sid, body), "POST")[0] == 400
    assert len(world.of(SessionClosed)) == 1


def test_a_post_too_large() -> None:
    world = World(limits=msgspec.structs.replace(LIMITS, tunnel_payload=100))
    sid = world.polling(identify=False)
    assert world.answer(world.post(sid, "4" + "a" * 100), "POST")[0] == 413
    assert world.of(SessionClosed) == []


def test_a_body_that_the_owner_let_through_is_refused_all_the_same() -> None:
    world = World(limits=msgspec.structs.replace(LIMITS, tunnel_payload=100))
    request = Whole("POST", f"{PATH}?EIO=4&transport=polling&sid=x", (), b"4" * 101)
    world.root.host.request(7, 2, request, 0.0)
    reply = world.root.host.poll()
    assert isinstance(reply, Reply)
    assert (reply.exchange, reply.status) == (7, 413)


def test_a_poll_whose_asker_leaves_ends_the_session() -> None:
    world = World()
    sid = world.polling()
    world.answer(world.get(sid))
    pending = world.get(sid)
    world.tell(Lost(pending, "reset"))
    assert [closed.reason for closed in world.of(SessionClosed)] == ["the poll's connection closed"]
    assert world.answer(world.get(sid))[0] == 400


def test_other_methods_with_a_session() -> None:
    world = World()
    sid = world.polling()
    assert world.answer(world.ask("PUT", f"EIO=4&transport=polling&sid={sid}", body=b"4"), "PUT")[0] == 400
    assert world.answer(world.ask("GET", f"EIO=4&transport=websocket&sid={sid}"))[0] == 400


def test_revision_3_polls_and_pings() -> None:
    world = World()
    _, _, body = world.answer(world.ask("GET", "EIO=3&transport=polling"))
    length, _, packet = body.partition(":")
    assert int(length) == len(packet)
    sid = json.loads(packet[1:])["sid"]
    world.ask("POST", f"EIO=3&transport=polling&sid={sid}", body=b"1:2")
    _, _, body = world.answer(world.ask("GET", f"EIO=3&transport=polling&sid={sid}"))
    assert body.endswith("1:3")
    packet = identify_packet()
    world.ask("POST", f"EIO=3&transport=polling&sid={sid}", body=f"{len(packet)}:{packet}".encode())
    assert len(world.of(Identified)) == 1
    for now in range(10, 100, 10):
        world.run(now)
        world.ask("POST", f"EIO=3&transport=polling&sid={sid}", body=b'18:4"primus::ping::5"')
    assert world.of(SessionClosed) == []
    world.run(200)
    assert len(world.of(SessionClosed)) == 1


def test_a_revision_3_client_that_only_sends_messages_lives_and_a_silent_one_does_not() -> None:
    world = World(HostConfig(silence=1000.0))
    world.websocket(query="EIO=3&transport=websocket")
    world.run(44.9)
    assert world.of(SessionClosed) == []
    world.run(45.1)
    assert [closed.reason for closed in world.of(SessionClosed)] == ["no pong in time"]


# ── the upgrade ───────────────────────────────────────────────────────────────
def test_the_upgrade_moves_what_waits() -> None:
    world = World()
    sid = world.polling()
    session = world.of(Identified)[0].session
    world.answer(world.get(sid))
    socket = world.upgrade(f"EIO=4&transport=websocket&sid={sid}")
    world.say(socket, "2probe")
    assert world.heard(socket) == [(TEXT, "3probe")]
    pending = world.get(sid)
    world.run(0.09)
    assert pending not in world.said
    world.run(0.11)
    assert world.answer(pending)[2] == "6"
    world.root.host.emit(session, "late", [], now=world.now)
    world.root.drain(world.now)
    world.say(socket, "5")
    assert world.heard(socket) == [(TEXT, event("late").replace(" ", ""))]
    assert world.answer(world.get(sid))[0] == 400
    world.run(10.5)
    assert world.of(SessionClosed) == []


def test_an_upgrade_that_is_not_finished_leaves_the_session_polling() -> None:
    world = World()
    sid = world.polling()
    world.answer(world.get(sid))
    socket = world.upgrade(f"EIO=4&transport=websocket&sid={sid}")
    world.say(socket, "2probe")
    world.run(10.1)
    assert socket in world.closed
    assert world.of(SessionClosed) == []
    pending = world.get(sid)
    world.post(sid, '4"primus::ping::5"')
    assert "pong::5" in world.answer(pending)[2]
    again = world.upgrade(f"EIO=4&transport=websocket&sid={sid}")
    world.say(again, "2probe")
    assert world.heard(again) == [(TEXT, "3probe")]


@pytest.mark.parametrize("first", ["5", "4x", "2", ""])
def test_an_upgrade_that_begins_otherwise_is_dropped(first: str) -> None:
    world = World()
    sid = world.polling()
    socket = world.upgrade(f"EIO=4&transport=websocket&sid={sid}")
    world.say(socket, first)
    if first:
        assert socket in world.closed
    assert world.of(SessionClosed) == []


def test_a_second_upgrade_is_refused() -> None:
    world = World()
    sid = world.polling()
    world.upgrade(f"EIO=4&transport=websocket&sid={sid}")
    assert world.answer(world.upgrade(f"EIO=4&transport=websocket&sid={sid}"))[0] == 400


def test_a_lost_upgrade_is_no_lost_session() -> None:
    world = World()
    sid = world.polling()
    for ending in (Ended, Lost):
        socket = world.upgrade(f"EIO=4&transport=websocket&sid={sid}")
        world.tell(Ended(socket) if ending is Ended else Lost(socket, "reset"))
    assert world.of(SessionClosed) == []
    assert "identify" in world.answer(world.get(sid))[2]


# ── identify ──────────────────────────────────────────────────────────────────
def test_events_before_identify_are_held() -> None:
    world = World()
    link = world.websocket(identify=False)
    world.say(link, event("request", {"url": "/"}, id=1))
    assert world.of(Arrived) == []
    world.say(link, identify_packet())
    kinds = [type(event) for event in world.events]
    assert kinds == [SessionOpened, Identified, Arrived]
    world.root.host.acknowledge(1, 1, [{"status": 200}], now=0.0)
    world.root.drain(0.0)
    world.drain()
    assert world.heard(link) == [(TEXT, '4{"id":1,"type":1,"data":[{"status":200}]}')]


def test_too_many_events_before_identify() -> None:
    world = World(limits=msgspec.structs.replace(LIMITS, tunnel_waiting=3))
    link = world.websocket(identify=False)
    for _ in range(4):
        world.say(link, event("x"))
    assert link in world.closed


def test_no_identify_in_ten_seconds() -> None:
    world = World()
    world.websocket(identify=False)
    world.run(9.9)
    assert world.of(SessionClosed) == []
    world.run(10.1)
    assert [closed.reason for closed in world.of(SessionClosed)] == ["no identify in time"]
    assert not world.of(SessionClosed)[0].identified


@pytest.mark.parametrize(
    "packet",
    [
        identify_packet("00000000-0000-4000-8000-00000000000f"),
        identify_packet(version="not a version"),
        identify_packet(version=7),
        event("identify"),
        event("identify", None),
        event("identify", "x"),
        event("identify", {"token": TOKEN}),
    ],
)
def test_an_identify_that_cannot_be_ends_that_session_only(packet: str) -> None:
    world = World()
    honest = world.websocket()
    link = world.websocket(identify=False)
    world.say(link, packet)
    assert world.heard(link) == [(8, "")]
    assert link in world.closed
    world.say(honest, '4"primus::ping::1"')
    assert world.heard(honest) == [(TEXT, '4"primus::pong::1"')]


def test_the_token_is_compared_without_case_and_decoded() -> None:
    world = World()
    path = "/primus/A%20b/c%C3%BC/"
    link = world.send(
        world.connect(),
        "GET",
        f"{path}?EIO=4&transport=websocket",
        Upgrade="websocket",
        Connection="keep-alive, Upgrade",
        Sec_WebSocket_Version="13",
        Sec_WebSocket_Key=KEY,
    )
    world.say(link, identify_packet("a B/Cü"))
    (identified,) = world.of(Identified)
    assert identified.token == Secret("a b/cü")


def test_an_identify_without_token_is_ignored() -> None:
    world = World()
    link = world.websocket(identify=False)
    world.say(link, "4" + json.dumps({"type": 0, "data": ["identify", {"metadata": {}}]}))
    assert (world.of(Identified), world.of(SessionClosed)) == ([], [])
    world.say(link, identify_packet())
    world.say(link, identify_packet(version="5.0.0"))
    assert [identified.version for identified in world.of(Identified)] == ["local", "5.0.0"]


def test_an_outdated_polling_client_is_told_before_it_is_closed() -> None:
    world = World()
    sid = world.polling(identify=False)
    world.post(sid, identify_packet(version="4.99.0"))
    assert len(world.of(SessionClosed)) == 1
    _, _, body = world.answer(world.get(sid))
    assert [packet[:30] for packet in body.split("\x1e")] == [
        '4{"type":0,"data":["identify",{"capabilities"'[:30],
        '4{"type":0,"data":["notification",{'[:30],
        '4"primus::server::close"',
        "1",
    ]
    assert world.answer(world.get(sid))[0] == 400
    assert world.root.host.deadline() is None


def test_what_nobody_fetches_is_forgotten() -> None:
    world = World()
    sid = world.polling(identify=False)
    world.post(sid, identify_packet(version="4.99.0"))
    world.root.host.close_session(1, deliberate=False, now=0.0)
    assert len(world.of(SessionClosed)) == 1
    world.run(10.1)
    assert world.answer(world.get(sid))[0] == 400
    assert "sessions=0" in repr(world.root.host)


# ── heartbeats ────────────────────────────────────────────────────────────────
def test_a_client_that_answers_pings_but_sends_no_message_is_dropped_after_35_seconds() -> None:
    world = World()
    link = world.websocket()
    world.run(25.0)
    assert world.heard(link) == [(TEXT, "2")]
    world.say(link, "3")
    world.run(34.9)
    assert world.of(SessionClosed) == []
    world.run(35.0)
    assert [closed.reason for closed in world.of(SessionClosed)] == ["no message in time"]
    assert world.heard(link) == [(8, "")]


def test_a_client_that_answers_no_ping_is_dropped_after_45_seconds() -> None:
    world = World()
    link = world.websocket()
    world.run(20)
    world.say(link, '4"primus::ping::1"')
    world.run(44.9)
    assert world.of(SessionClosed) == []
    world.run(45.0)
    assert [closed.reason for closed in world.of(SessionClosed)] == ["no pong in time"]


def test_another_packet_renews_the_wait_for_a_pong_once() -> None:
    world = World()
    link = world.websocket()
    for now in (20, 30, 40, 49.9):
        world.run(now)
        world.say(link, '4"primus::ping::1"')
    assert world.of(SessionClosed) == []
    world.run(50.0)
    assert [closed.reason for closed in world.of(SessionClosed)] == ["no pong in time"]


# ── what a client may send ────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "text",
    [
        "4null",
        "4{",
        "4",
        "",
        "9x",
        "bAAA",
        "6",
        "2",
        "0{}",
        "5",
        '4"primus::nothing"',
        '4"primus::server::close"',
        event("error", 1),
        event("incoming::end"),
        '4{"type":1,"id":9,"data":[]}',
        '4{"type":9,"data":["x"]}',
        "4" + "[" * 200_000,
    ],
)
def test_junk_is_ignored(text: str) -> None:
    world = World()
    link = world.websocket()
    world.say(link, text)
    world.tell(Drained(link))
    world.tell(Received(link, frame(2, b"\x04binary", MASK)))
    world.say(link, '4"primus::ping::7"')
    assert world.heard(link) == [(TEXT, '4"primus::pong::7"')]
    assert (world.of(SessionClosed), world.of(Arrived), world.of(Acked)) == ([], [], [])


@pytest.mark.parametrize("ending", ["1", "close frame", "ended", "lost", "broken frame"])
def test_the_ways_a_session_ends(ending: str) -> None:
    world = World()
    link = world.websocket()
    if ending == "1":
        world.say(link, "1")
    elif ending == "close frame":
        world.tell(Received(link, frame(8, b"", MASK)))
        assert world.heard(link) == [(8, "")]
    elif ending == "ended":
        world.tell(Ended(link))
    elif ending == "lost":
        world.tell(Lost(link, "reset"))
    else:
        world.tell(Received(link, frame(TEXT, b"unmasked")))
        assert [opcode for opcode, _ in frames(bytes(world.said[link]))] == [8]
    assert len(world.of(SessionClosed)) == 1
    assert world.of(SessionClosed)[0].identified
    assert link in world.closed
    assert world.root.host.deadline() is None
    world.tell(Received(link, frame(TEXT, b"late", MASK)))
    assert len(world.of(SessionClosed)) == 1


def test_acks_are_counted_for_each_session_and_taken_once() -> None:
    world = World()
    first, second = world.websocket(), world.websocket()
    host = world.root.host
    assert [host.emit(1, "a", [], ack=True, now=0.0), host.emit(2, "a", [], ack=True, now=0.0)] == [1, 1]
    assert host.emit(1, "b", [], now=0.0) is None
    assert host.emit(1, "a", [], ack=True, now=0.0) == 2
    host.forget(1, 2)
    host.forget(9, 2)
    for link, number in ((second, 1), (second, 1), (second, 2), (first, 2), (first, 1)):
        world.say(link, f'4{{"id":{number},"type":1,"data":["x"]}}')
    assert world.of(Acked) == [Acked(2, 1, ("x",)), Acked(1, 1, ("x",))]


def test_commands_for_a_session_that_is_gone() -> None:
    world = World()
    link = world.websocket()
    host = world.root.host
    host.close_session(1, deliberate=True, now=0.0)
    host.close_session(1, deliberate=True, now=0.0)
    world.root.drain(0.0)
    world.drain()
    assert world.heard(link) == [(TEXT, '4"primus::server::close"'), (8, "")]
    with pytest.raises(RemoteProtocolError) as gone:
        host.emit(1, "a", [], now=0.0)
    assert gone.value.kind == "tunnel-lost"
    host.acknowledge(1, 1, [], now=0.0)
    host.gone(99, 0.0)
    host.handle(Lost(link, "late"), 0.0)
    assert host.poll() is None


def test_a_client_that_does_not_read_is_refused_more_and_then_dropped() -> None:
    small = msgspec.structs.replace(LIMITS, tunnel_buffer=300_000, tunnel_payload=200_000)
    world = World(limits=small)
    world.websocket()
    host = world.root.host
    with pytest.raises(TowlineError) as large:
        host.emit(1, "a", ["x" * 200_000], now=0.0)
    assert large.value.kind == "request-too-large"
    for _ in range(2):
        host.emit(1, "a", ["x" * 190_000], now=0.0)
    with pytest.raises(TunnelBusy) as busy:
        host.emit(1, "a", ["x"], now=0.0)
    assert (busy.value.kind, busy.value.retryable) == ("too-busy", True)
    host.acknowledge(1, 1, ["x" * 190_000], now=0.0)
    world.drain()
    assert world.of(SessionClosed) == []
    host.acknowledge(1, 2, ["x" * 190_000], now=0.0)
    world.root.drain(0.0)
    world.drain()
    assert [closed.reason for closed in world.of(SessionClosed)] == ["the client does not read what it is sent"]


def test_a_client_that_reads_gets_room_again() -> None:
    small = msgspec.structs.replace(LIMITS, tunnel_buffer=300_000)
    world = World(limits=small)
    link = world.websocket()
    for _ in range(20):
        world.root.host.emit(1, "a", ["x" * 290_000], now=0.0)
        world.root.drain(0.0)
        world.drain()
        for opcode, payload in frames(bytes(world.said.pop(link))):
            if opcode == PING:
                world.tell(Received(link, frame(PONG, payload, MASK)))
    assert world.of(SessionClosed) == []


def test_a_polling_client_that_does_not_fetch_is_refused_more() -> None:
    small = msgspec.structs.replace(LIMITS, tunnel_buffer=1000)
    world = World(limits=small)
    sid = world.polling()
    world.root.host.emit(1, "a", ["x" * 2000], now=0.0)
    with pytest.raises(TunnelBusy):
        world.root.host.emit(1, "a", ["x"], now=0.0)
    world.answer(world.get(sid))
    with pytest.raises(TunnelBusy):
        world.root.host.emit(1, "a", ["x"], now=0.0)
    world.get(sid)
    world.root.host.emit(1, "a", ["x"], now=0.0)


def test_a_payload_has_at_most_a_thousand_packets() -> None:
    world = World(limits=msgspec.structs.replace(LIMITS, tunnel_packets=2))
    sid = world.polling()
    for number in range(4):
        world.root.host.emit(1, str(number), [], now=0.0)
    counts = [len(world.answer(world.get(sid))[2].split("\x1e")) for _ in range(3)]
    assert counts == [2, 2, 1]


def test_timers_are_lazy_and_right() -> None:
    world = World()
    links = [world.websocket() for _ in range(10)]
    for now in range(1, 100):
        world.run(float(now))
        for link in links[:5]:
            world.say(link, '4"primus::ping::1"')
            if (TEXT, "2") in world.heard(link):
                world.say(link, "3")
    assert len(world.of(SessionClosed)) == 5
    assert "sessions=5" in repr(world.root.host)
