"""A server's callers: which client a request is for, and what it becomes before it goes down a tunnel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

import msgspec

from towline.core._contract import Instant
from towline.core._entropy import Entropy
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core.broker._answers import DENIED_OVER_HTTP, WS_RESPONSE, denial, no_client
from towline.core.broker._desk import Desk, Visit
from towline.core.broker._inbound import CONTEXT_HEADER, incoming, target_of, without_context, without_role
from towline.core.broker.filter._filter import Denied
from towline.core.broker.filter._gate import Gate
from towline.core.broker.nodes._cluster import stream_id
from towline.core.broker.nodes._forwarding import Forwarding
from towline.core.broker.server._call import Call
from towline.core.broker.server._calls import Calls
from towline.core.broker.server._directory import Directory, Session
from towline.core.tunnel import RequestPayload, read_version

# Older clients have no service channel (broker-protocol.md §2.2).
_SERVICE_SINCE: Final = "4.209.0"


class Callers:
    """Takes whole requests, and begins calls; what is for a client that is elsewhere goes to `forwarding`."""

    def __init__(
        self,
        desk: Desk,
        directory: Directory,
        gate: Gate,
        calls: Calls,
        *,
        entropy: Entropy,
        forwarding: Forwarding | None,
        limits: Limits = LIMITS,
    ) -> None:
        self._desk = desk
        self._directory = directory
        self._gate = gate
        self._calls = calls
        self._entropy = entropy
        self._forwarding = forwarding
        self._limits = limits

    def relay(self, visit: Visit, token: str, path: str, now: Instant) -> None:
        """Take a whole request for a client. `path` is what follows the token."""
        path, context = without_context(path)
        session = self._found(visit, token, now)
        if session is None:
            return
        query = without_role(visit.query) if "connection_role" in visit.query else visit.query
        try:
            asked = incoming(visit, target_of(path or "/", query, visit.head.target), self._limits)
        except RemoteProtocolError as error:
            status = 415 if error.kind == "unsupported-media-type" else error.status_hint
            self._calls.refuse(visit, status, {"code": error.code, "message": error.message}, error.kind, now)
            return
        if context is not None:
            asked.headers[CONTEXT_HEADER] = context
        verdict = self._gate.decide(asked.method, asked.url, asked.headers, asked.body)
        if isinstance(verdict, Denied):
            self._calls.refuse(visit, 401, denial(DENIED_OVER_HTTP, asked.url), "denied", now)
            return
        headers = verdict.headers | {"snyk-request-id": visit.request_id}
        stream = self._new_stream(session, headers)
        payload = RequestPayload(asked.url, asked.method, headers, asked.body, stream, visit.request_id)
        self._calls.begin(Call(visit, session, "request", payload, now, verdict.rule), now)

    def service(self, visit: Visit, token: str, path: str, now: Instant) -> None:
        """Take a service command for a client (broker-protocol.md §2.7)."""
        session = self._found(visit, token, now)
        if session is None:
            return
        version, since = read_version(session.version or ""), read_version(_SERVICE_SINCE)
        if version is not None and since is not None and version < since:
            body = {"ok": False, "msg": "Service commands need a newer client."}
            self._calls.refuse(visit, 501, body, "old-client", now)
            return
        asked = incoming(visit, target_of(path or "/", visit.query, visit.head.target), self._limits)
        headers = asked.headers | {"snyk-request-id": visit.request_id, WS_RESPONSE: "true", "x-broker-service": "true"}
        payload = RequestPayload(asked.url, "GET", headers, None, "", visit.request_id)
        self._calls.begin(Call(visit, session, "service", payload, now), now)

    def again(self, lost: Call, now: Instant) -> None:
        """Ask another client what one was asked that is gone; its caller said that this changes nothing."""
        visit, token = lost.visit, lost.session.token
        # The other tunnels of the same client are about to be lost as well.
        gone = lost.session.client_id
        listed = self._directory.all_of(token)
        session = next((session for session in listed if session.ready and session.client_id != gone), None)
        if session is not None:
            stream = self._new_stream(session, lost.payload.headers)
            payload = msgspec.structs.replace(lost.payload, streaming_id=stream)
            call = Call(visit, session, lost.event, payload, lost.began_at, lost.rule)
            call.again = True
            self._calls.begin(call, now)
        elif self._forwarding is None:
            self._calls.lose(lost, now)
        elif visit.node is None:
            self._forwarding.call(visit, token, no_client("connection-not-ready"), now)
        else:
            self._forwarding.peers.turn_away(visit, now)

    # ── inside ─────────────────────────────────────────────────────────────────
    def _found(self, visit: Visit, token: str, now: Instant) -> Session | None:
        token = unquote(token)
        found = self._directory.lookup(token, now)
        if isinstance(found, Session):
            return found
        if self._forwarding is None:
            status, headers, body = no_client(found)
            self._calls.count_refusal(visit, status, found)
            self._desk.respond(visit, status, headers, body, now=now)
        elif visit.node is None:
            self._forwarding.call(visit, token, no_client(found), now)
        else:
            self._forwarding.peers.turn_away(visit, now)
        return None

    def _new_stream(self, session: Session, headers: Mapping[str, str]) -> str:
        """Return the id under which the client is to upload its answer; "" if it answers over the tunnel."""
        if not session.posts or headers.get(WS_RESPONSE):
            return ""
        drawn = self._entropy.uuid4()
        return drawn if self._forwarding is None else stream_id(drawn, self._forwarding.nodes.number)
