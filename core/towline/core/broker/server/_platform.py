"""A server's callbacks: what clients ask of the platform behind the server (broker-protocol.md §2.9.3 to 5).

Where a rule names an origin, the request goes there; where it names none, the application answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from towline.core._contract import Instant, Record
from towline.core._entropy import Entropy
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._script import Body, Broken, Head
from towline.core._secret import Secret
from towline.core.broker._alarms import Alarms, Timed
from towline.core.broker._answers import (
    DENIED_OVER_TUNNEL,
    acknowledged,
    denial,
    downstream_failure,
    too_large,
)
from towline.core.broker._headers import answer_object
from towline.core.broker._headers_up import upstream_body, upstream_headers
from towline.core.broker._ids import masked_token, request_id_of
from towline.core.broker._outgoing import Errand, Outgoing
from towline.core.broker._tally import NO_RULE, Tally
from towline.core.broker.filter._filter import Denied
from towline.core.broker.filter._gate import Gate
from towline.core.broker.server._directory import Session
from towline.core.http import Answer, ClientEvent, RequestHead, ServerRequest, server_request
from towline.core.tunnel import RequestPayload, TunnelHost, read_request


class CallbackArrived(Record, frozen=True):
    """A client's agent calls back, and no rule says where to: the application answers with `Answer(exchange, ...)`."""

    exchange: int
    token: Secret
    request: ServerRequest


class Callback(Timed):
    """One callback: who waits for its acknowledgement, and the answer so far."""

    __slots__ = (
        "ack_id",
        "began_at",
        "errand",
        "exchange",
        "head",
        "method",
        "pieces",
        "request_id",
        "rule",
        "session",
        "size",
    )

    def __init__(
        self, session: Session, ack_id: int, request_id: str, method: str, rule: int, began_at: Instant
    ) -> None:
        super().__init__()
        self.session = session
        self.ack_id = ack_id
        self.request_id = request_id
        self.method = method
        self.rule = rule
        self.began_at = began_at
        self.errand: Errand | None = None
        self.exchange: int | None = None
        self.head: Head | None = None
        self.pieces: list[bytes] = []
        self.size = 0


