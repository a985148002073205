"""Recorded sessions of the stock pair (tests/vectors/broker), and both of our ends played against them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h11
import msgspec
from tunnelkit.roots import EPOCH, TOKEN, HostRoot

from towline.core import (
    WAKE,
    Accepted,
    Close,
    Drop,
    Ended,
    Entropy,
    LinkNumbers,
    Open,
    Opened,
    Received,
    Secret,
    Transmit,
)
from towline.core.tunnel import Arrived, Identified, Role, TunnelClient, TunnelConfig
from towline.core.tunnel import _ejson as ejson
from towline.core.tunnel._websocket import accept_value

VECTORS = Path(__file__).parent.parent / "vectors" / "broker"


class Message(msgspec.Struct):
    """One line of a recording on the tunnel's hop."""

    t: float
    conn: int
    dir: str
    kind: str
    raw: bytes
    start: str = ""
    headers: list[list[str]] = []
    body: str = ""
    text: str | None = None
    opcode: int = 0


def recording(name: str) -> list[Message]:
    """Return the tunnel's messages, in order."""
    lines = (VECTORS / f"{name}.jsonl").read_text().splitlines()[1:]
    messages = []
    for line in map(json.loads, lines):
        if line["hop"] == "client-server":
            raw = base64.b64decode(line.get("raw_b64", ""))
            known = {
                key: line[key]
                for key in ("t", "conn", "dir", "kind", "start", "headers", "text", "opcode")
                if key in line
            }
            messages.append(Message(raw=raw, body=line.get("body_text") or "", **known))
    return messages


