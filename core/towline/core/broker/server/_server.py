"""The broker server's root machine: callers and clients over HTTP, tunnels, and the platform behind it."""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import Any, Final, Literal, TypeAlias

from towline.core._contract import Instant
from towline.core._entropy import Entropy
from towline.core._errors import LocalProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._wire import (
    WAKE,
    Accepted,
    Drained,
    Ended,
    Filled,
    Finished,
    LinkNumbers,
    Lost,
    Note,
    Opened,
    Received,
    Wake,
    WireFact,
)
from towline.core.broker._alarms import earliest
from towline.core.broker._answers import JSON, RETRY_SOON, compact
from towline.core.broker._commands import Reload, Stop
from towline.core.broker._desk import Began, Came, Desk, DeskEvent, Left, Over, Piece, Visit
from towline.core.broker._inbound import is_primus, route_of
from towline.core.broker._outgoing import Errand, Outgoing
from towline.core.broker._tally import Figures, Tally
from towline.core.broker.filter._filter import Filter
from towline.core.broker.filter._gate import Gate
from towline.core.broker.filter._rules import AcceptRules
from towline.core.broker.nodes._cluster import session_mark
from towline.core.broker.nodes._forwarding import Forwarding
from towline.core.broker.nodes._nodes import Leased, Located
from towline.core.broker.server._application import Answering, Application
from towline.core.broker.server._authority import Authority, Authorize, Check
from towline.core.broker.server._callers import Callers
from towline.core.broker.server._calls import Calls
from towline.core.broker.server._directory import Directory
from towline.core.broker.server._dispatcher import Dispatcher, Report
from towline.core.broker.server._platform import Platform
from towline.core.broker.server._server_config import BrokerServerConfig
from towline.core.broker.server._status import StatusPages
from towline.core.broker.server._tunnels import Tunnels
from towline.core.http import Answer, AnswerBody, AnswerCut, AnswerEnd, AnswerHead, ClientEvent, Gone, RequestHead
from towline.core.tunnel import HostConfig, TunnelHost

AppFact: TypeAlias = Answering | Authorize | Leased | Located | Reload | Stop

HIDDEN: Final = "/hidden/brokers/"


# One tuple, made once: a union would be made anew for each fact.
_OF_A_LINK: Final = (Received, Filled, Ended, Lost)


