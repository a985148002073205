"""h11 alone as a reader of heads, for tests and fuzz: the oracle of the own reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from towline.core.http._framing import Fault
from towline.core.http._heads import RequestReader, ResponseReader


class RequestsByH11(RequestReader):
    """A reader of requests that lets h11 judge all of them."""

    __slots__ = ()

    def _read(self, data: bytes | memoryview) -> None:
        return None


class ResponsesByH11(ResponseReader):
    """A reader of responses that lets h11 judge all of them."""

    __slots__ = ()

    def _read(self, data: bytes | memoryview) -> None:
        return None


def read_with(reader: RequestReader | ResponseReader, data: bytes, cuts: Sequence[int]) -> tuple[Any, bytes | None]:
    """Return what a reader makes of bytes cut into such pieces, over and over: the opening, or the fault as text, or
    None; and the bytes behind the head."""
    at = turn = 0
    while at < len(data):
        size = cuts[turn % len(cuts)]
        turn += 1
        try:
            opening, rest = reader.feed(memoryview(data)[at : at + size])
        except Fault as fault:
            return f"{fault.status} {fault.why}", None
        at += size
        if opening is not None:
            told = (opening.head, opening.length, opening.closes, opening.expects, opening.parser is not None)
            return told, bytes(rest) + data[at:]
        assert not len(rest)
    return None, b""
