"""engine.io, Primus, EJSON, emitter and the broker's messages: what they read, write and refuse."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.core import LIMITS, LocalProtocolError, RemoteProtocolError, Secret
from towline.core.tunnel import (
    ChunkPayload,
    Date,
    RequestPayload,
    ResponsePayload,
    Version,
    read_chunk,
    read_identify,
    read_request,
    read_response,
    read_version,
    write_chunk,
    write_request,
)
from towline.core.tunnel import _ejson as ejson
from towline.core.tunnel import _emitter as emitter
from towline.core.tunnel import _engineio as engineio
from towline.core.tunnel import _primus as primus
from towline.core.tunnel._engineio import Handshake, Packet, Yeast

# ── EJSON ─────────────────────────────────────────────────────────────────────
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=8) | st.sampled_from(["$binary", "$date", "$InfNaN", "$escape"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(VALUES)
def test_ejson_comes_back_as_it_went(value: Any) -> None:
    assert ejson.decode(ejson.encode(value)) == value


@given(VALUES)
def test_ejson_is_json(value: Any) -> None:
    text = ejson.encode(value)
    json.loads(text)
    assert b"\xe2\x80\xa8" not in text
    assert b"\xe2\x80\xa9" not in text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"$binary":""}', b""),
        ('{"$binary":"AAE="}', b"\0\1"),
        ('{"$binary":"AAE=","x":1}', {"$binary": "AAE=", "x": 1}),
        ('{"$binary":7}', {"$binary": 7}),
        ('{"$date":1700000000000}', Date(1700000000000)),
        ('{"$date":"x"}', {"$date": "x"}),
        ('{"$InfNaN":1}', math.inf),
        ('{"$InfNaN":-1}', -math.inf),
        ('{"$InfNaN":5}', {"$InfNaN": 5}),
        ('{"$escape":{"$binary":"AAE="}}', {"$binary": "AAE="}),
        ('{"$escape":{"$date":{"$binary":"AA=="}}}', {"$date": b"\0"}),
        ('{"$escape":1}', {"$escape": 1}),
        ('{"a":[{"$binary":"AA=="}]}', {"a": [b"\0"]}),
        ("null", None),
    ],
)
def test_ejson_reads(text: str, value: Any) -> None:
    assert ejson.decode(text.encode()) == value


def test_ejson_writes_what_json_has_no_word_for() -> None:
    assert ejson.encode([math.nan, math.inf, -math.inf]) == b'[{"$InfNaN":0},{"$InfNaN":1},{"$InfNaN":-1}]'
    assert math.isnan(ejson.decode(b'{"$InfNaN":0}'))
    assert ejson.encode("a\u2028b\u2029") == b'"a\\u2028b\\u2029"'
    assert ejson.encode((Date(5), memoryview(b"\1"))) == b'[{"$date":5},{"$binary":"AQ=="}]'
    assert ejson.encode(Packet(b"4", b"x")) == b'{"type":{"$binary":"NA=="},"data":{"$binary":"eA=="}}'


@pytest.mark.parametrize("value", [object(), Secret("x"), "\ud800", {1: object()}])
def test_ejson_refuses_to_write(value: Any) -> None:
    with pytest.raises(LocalProtocolError):
        ejson.encode(value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b"nul",
        b'{"$binary":"!"}',
        b"[" * 200_000,
        b"[" * 200 + b"]" * 200,
        b"[" + b"1" * 10_000 + b"]",
        b"[" + b"0," * LIMITS.json_values + b"0]",
    ],
)
def test_ejson_refuses_to_read(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        ejson.decode(text)
    assert refused.value.kind == "tunnel-protocol"


def test_a_text_full_of_commas_is_one_value() -> None:
    text = ("," * (LIMITS.json_values + 10) + '[{"').replace('"', '\\"')
    assert ejson.decode(f'["{text}"]'.encode()) == [text.replace('\\"', '"')]


# ── engine.io ─────────────────────────────────────────────────────────────────
PACKETS = st.lists(
    st.builds(
        lambda kind, text: kind.encode() + text.replace("\x1e", "").encode(),
        st.sampled_from("0123456"),
        st.text(max_size=30),
    ),
    min_size=1,
    max_size=6,
)


@given(PACKETS, st.sampled_from([3, 4]))
def test_payloads_come_back(packets: list[bytes], revision: Any) -> None:
    body = engineio.write_payload(packets, revision)
    assert [packet.encode() for packet in engineio.read_payload(body, revision)] == packets


def test_payloads_as_recorded() -> None:
    assert engineio.write_payload([b"4a", b"2"], 4) == b"4a\x1e2"
    assert engineio.write_payload(["4ü😀".encode(), b"2"], 3) == "4:4ü😀1:2".encode()
    assert engineio.read_payload("4:4ü😀1:2".encode(), 3) == [Packet(b"4", "ü😀".encode()), Packet(b"2")]


@pytest.mark.parametrize(
    ("body", "revision"),
    [
        (b"", 4),
        (b"4a\x1e", 4),
        (b"9", 4),
        (b"bAAA=", 4),
        (b"4\xff", 4),
        (b"\x1e".join([b"2"] * 1025), 4),
        (b"5:4", 3),
        (b"x:4", 3),
        (b"1", 3),
        (b"-1:4", 3),
        (b"1:2" * 1025, 3),
        (b"2:4\xff", 3),
        (b"99999999999999999999:4", 3),
    ],
)
def test_payloads_that_are_none(body: bytes, revision: Any) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        engineio.read_payload(body, revision)
    assert refused.value.kind == "tunnel-protocol"


def test_the_handshake() -> None:
    said = Handshake("doBK_V8gHePNSBkUAAAA", ("websocket",), 25.0, 20.0, 22_020_096)
    wire = (
        b'0{"sid":"doBK_V8gHePNSBkUAAAA","upgrades":["websocket"],'
        b'"pingInterval":25000,"pingTimeout":20000,"maxPayload":22020096}'
    )
    assert engineio.write_handshake(said) == wire
    assert engineio.read_handshake(wire[1:]) == said
    assert engineio.read_handshake(b'{"sid":"a","upgrades":[],"pingInterval":1,"pingTimeout":2}').max_payload > 0


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b'{"sid":7,"upgrades":[],"pingInterval":1,"pingTimeout":2}',
        b'{"sid":"","upgrades":[],"pingInterval":1,"pingTimeout":2}',
        b'{"sid":"a\\nb","upgrades":[],"pingInterval":1,"pingTimeout":2}',
        b'{"sid":"%s","upgrades":[],"pingInterval":1,"pingTimeout":2}' % (b"a" * 257),
    ],
)
def test_a_handshake_that_is_none(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        engineio.read_handshake(text)


def test_cache_busters_as_the_stock_client_makes_them() -> None:
    yeast = Yeast()
    assert yeast.next(0) == "0"
    assert yeast.next(64) == "10"
    ms = 1795444815654
    text = yeast.next(ms)
    assert [yeast.next(ms), yeast.next(ms)] == [f"{text}.0", f"{text}.1"]
    assert yeast.next(ms + 1) != text
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
    value = 0
    for char in text:
        value = value * 64 + alphabet.index(char)
    assert value == ms


# ── Primus ────────────────────────────────────────────────────────────────────
def test_control_messages() -> None:
    assert primus.read_control(json.loads(primus.ping(1700000000000))) == primus.Control("ping", 1700000000000)
    assert primus.read_control(json.loads(primus.pong(5))) == primus.Control("pong", 5)
    assert primus.read_control(json.loads(primus.SERVER_CLOSE)) == primus.Control("server-close")
    assert primus.read_control("primus::id::") == primus.Control("ask-id")
    assert json.loads(primus.tell_id("abc")) == "primus::id::abc"
    for odd in ("primus::ping::", "primus::ping::1e5", "primus::ping::" + "9" * 17, "primus::x", "primus::ping::٣"):
        assert primus.read_control(odd) == primus.Control("unknown")
    others: tuple[object, ...] = (None, 7, "hello", {"type": 0}, [])
    for data in others:
        assert primus.read_control(data) is None


# ── emitter ───────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("value", "packet"),
    [
        ({"type": 0, "data": ["a", 1]}, emitter.Event("a", (1,))),
        ({"id": 3, "data": ["a"], "type": 0}, emitter.Event("a", (), 3)),
        ({"type": 0, "data": ["a"], "id": 0}, emitter.Event("a", ())),
        ({"type": 0, "data": ["a"], "id": None}, emitter.Event("a", ())),
        ({"type": 0, "data": ["a"], "id": ""}, emitter.Event("a", ())),
        ({"type": 0.0, "data": ["a"], "id": 2.0}, emitter.Event("a", (), 2)),
        ({"type": 1, "data": [5], "id": 1}, emitter.Ack(1, (5,))),
        ({"type": 0, "data": ["__proto__"]}, emitter.Event("__proto__", ())),
        ({"type": 0, "data": ["a"], "id": "7"}, None),
        ({"type": 0, "data": ["a"], "id": True}, None),
        ({"type": 0, "data": ["a"], "id": -1}, None),
        ({"type": 0, "data": ["a"], "id": 1.5}, None),
        ({"type": 0, "data": ["a"], "id": math.inf}, None),
        ({"type": 0, "data": ["a"], "id": 2**60}, None),
        ({"type": False, "data": ["a"]}, None),
        ({"type": 1, "data": [5]}, None),
        ({"type": 2, "data": ["a"]}, None),
        ({"type": 0, "data": "a"}, None),
        ({"type": 0, "data": []}, None),
        ({"type": 0, "data": [7]}, None),
        ({"data": ["a"]}, None),
        (None, None),
        ([], None),
        ("x", None),
    ],
)
def test_emitter_packets(value: Any, packet: Any) -> None:
    assert emitter.read_packet(value, emitter.RESERVED_AT_CLIENT) == packet


def test_reserved_names_are_dropped() -> None:
    for name in (
        "incoming::x",
        "outgoing::end",
        "error",
        "data",
        "end",
        "readyStateChange",
        "open",
        "reconnect scheduled",
    ):
        assert emitter.read_packet({"type": 0, "data": [name]}, emitter.RESERVED_AT_CLIENT) is None
    assert emitter.read_packet({"type": 0, "data": ["heartbeat"]}, emitter.RESERVED_AT_SERVER) is None
    assert emitter.read_packet({"type": 0, "data": ["heartbeat"]}, emitter.RESERVED_AT_CLIENT) is not None
    assert emitter.read_packet({"type": 0, "data": ["open"]}, emitter.RESERVED_AT_SERVER) is not None


def test_emitter_writes() -> None:
    assert emitter.write_event("a", [b"\0"]) == b'{"type":0,"data":["a",{"$binary":"AA=="}]}'
    assert emitter.write_event("a", [], 7) == b'{"type":0,"data":["a"],"id":7}'
    assert emitter.write_ack(7, [{"x": 1}]) == b'{"id":7,"type":1,"data":[{"x":1}]}'


# ── the broker's messages ─────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("4.100.0", Version(4, 100, 0)),
        ("v5.22.14+build", Version(5, 22, 14)),
        ("5.0.0-rc.1", Version(5, 0, 0, False)),
        ("local", None),
        ("4.100", None),
        ("4.100.0\n", None),
        ("1" * 10 + ".0.0", None),
        ("1.0.0-" + "a" * 60, None),
    ],
)
def test_versions(text: str, version: Version | None) -> None:
    assert read_version(text) == version


def test_versions_are_ordered() -> None:
    texts = ["4.99.9", "4.100.0-rc.1", "4.100.0", "4.182.0", "5.0.0-a", "5.0.0"]
    read = [read_version(text) for text in texts]
    assert all(low is not None and high is not None and low < high for low, high in pairwise(read))


IDENTIFY = {"token": "T", "metadata": {"capabilities": ["a", 7, "b" * 200], "version": "5.0.0", "clientId": "c"}}


def test_identify() -> None:
    said = read_identify([IDENTIFY])
    assert said is not None
    assert (said.token.reveal(), said.capabilities, said.version, said.client_id, said.role) == (
        "T",
        ("a",),
        "5.0.0",
        "c",
        None,
    )
    assert read_identify([{"metadata": {}}]) is None
    bare = read_identify([{"token": "T", "metadata": {"capabilities": {"a": 1}, "role": 5}}])
    assert bare is not None
    assert (bare.capabilities, bare.version, bare.role) == (None, None, None)
    assert "T" not in repr(msgspec.structs.replace(bare, metadata={}))[20:]


@pytest.mark.parametrize(
    "args",
    [
        [],
        [None],
        ["x"],
        [{"token": "T"}],
        [{"token": "T", "metadata": None}],
        [{"token": "T", "metadata": []}],
        [{"token": 7, "metadata": {}}],
        [{"token": "T", "metadata": {"version": "x"}}],
        [{"token": "T", "metadata": {"version": 5}}],
        [{"token": "T", "metadata": {"version": "1.0.0" + " " * 100}}],
    ],
)
def test_an_identify_that_no_client_says(args: list[Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        read_identify(args)


def test_requests() -> None:
    wire = {"url": "/a", "method": "GET", "headers": {"X-A": "1", "n": 5, "many": ["a", "b"]}, "streamingID": "s"}
    request = read_request([wire])
    assert request == RequestPayload("/a", "GET", {"x-a": "1", "n": "5", "many": "a, b"}, None, "s", "")
    assert read_request([{**wire, "body": "ü"}]).body == "ü".encode()
    assert read_request([{**wire, "body": b""}]).body == b""
    assert read_request([{"url": "/", "method": "GET"}]).headers == {}
    again = RequestPayload("/a", "POST", {"snyk-request-id": "r"}, b"x", "", "r")
    assert list(write_request(again)) == ["url", "method", "body", "headers", "streamingID", "requestId"]
    assert read_request([write_request(again)]) == again
    assert "body" not in write_request(request)
    assert read_request([{"url": "/", "method": "GET", "headers": {"snyk-request-id": "r"}}]).request_id == "r"


@pytest.mark.parametrize(
    "args",
    [
        [],
        [None],
        [1],
        [{}],
        [{"url": 12, "method": "GET"}],
        [{"url": "/", "method": {"a": 1}}],
        [{"url": "/", "method": "GET", "headers": "x"}],
        [{"url": "/", "method": "GET", "headers": {"a": [1]}}],
        [{"url": "/", "method": "GET", "headers": {"a": None}}],
        [{"url": "/", "method": "GET", "body": {"a": 1}}],
        [{"url": "/", "method": "GET", "streamingID": {"x": 1}}],
    ],
)
def test_requests_that_are_none(args: list[Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        read_request(args)


def test_responses() -> None:
    denied = ResponsePayload(401, {"a": "b"}, {"code": "X"}, "FILTER_BLOCKED", 5)
    assert list(denied.to_wire()) == ["status", "errorType", "originalBodySize", "body", "headers"]
    assert read_response([denied.to_wire()]) == denied
    assert read_response([{"status": 200}]) == ResponsePayload(200, {}, "")
    for odd in (None, 5, {"status": "200"}, {"status": 99}, {"status": 200, "headers": []}):
        with pytest.raises(RemoteProtocolError):
            read_response([odd])
    with pytest.raises(RemoteProtocolError):
        read_response([])


def test_chunks() -> None:
    first = ChunkPayload("s", b"", False, 200, {"a": "b"})
    assert write_chunk(first) == ("s", "", False, {"status": 200, "headers": {"a": "b"}})
    assert read_chunk(write_chunk(first)) == first
    assert read_chunk(["s", "ü", 1]) == ChunkPayload("s", "ü".encode(), True)
    assert read_chunk(["s", None, False, "x"]) == ChunkPayload("s", b"", False)
    assert write_chunk(ChunkPayload("s", b"x", True)) == ("s", b"x", True)
    for odd in ([], ["s", ""], [1, "", True], ["s", 5, True], ["s", "", False, {"status": 0}]):
        with pytest.raises(RemoteProtocolError):
            read_chunk(odd)