class Platform:
    """All callbacks of a server. At most LIMITS.tunnel_in_flight of one client run at once."""

    def __init__(
        self,
        host: TunnelHost,
        outgoing: Outgoing,
        gate: Gate,
        wishes: deque[Any],
        tally: Tally,
        numbers: Iterator[int],
        *,
        entropy: Entropy,
        version: str,
        answer_seconds: float,
        limits: Limits = LIMITS,
    ) -> None:
        self._host = host
        self._outgoing = outgoing
        self._gate = gate
        self._wishes = wishes
        self._tally = tally
        self._numbers = numbers
        self._entropy = entropy
        self._version = version
        self._answer_seconds = answer_seconds
        self._limits = limits
        self._running: dict[int, set[Callback]] = {}
        self._by_exchange: dict[int, Callback] = {}
        self._alarms: Alarms[Callback] = Alarms()

    def __len__(self) -> int:
        return sum(len(running) for running in self._running.values())

    def deadline(self) -> Instant | None:
        return self._alarms.deadline()

    # ── from clients ───────────────────────────────────────────────────────────
    def arrived(self, session: Session, args: Sequence[Any], ack_id: int, now: Instant) -> None:
        """Take a `request` event of a client. Its streamingID is not looked at: the answer is the ack (Q8)."""
        try:
            asked = read_request(args)
        except RemoteProtocolError as error:
            self._acknowledge(session, ack_id, 400, {"code": error.code, "message": error.message}, "", now)
            return
        request_id = request_id_of(asked.headers.items(), self._entropy)
        running = self._running.setdefault(session.number, set())
        if len(running) >= self._limits.tunnel_in_flight:
            self._count_refusal(asked.method, 503, "too-busy")
            busy = acknowledged(503, {"code": "TOO_BUSY"}, request_id, {"retry-after": "1"})
            self._host.acknowledge(session.number, ack_id, [busy], now=now)
            return
        verdict = self._gate.decide(asked.method, asked.url, asked.headers, asked.body)
        if isinstance(verdict, Denied):
            self._count_refusal(asked.method, 401, "denied")
            body = denial(DENIED_OVER_TUNNEL, asked.url)
            self._acknowledge(session, ack_id, 401, body, request_id, now, "FILTER_BLOCKED")
            return
        callback = Callback(session, ack_id, request_id, asked.method, verdict.rule, now)
        running.add(callback)
        if verdict.upstream is None:
            self._ask(callback, asked, verdict.headers, now)
            return
        headers = upstream_headers(
            verdict, verdict.headers, request_id, self._version, identity_only=True, token=session.token
        )
        callback.errand = Errand(
            callback,
            asked.method,
            verdict.upstream.url,
            verdict.upstream.prefix + verdict.target,
            headers,
            upstream_body(verdict.headers, asked.body, self._limits),
            patience=self._answer_seconds,
        )
        try:
            self._outgoing.begin(callback.errand, now)
        except RemoteProtocolError as error:
            self._finish(callback, 400, {"code": error.code, "message": error.message}, now, "DOWNSTREAM_ERROR")

    def session_closed(self, session: int) -> None:
        """Nobody waits for the answers any more. What the platform was asked, it was asked."""
        for callback in self._running.pop(session, ()):
            self._forget(callback)

    # ── from the platform ──────────────────────────────────────────────────────
    def happened(self, errand: Errand, event: ClientEvent, now: Instant) -> None:
        callback: Callback = errand.owner
        if isinstance(event, Head):
            callback.head = event
        elif isinstance(event, Body):
            callback.size += len(event.data)
            if callback.size > self._limits.tunnel_answer:
                self._outgoing.give_up(errand)
                size = int((callback.head and callback.head.get("content-length")) or callback.size)
                body = too_large(size, self._limits.tunnel_answer)
                self._finish(callback, 502, body, now, "BODY_TOO_LARGE", original=size)
            else:
                callback.pieces.append(bytes(event.data))
        elif isinstance(event, Broken):
            status, code, body = downstream_failure(event, str(errand.url.origin))
            self._finish(callback, status, body, now, code)
        elif callback.head is not None:
            text = b"".join(callback.pieces).decode("utf-8", "replace")
            self._finish(callback, callback.head.status, text, now, headers=answer_object(callback.head.headers))

    def answer(self, fact: Answer, now: Instant) -> bool:
        """Take the application's answer; return whether it was one to a callback."""
        callback = self._by_exchange.get(fact.exchange)
        if callback is None:
            return False
        headers = answer_object([(name, value) for name, value in fact.headers if isinstance(value, str)])
        self._finish(callback, fact.status, fact.body.decode("utf-8", "replace"), now, headers=headers)
        return True

    def wake(self, now: Instant) -> None:
        for callback in self._alarms.due(now):
            body = {"code": "TIMEOUT", "message": f"no answer in {self._answer_seconds:g} s"}
            self._finish(callback, 504, body, now, "DOWNSTREAM_TIMEOUT")

    # ── inside ─────────────────────────────────────────────────────────────────
    def _ask(self, callback: Callback, asked: RequestPayload, headers: dict[str, str], now: Instant) -> None:
        head = RequestHead(tuple(headers.items()), asked.method, asked.url)
        token = callback.session.token
        try:
            request = server_request(head, asked.body or b"", "tunnel", masked_token(token))
        except RemoteProtocolError as error:
            self._finish(callback, 400, {"code": error.code, "message": error.message}, now)
            return
        callback.exchange = next(self._numbers)
        self._by_exchange[callback.exchange] = callback
        self._alarms.set(callback, now + self._answer_seconds)
        self._wishes.append(CallbackArrived(callback.exchange, Secret(token), request))

    def _finish(
        self,
        callback: Callback,
        status: int,
        body: Any,
        now: Instant,
        error_type: str | None = None,
        *,
        headers: dict[str, str | list[str]] | None = None,
        original: int | None = None,
    ) -> None:
        session = callback.session.number
        self._running.get(session, set()).discard(callback)
        callback.errand = None
        self._tally.request("outbound", callback.rule, callback.method, status, now - callback.began_at)
        self._forget(callback)
        said = acknowledged(
            status, body, callback.request_id, headers, error_type=error_type, original_body_size=original
        )
        self._host.acknowledge(session, callback.ack_id, [said], now=now)

    def _acknowledge(
        self,
        session: Session,
        ack_id: int,
        status: int,
        body: Any,
        request_id: str,
        now: Instant,
        error_type: str | None = None,
    ) -> None:
        said = acknowledged(status, body, request_id, error_type=error_type)
        self._host.acknowledge(session.number, ack_id, [said], now=now)

    def _count_refusal(self, method: str, status: int, reason: str) -> None:
        self._tally.refuse(reason)
        self._tally.request("outbound", NO_RULE, method, status, 0.0)

    def _forget(self, callback: Callback) -> None:
        self._alarms.set(callback, None)
        if callback.exchange is not None:
            self._by_exchange.pop(callback.exchange, None)
        if callback.errand is not None:
            self._outgoing.give_up(callback.errand)
