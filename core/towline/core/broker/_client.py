"""The broker client's root machine: two tunnels to the server, the upstream behind it, the agent's callbacks."""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import Any, Literal, TypeAlias

from towline.core._contract import Instant, Record
from towline.core._entropy import Entropy
from towline.core._errors import RemoteProtocolError, TowlineError
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
    Wake,
    WireFact,
)
from towline.core.broker._alarms import earliest
from towline.core.broker._answers import JSON, acknowledged, compact
from towline.core.broker._checks import Check, Checks
from towline.core.broker._client_config import ROLES, BrokerClientConfig
from towline.core.broker._desk import Came, Desk, DeskEvent, Left, Visit
from towline.core.broker._filter import Filter
from towline.core.broker._gate import Gate
from towline.core.broker._ids import request_id_of
from towline.core.broker._job import Tunnel
from towline.core.broker._jobs import Jobs
from towline.core.broker._local import Callbacks
from towline.core.broker._outgoing import Outgoing
from towline.core.broker._rules import AcceptRules
from towline.core.broker._server_config import Reload, Stop
from towline.core.tunnel import (
    Acked,
    Arrived,
    TunnelClient,
    TunnelClosed,
    TunnelIdentified,
    TunnelOpened,
    read_request,
)

ClientFact: TypeAlias = Reload | Stop


class TunnelsEnded(Record, frozen=True):
    """Both tunnels are closed for good: the server said so, or too many attempts failed.

    The machine goes on, and its health check fails; whether the program goes on is its own affair.
    """

    reason: str


