"""The tunnel's two ends, held to the promises: the client by itself, the host behind its HTTP side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
from hypothesis import strategies as st
from machines.case import MachineCase, wire_facts
from tunnelkit.pair import Pair
from tunnelkit.roots import METADATA, TOKEN, HostRoot, make_client

from towline.core import LIMITS, Accepted
from towline.core.tunnel import Arrived, Identified
from towline.core.tunnel._websocket import CLOSE, PING, TEXT, frame

KIB = 1024
SMALL = msgspec.structs.replace(
    LIMITS, ws_message=64 * KIB, tunnel_payload=64 * KIB, tunnel_buffer=64 * KIB, http_request_body=64 * KIB
)
MASK = b"\1\2\3\4"
TEXTS = [
    b'0{"sid":"abc","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":22020096}',
    b'4{"type":0,"data":["identify",{"capabilities":["receive-post-streams"]}]}',
    b'4{"type":0,"data":["request",{"url":"/","method":"GET","headers":{}}],"id":1}',
    b'4{"type":1,"data":[{"$binary":"AAE="}],"id":1}',
    b'4"primus::server::close"',
    b'4"primus::ping::5"',
    b'4"primus::pong::5"',
    b"1",
    b"2",
    b"2probe",
    b"3",
    b"3probe",
    b"5",
    b"6",
    b"4null",
    b"",
    b"9",
    b"\xff",
]
LONG = b'4{"type":0,"data":["request","%s"],"id":1}' % (b"x" * 8000)


@cache
def _conversation(polling_first: bool, side: str) -> tuple[tuple[float, Any], ...]:
    """A minute of a tunnel: identify, an upgrade if it polls first, events both ways, both heartbeats."""
    pair = Pair(make_client(polling_first=polling_first, limits=SMALL), HostRoot(limits=SMALL))
    pair.run(2.0)
    session = next(event.session for event in pair.host_heard if isinstance(event, Identified))
    for number in range(3):
        pair.root.host.emit(session, "request", [{"url": "/", "body": b"\0" * 200 * number}], ack=True, now=pair.now)
        pair.root.drain(pair.now)
        pair.drain_host()
        pair.run(1.0)
    for event in [event for event in pair.heard if isinstance(event, Arrived)]:
        assert event.ack_id is not None
        pair.client.acknowledge(event.ack_id, [{"status": 200, "body": "x"}], now=pair.now)
    pair.client.emit("request", [{"url": "/api"}], ack=True, now=pair.now)
    pair.drain_client()
    pair.run(60.0)
    return tuple(pair.told[side])


def _frames(mask: bytes | None) -> st.SearchStrategy[bytes]:
    opcode = st.sampled_from([TEXT, TEXT, TEXT, PING, CLOSE, 0, 2, 10])
    return st.builds(lambda kind, text: frame(kind, text[:125], mask), opcode, st.sampled_from(TEXTS))


def _answers() -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda status, body: b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body),
        st.sampled_from([200, 200, 400, 101, 302]),
        st.sampled_from(TEXTS),
    )


def _requests() -> st.SearchStrategy[bytes]:
    def request(method: str, query: str, body: bytes, upgrade: bool) -> bytes:
        lines = b"Host: x\r\nContent-Length: %d\r\n" % len(body)
        if upgrade:
            lines += b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            lines += b"Sec-WebSocket-Key: a2tra2tra2tra2tra2traw==\r\n"
        return f"{method} /primus/{TOKEN}/?{query} HTTP/1.1\r\n".encode() + lines + b"\r\n" + body

    query = st.sampled_from(
        [
            "EIO=4&transport=polling",
            "EIO=4&transport=websocket",
            "EIO=3&transport=websocket",
            "EIO=4&transport=polling&sid=x",
        ]
    )
    body = st.sampled_from([b"", b"", *TEXTS])
    return st.builds(request, st.sampled_from(["GET", "GET", "POST", "OPTIONS"]), query, body, st.booleans())


def _client_case(name: str, polling_first: bool) -> MachineCase:
    def conversation() -> Sequence[tuple[float, Any]]:
        return _conversation(polling_first, "client")

    return MachineCase(
        f"tunnel-client-{name}",
        lambda: make_client(polling_first=polling_first, limits=SMALL),
        conversation,
        wire_facts((1, 3, 5, 7), st.one_of(_frames(None), _answers())),
        floods=(b"\0", b"a", b"a: b\r\n", frame(TEXT, LONG), frame(PING, b"x" * 125)),
    )


def _host_case(name: str, polling_first: bool) -> MachineCase:
    def conversation() -> Sequence[tuple[float, Any]]:
        return _conversation(polling_first, "host")

    accepted = st.builds(Accepted, st.sampled_from([2, 4, 6]), st.just("http"), st.just("127.0.0.1"))
    hello = {"token": TOKEN, "metadata": METADATA | {"filters": "f" * 4000}}
    identify = b'4{"type":0,"data":["identify",%s]}' % msgspec.json.encode(hello)
    return MachineCase(
        f"tunnel-host-{name}",
        lambda: HostRoot(limits=SMALL),
        conversation,
        wire_facts((2, 4, 6), st.one_of(_frames(MASK), _requests()), accepted, accepted, at_most=16),
        floods=(
            b"\0",
            b"a",
            b"a: b\r\n",
            frame(TEXT, LONG, MASK),
            frame(PING, b"x" * 125, MASK),
            frame(TEXT, identify, MASK),
        ),
    )


CASES = [
    _client_case("websocket", False),
    _client_case("polling-first", True),
    _host_case("websocket", False),
    _host_case("polling-first", True),
]
