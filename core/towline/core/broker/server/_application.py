"""Requests that a server leaves to the application: Asked of it, and answered by Answer, whole or in pieces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from towline.core._contract import Instant
from towline.core._errors import LocalProtocolError, RemoteProtocolError
from towline.core._secret import Secret
from towline.core.broker._answers import JSON
from towline.core.broker._desk import Desk, Visit
from towline.core.http import (
    Answer,
    AnswerBody,
    AnswerCut,
    AnswerEnd,
    AnswerHead,
    Asked,
    ServerRequest,
    error_body,
    server_request,
)
from towline.core.http._headers import content_length

Answering: TypeAlias = Answer | AnswerHead | AnswerBody | AnswerEnd | AnswerCut


class Application:
    """What the application was asked and has not answered."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._asked: dict[int, Visit] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def ask(self, visit: Visit, now: Instant) -> Asked | None:
        """Return the question, or None where the request was answered here."""
        request = server_request_of(visit)
        if request is None:
            body = error_body("BAD_REQUEST", "expected escapes of UTF-8 in the target")
            self._desk.respond(visit, 400, (JSON,), body, now=now)
            return None
        self._asked[visit.number] = visit
        return Asked(visit.number, request)

    def left(self, visit: Visit) -> bool:
        """Forget an asker who is gone; return whether the application held its request."""
        return self._asked.pop(visit.number, None) is not None

    def answer(self, fact: Answering, now: Instant) -> None:
        """Take the application's answer, or a piece of it; nothing if the asker is gone.

        Raises:  LocalProtocolError for what cannot be an answer
        """
        visit = self._asked.get(fact.exchange)
        if visit is None:
            return
        if isinstance(fact, AnswerBody):
            self._desk.send(visit, fact.data, now=now)
            return
        if isinstance(fact, AnswerHead):
            headers = _plain(fact.headers)
            announced = next((value for name, value in headers if name.lower() == "content-length"), "")
            if not self._desk.begin(visit, fact.status, headers, content_length(announced), now=now):
                raise LocalProtocolError("expected an answer that has not begun, with headers that can be written")
            return
        if isinstance(fact, Answer) and not self._desk.waits(visit):
            raise LocalProtocolError("expected an answer to a request that waits for one, got a second one")
        del self._asked[fact.exchange]
        if isinstance(fact, Answer):
            self._desk.respond(visit, fact.status, _plain(fact.headers), fact.body, now=now)
        elif isinstance(fact, AnswerEnd):
            self._desk.end(visit, now=now)
        else:
            self._desk.cut(visit, now=now)


def server_request_of(visit: Visit) -> ServerRequest | None:
    """Return a whole request as applications get it, or None if its target cannot be decoded.

    Its `snyk-request-id` is the one that the answer will have, whether the caller brought it or not.
    """
    try:
        request = server_request(visit.head, visit.body or b"", visit.listener, visit.peer)
    except RemoteProtocolError:
        return None
    kept = tuple(field for field in request.headers if field[0] != "snyk-request-id")
    return msgspec.structs.replace(request, headers=(*kept, ("snyk-request-id", visit.request_id)))


def _plain(headers: Iterable[tuple[str, str | Secret]]) -> list[tuple[str, str]]:
    """Return headers for the wire; only here a secret among them becomes text."""
    return [(name, value.reveal() if isinstance(value, Secret) else value) for name, value in headers]
