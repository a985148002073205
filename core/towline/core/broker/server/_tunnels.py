"""A server's tunnel side: requests under /primus in, and what becomes of the sessions that they open."""

from __future__ import annotations

from collections import deque
from typing import Any, Literal
from urllib.parse import parse_qsl

from towline.core._contract import Instant
from towline.core._wire import Lost, Note, Received, Transmit
from towline.core.broker._answers import JSON, compact
from towline.core.broker._desk import Desk, Visit
from towline.core.broker._ends import ended
from towline.core.broker._ids import masked_token
from towline.core.broker._tally import Tally
from towline.core.broker.nodes._forwarding import Forwarding
from towline.core.broker.server._application import server_request_of
from towline.core.broker.server._authority import Authority
from towline.core.broker.server._callers import Callers
from towline.core.broker.server._calls import Calls
from towline.core.broker.server._directory import Directory, Session
from towline.core.broker.server._dispatcher import Dispatcher
from towline.core.broker.server._platform import Platform
from towline.core.tunnel import (
    Acked,
    Arrived,
    AuthorizationAsked,
    Identified,
    Ponged,
    Reply,
    SessionClosed,
    SessionOpened,
    TunnelHost,
    Upgrade,
)


class Tunnels:
    """Hands the host's events to whom they concern."""

    def __init__(
        self,
        desk: Desk,
        host: TunnelHost,
        directory: Directory,
        callers: Callers,
        calls: Calls,
        platform: Platform,
        wishes: deque[Any],
        tally: Tally,
        *,
        authority: Authority | None,
        dispatcher: Dispatcher | None,
        forwarding: Forwarding | None,
    ) -> None:
        self._desk = desk
        self._host = host
        self._directory = directory
        self._callers = callers
        self._calls = calls
        self._platform = platform
        self._wishes = wishes
        self._tally = tally
        self._authority = authority
        self._dispatcher = dispatcher
        self._forwarding = forwarding
        # Requests that the host holds.
        self._visits: dict[int, Visit] = {}

    def visit(self, visit: Visit, now: Instant) -> None:
        """Take a request under /primus."""
        if self._forwarding is not None:
            sid = dict(parse_qsl(visit.query)).get("sid", "")
            if not self._host.has(sid) and self._forwarding.poll(visit, sid, now):
                return
        request = server_request_of(visit)
        if request is None:
            self._desk.respond(visit, 400, (JSON,), compact({"code": 3, "message": "Bad request"}), now=now)
            return
        self._visits[visit.number] = visit
        self._host.request(visit.number, visit.link, request, now)

    def left(self, visit: Visit, now: Instant) -> bool:
        """Tell the host that an asker is gone; return whether it held the request."""
        held = self._visits.pop(visit.number, None) is not None
        if held:
            self._host.gone(visit.number, now)
        return held

    def happened(self, said: Any, now: Instant) -> None:
        """Take what the host says."""
        if isinstance(said, Arrived):
            self._arrived(said, now)
        elif isinstance(said, Acked):
            self._calls.acked(said.session, said.ack_id, said.args, now)
        elif isinstance(said, Reply):
            visit = self._visits.pop(said.exchange, None)
            if visit is not None:
                self._desk.respond(visit, said.status, said.headers, said.body, now=now, echo=False)
        elif isinstance(said, Upgrade):
            self._upgrade(said, now)
        elif isinstance(said, Identified):
            self._identified(said, now)
        elif isinstance(said, SessionClosed):
            self._closed(said, now)
        elif isinstance(said, SessionOpened):
            if self._authority is not None:
                self._directory.opened(said)
        elif isinstance(said, Ponged):
            session = self._directory.session(said.session)
            if self._dispatcher is not None and session is not None:
                self._dispatcher.pinged(session, said.sent_ms, now)
        elif isinstance(said, AuthorizationAsked) and self._authority is not None:
            self._authority.ask(said, now)
        else:
            self._wishes.append(said)

    def _upgrade(self, said: Upgrade, now: Instant) -> None:
        visit = self._visits.pop(said.exchange, None)
        early = None if visit is None else self._desk.hand_over(visit)
        if early is None:
            self._host.handle(Lost(said.link, "the client left before the upgrade"), now)
            return
        self._wishes.append(Transmit(said.link, said.response))
        if early:
            self._host.handle(Received(said.link, early), now)

    def _identified(self, said: Identified, now: Instant) -> None:
        session = self._directory.identified(said)
        if self._dispatcher is not None:
            self._dispatcher.connected(session, now)
        if self._forwarding is not None:
            self._forwarding.nodes.held(session.token)
        self._note(
            "info",
            "tunnel.identified",
            session=session.number,
            token=masked_token(session.token),
            role=session.role,
            version=session.version,
        )

    def _closed(self, said: SessionClosed, now: Instant) -> None:
        gone = self._directory.closed(said.session, now)
        if gone is not None:
            if self._forwarding is not None and not self._directory.all_of(gone.token):
                self._forwarding.nodes.left(gone.token)
            for call in self._calls.session_closed(gone, now):
                self._callers.again(call, now)
            if self._dispatcher is not None:
                self._dispatcher.disconnected(gone, self._directory.all_of(gone.token), now)
        self._platform.session_closed(said.session)
        self._tally.close(ended(said.reason))
        self._note("info", "tunnel.closed", session=said.session, reason=said.reason)

    def _arrived(self, said: Arrived, now: Instant) -> None:
        if said.name == "chunk":
            self._calls.chunk(said.session, said.args, now)
            return
        session = self._directory.session(said.session)
        if session is None:
            return
        if said.name == "request" and said.ack_id is not None:
            self._platform.arrived(session, said.args, said.ack_id, now)
        elif said.name in ("terminate", "client-event"):
            self._note("debug", f"tunnel.{said.name}", session=said.session)
            if said.name == "terminate":
                self._leaving(session)

    def _leaving(self, session: Session) -> None:
        """A client stops: the others of its token, here or at another node, are asked instead."""
        session.leaving = True
        if self._dispatcher is not None:
            self._dispatcher.terminating(session)
        if self._forwarding is not None and all(other.leaving for other in self._directory.all_of(session.token)):
            self._forwarding.nodes.left(session.token)

    def _note(self, level: Literal["debug", "info"], event: str, **fields: Any) -> None:
        self._wishes.append(Note(level, event, fields))
