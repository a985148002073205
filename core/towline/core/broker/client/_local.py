"""A client's callbacks: what the agent posts to the client's own port goes up a tunnel (broker-protocol.md §2.9)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from towline.core._contract import Instant
from towline.core._errors import RemoteProtocolError, TowlineError
from towline.core._limits import LIMITS, Limits
from towline.core.broker._alarms import Alarms, Timed
from towline.core.broker._answers import DENIED_OVER_HTTP, JSON, RETRY_SOON, compact, denial, payload_body
from towline.core.broker._desk import Desk, Visit
from towline.core.broker._headers import answer_headers
from towline.core.broker._inbound import incoming
from towline.core.broker._tally import NO_RULE, Tally
from towline.core.broker._upload import parse_answer_head
from towline.core.broker.client._connection import Connection
from towline.core.broker.client._job import Tunnel
from towline.core.broker.client._routing import WEBHOOK, Unrouted, route
from towline.core.broker.client._webhooks import Webhooks
from towline.core.broker.filter._filter import Denied
from towline.core.tunnel import RequestPayload, TunnelBusy, write_request


class Callback(Timed):
    """One callback on its way up."""

    __slots__ = ("began_at", "connection", "handle", "payload", "rule", "tunnel", "visit")

    def __init__(
        self, visit: Visit, connection: Connection, payload: RequestPayload, rule: int, began_at: Instant
    ) -> None:
        super().__init__()
        self.visit = visit
        self.connection = connection
        self.payload = payload
        self.rule = rule
        self.began_at = began_at
        self.tunnel: Tunnel | None = None  # None while it waits for one to open
        self.handle: int | None = None


class Callbacks:
    """All callbacks of a client.

    While no tunnel is open a callback waits a few seconds, then the agent is told to come again (Q18).
    """

    def __init__(
        self,
        desk: Desk,
        connections: Sequence[Connection],
        webhooks: Webhooks,
        tally: Tally,
        *,
        wait_seconds: float,
        answer_seconds: float,
        limits: Limits = LIMITS,
    ) -> None:
        self._desk = desk
        self._connections = connections
        self._webhooks = webhooks
        self._tally = tally
        self._wait_seconds = wait_seconds
        self._answer_seconds = answer_seconds
        self._limits = limits
        self._by_visit: dict[int, Callback] = {}
        self._by_handle: dict[tuple[Tunnel, int], Callback] = {}
        self._waiting: deque[Callback] = deque()
        self._alarms: Alarms[Callback] = Alarms()

    def __len__(self) -> int:
        return len(self._by_visit)

    def deadline(self) -> Instant | None:
        return self._alarms.deadline()

    def came(self, visit: Visit, now: Instant) -> None:
        """Take a whole request of the agent."""
        try:
            came = incoming(visit, visit.head.target, self._limits)
        except RemoteProtocolError as error:
            status = 415 if error.kind == "unsupported-media-type" else error.status_hint
            self._refuse(visit, status, {"code": error.code, "message": error.message}, error.kind, now)
            return
        way = route(self._connections, came)
        if isinstance(way, Unrouted):
            self._refuse(visit, way.status, way.document, "unrouted", now)
            return
        connection, url = way.connection, way.url
        verdict = connection.outbound.decide(came.method, url, came.headers, came.body)
        if isinstance(verdict, Denied):
            self._refuse(visit, 401, denial(DENIED_OVER_HTTP, url), "denied", now)
            return
        tunnel = connection.open_tunnel()
        hooked = tunnel is None and url.startswith(WEBHOOK)
        if hooked and self._webhooks.send(visit, connection, verdict, came.method, came.body or b"", now):
            return
        if len(self._by_visit) >= self._limits.tunnel_waiting:
            body = {"code": "TOO_BUSY", "message": "too many callbacks wait already"}
            self._refuse(visit, 503, body, "too-busy", now)
            return
        headers = verdict.headers | {"snyk-request-id": visit.request_id}
        payload = RequestPayload(url, came.method, headers, came.body, "", visit.request_id)
        callback = self._by_visit[visit.number] = Callback(visit, connection, payload, verdict.rule, now)
        if tunnel is None:
            self._waiting.append(callback)
            self._alarms.set(callback, now + self._wait_seconds)
        else:
            self._send(callback, tunnel, now)

    def tunnel_opened(self, now: Instant) -> None:
        """A tunnel is open, and has identified itself: what waits goes up."""
        waiting, self._waiting = self._waiting, deque()
        for callback in waiting:
            tunnel = callback.connection.open_tunnel()
            if tunnel is None:
                self._waiting.append(callback)
            else:
                self._send(callback, tunnel, now)

    def acked(self, tunnel: Tunnel, handle: int, args: Sequence[Any], now: Instant) -> None:
        """The server answered a callback."""
        callback = self._by_handle.get((tunnel, handle))
        if callback is None:
            return
        self._forget(callback)
        said = args[0] if args else None
        try:
            head = parse_answer_head(said, self._limits)
        except RemoteProtocolError as error:
            self._fail(callback, 502, error.code, "the answer cannot be read", now)
            return
        body, content_type = payload_body(said.get("body") if isinstance(said, dict) else None, dict(head.headers))
        headers = [pair for pair in answer_headers(head.headers) if pair[0] != "content-length"]
        if content_type is not None:
            headers.append(("Content-Type", content_type))
        self._count(callback, head.status, now)
        self._desk.respond(callback.visit, head.status, headers, body, now=now)

    def lost(self, tunnel: Tunnel, handles: Sequence[int], now: Instant) -> None:
        """These will never be answered: their tunnel is gone. The agent posts again, under the same delivery id."""
        for handle in handles:
            callback = self._by_handle.get((tunnel, handle))
            if callback is not None:
                self._forget(callback)
                self._fail(callback, 502, "TUNNEL_LOST", "the tunnel was lost", now)

    def left(self, visit: Visit) -> None:
        """The agent does not wait any more."""
        callback = self._by_visit.get(visit.number)
        if callback is not None:
            self._forget(callback)

    def wake(self, now: Instant) -> None:
        for callback in self._alarms.due(now):
            waited = callback.tunnel is None
            self._forget(callback)
            if waited:
                self._fail(callback, 503, "CONNECTION_NOT_READY", "no tunnel is open", now)
            else:
                self._fail(callback, 504, "TIMEOUT", f"no answer in {self._answer_seconds:g} s", now)

    # ── inside ─────────────────────────────────────────────────────────────────
    def _send(self, callback: Callback, tunnel: Tunnel, now: Instant) -> None:
        callback.tunnel = tunnel
        try:
            callback.handle = tunnel.client.emit("request", [write_request(callback.payload)], ack=True, now=now)
        except TowlineError as error:
            self._forget(callback)
            status = 503 if isinstance(error, TunnelBusy) else error.status_hint
            self._fail(callback, status, error.code, error.message, now)
            return
        assert callback.handle is not None
        self._by_handle[tunnel, callback.handle] = callback
        self._alarms.set(callback, now + self._answer_seconds)

    def _fail(self, callback: Callback, status: int, code: str, message: str, now: Instant) -> None:
        self._tally.refuse(code.lower().replace("_", "-"))
        self._count(callback, status, now)
        self._respond(callback.visit, status, {"code": code, "message": message}, now)

    def _refuse(self, visit: Visit, status: int, document: object, reason: str, now: Instant) -> None:
        """Answer what goes nowhere."""
        self._tally.refuse(reason)
        self._tally.request("outbound", NO_RULE, visit.head.method, status, 0.0)
        self._respond(visit, status, document, now)

    def _count(self, callback: Callback, status: int, now: Instant) -> None:
        self._tally.request("outbound", callback.rule, callback.payload.method, status, now - callback.began_at)

    def _respond(self, visit: Visit, status: int, document: object, now: Instant) -> None:
        headers = [JSON, RETRY_SOON] if status == 503 else [JSON]
        self._desk.respond(visit, status, headers, compact(document), now=now)

    def _forget(self, callback: Callback) -> None:
        self._alarms.set(callback, None)
        self._by_visit.pop(callback.visit.number, None)
        if callback in self._waiting:
            self._waiting.remove(callback)
        if callback.tunnel is not None and callback.handle is not None:
            self._by_handle.pop((callback.tunnel, callback.handle), None)
            callback.tunnel.client.forget(callback.handle)
