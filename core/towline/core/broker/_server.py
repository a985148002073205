"""The broker server's root machine: callers and clients over HTTP, tunnels, and the platform behind it."""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import Any, Literal, TypeAlias

from towline.core._contract import Instant
from towline.core._entropy import Entropy
from towline.core._errors import LocalProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._wire import (
    WAKE,
    Accepted,
    Drained,
    Ended,
    Finished,
    LinkNumbers,
    Lost,
    Note,
    Opened,
    Received,
    Transmit,
    Wake,
    WireFact,
)
from towline.core.broker._alarms import earliest
from towline.core.broker._answers import JSON, compact
from towline.core.broker._application import Answering, Application, server_request_of
from towline.core.broker._calls import Calls
from towline.core.broker._desk import Began, Came, Desk, DeskEvent, Left, Over, Piece, Visit
from towline.core.broker._directory import Directory
from towline.core.broker._filter import Filter
from towline.core.broker._gate import Gate
from towline.core.broker._ids import masked_token
from towline.core.broker._outgoing import Outgoing
from towline.core.broker._platform import Platform
from towline.core.broker._rules import AcceptRules
from towline.core.broker._server_config import BrokerServerConfig, Reload, Stop
from towline.core.broker._status import StatusPages
from towline.core.http import (
    Answer,
    AnswerBody,
    AnswerCut,
    AnswerEnd,
    AnswerHead,
    Gone,
    RequestHead,
)
from towline.core.tunnel import (
    Acked,
    Arrived,
    HostConfig,
    Identified,
    Ponged,
    Reply,
    SessionClosed,
    SessionOpened,
    TunnelHost,
    Upgrade,
)

AppFact: TypeAlias = Answering | Reload | Stop


