"""The broker client's root machine: two tunnels to the server, the upstream behind it, the agent's callbacks."""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import Any, Final, Literal, TypeAlias

from towline.core._contract import Instant
from towline.core._entropy import Entropy
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._wire import (
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
from towline.core.broker._answers import JSON, compact
from towline.core.broker._commands import Reload, Stop
from towline.core.broker._desk import Came, Desk, DeskEvent, Left, Visit
from towline.core.broker._ends import ended
from towline.core.broker._ids import request_id_of
from towline.core.broker._outgoing import Errand, Outgoing
from towline.core.broker._tally import Figures
from towline.core.broker.client._checks import Checks, Probe
from towline.core.broker.client._client_config import BrokerClientConfig
from towline.core.broker.client._connection import Connection
from towline.core.broker.client._dialling import Dialling, TunnelsEnded
from towline.core.broker.client._filters_page import FiltersPage, RulesRead, RulesWanted
from towline.core.broker.client._job import Job, Tunnel
from towline.core.broker.client._jobs import Jobs
from towline.core.broker.client._local import Callbacks
from towline.core.broker.client._preflight import Asking as PreflightAsking
from towline.core.broker.client._preflight import Preflight, server_checks
from towline.core.broker.client._webhooks import Webhook, Webhooks
from towline.core.http import ClientEvent
from towline.core.tunnel import (
    Acked,
    Arrived,
    ResponsePayload,
    TunnelClosed,
    TunnelIdentified,
    TunnelOpened,
    read_request,
)

_CHECKS: Final = "/health/checks"

ClientFact: TypeAlias = Reload | RulesRead | Stop


# One tuple, made once: a union would be made anew for each fact.
_OF_A_LINK: Final = (Received, Filled, Opened, Ended, Lost, Drained)


class BrokerClient:
    """Machine[WireFact | ClientFact, WireWish | TunnelsEnded | RulesWanted | Note].

    Paths of its own face: the health check, `/systemcheck`, `/filters` and `/health/checks`; any other is a callback
    of the agent.

    Raises:  RemoteProtocolError "invalid-configuration" from the constructor, for an address that cannot be read
    """

    def __init__(self, config: BrokerClientConfig, *, entropy: Entropy, limits: Limits = LIMITS) -> None:
        self._config = config
        self._limits = limits
        self._entropy = entropy.fork()
        self._wishes: deque[Any] = deque()
        links = LinkNumbers()
        self.client_id = config.client_id or entropy.uuid4()
        served = config.served()
        self._connections = tuple(
            Connection(config, own, self._wishes, client_id=self.client_id, links=links, entropy=entropy, limits=limits)
            for own in served
        )
        self._tunnels = tuple(tunnel for connection in self._connections for tunnel in connection.tunnels)
        self._desk = Desk(
            self._wishes,
            lambda head: limits.http_request_body,
            entropy=entropy.fork(),
            numbers=count(1),
            limits=limits,
            epoch=config.epoch,
        )
        self._outgoing = Outgoing(self._wishes, links, limits=limits, route=config.route)
        self._jobs = Jobs(self._outgoing, config, entropy=entropy.fork(), limits=limits)
        self._webhooks = Webhooks(self._desk, self._outgoing, config, limits)
        self._callbacks = Callbacks(
            self._desk,
            self._connections,
            self._webhooks,
            self._jobs.tally,
            wait_seconds=config.callback_wait,
            answer_seconds=config.answer_seconds,
            limits=limits,
        )
        checks = {
            own.name if config.connections else "": own.check(insecure=config.insecure_downstream) for own in served
        }
        self._checks = Checks(self._desk, self._outgoing, checks, config.version, config.check_seconds)
        self._filters = FiltersPage(self._desk, self._connections)
        servers = [server for connection in self._connections for server in connection.servers]
        self._preflight = Preflight(self._desk, self._outgoing, config, server_checks(servers))
        self._dialling = Dialling(
            self._wishes,
            self._outgoing,
            config,
            self._connections,
            client_id=self.client_id,
            entropy=entropy.fork(),
        )
        self._started: Instant | None = None
        self._stop_by: Instant | None = None
        self._over = False

    def __repr__(self) -> str:
        return f"BrokerClient({list(self._connections)}, jobs={len(self._jobs)}, over={self._over})"

    # ── the contract ───────────────────────────────────────────────────────────
    def handle(self, fact: WireFact | ClientFact, now: Instant) -> None:
        if self._over:
            return
        if isinstance(fact, _OF_A_LINK):
            self._from_link(fact, now)
        elif isinstance(fact, Accepted):
            self._desk.accepted(fact, now)
        elif isinstance(fact, Wake):
            self._wake(now)
        elif isinstance(fact, Reload):
            for connection in self._connections:
                connection.take_rules(fact.rules)
        elif isinstance(fact, RulesRead):
            self._filters.read(fact, now)
        elif isinstance(fact, Stop):
            self._stop(fact.within, now)
        self._settle(now)

    def poll(self) -> Any | None:
        return self._wishes.popleft() if self._wishes else None

    def deadline(self) -> Instant | None:
        if self._over:
            return None
        return earliest(
            self._dialling.deadline(),
            self._desk.deadline(),
            self._outgoing.deadline(),
            self._callbacks.deadline(),
            self._checks.deadline(),
            self._filters.deadline(),
            self._preflight.deadline(),
            self._stop_by,
        )

    def figures(self) -> Figures:
        """Return what was counted, and what there is at the moment."""
        ready = sum(tunnel.open for tunnel in self._tunnels)
        return self._jobs.tally.read(tunnels=ready, in_flight=len(self._jobs) + len(self._callbacks))

    # ── turns ──────────────────────────────────────────────────────────────────
    def _wake(self, now: Instant) -> None:
        if self._started is None:
            self._begin(now)
        self._dialling.wake(now)
        self._desk.wake(now)
        self._outgoing.wake(now)
        self._callbacks.wake(now)
        self._checks.wake(now)
        self._filters.wake(now)
        self._preflight.wake(now)

    def _begin(self, now: Instant) -> None:
        self._started = now
        if self._config.preflight:
            self._preflight.begin(now)
            self._tell_preflight()
        self._dialling.begin(now)

    def _tell_preflight(self) -> None:
        self._preflight.news = False
        for connection in self._connections:
            connection.checked(self._preflight.known)

    def _from_link(self, fact: Received | Filled | Opened | Ended | Lost | Drained, now: Instant) -> None:
        link = fact.link
        if self._outgoing.owns(link):
            if not isinstance(fact, Drained):
                self._outgoing.handle(fact, now)
        elif self._desk.owns(link):
            if not isinstance(fact, Opened | Drained):
                self._desk.handle(fact, now)
        else:
            for tunnel in self._tunnels:
                if tunnel.client.owns(link):
                    tunnel.client.handle(fact, now)
                    self._dialling.touched(tunnel)
                    return

    def _settle(self, now: Instant) -> None:
        """Hand events from part to part until none is left."""
        busy = True
        while busy:
            busy = False
            for tunnel in self._tunnels:
                told = False
                while (said := tunnel.client.poll()) is not None:
                    self._from_tunnel(tunnel, said, now)
                    told = True
                if told:
                    self._dialling.touched(tunnel)
                    busy = True
            while (event := self._desk.next()) is not None:
                self._from_desk(event, now)
                busy = True
            while (found := self._outgoing.next()) is not None:
                self._from_outgoing(*found, now)
                busy = True
            self._jobs.dispatch(now)
        busy_still = len(self._jobs) or len(self._callbacks) or len(self._webhooks)
        if self._stop_by is not None and (now >= self._stop_by or not busy_still):
            self._end(now)

    def _from_outgoing(self, errand: Errand, event: ClientEvent, now: Instant) -> None:
        owner = errand.owner
        if isinstance(owner, Job):
            self._jobs.happened(errand, event, now)
        elif isinstance(owner, Probe):
            self._checks.happened(errand, event, now)
        elif isinstance(owner, Webhook):
            self._webhooks.happened(errand, event, now)
        elif isinstance(owner, PreflightAsking):
            self._preflight.happened(errand, event, now)
            if self._config.preflight and self._preflight.news:
                self._tell_preflight()
        else:
            self._dialling.happened(errand, event, now)

    def _note(
        self, level: Literal["debug", "info", "warning", "error"], event: str, connection: Connection, **fields: Any
    ) -> None:
        self._wishes.append(Note(level, event, connection.told(fields)))

    def _stop(self, within: float, now: Instant) -> None:
        self._stop_by = now + within
        self._desk.drain()
        for connection in self._connections:
            connection.leave(0.0 if self._started is None else now - self._started, now)

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
            tunnel.failures = 0
            self._dialling.opened(tunnel, now)
            told = {"role": tunnel.role, "transport": said.transport, "server": str(tunnel.place.server.origin)}
            self._note("info", "tunnel.open", tunnel.connection, **told)
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
        told = {"role": tunnel.role, "reason": said.reason, "final": said.final, "retry_in": retry_in}
        self._note(level, "tunnel.closed", tunnel.connection, **told)
        tunnel.capabilities = ()
        self._jobs.tunnel_lost(tunnel, now)
        self._jobs.tally.close(ended(said.reason, opened=said.session > 0))
        self._callbacks.lost(tunnel, said.lost_acks, now)
        self._dialling.lost(tunnel, now)
        if not said.final:
            tunnel.connection.lost(tunnel)
            return
        tunnel.exhausted = said.exhausted
        if all(connection.closed for connection in self._connections):
            self._wishes.append(TunnelsEnded(said.reason, any(other.exhausted for other in self._tunnels)))

    def _arrived(self, tunnel: Tunnel, said: Arrived, now: Instant) -> None:
        if said.name == "request":
            self._jobs.arrived(tunnel, said.args, said.ack_id, now)
        elif said.name == "cancel":
            self._jobs.cancelled(tunnel, said.args, now)
        elif said.name == "service":
            self._service(tunnel, said, now)
        elif said.name == "notification":
            self._notification(tunnel, said)

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
        elif command == "/config/reload" and self._config.connections:
            self._read_rules(self._filters.want())
            status, ok, text = 200, True, "Synchronizing Config."
        elif command == "/config/reload":
            status, text = 501, "Service command not available in classic broker."
        body = compact({"ok": ok, "msg": text}).decode()
        answer = ResponsePayload(status, {"requestId": request_id}, body)
        tunnel.client.acknowledge(said.ack_id, [answer.to_wire()], now=now)

    def _read_rules(self, first: bool) -> None:
        if first:
            self._wishes.append(RulesWanted())

    def _notification(self, tunnel: Tunnel, said: Arrived) -> None:
        told = said.args[0] if said.args and isinstance(said.args[0], dict) else {}
        level: Literal["info", "warning", "error"] = "info"
        if told.get("level") in ("warning", "error"):
            level = told["level"]
        message = str(told.get("message", ""))[: self._limits.foreign_text]
        self._note(level, "server.notification", tunnel.connection, message=message)

    # ── the client's own face ──────────────────────────────────────────────────
    def _from_desk(self, event: DeskEvent, now: Instant) -> None:
        if isinstance(event, Came):
            self._came(event.visit, now)
        elif isinstance(event, Left):
            for part in (self._callbacks, self._webhooks, self._checks, self._filters, self._preflight):
                part.left(event.visit)

    def _came(self, visit: Visit, now: Instant) -> None:
        path, method = visit.path.rstrip("/").lower() or "/", visit.head.method
        if path == self._config.healthcheck_path.lower() and method in ("GET", "HEAD"):
            self._health(visit, now)
        elif path == self._config.systemcheck_path.lower() and method in ("GET", "HEAD"):
            self._checks.came(visit, now)
        elif path == "/filters" and method in ("GET", "POST"):
            self._read_rules(self._filters.came(visit, now))
        elif (path == _CHECKS or path.startswith(_CHECKS + "/")) and method in ("GET", "HEAD"):
            self._preflight.came(visit, path[len(_CHECKS) + 1 :] or None, now)
        else:
            self._callbacks.came(visit, now)

    def _health(self, visit: Visit, now: Instant) -> None:
        """Answer with one entry a tunnel (broker-protocol.md §2.9); fine while at least one is open."""
        entries = [entry for connection in self._connections for entry in connection.health()]
        well = any(connection.open for connection in self._connections) and self._stop_by is None
        self._desk.respond(visit, 200 if well else 500, (JSON,), compact(entries), now=now)
