"""h11 alone as a reader of heads and of chunked bodies, for tests and fuzz: the oracle of the own readers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h11

from towline.core import Limits
from towline.core.http._framing import ChunkedBody, Fault
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
            told = (opening.head, opening.length, opening.chunked, opening.closes, opening.expects)
            return told, bytes(rest) + data[at:]
        assert not len(rest)
    return None, b""


def chunked_by_h11(limits: Limits) -> ChunkedBody:
    """Return a reader of a chunked body that leaves all of it to h11."""
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.http_trailers)
    parser.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    parser.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    parser.next_event()
    return ChunkedBody(parser, limits)


def read_body(reader: ChunkedBody, data: bytes, cuts: Sequence[int]) -> tuple[bytes, str]:
    """Return the body in bytes cut into such pieces, and what became of it: the fault, what is missing, or the rest."""
    at = turn = 0
    body = b""
    while at < len(data) and not reader.done:
        size = cuts[turn % len(cuts)]
        turn += 1
        try:
            reader.feed(memoryview(data)[at : at + size])
            while (piece := reader.piece()) is not None:
                body += piece
        except Fault as fault:
            return body, f"{fault.status} {fault.why}"
        at += size
    return body, f"rest {bytes(reader.surplus) + data[at:]!r}" if reader.done else str(reader.end())