class BrokerServer:
    """Machine[WireFact | AppFact, WireWish | Asked | Gone | CallbackArrived | Note].

    Paths of its own: /broker/TOKEN/*, /service/TOKEN/*, /response-data/TOKEN/ID, /primus, /connection-status/TOKEN,
    /connections-status, /healthcheck and /. Any other path is Asked of the application, as are callbacks to rules
    without an origin (CallbackArrived); both are answered by Answer, the former also in pieces.
    """

    def __init__(self, config: BrokerServerConfig, *, entropy: Entropy, limits: Limits = LIMITS) -> None:
        self._config = config
        self._limits = limits
        self._wishes: deque[Any] = deque()
        numbers = count(1)
        self._desk = Desk(
            self._wishes,
            self._limit_of,
            entropy=entropy.fork(),
            numbers=numbers,
            limits=limits,
            stream_silence=config.upload_silence,
        )
        hosting = HostConfig(tokens=config.tokens, ping_interval=config.ping_interval, ping_timeout=config.ping_timeout)
        self._host = TunnelHost(hosting, entropy=entropy.fork(), limits=limits)
        self._outgoing = Outgoing(self._wishes, LinkNumbers(), limits=limits, route=config.route)
        self._directory = Directory(config.grace_seconds)
        public, private = self._filters(config.rules)
        self._inbound = Gate(self._wishes, "inbound-request", public)
        self._outbound = Gate(self._wishes, "outbound-request", private)
        self._calls = Calls(
            self._desk,
            self._host,
            self._directory,
            self._inbound,
            entropy=entropy.fork(),
            answer_seconds=config.answer_seconds,
            limits=limits,
        )
        self._platform = Platform(
            self._host,
            self._outgoing,
            self._outbound,
            self._wishes,
            numbers,
            entropy=entropy.fork(),
            version=config.version,
            answer_seconds=config.answer_seconds,
            limits=limits,
        )
        self._application = Application(self._desk)
        self._status = StatusPages(self._desk, self._directory, config.version)
        # Requests under /primus that the tunnel side holds.
        self._tunnelled: dict[int, Visit] = {}
        self._stop_by: Instant | None = None
        self._over = False

    def __repr__(self) -> str:
        return f"BrokerServer(sessions={len(self._directory)}, calls={len(self._calls)}, over={self._over})"

    # ── the contract ───────────────────────────────────────────────────────────
    def handle(self, fact: WireFact | AppFact, now: Instant) -> None:
        if self._over:
            return
        if type(fact) is Received or isinstance(fact, Ended | Lost):
            if self._desk.owns(fact.link):
                self._desk.handle(fact, now)
            elif self._host.owns(fact.link):
                self._host.handle(fact, now)
            elif self._outgoing.owns(fact.link):
                self._outgoing.handle(fact, now)
        elif isinstance(fact, Drained):
            self._calls.drained(fact.link)
            return
        elif isinstance(fact, Accepted):
            self._desk.accepted(fact, now)
        elif isinstance(fact, Opened):
            self._outgoing.handle(fact, now)
        elif isinstance(fact, Wake):
            self._wake(now)
        elif isinstance(fact, Reload):
            self._inbound.rules, self._outbound.rules = self._filters(fact.rules)
        elif isinstance(fact, Stop):
            self._stop_by = now + fact.within
            self._desk.drain(now)
        elif isinstance(fact, Answer | AnswerHead | AnswerBody | AnswerEnd | AnswerCut):
            self._answer(fact, now)
        self._settle(now)

    def poll(self) -> Any | None:
        return self._wishes.popleft() if self._wishes else None

    def deadline(self) -> Instant | None:
        if self._over:
            return None
        return earliest(
            self._desk.deadline(),
            self._host.deadline(),
            self._outgoing.deadline(),
            self._calls.deadline(),
            self._platform.deadline(),
            self._stop_by,
        )

    # ── turns ──────────────────────────────────────────────────────────────────
    def _wake(self, now: Instant) -> None:
        self._desk.wake(now)
        self._host.handle(WAKE, now)
        self._outgoing.wake(now)
        self._calls.wake(now)
        self._platform.wake(now)

    def _settle(self, now: Instant) -> None:
        """Hand events from part to part until none is left."""
        busy = True
        while busy:
            busy = False
            while (event := self._desk.next()) is not None:
                self._from_desk(event, now)
                busy = True
            while (said := self._host.poll()) is not None:
                self._from_host(said, now)
                busy = True
            while (found := self._outgoing.next()) is not None:
                self._platform.happened(*found, now)
                busy = True
            self._calls.dispatch(now)
        if self._stop_by is not None and (now >= self._stop_by or not (len(self._calls) or len(self._platform))):
            self._over = True
            self._wishes.append(Finished(None))

    def _note(self, level: Literal["debug", "info", "warning", "error"], event: str, **fields: Any) -> None:
        self._wishes.append(Note(level, event, fields))

    def _filters(self, rules: AcceptRules) -> tuple[Filter, Filter]:
        variables, strict = self._config.variables, self._config.filter_strict
        filters = [
            Filter(side, variables, strict=strict, limits=self._limits) for side in (rules.public, rules.private)
        ]
        for warning in (*rules.warnings, *filters[0].warnings, *filters[1].warnings):
            self._note("warning", "filter.rule", problem=warning)
        return filters[0], filters[1]

    # ── HTTP ───────────────────────────────────────────────────────────────────
    def _limit_of(self, head: RequestHead) -> int | None:
        path = head.target.partition("?")[0]
        if is_primus(path):
            return self._limits.tunnel_payload
        if head.method == "POST" and route_of(path)[0] == "response-data":
            return None
        return self._limits.http_request_body

    def _from_desk(self, event: DeskEvent, now: Instant) -> None:
        visit = event.visit
        if isinstance(event, Came):
            self._came(visit, now)
        elif isinstance(event, Piece):
            self._calls.upload_piece(visit, event.data, now)
        elif isinstance(event, Over):
            self._calls.upload_over(visit, now)
        elif isinstance(event, Began):
            _, token, rest = route_of(visit.path)
            self._calls.upload_began(visit, token, rest.strip("/"), now)
        elif self._tunnelled.pop(visit.number, None) is not None:
            self._host.gone(visit.number, now)
        elif self._application.left(visit):
            self._wishes.append(Gone(visit.number))
        elif isinstance(event, Left):
            self._calls.left(visit, now)

    def _came(self, visit: Visit, now: Instant) -> None:
        if is_primus(visit.path):
            request = server_request_of(visit)
            if request is None:
                self._desk.respond(visit, 400, (JSON,), compact({"code": 3, "message": "Bad request"}), now=now)
                return
            self._tunnelled[visit.number] = visit
            self._host.request(visit.number, visit.link, request, now)
            return
        name, token, rest = route_of(visit.path)
        get = visit.head.method in ("GET", "HEAD")
        if name == "broker" and token:
            self._calls.relay(visit, token, rest, now)
        elif name == "service" and token and get:
            self._calls.service(visit, token, rest, now)
        elif not self._status.visit(visit, name, token, now):
            question = self._application.ask(visit, now)
            if question is not None:
                self._wishes.append(question)

    # ── the application ────────────────────────────────────────────────────────
    def _answer(self, fact: Answering, now: Instant) -> None:
        if isinstance(fact, Answer | AnswerHead) and not 200 <= fact.status <= 599:
            raise LocalProtocolError(f"expected a final status, got {fact.status}")
        if not (isinstance(fact, Answer) and self._platform.answer(fact, now)):
            self._application.answer(fact, now)

    # ── tunnels ────────────────────────────────────────────────────────────────
    def _from_host(self, said: Any, now: Instant) -> None:
        if isinstance(said, Arrived):
            self._arrived(said, now)
        elif isinstance(said, Acked):
            self._calls.acked(said.session, said.ack_id, said.args, now)
        elif isinstance(said, Reply):
            visit = self._tunnelled.pop(said.exchange, None)
            if visit is not None:
                self._desk.respond(visit, said.status, said.headers, said.body, now=now, echo=False)
        elif isinstance(said, Upgrade):
            self._upgrade(said, now)
        elif isinstance(said, Identified):
            session = self._directory.identified(said)
            self._note(
                "info",
                "tunnel.identified",
                session=session.number,
                token=masked_token(session.token),
                role=session.role,
                version=session.version,
            )
        elif isinstance(said, SessionClosed):
            gone = self._directory.closed(said.session, now)
            if gone is not None:
                self._calls.session_closed(gone, now)
            self._platform.session_closed(said.session)
            self._note("info", "tunnel.closed", session=said.session, reason=said.reason)
        elif not isinstance(said, SessionOpened | Ponged):
            self._wishes.append(said)

    def _upgrade(self, said: Upgrade, now: Instant) -> None:
        visit = self._tunnelled.pop(said.exchange, None)
        early = None if visit is None else self._desk.hand_over(visit)
        if early is None:
            self._host.handle(Lost(said.link, "the client left before the upgrade"), now)
            return
        self._wishes.append(Transmit(said.link, said.response))
        if early:
            self._host.handle(Received(said.link, early), now)

    def _arrived(self, said: Arrived, now: Instant) -> None:
        if said.name == "chunk":
            self._calls.chunk(said.session, said.args, now)
        elif said.name == "request":
            session = self._directory.session(said.session)
            if session is not None and said.ack_id is not None:
                self._platform.arrived(session, said.args, said.ack_id, now)
        elif said.name in ("terminate", "client-event"):
            self._note("debug", f"tunnel.{said.name}", session=said.session)


def route_of(path: str) -> tuple[str, str, str]:
    """Return a path's first segment in lower case, its second as it is, and the rest with its slash."""
    first, _, after = path[1:].partition("/")
    second, slash, rest = after.partition("/")
    return first.lower(), second, slash + rest


def is_primus(path: str) -> bool:
    """Return whether a path belongs to the tunnel side."""
    return path.startswith("/primus")
