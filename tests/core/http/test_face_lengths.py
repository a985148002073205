"""An answer in pieces whose length is announced among other headers."""

from __future__ import annotations

import pytest
from http_tools import drain, tell

from towline.core import Accepted, LocalProtocolError, Received, Transmit
from towline.core.http import AnswerBody, AnswerEnd, AnswerHead, Asked, Face


def asked() -> tuple[Face, int]:
    face = Face()
    tell(face, Accepted(2, "http", "peer"))
    (request,) = [
        wish for wish in tell(face, Received(2, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")) if isinstance(wish, Asked)
    ]
    return face, request.exchange


def test_a_length_behind_another_header() -> None:
    face, exchange = asked()
    face.handle(AnswerHead(exchange, 200, (("x-a", "b"), ("content-length", "3"))), 0.0)
    face.handle(AnswerBody(exchange, b"abc"), 0.0)
    face.handle(AnswerEnd(exchange), 0.0)
    said = b"".join(bytes(wish.data) for wish in drain(face) if isinstance(wish, Transmit))
    assert b"x-a: b\r\nContent-Length: 3\r\n\r\nabc" in said


def test_a_length_that_is_none() -> None:
    face, exchange = asked()
    with pytest.raises(LocalProtocolError):
        face.handle(AnswerHead(exchange, 200, (("x-a", "b"), ("content-length", "three"))), 0.0)
