"""One connection of a client: its two tunnels, its rules, its variables and their contexts."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from towline.core._contract import Instant
from towline.core._entropy import Entropy
from towline.core._errors import RemoteProtocolError, TowlineError
from towline.core._limits import LIMITS, Limits
from towline.core._secret import Secret
from towline.core._wire import LinkNumbers, Note
from towline.core.broker._ids import masked_token
from towline.core.broker._inbound import CONTEXT_HEADER
from towline.core.broker.client._client_config import ROLES, BrokerClientConfig, ConnectionConfig
from towline.core.broker.client._job import Place, Tunnel
from towline.core.broker.client._outlook import Outlook
from towline.core.broker.filter._filter import Filter
from towline.core.broker.filter._gate import Gate
from towline.core.broker.filter._rules import AcceptRules
from towline.core.tunnel import TunnelClient

# How often a tunnel keeps to servers that its sister is not open to, before it joins her.
_ALONE: Final = 8


class Connection:
    """`inbound` is the gate of what comes down the tunnels, `outbound` of the agent's callbacks.

    Raises:  RemoteProtocolError "invalid-configuration" from the constructor, for an address that cannot be read, and
             without a token (Q16)
    """

    def __init__(
        self,
        config: BrokerClientConfig,
        own: ConnectionConfig,
        wishes: deque[Any],
        *,
        client_id: str,
        links: LinkNumbers,
        entropy: Entropy,
        limits: Limits = LIMITS,
    ) -> None:
        if not own.token.reveal():
            raise RemoteProtocolError("invalid-configuration", "expected a connection's token, got none")
        self.own = own
        self.slug = own.slug if config.connections else ""
        self.quoted_token = quote(own.token.reveal(), safe="/")
        self._config = config
        self._wishes = wishes
        self._client_id = client_id
        self._limits = limits
        self.servers = own.servers()
        places = [Place(self.servers[at % len(self.servers)]) for at in range(len(ROLES))]
        self.tunnels = tuple(
            Tunnel(
                self,
                role,
                TunnelClient(
                    config.tunnel(own, role, client_id, place.server),
                    links=links,
                    entropy=entropy.fork(),
                    limits=limits,
                ),
                place,
            )
            for role, place in zip(ROLES, places, strict=True)
        )
        for overlay in own.contexts.values():
            own.agent(overlay)
        # What tunnels and uploads show, once there is something to show.
        self.authorization: Secret | None = None
        self._preflight: list[dict[str, Any]] | None = None
        nothing = Filter((), {}, limits=limits)
        passages = config.note_passages
        self.inbound = Gate(wishes, "inbound-request", nothing, self.slug, passages=passages)
        self.outbound = Gate(wishes, "outbound-request", nothing, self.slug, passages=passages)
        self._contexts: dict[str, Outlook]
        self._prepare()

    def __repr__(self) -> str:
        states = ", ".join(f"{tunnel.role}={tunnel.client.state}" for tunnel in self.tunnels)
        return f"Connection({self.own.name or 'the only one'}, {states})"

    # ── rules and variables ────────────────────────────────────────────────────
    def take_rules(self, rules: AcceptRules) -> None:
        """Decide by these rules from here on, and tell them with the next identify."""
        self.own = msgspec.structs.replace(self.own, rules=rules)
        self._prepare()
        for tunnel in self.tunnels:
            self._move(tunnel, tunnel.place)

    def _prepare(self) -> None:
        rules = self.own.rules
        self.outlook = self._outlook(None)
        self._contexts = {}
        public = Filter(rules.public, self.own.filled(), strict=self._config.filter_strict, limits=self._limits)
        self.inbound.rules, self.outbound.rules = self.outlook.private, public
        for warning in (*rules.warnings, *public.warnings, *self.outlook.warnings):
            self._wishes.append(Note("warning", "filter.rule", self.told({"problem": warning})))

    def outlook_for(self, headers: Mapping[str, str]) -> Outlook | None:
        """Return what a request is filled in with; None when it names a context that there is not."""
        context = headers.get(CONTEXT_HEADER)
        if context is None:
            return self.outlook
        found = self._contexts.get(context)
        if found is None and context in self.own.contexts:
            found = self._contexts[context] = self._outlook(self.own.contexts[context])
        return found

    def _outlook(self, overlay: Mapping[str, Any] | None) -> Outlook:
        return Outlook(self._config, self.own, overlay, limits=self._limits)

    def told(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Return a note's fields, which say whose they are where there are several."""
        return fields | {"connection": self.slug} if self.slug else fields

    # ── tunnels ────────────────────────────────────────────────────────────────
    @property
    def open(self) -> bool:
        return any(tunnel.open for tunnel in self.tunnels)

    @property
    def closed(self) -> bool:
        """Whether no tunnel will come back."""
        return all(tunnel.client.state == "closed" for tunnel in self.tunnels)

    def open_tunnel(self) -> Tunnel | None:
        return next((tunnel for tunnel in self.tunnels if tunnel.open), None)

    def lost(self, tunnel: Tunnel) -> None:
        """An attempt failed or a connection ended: the next goes to the next server.

        Two tunnels are for two servers, so one that her sister is open to is passed over for a while.
        """
        tunnel.failures += 1
        if len(self.servers) < 2:
            return
        at = self.servers.index(tunnel.place.server)
        after = [*self.servers[at + 1 :], *self.servers[: at + 1]]
        taken = {other.place.server for other in self.tunnels if other is not tunnel and other.open}
        free = [server for server in after if server not in taken] if tunnel.failures <= _ALONE else after
        self._move(tunnel, Place((free or after)[0], tunnel.place.server_id))

    def found(self, server_id: str) -> None:
        """The dispatcher named the server that this connection belongs to."""
        for tunnel in self.tunnels:
            self._move(tunnel, Place(tunnel.place.server, server_id))

    def authorize(self, authorization: Secret) -> None:
        """Show this from the next connection and the next upload on."""
        self.authorization = authorization
        for tunnel in self.tunnels:
            self._move(tunnel, tunnel.place)

    def checked(self, results: list[dict[str, Any]]) -> None:
        """Tell these preflight checks with the next identify."""
        self._preflight = results
        for tunnel in self.tunnels:
            self._move(tunnel, tunnel.place)

    def _move(self, tunnel: Tunnel, place: Place) -> None:
        tunnel.place = place
        settings = self._config.tunnel(
            self.own,
            tunnel.role,
            self._client_id,
            place.server,
            server_id=place.server_id,
            preflight=self._preflight,
            authorization=self.authorization,
        )
        tunnel.client.reconfigure(settings)

    def report(self, kind: str, fields: dict[str, Any], now: Instant) -> None:
        """Tell the server what befell this client, on one tunnel; it is not worth waiting for (§1.7)."""
        tunnel = self.open_tunnel()
        if tunnel is not None:
            self._tell(tunnel, "client-event", {"ts": self._ms(now), "event": {"type": kind, **fields}}, now)

    def leave(self, up_seconds: float, now: Instant) -> None:
        """Tell the server that this client stops on purpose."""
        self.report("client-shutdown", {"reason": "clean", "uptimeSeconds": int(up_seconds)}, now)
        for tunnel in self.tunnels:
            if tunnel.open:
                self._tell(tunnel, "terminate", {"signal": "SIGTERM"}, now)

    def _tell(self, tunnel: Tunnel, name: str, argument: dict[str, Any], now: Instant) -> None:
        try:
            tunnel.client.emit(name, [argument], now=now)
        except TowlineError as error:
            self._wishes.append(Note("debug", "tunnel.untold", self.told({"name": name, "why": error.message})))

    def _ms(self, now: Instant) -> int:
        return int((self._config.epoch + now) * 1000)

    def health(self) -> list[dict[str, Any]]:
        """Return one entry a tunnel (broker-protocol.md §2.9)."""
        named = {}
        if self.slug:
            named = {"identifier": masked_token(self.own.token.reveal()), "friendlyName": self.own.name}
        return [
            {
                "ok": tunnel.open,
                "websocketConnectionOpen": tunnel.open,
                "brokerServerUrl": f"{tunnel.place.server.origin}/?connection_role={tunnel.role}",
                "version": self._config.version,
                "transport": tunnel.client.transport or "websocket",
                **named,
            }
            for tunnel in self.tunnels
        ]