class BrokerClient:
    """Machine[WireFact | ClientFact, WireWish | TunnelsEnded | Note].

    Paths of its own face: the health check, `/systemcheck` and `/filters`; any other is a callback of the agent.

    Raises:  RemoteProtocolError "invalid-configuration" from the constructor, for an address that cannot be read
    """

    def __init__(self, config: BrokerClientConfig, *, entropy: Entropy, limits: Limits = LIMITS) -> None:
        self._config = config
        self._limits = limits
        self._entropy = entropy.fork()
        self._wishes: deque[Any] = deque()
        self._server = config.server()
        agent = config.agent()
        links = LinkNumbers()
        self.client_id = config.client_id or entropy.uuid4()
        self._tunnels = tuple(
            Tunnel(
                role,
                TunnelClient(
                    config.tunnel(role, self.client_id, self._server),
                    links=links,
                    entropy=entropy.fork(),
                    limits=limits,
                ),
            )
            for role in ROLES
        )
        self._desk = Desk(
            self._wishes,
            lambda head: limits.http_request_body,
            entropy=entropy.fork(),
            numbers=count(1),
            limits=limits,
        )
        self._outgoing = Outgoing(self._wishes, links, limits=limits, route=config.route)
        self._rules = config.rules
        public, private = self._filters(config.rules)
        self._inbound = Gate(self._wishes, "inbound-request", private)
        self._outbound = Gate(self._wishes, "outbound-request", public)
        self._jobs = Jobs(
            self._outgoing,
            self._inbound,
            config.filled(),
            server=self._server,
            token=config.token,
            agent=None if agent is None else agent.origin,
            listed=config.substitutable,
            version=config.version,
            one_event_answers=config.one_event_answers,
            patience=config.answer_seconds,
            entropy=entropy.fork(),
            limits=limits,
        )
        self._callbacks = Callbacks(
            self._desk,
            self._tunnels,
            self._outbound,
            wait_seconds=config.callback_wait,
            answer_seconds=config.answer_seconds,
            limits=limits,
        )
        self._checks = Checks(self._desk, self._outgoing, config.check(), config.version)
        self._stop_by: Instant | None = None
        self._over = False

    def __repr__(self) -> str:
        states = ", ".join(f"{tunnel.role}={tunnel.client.state}" for tunnel in self._tunnels)
        return f"BrokerClient({states}, jobs={len(self._jobs)}, over={self._over})"

    # ── the contract ───────────────────────────────────────────────────────────
    def handle(self, fact: WireFact | ClientFact, now: Instant) -> None:
        if self._over:
            return
        if type(fact) is Received or isinstance(fact, Opened | Ended | Lost | Drained):
            self._from_link(fact, now)
        elif isinstance(fact, Accepted):
            self._desk.accepted(fact, now)
        elif isinstance(fact, Wake):
            for tunnel in self._tunnels:
                tunnel.client.handle(WAKE, now)
            self._desk.wake(now)
            self._outgoing.wake(now)
            self._callbacks.wake(now)
            self._checks.wake(now)
        elif isinstance(fact, Reload):
            self._rules = fact.rules
            self._outbound.rules, self._inbound.rules = self._filters(fact.rules)
        elif isinstance(fact, Stop):
            self._stop(fact.within, now)
        self._settle(now)

    def poll(self) -> Any | None:
        return self._wishes.popleft() if self._wishes else None

    def deadline(self) -> Instant | None:
        if self._over:
            return None
        return earliest(
            *(tunnel.client.deadline() for tunnel in self._tunnels),
            self._desk.deadline(),
            self._outgoing.deadline(),
            self._callbacks.deadline(),
            self._checks.deadline(),
            self._stop_by,
        )

    # ── turns ──────────────────────────────────────────────────────────────────
    def _from_link(self, fact: Received | Opened | Ended | Lost | Drained, now: Instant) -> None:
        link = fact.link
        if self._outgoing.owns(link):
            if not isinstance(fact, Drained):
                self._outgoing.handle(fact, now)
        elif self._desk.owns(link):
            if isinstance(fact, Received | Ended | Lost):
                self._desk.handle(fact, now)
        else:
            for tunnel in self._tunnels:
                if tunnel.client.owns(link):
                    tunnel.client.handle(fact, now)

    def _settle(self, now: Instant) -> None:
        """Hand events from part to part until none is left."""
        busy = True
        while busy:
            busy = False
            for tunnel in self._tunnels:
                while (said := tunnel.client.poll()) is not None:
                    self._from_tunnel(tunnel, said, now)
                    busy = True
            while (event := self._desk.next()) is not None:
                self._from_desk(event, now)
                busy = True
            while (found := self._outgoing.next()) is not None:
                errand, happened = found
                if isinstance(errand.owner, Check):
                    self._checks.happened(errand, happened, now)
                else:
                    self._jobs.happened(errand, happened, now)
                busy = True
            self._jobs.dispatch(now)
        if self._stop_by is not None and (now >= self._stop_by or not (len(self._jobs) or len(self._callbacks))):
            self._end(now)

    def _note(self, level: Literal["debug", "info", "warning", "error"], event: str, **fields: Any) -> None:
        self._wishes.append(Note(level, event, fields))

    def _filters(self, rules: AcceptRules) -> tuple[Filter, Filter]:
        variables, strict = self._config.filled(), self._config.filter_strict
        filters = [
            Filter(side, variables, strict=strict, limits=self._limits) for side in (rules.public, rules.private)
        ]
        for warning in (*rules.warnings, *filters[0].warnings, *filters[1].warnings):
            self._note("warning", "filter.rule", problem=warning)
        return filters[0], filters[1]

    def _stop(self, within: float, now: Instant) -> None:
        self._stop_by = now + within
        self._desk.drain(now)
        for tunnel in self._tunnels:
            if tunnel.open:
                try:
                    tunnel.client.emit("terminate", [{"signal": "SIGTERM"}], now=now)
                except TowlineError:
                    continue

    def _end(self, now: Instant) -> None:
        self._over = True
        for tunnel in self._tunnels:
            tunnel.client.close("stopping", now=now)
            while (said := tunnel.client.poll()) is not None:
                if not isinstance(said, TunnelClosed):
                    self._wishes.append(said)
        self._wishes.append(Finished(None))

    # ── tunnels ────────────────────────────────────────────────────────────────
    def _from_tunnel(self, tunnel: Tunnel, said: Any, now: Instant) -> None:
        if isinstance(said, Arrived):
            self._arrived(tunnel, said, now)
        elif isinstance(said, Acked):
            self._callbacks.acked(tunnel, said.ack_id, said.args, now)
        elif isinstance(said, TunnelOpened):
            self._note("info", "tunnel.open", role=tunnel.role, transport=said.transport)
            self._callbacks.tunnel_opened(now)
        elif isinstance(said, TunnelIdentified):
            tunnel.capabilities = said.capabilities
        elif isinstance(said, TunnelClosed):
            self._closed(tunnel, said, now)
        else:
            self._wishes.append(said)

    def _closed(self, tunnel: Tunnel, said: TunnelClosed, now: Instant) -> None:
        retry_in = None if said.retry_at is None else round(said.retry_at - now, 3)
        level: Literal["error", "warning"] = "error" if said.final else "warning"
        self._note(level, "tunnel.closed", role=tunnel.role, reason=said.reason, final=said.final, retry_in=retry_in)
        tunnel.capabilities = ()
        self._jobs.tunnel_lost(tunnel)
        self._callbacks.lost(tunnel, said.lost_acks, now)
        if all(other.client.state == "closed" for other in self._tunnels):
            self._wishes.append(TunnelsEnded(said.reason))

    def _arrived(self, tunnel: Tunnel, said: Arrived, now: Instant) -> None:
        if said.name == "request":
            self._jobs.arrived(tunnel, said.args, said.ack_id, now)
        elif said.name == "service":
            self._service(tunnel, said, now)
        elif said.name == "notification":
            self._notification(said)

    def _service(self, tunnel: Tunnel, said: Arrived, now: Instant) -> None:
        """Answer a service command (broker-protocol.md §2.7)."""
        if said.ack_id is None:
            return
        try:
            asked = read_request(said.args)
        except RemoteProtocolError:
            command, request_id = "", ""
        else:
            command = asked.url.partition("?")[0].rstrip("/")
            request_id = request_id_of(asked.headers.items(), self._entropy)
        status, ok, text = 400, False, "Unknown service command."
        if command == "/filters/reload":
            status, ok, text = 200, True, "Filters reloaded."
        elif command == "/config/reload":
            status, text = 501, "Service command not available in classic broker."
        body = compact({"ok": ok, "msg": text}).decode()
        answer = acknowledged(status, body, request_id, {"requestId": request_id})
        tunnel.client.acknowledge(said.ack_id, [answer], now=now)

    def _notification(self, said: Arrived) -> None:
        told = said.args[0] if said.args and isinstance(said.args[0], dict) else {}
        level: Literal["info", "warning", "error"] = "info"
        if told.get("level") in ("warning", "error"):
            level = told["level"]
        self._note(level, "server.notification", message=str(told.get("message", ""))[: self._limits.foreign_text])

    # ── the client's own face ──────────────────────────────────────────────────
    def _from_desk(self, event: DeskEvent, now: Instant) -> None:
        if isinstance(event, Came):
            self._came(event.visit, now)
        elif isinstance(event, Left):
            self._callbacks.left(event.visit)
            self._checks.left(event.visit)

    def _came(self, visit: Visit, now: Instant) -> None:
        path, method = visit.path.rstrip("/").lower() or "/", visit.head.method
        if path == self._config.healthcheck_path.lower() and method in ("GET", "HEAD"):
            self._health(visit, now)
        elif path == self._config.systemcheck_path.lower() and method in ("GET", "HEAD"):
            self._checks.came(visit, now)
        elif path == "/filters" and method in ("GET", "POST"):
            self._desk.respond(visit, 200, (JSON,), compact(self._rules.shown()), now=now)
        else:
            self._callbacks.came(visit, now)

    def _health(self, visit: Visit, now: Instant) -> None:
        """Answer with one entry a tunnel (broker-protocol.md §2.9); fine while at least one is open."""
        entries = [
            {
                "ok": tunnel.open,
                "websocketConnectionOpen": tunnel.open,
                "brokerServerUrl": f"{self._server.origin}/?connection_role={tunnel.role}",
                "version": self._config.version,
                "transport": tunnel.client.transport or "websocket",
            }
            for tunnel in self._tunnels
        ]
        well = any(tunnel.open for tunnel in self._tunnels) and self._stop_by is None
        self._desk.respond(visit, 200 if well else 500, (JSON,), compact(entries), now=now)
