"""Chunked bodies: one that comes whole and plain is read without h11, all others by it, to the same end."""

from __future__ import annotations

from typing import Any

import h11
import pytest
from head_tools import chunked_by_h11, read_body
from hypothesis import given, settings
from hypothesis import strategies as st
from machines.case import garbled

from towline.core import Limits
from towline.core.http._framing import ChunkedBody

PLAIN = [
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"00005\r\nhello\r\nA\r\n\r\n\r\n\r\n\r\n\r\n\r\n00\r\n\r\nGET / HTTP/1.1\r\n",
    b"a\r\n0123456789\r\n" * 31 + b"0\r\n\r\n",
]
OTHER = [
    b"a\r\n0123456789\r\n" * 32 + b"0\r\n\r\n",
    b"5;x=y\r\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"000000005\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\r\nA: b\r\n\r\n",
    b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
    b"5\r\nhelloXX0\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\n\r\n",
    b"5\r\nhel",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"\r\n",
]


def both(data: bytes, cuts: list[int]) -> tuple[bytes, str]:
    """What the own reader makes of a body in these pieces, and h11 of it in the same."""
    own = read_body(ChunkedBody(None, Limits()), data, cuts)
    assert own == read_body(chunked_by_h11(Limits()), data, cuts)
    return own


@pytest.mark.parametrize("wire", PLAIN)
def test_a_plain_body_that_comes_whole_is_read_without_h11(wire: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_body(chunked_by_h11(Limits()), wire, [len(wire)])
    monkeypatch.setattr(h11, "Connection", None)
    assert read_body(ChunkedBody(None, Limits()), wire, [len(wire)]) == expected
    assert expected[1].startswith("rest")


@pytest.mark.parametrize("wire", [*PLAIN, *OTHER])
def test_others_end_as_h11_ends_them(wire: bytes) -> None:
    assert both(wire, [len(wire)]) == both(wire, [1]) == both(wire, [7, 3])


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([*PLAIN, *OTHER]).flatmap(garbled), st.lists(st.integers(1, 400), min_size=1, max_size=4))
def test_garbled(wire: bytes, cuts: list[int]) -> None:
    if wire:
        both(wire, cuts)


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=9000), max_size=6))
def test_few_short_chunks_are_one_piece_and_long_ones_are_not_copied(chunks: list[bytes]) -> None:
    wire = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    reader: Any = ChunkedBody(None, Limits())
    reader.feed(memoryview(wire))
    pieces = []
    while (piece := reader.piece()) is not None:
        pieces.append(piece)
    assert b"".join(pieces) == b"".join(chunks)
    if sum(map(len, chunks)) > 16 * 1024 or len(chunks) == 1:
        assert len(pieces) == len(chunks)
        assert all(piece.obj is wire for piece in pieces)
    elif len(wire) < 16 * 1024:
        assert len(pieces) <= 1