# ── our host against the recorded client ──────────────────────────────────────
def play_host(name: str, root: HostRoot | None = None) -> tuple[dict[int, list[Any]], dict[int, list[Any]], list[Any]]:
    """Return what the stock server said on each connection, what ours says, and our host's events."""
    root = root or HostRoot()
    messages = _tunnel_only(recording(name))
    sids: dict[bytes, bytes] = {}
    expected: dict[int, list[Any]] = {}
    said: dict[int, bytearray] = {}
    asked: dict[int, list[Message]] = {}
    events: list[Any] = []

    def drain() -> None:
        while (wish := root.poll()) is not None:
            if isinstance(wish, Transmit):
                said.setdefault(wish.link // 2, bytearray()).extend(wish.data)
            elif not hasattr(wish, "link"):
                events.append(wish)

    def tell(fact: Any, now: float) -> None:
        root.handle(fact, now)
        drain()

    now = 0.0
    for message in messages:
        while (at := root.deadline()) is not None and at <= message.t:
            now = max(now, at)
            tell(WAKE, now)
        now = message.t
        if message.dir == "s2c":
            if message.kind in ("http-response", "ws-frame"):
                expected.setdefault(message.conn, []).append(_meaning(message))
                _learn(sids, _sid_of(message), _own_sid(said.get(message.conn, b"")))
            event = _event(message)
            if event is not None and event["data"][0] == "request":
                root.host.emit(_newest(events), "request", event["data"][1:], ack="id" in event, now=now)
            elif (answer := _ack(message)) is not None:
                arrived = next(e for e in events if isinstance(e, Arrived) and e.ack_id == answer["id"])
                root.host.acknowledge(arrived.session, answer["id"], answer["data"], now=now)
            root.drain(now)
            drain()
        elif message.kind == "tcp-eof":
            tell(Ended(message.conn * 2), now)
        else:
            raw = message.raw
            for their_sid, our_sid in sids.items():
                raw = raw.replace(their_sid, our_sid)
            if message.conn not in asked:
                tell(Accepted(message.conn * 2, "http", "127.0.0.1"), now)
            asked.setdefault(message.conn, []).append(message)
            tell(Received(message.conn * 2, raw), now)
    back = {our_sid.decode(): their_sid.decode() for their_sid, our_sid in sids.items()}
    ours = {conn: list(_server_meanings(bytes(raw), asked[conn][0], back)) for conn, raw in said.items()}
    return expected, ours, events


def _newest(events: list[Any]) -> int:
    """Return the session that the stock server asks: the last that identified itself."""
    return [event.session for event in events if isinstance(event, Identified)][-1]


def _ack(message: Message) -> Any:
    text = message.text or ""
    packet = ejson.decode(text[1:].encode()) if text.startswith("4{") else {}
    return packet if packet.get("type") == 1 else None


def _learn(sids: dict[bytes, bytes], theirs: str | None, ours: str | None) -> None:
    if theirs is not None and ours is not None:
        sids[theirs.encode()] = ours.encode()


def _sid_of(message: Message) -> str | None:
    text = message.text or message.body
    return json.loads(text[1:])["sid"] if text.startswith("0{") else None


def _own_sid(said: bytes | bytearray) -> str | None:
    at = bytes(said).find(b'0{"sid":"')
    return bytes(said)[at + 9 :].partition(b'"')[0].decode() if at >= 0 else None


def _event(message: Message) -> Any:
    text = message.text or message.body
    if not text.startswith("4{"):
        return None
    packet = ejson.decode(text[1:].encode())
    return packet if packet.get("type") == 0 else None


TOLD = ("content-type", "cache-control", "pragma", "upgrade")


def _meaning(message: Message) -> Any:
    if message.kind == "ws-frame":
        return (message.opcode, message.text or "")
    headers = {name.lower(): value for name, value in message.headers}
    return (int(message.start.split()[1]), {name: headers[name] for name in TOLD if name in headers}, message.body)


def _server_meanings(raw: bytes, asked: Message, back: Mapping[str, str]) -> Iterator[Any]:
    """Read what our host said on one connection, its session ids replaced by the recorded ones."""
    parser = h11.Connection(h11.CLIENT)
    headers = [(name, value) for name, value in asked.headers if name.lower() != "content-length"]
    parser.send(h11.Request(method=asked.start.split()[0], target=asked.start.split()[1], headers=headers))
    parser.send(h11.EndOfMessage())
    parser.receive_data(raw)
    head, body = parser.next_event(), b""
    assert isinstance(head, h11.Response | h11.InformationalResponse)
    told = {name.decode().lower(): value.decode() for name, value in head.headers}
    if head.status_code != 101:
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            assert isinstance(event, h11.Data)
            body += event.data
    text = body.decode()
    for ours, theirs in back.items():
        text = text.replace(ours, theirs)
    yield (head.status_code, {name: told[name] for name in TOLD if name in told}, text)
    if head.status_code != 101:
        return
    key = next(value for name, value in asked.headers if name.lower() == "sec-websocket-key")
    assert told["sec-websocket-accept"] == accept_value(key)
    for opcode, payload in frames(parser.trailing_data[0]):
        text = payload.decode()
        for ours, theirs in back.items():
            text = text.replace(ours, theirs)
        yield (opcode, text)


def frames(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Read whole frames, masked or not, without any judgement."""
    at = 0
    while at < len(raw):
        opcode, size = raw[at] & 0x0F, raw[at + 1] & 0x7F
        masked = raw[at + 1] & 0x80
        at += 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(raw[at : at + width], "big"), at + width
        mask, at = (raw[at : at + 4], at + 4) if masked else (b"\0\0\0\0", at)
        yield opcode, bytes(byte ^ mask[i % 4] for i, byte in enumerate(raw[at : at + size]))
        at += size


# ── our client against the recorded server ────────────────────────────────────
class PlayedClient(msgspec.Struct):
    """What came of playing our client: pairs of what the stock client said and what ours says, and its events."""

    theirs: dict[int, list[Any]]
    ours: dict[int, list[Any]]
    events: list[Any]
    client: Any
    opened_after: list[float]


def play_client(name: str, role: Role = "primary", until: float | None = None) -> PlayedClient:
    """Play our client, which polls first as the stock one does, against the recorded server's words.

    A request of ours is answered by the recorded connection of the same kind that comes next. Commands that the
    stock client's broker gave (events, acknowledgements) are given to ours when they were given. A poll too many (the
    recording proxy made the stock client slower than ours) is ended with a noop after 100 ms, as servers do.
    """
    messages = recording(name)
    conns = _tunnel_conns(messages, role)
    wanted = {conn: _kind(message.start) for conn, message in conns.items()}
    metadata = _metadata(messages, role)
    config = TunnelConfig(
        server_url="http://127.0.0.1:17340",
        token=Secret(TOKEN),
        role=role,
        client_id=metadata["clientId"],
        version=metadata["version"],
        metadata=metadata,
        epoch=EPOCH,
        polling_first=True,
    )
    client = TunnelClient(config, links=LinkNumbers(), entropy=Entropy(b"c" * 16))
    played = PlayedClient({}, {}, [], client, [])
    links: dict[int, int | None] = {}
    buffers: dict[int, bytearray] = {}
    keys: dict[int, str] = {}
    acks: list[Arrived] = []
    noops: list[tuple[float, int]] = []
    now = 0.0

    def conn_of(link: int) -> int | None:
        return links.get(link)

    def drain() -> None:
        while (wish := client.poll()) is not None:
            if isinstance(wish, Open):
                links[wish.link] = None
                played.opened_after.append(now)
                client.handle(Opened(wish.link), now)
            elif isinstance(wish, Transmit):
                buffers.setdefault(wish.link, bytearray()).extend(wish.data)
                if links.get(wish.link) is None:
                    head = bytes(buffers[wish.link]).decode("latin-1")
                    kind = _kind(head.splitlines()[0])
                    links[wish.link] = next(
                        (conn for conn, other in wanted.items() if other == kind and conn not in links.values()), None
                    )
                    if links[wish.link] is None and kind == ("GET", "polling", True):
                        noops.append((now + 0.1, wish.link))
                    for line in head.splitlines():
                        if line.lower().startswith("sec-websocket-key:"):
                            keys[wish.link] = line.partition(":")[2].strip()
            elif isinstance(wish, Close | Drop):
                links.setdefault(wish.link, None)
            elif not hasattr(wish, "link"):
                played.events.append(wish)
                if isinstance(wish, Arrived) and wish.ack_id is not None:
                    acks.append(wish)

    def tell(fact: Any) -> None:
        if fact is WAKE or client.owns(fact.link):
            client.handle(fact, now)
        drain()

    tell(WAKE)
    for message in messages:
        if until is not None and message.t > until:
            break
        while (at := client.deadline()) is not None and at <= message.t:
            now = max(now, at)
            tell(WAKE)
        now = message.t
        while noops and noops[0][0] <= now:
            tell(Received(noops.pop(0)[1], b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n6"))
        if message.conn not in conns:
            continue
        link = next((link for link, conn in links.items() if conn == message.conn), None)
        if message.dir == "c2s":
            if message.kind in ("http-request", "ws-frame"):
                played.theirs.setdefault(message.conn, []).append(_client_meaning(message))
            _command(client, message, acks, now)
            drain()
        elif link is None:
            continue
        elif message.kind == "tcp-eof":
            tell(Ended(link))
        else:
            raw = message.raw
            if message.start.startswith("HTTP/1.1 101"):
                theirs = next(value for name, value in message.headers if name.lower() == "sec-websocket-accept")
                raw = raw.replace(theirs.encode(), accept_value(keys[link]).encode())
            tell(Received(link, raw))
    for link, sent in buffers.items():
        conn = conn_of(link)
        if conn is not None:
            played.ours[conn] = list(_client_meanings(bytes(sent)))
    return played


def _command(client: TunnelClient, message: Message, acks: list[Arrived], now: float) -> None:
    """Do what the stock client's broker did: emit an event, or acknowledge one."""
    if message.kind != "ws-frame" or not (message.text or "").startswith("4{"):
        return
    packet = ejson.decode((message.text or "")[1:].encode())
    if packet["type"] == 1:
        wire = 2**53 - 1
        arrived = next(event for event in acks if event.ack_id is not None and event.ack_id & wire == packet["id"])
        assert arrived.ack_id is not None
        client.acknowledge(arrived.ack_id, packet["data"], now=now)
    elif packet["data"][0] != "identify":
        client.emit(packet["data"][0], packet["data"][1:], ack="id" in packet, now=now)


def _tunnel_only(messages: list[Message]) -> list[Message]:
    """Leave out the connections that carry response POSTs."""
    others = {message.conn for message in messages if message.kind == "http-request" and "/primus" not in message.start}
    return [message for message in messages if message.conn not in others]


def _tunnel_conns(messages: list[Message], role: str) -> dict[int, Message]:
    first: dict[int, Message] = {}
    for message in messages:
        if (
            message.kind == "http-request"
            and "/primus/" in message.start
            and f"connection_role={role}" in message.start
        ):
            first.setdefault(message.conn, message)
    return first


def _metadata(messages: list[Message], role: str) -> Any:
    for message in messages:
        event = _event(message) if message.dir == "c2s" else None
        if event is not None and event["data"][0] == "identify" and event["data"][1]["metadata"]["role"] == role:
            return event["data"][1]["metadata"]
    raise AssertionError(f"no identify of {role}")


def _kind(start: str) -> tuple[str, str, bool]:
    method, target, _ = start.split(" ")
    return method, "websocket" if "transport=websocket" in target else "polling", "sid=" in target


RANDOM = frozenset({"_primuscb", "t"})
RANDOM_HEADERS = frozenset({"sec-websocket-key", "snyk-request-id", "sec-websocket-extensions"})


def _client_meaning(message: Message) -> Any:
    if message.kind == "ws-frame":
        return (message.opcode, _plain(message.text or ""))
    return _asked(message.start, [(name, value) for name, value in message.headers], message.body)


def _plain(text: str) -> Any:
    if text.startswith('4"primus::ping::'):
        return "ping"
    return (text[0], json.loads(text[1:])) if text.startswith("4{") else text


def _asked(start: str, headers: list[tuple[str, str]], body: str) -> Any:
    method, target, _ = start.split(" ")
    path, _, query = target.partition("?")
    pairs = [tuple(pair.split("=", 1)) for pair in query.split("&")]
    shown = [pair if pair[0] not in RANDOM else (pair[0], "*") for pair in pairs]
    told = [(name, value) for name, value in headers if name.lower() not in RANDOM_HEADERS | {"content-length"}]
    return (method, path, shown, sorted(told), _plain(body))


def _client_meanings(raw: bytes) -> Iterator[Any]:
    head, _, rest = raw.partition(b"\r\n\r\n")
    start, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    upgrade = any(name.lower() == "upgrade" for name, _ in headers)
    yield _asked(start, headers, "" if upgrade else rest.decode())
    if upgrade:
        for opcode, payload in frames(rest):
            yield (opcode, _plain(payload.decode()))
