"""Frames both ways, with wsproto as the oracle of what we write, and the bounds that we add to it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from towline.core import LIMITS, Entropy, Limits
from towline.core.tunnel._websocket import (
    CLOSE,
    MARK_EVERY,
    PING,
    PONG,
    TEXT,
    Binary,
    FrameEvent,
    PeerClosed,
    Text,
    Violated,
    WebSocket,
    accept_value,
    frame,
    key_is_sound,
    masked,
)

MASK = b"\x01\x02\x03\x04"


def server(limits: Limits = LIMITS, message: int | None = None) -> WebSocket:
    return WebSocket("server", entropy=Entropy(b"s" * 16), limits=limits, message=message)


def client(limits: Limits = LIMITS) -> WebSocket:
    return WebSocket("client", entropy=Entropy(b"c" * 16), limits=limits)


def take(socket: WebSocket, data: bytes, now: float = 0.0) -> list[FrameEvent]:
    return list(socket.receive(data, now))


def part(opcode: int, payload: bytes, *, fin: bool = True, mask: bytes | None = MASK) -> bytes:
    """A frame that need not be final."""
    whole = frame(opcode, payload, mask)
    return whole if fin else bytes([whole[0] & 0x7F]) + whole[1:]


def test_the_handshake_of_the_rfc() -> None:
    assert accept_value("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("key", ["", "AAAA", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25j ZQ==", "é" * 24])
def test_a_key_that_is_none(key: str) -> None:
    assert not key_is_sound(key)
    assert key_is_sound("dGhlIHNhbXBsZSBub25jZQ==")
    accept_value(key)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 125, 126, 127, 65535, 65536, 70_001])
def test_wsproto_reads_what_we_write(size: int) -> None:
    payload = bytes(ord("a") + i % 26 for i in range(size))
    assert frame(TEXT, payload) == bytes(FrameProtocol(False, []).send_data(payload.decode()))
    reader = FrameProtocol(False, [])
    reader.receive_bytes(frame(TEXT, payload, MASK))
    parts = list(reader.received_frames())
    assert "".join(str(p.payload) for p in parts).encode() == payload
    assert {p.opcode for p in parts} <= {Opcode.TEXT, Opcode.CONTINUATION}


@given(st.lists(st.text(max_size=300), max_size=6), st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_messages_arrive_whole_however_cut(texts: list[str], cuts: list[int]) -> None:
    sender, receiver = client(), server()
    for text in texts:
        sender.send_text(text.encode())
    wire = b"".join(sender.output())
    got: list[Any] = []
    at = turn = 0
    while at < len(wire):
        size = cuts[turn % len(cuts)]
        got += take(receiver, wire[at : at + size])
        at, turn = at + size, turn + 1
    assert got == [Text(text.encode()) for text in texts]


def frames() -> st.SearchStrategy[bytes]:
    """Frames of every kind, most of them sound: opcode, flags, mask, and the length in as many bytes as it likes."""

    def build(first: int, payload: bytes, mask: bytes | None, form: int) -> bytes:
        flag = 0x80 if mask is not None else 0
        form = max(form, 0 if len(payload) < 126 else 1)
        length = [bytes([flag | (len(payload) & 0x7F)]), bytes([flag | 126]), bytes([flag | 127])][form]
        if form:
            length += len(payload).to_bytes([0, 2, 8][form], "big")
        return bytes([first]) + length + (b"" if mask is None else mask + bytes(masked(payload, mask)))

    first = st.sampled_from([0x81] * 6 + [0x01, 0x00, 0x80, 0x80, 0x89, 0x8A, 0x82, 0x88, 0xC1, 0x83])
    payload = st.one_of(st.text(max_size=200).map(str.encode), st.binary(max_size=6), st.just(b"a" * 130))
    return st.builds(build, first, payload, st.sampled_from([MASK, MASK, MASK, None]), st.sampled_from([0, 0, 0, 1, 2]))


@given(st.lists(frames(), max_size=6), st.lists(st.integers(1, 300), min_size=1, max_size=8), st.booleans())
def test_ordinary_frames_are_read_as_wsproto_reads_them(wires: list[bytes], cuts: list[int], bounded: bool) -> None:
    wire = b"".join(wires)

    def read(whole_text: int) -> tuple[list[FrameEvent], list[bytes]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("towline.core.tunnel._websocket._WHOLE_TEXT", whole_text)
            socket = server(message=100 if bounded else None)
            events: list[FrameEvent] = []
            at = turn = 0
            while at < len(wire):
                size = cuts[turn % len(cuts)]
                events += take(socket, wire[at : at + size])
                at, turn = at + size, turn + 1
            return events, [bytes(data) for data in socket.output()]

    assert read(0x81) == read(-1)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 511, 512, 513, 70_003])
@pytest.mark.parametrize("mask", [b"\0\0\0\0", MASK, b"\xff\0\x80\0"])
def test_a_mask_is_what_the_rfc_says(size: int, mask: bytes) -> None:
    payload = bytes(i % 251 for i in range(size))
    under = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    assert bytes(masked(payload, mask)) == under
    assert bytes(masked(under, mask)) == payload


def test_a_clients_masks_differ_and_come_from_the_entropy() -> None:
    first, again = client(), client()
    for socket in (first, again):
        socket.send_text(b"same")
        socket.send_text(b"same")
    one, two = first.output()
    assert one != two
    assert [one, two] == again.output()


def test_fragments_become_one_message_with_pings_between() -> None:
    socket = server()
    events = take(
        socket,
        part(TEXT, b"4ab", fin=False)
        + part(PING, b"x")
        + part(0, "ü".encode()[:1], fin=False)
        + part(0, "ü".encode()[1:]),
        0.0,
    )
    assert events == [Text("4abü".encode())]
    assert socket.output() == [frame(PONG, b"x")]


def test_a_binary_message_is_told_apart() -> None:
    assert take(server(), part(2, b"\xff\x00")) == [Binary(b"\xff\x00")]


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (frame(TEXT, b"4"), 1002),  # unmasked, from a client
        (b"\xc1\x81" + MASK + b"a", 1002),  # RSV1
        (b"\x83\x81" + MASK + b"a", 1002),  # opcode 3
        (b"\x8b\x81" + MASK + b"a", 1002),  # opcode 11
        (b"\x09\x80" + MASK, 1002),  # a fragmented ping
        (b"\x89\xfe\x00\x7e" + MASK + b"a" * 126, 1002),  # a ping of 126
        (part(0, b"a"), 1002),  # a continuation of nothing
        (part(TEXT, b"a", fin=False) + part(TEXT, b"b"), 1002),  # a text inside a text
        (b"\x81\xfe\x00\x01" + MASK + b"a", 1002),  # a length in too many bytes
        (b"\x81\xff" + b"\x80" + b"\0" * 7 + MASK, 1002),  # a length with its highest bit
        (part(TEXT, b"\xff\xfe"), 1007),
        (part(TEXT, b"\xc3"), 1007),  # text that ends inside a character
        (part(CLOSE, b"\x03"), 1002),
        (part(CLOSE, (1005).to_bytes(2, "big")), 1002),
        (part(CLOSE, (999).to_bytes(2, "big")), 1002),
        (part(CLOSE, (1000).to_bytes(2, "big") + b"\xff"), 1007),
        (b"\x81\xff" + (1 << 62).to_bytes(8, "big"), 1009),  # announced, and no byte of it sent
    ],
)
def test_a_broken_peer_gets_the_fitting_code(wire: bytes, code: int) -> None:
    for pieces in ([wire], [wire[at : at + 1] for at in range(len(wire))]):
        socket = server()
        events = [event for piece in pieces for event in take(socket, piece)]
        assert isinstance(events[-1], Violated)
        assert events[-1].code == code
        assert socket.output() == [frame(CLOSE, code.to_bytes(2, "big"))]
        assert take(socket, part(TEXT, b"late")) == []
        socket.send_text(b"late")
        assert socket.output() == []


def test_a_masked_frame_from_a_server() -> None:
    (event,) = take(client(), part(TEXT, b"4"))
    assert isinstance(event, Violated)
    assert event.code == 1002


@pytest.mark.parametrize(("payload", "code"), [(b"", None), (b"\x03\xe8", 1000), (b"\x0b\xb8bye", 3000)])
def test_a_close_is_answered_with_its_code(payload: bytes, code: int | None) -> None:
    socket = server()
    assert take(socket, part(CLOSE, payload)) == [PeerClosed(code)]
    assert socket.output() == [frame(CLOSE, payload[:2])]


def test_a_close_of_ours_is_the_last_frame() -> None:
    socket = server()
    socket.send_close()
    socket.send_close(1001)
    socket.send_text(b"late")
    assert socket.output() == [frame(CLOSE, b"")]
    assert take(socket, part(CLOSE, b"")) == [PeerClosed(None)]
    assert socket.output() == []


def test_a_message_at_its_bound_and_above_it() -> None:
    assert take(server(message=10), part(TEXT, b"a" * 10)) == [Text(b"a" * 10)]
    (event,) = take(server(message=10), part(TEXT, b"a" * 11)[:2])
    assert isinstance(event, Violated)
    assert event.code == 1009


def test_fragments_count_together_and_only_within_one_message() -> None:
    socket = server(message=10)
    for _ in range(3):
        assert take(socket, part(TEXT, b"a" * 5, fin=False) + part(PING, b"p") + part(0, b"a" * 5))
    take(socket, part(TEXT, b"a" * 6, fin=False))
    head = part(0, b"a" * 5)
    for at in range(len(head)):  # a head that comes in pieces is counted once
        events = take(socket, head[at : at + 1])
        if events:
            break
    assert isinstance(events[0], Violated)
    assert at == 1


def test_too_many_fragments() -> None:
    limits = msgspec.structs.replace(LIMITS, ws_fragments=4)
    many = part(TEXT, b"", fin=False) + part(0, b"", fin=False) * 2
    assert take(server(limits), many + part(0, b"")) == [Text(b"")]
    (event,) = take(server(limits), many + part(0, b"", fin=False) * 2)
    assert isinstance(event, Violated)
    assert event.code == 1008


def test_a_ping_flood_gets_a_hundred_answers_a_second_and_then_the_latest() -> None:
    socket = server()
    for number in range(1000):
        take(socket, part(PING, b"%d" % number), 5.0)
    assert socket.output() == [frame(PONG, b"%d" % number) for number in range(100)]
    assert socket.deadline() == 6.0
    socket.wake(5.5)
    assert socket.output() == []
    socket.wake(6.0)
    assert socket.output() == [frame(PONG, b"999")]
    assert socket.deadline() is None


def test_unsolicited_pongs_are_ignored() -> None:
    socket = server()
    assert take(socket, part(PONG, b"") + part(PONG, b"towline:" + b"\0" * 8)) == []
    assert socket.output() == []


def test_what_a_slow_peer_has_not_read_is_known() -> None:
    socket, peer = server(), client()
    socket.send_text(b"a" * MARK_EVERY)
    wire = socket.output()
    assert len(wire) == 2
    assert socket.unconfirmed > MARK_EVERY
    socket.send_text(b"b" * 1000)
    late = socket.output()
    assert len(late) == 1, "one mark at a time"
    for data in wire:
        take(peer, data)
    take(socket, b"".join(peer.output()))
    assert socket.unconfirmed < 2000
    socket.send_text(b"c" * MARK_EVERY)
    assert len(socket.output()) == 2


def test_silence_says_nothing_more() -> None:
    socket = server()
    socket.send_text(b"a")
    socket.silence()
    socket.send_close()
    assert socket.output() == []
    assert take(socket, part(TEXT, b"a")) == []
    assert "over=True" in repr(socket)