class BrokerServer:
    """Machine[WireFact | AppFact, WireWish | Asked | Gone | AuthorizationAsked | CallbackArrived | NodeEvent | Note].

    Paths of its own: /broker/TOKEN/*, /service/TOKEN/*, /response-data/TOKEN/ID, /primus, /connection-status/TOKEN,
    /connections-status, /healthcheck and /. Any other path is Asked of the application, as are callbacks to rules
    without an origin (CallbackArrived); both are answered by Answer, the former also in pieces. Where the application
    judges credentials, AuthorizationAsked is answered by Authorize. As one of several nodes it also says NodeEvents,
    and is told Leased and Located.

    Stop ends it in order: no new request and no new tunnel is taken, what is under way is finished, the tunnels are
    closed with 1001.
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
            epoch=config.epoch,
        )
        self._authorization = config.authorization != "none"
        hosting = HostConfig(
            tokens=config.tokens,
            ping_interval=config.ping_interval,
            ping_timeout=config.ping_timeout,
            authorization=self._authorization,
            minimal_version=config.minimal_version,
            recommended_version=config.recommended_version,
        )
        self._host = TunnelHost(hosting, entropy=entropy.fork(), limits=limits)
        self._tally = Tally()
        links = LinkNumbers()
        self._outgoing = Outgoing(self._wishes, links, limits=limits, route=config.route)
        self._forwarding = None
        if config.cluster is not None:
            self._host.mark = session_mark(0)
            apart = (self._desk, self._wishes, links, self._tally)
            self._forwarding = Forwarding(config, config.cluster, *apart, limits=limits)
        self._directory = Directory(config.grace_seconds)
        public, private = self._filters(config.rules)
        passages = config.note_passages
        self._inbound = Gate(self._wishes, "inbound-request", public, passages=passages)
        self._outbound = Gate(self._wishes, "outbound-request", private, passages=passages)
        self._calls = Calls(
            self._desk,
            self._host,
            self._tally,
            answer_seconds=config.answer_seconds,
            authorization=self._authorization,
            limits=limits,
            forwarding=self._forwarding,
        )
        self._callers = Callers(
            self._desk,
            self._directory,
            self._inbound,
            self._calls,
            entropy=entropy.fork(),
            forwarding=self._forwarding,
            limits=limits,
        )
        self._platform = Platform(
            self._host,
            self._outgoing,
            self._outbound,
            self._wishes,
            self._tally,
            numbers,
            entropy=entropy.fork(),
            version=config.version,
            answer_seconds=config.answer_seconds,
            limits=limits,
        )
        self._application = Application(self._desk)
        self._status = StatusPages(self._desk, self._directory, config.version, self._forwarding)
        self._authority = None
        if self._authorization:
            gateway = config.gateway_url if config.authorization == "gateway" else None
            parts = (self._desk, self._host, self._directory, self._outgoing, self._wishes)
            self._authority = Authority(*parts, gateway=gateway, forwarding=self._forwarding, limits=limits)
        self._dispatcher = None
        if config.dispatcher_url is not None:
            self._dispatcher = Dispatcher(
                self._outgoing, self._wishes, config, config.dispatcher_url, entropy=entropy.fork(), limits=limits
            )
        self._tunnels = Tunnels(
            self._desk,
            self._host,
            self._directory,
            self._callers,
            self._calls,
            self._platform,
            self._wishes,
            self._tally,
            authority=self._authority,
            dispatcher=self._dispatcher,
            forwarding=self._forwarding,
        )
        timed = (self._desk, self._outgoing, self._calls, self._platform, self._dispatcher, self._forwarding)
        self._timed = [part for part in timed if part is not None]
        self._numbers = numbers
        self._started = False
        # Since when no request is taken, by the number that the first of those would have had, and until when
        # those before it are waited for.
        self._last_call = 0
        self._stop_by: Instant | None = None
        self._over = False

    def __repr__(self) -> str:
        return f"BrokerServer(sessions={len(self._directory)}, calls={len(self._calls)}, over={self._over})"

    # ── the contract ───────────────────────────────────────────────────────────
    def handle(self, fact: WireFact | AppFact, now: Instant) -> None:
        if self._over:
            return
        if isinstance(fact, _OF_A_LINK):
            if self._desk.owns(fact.link):
                self._desk.handle(fact, now)
            elif self._host.owns(fact.link):
                self._host.handle(fact, now)
            elif self._outgoing.owns(fact.link):
                self._outgoing.handle(fact, now)
            elif self._forwarding is not None:
                self._forwarding.handle(fact, now)
        elif isinstance(fact, Drained):
            self._calls.drained(fact.link)
            return
        elif isinstance(fact, Accepted):
            self._desk.accepted(fact, now)
        elif isinstance(fact, Opened):
            self._outgoing.handle(fact, now)
            if self._forwarding is not None:
                self._forwarding.handle(fact, now)
        elif isinstance(fact, Wake):
            self._wake(now)
        elif isinstance(fact, Reload):
            self._inbound.rules, self._outbound.rules = self._filters(fact.rules)
        elif isinstance(fact, Authorize):
            if self._authority is not None:
                self._authority.answer(fact, now)
        elif isinstance(fact, Leased | Located):
            if self._forwarding is not None:
                self._forwarding.directory(fact, now)
                self._host.mark = session_mark(self._forwarding.nodes.number)
        elif isinstance(fact, Stop):
            self._stop(now + fact.within, now)
        elif isinstance(fact, Answer | AnswerHead | AnswerBody | AnswerEnd | AnswerCut):
            self._answer(fact, now)
        if not self._started:  # not sooner, because a fact that is refused changes nothing
            self._start(now)
        self._settle(now)

    def poll(self) -> Any | None:
        return self._wishes.popleft() if self._wishes else None

    def deadline(self) -> Instant | None:
        if self._over:
            return None
        first = earliest(self._host.deadline(), self._stop_by)
        for part in self._timed:
            at = part.deadline()
            if at is not None and (first is None or at < first):
                first = at
        return first

    def figures(self) -> Figures:
        """Return what was counted, and what there is at the moment."""
        told = self._dispatcher
        return self._tally.read(
            tunnels=len(self._directory),
            in_flight=self._in_flight(),
            told={} if told is None else {"success": told.succeeded, "failure": told.failed},
        )

    # ── turns ──────────────────────────────────────────────────────────────────
    def _wake(self, now: Instant) -> None:
        self._host.handle(WAKE, now)
        for part in self._timed:
            part.wake(now)

    def _settle(self, now: Instant) -> None:
        """Hand events from part to part until none is left."""
        self._work_off(now)
        if self._stop_by is not None and (now >= self._stop_by or not self._busy()):
            self._host.close_all(now)
            self._work_off(now)
            self._over = True
            self._wishes.append(Finished(None))

    def _work_off(self, now: Instant) -> None:
        busy = True
        while busy:
            busy = False
            while (event := self._desk.next()) is not None:
                self._from_desk(event, now)
                busy = True
            while (said := self._host.poll()) is not None:
                self._tunnels.happened(said, now)
                busy = True
            while (found := self._outgoing.next()) is not None:
                self._answered(*found, now)
                busy = True
            if self._forwarding is not None and self._forwarding.settle(now):
                busy = True
            self._calls.dispatch(now)

    def _answered(self, errand: Errand, event: ClientEvent, now: Instant) -> None:
        """Hand on what came of a request of ours, to whoever made it."""
        if isinstance(errand.owner, Report) and self._dispatcher is not None:
            self._dispatcher.happened(errand, event, now)
        elif isinstance(errand.owner, Check) and self._authority is not None:
            self._authority.happened(errand, event, now)
        else:
            self._platform.happened(errand, event, now)

    # ── beginning and ending ───────────────────────────────────────────────────
    def _start(self, now: Instant) -> None:
        self._started = True
        if self._dispatcher is not None:
            self._dispatcher.started(now)

    def _stop(self, until: Instant, now: Instant) -> None:
        """Take no more; what is under way may take until then."""
        if self._stop_by is None:
            self._last_call = next(self._numbers)
            if self._dispatcher is not None:
                self._dispatcher.stopping(now)
        self._stop_by = until
        self._status.stopping = True
        self._host.stop()
        self._desk.drain()

    def _busy(self) -> bool:
        """Whether something that began before the stop is not finished."""
        reading = self._desk.reading_before(self._last_call)
        telling = self._dispatcher is not None and self._dispatcher.busy
        return self._in_flight() + len(self._application) > 0 or reading or telling

    def _in_flight(self) -> int:
        elsewhere = len(self._forwarding) if self._forwarding is not None else 0
        return len(self._calls) + len(self._platform) + elsewhere

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
        if head.method == "POST" and self._upload_of(path) is not None:
            return None
        return self._limits.http_request_body

    def _upload_of(self, path: str) -> tuple[str, str] | None:
        """Return token and stream of the upload that a path is for. With authorization there is another one only."""
        if self._authorization:
            if path[: len(HIDDEN)].lower() != HIDDEN:
                return None
            path = path[len(HIDDEN) - 1 :]
        name, token, rest = route_of(path)
        return (token, rest.strip("/")) if name == "response-data" else None

    def _from_desk(self, event: DeskEvent, now: Instant) -> None:
        visit = event.visit
        if isinstance(event, Came):
            self._came(visit, now)
        elif isinstance(event, Piece):
            self._calls.upload_piece(visit, event.data, now)
        elif isinstance(event, Over):
            self._calls.upload_over(visit, now)
        elif isinstance(event, Began):
            if not self._admits(visit, now):
                return
            token, stream = self._upload_of(visit.path) or ("", "")
            self._calls.upload_began(visit, token, stream, now)
        elif self._tunnels.left(visit, now):
            return
        elif self._application.left(visit):
            self._wishes.append(Gone(visit.number))
        elif isinstance(event, Left):
            if self._authority is not None:
                self._authority.left(visit)
            self._calls.left(visit, now)

    def _came(self, visit: Visit, now: Instant) -> None:
        if not self._admits(visit, now):
            return
        if is_primus(visit.path):
            self._tunnels.visit(visit, now)
            return
        name, token, rest = route_of(visit.path)
        get = visit.head.method in ("GET", "HEAD")
        if self._stop_by is not None and visit.number > self._last_call and name in ("broker", "service"):
            self._tally.refuse("stopping")
            if self._forwarding is not None and visit.node is not None:
                self._forwarding.peers.turn_away(visit, now)
                return
            headers = (("x-broker-failure", "connection-not-ready"), JSON, RETRY_SOON)
            self._desk.respond(visit, 503, headers, compact({"ok": False}), now=now)
        elif name == "broker" and token and rest:
            self._callers.relay(visit, token, rest, now)
        elif name == "service" and token and rest and get:
            self._callers.service(visit, token, rest, now)
        elif self._authority is not None and self._authority.visit(visit, now):
            return
        elif not self._status.visit(visit, name, token, rest, now):
            question = self._application.ask(visit, now)
            if question is not None:
                self._wishes.append(question)

    def _admits(self, visit: Visit, now: Instant) -> bool:
        """Whether a visit may go on: it comes from a node, or does not say so."""
        return self._forwarding is None or self._forwarding.peers.admit(visit, now)

    # ── the application ────────────────────────────────────────────────────────
    def _answer(self, fact: Answering, now: Instant) -> None:
        if isinstance(fact, Answer | AnswerHead) and not 200 <= fact.status <= 599:
            raise LocalProtocolError(f"expected a final status, got {fact.status}")
        if not (isinstance(fact, Answer) and self._platform.answer(fact, now)):
            self._application.answer(fact, now)
