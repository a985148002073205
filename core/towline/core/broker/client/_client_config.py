"""Settings of a broker client, and what they mean for its tunnels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._secret import Secret
from towline.core.broker._ids import hashed_token
from towline.core.broker.client._checks import CheckConfig, Credential
from towline.core.broker.client._substitution import ONLY_TO_AGENT
from towline.core.broker.filter._expand import Variables, entries_of
from towline.core.broker.filter._filter import basic_authorization, in_clear_text
from towline.core.broker.filter._rules import DEFAULT_AGENT_RULES, AcceptRules
from towline.core.http import Origin, Url
from towline.core.tunnel import CAPABILITY_POST, TunnelConfig

Role = Literal["primary", "secondary"]
ROLES: Final[tuple[Role, Role]] = ("primary", "secondary")
# What callbacks' paths begin with where there are several connections, and the header that names one.
PREFIX: Final = "/connections/"
CONNECTION_HEADER: Final = "x-cra-connection"

_WEBSOCKET: Final = re.compile(r"ws(s?)://", re.IGNORECASE)
_VENDOR: Final = re.compile(r"//broker2?\.")
_NOT_IN_PATHS: Final = re.compile(r"[^A-Za-z0-9._-]+")
_MANY_ATTEMPTS: Final = 1_000_000


class ConnectionConfig(Record, frozen=True, kw_only=True):
    """One connection: a token, the servers it is known to, and what stands behind it.

    Shape:  `variables` fill `${VAR}` in rules; `substitutable` lists those of them that the far side may name besides
            the fixed ones; `contexts` overlay them for requests that name a context. The first of `server_urls` is
            for the primary tunnel, the next for the secondary; without any `server_url` is for both
    """

    server_url: str = ""
    token: Secret = Secret("")
    name: str = ""
    type: str | None = None
    server_urls: tuple[str, ...] = ()
    agent_url: str | None = None
    client_url: str | None = None
    rules: AcceptRules = DEFAULT_AGENT_RULES
    variables: Variables = msgspec.field(default_factory=dict)
    substitutable: tuple[str, ...] = ()
    contexts: Mapping[str, Variables] = msgspec.field(default_factory=dict)
    check_url: str | None = None
    check_method: str = "GET"
    check_authorizations: tuple[Secret, ...] = ()
    check_basics: tuple[Secret, ...] = ()

    @property
    def slug(self) -> str:
        """The name as it stands in paths."""
        return _NOT_IN_PATHS.sub("-", self.name).strip("-.")[:64]

    def servers(self) -> tuple[Url, ...]:
        """Return the servers' addresses; `ws` and `wss` stand for `http` and `https`."""
        texts = self.server_urls or (self.server_url,)
        return tuple(read_url(_WEBSOCKET.sub(r"http\1://", text, count=1), "the broker server's URL") for text in texts)

    def agent(self, overlay: Variables | None = None, *, insecure: bool = False) -> Origin | None:
        """Return the agent's origin, the only one that the registry's credentials go to."""
        said = (overlay or {}).get("CR_AGENT_URL", self.agent_url)
        if said is None:
            return None
        url = read_url(said.reveal() if isinstance(said, Secret) else said, "the agent's URL")
        return (in_clear_text(url) if insecure else url).origin

    def filled(self, overlay: Variables | None = None, *, prefixed: bool = False) -> dict[str, str | Secret]:
        """Return the variables that rules are filled in with: the given ones, and the two addresses.

        `prefixed` says that the client has several connections, so that callbacks must tell whose they are.
        """
        variables = dict(self.variables)
        if self.agent_url is not None:
            variables["CR_AGENT_URL"] = self.agent_url
        if self.client_url is not None:
            variables["BROKER_CLIENT_URL"] = self.client_url
        variables |= overlay or {}
        called = variables.get("BROKER_CLIENT_URL")
        if prefixed and called is not None:
            text = called.reveal() if isinstance(called, Secret) else called
            variables["BROKER_CLIENT_URL"] = text.rstrip("/") + PREFIX + self.slug
        return variables

    def check(self, *, insecure: bool = False) -> CheckConfig | None:
        """Return what `/systemcheck` asks: what is configured, else the agent's own check of the registry."""
        credentials = tuple(Credential(secret, secret) for secret in self.check_authorizations)
        credentials += tuple(Credential(basic_authorization(pair), pair) for pair in self.check_basics)
        if self.check_url is not None:
            url = read_url(self.check_url, "the check's URL")
        elif self.agent_url is not None:
            url = read_url(self.agent_url.rstrip("/") + "/systemcheck", "the agent's URL")
            if not credentials:
                credentials = tuple(Credential(entry, entry) for entry in entries_of(ONLY_TO_AGENT, self.variables))
        else:
            return None
        return CheckConfig(in_clear_text(url) if insecure else url, self.check_method, credentials)


class BrokerClientConfig(ConnectionConfig, frozen=True, kw_only=True):
    """Settings of a broker client. Its only connection is described by its own fields, several by `connections`.

    Shape:  `client_config` holds the flags of identify's `clientConfig`; `api_url` is the vendor's API, which
            high availability, webhooks without a tunnel and one of the preflight checks need; `tls_here` says that
            the client's own URL is served with TLS, by whomever; with `oauth_id` and `oauth_secret` the client shows
            who it is
    Units:  seconds; `epoch` is wall-clock seconds since 1970 minus the driver's `now`
    """

    connections: tuple[ConnectionConfig, ...] = ()
    deployment_id: str | None = None
    version: str = "local"
    client_id: str | None = None
    epoch: float = 0.0
    one_event_answers: bool = True
    polling_first: bool = False
    filter_strict: bool = True
    # Whether each request that a filter lets pass is noted, at debug level: a note costs a tenth of a request.
    note_passages: bool = True
    insecure_downstream: bool = False
    substitute_bodies: bool = True
    substitute_headers: bool = True
    rewritten_url: str | None = None
    retries: int = 3
    healthcheck_path: str = "/healthcheck"
    systemcheck_path: str = "/systemcheck"
    check_seconds: float = 5.0
    preflight: bool = False
    client_config: Mapping[str, bool] = msgspec.field(default_factory=dict)
    tls_here: bool = False
    api_url: str | None = None
    high_availability: bool = False
    dispatcher_url: str | None = None
    dispatcher_prefix: str | None = None
    location: str = "snyk-broker-client"
    oauth_id: str | None = None
    oauth_secret: Secret | None = None
    answer_seconds: float = 600.0
    upload_seconds: float = 20 * 60.0
    callback_wait: float = 3.0
    ping_seconds: float = 25.0
    pong_seconds: float = 10.0
    connect_seconds: float = 10.0
    attempts: int = 30
    route: str = "direct"

    def served(self) -> tuple[ConnectionConfig, ...]:
        """Return the connections.

        Raises:  RemoteProtocolError "invalid-configuration" for two that cannot be told apart
        """
        if not self.connections:
            return (self,)
        slugs = [connection.slug for connection in self.connections]
        for at, slug in enumerate(slugs):
            if not slug or slug in slugs[:at]:
                why = "no name that can stand in a path" if not slug else f"a name of its own, and {slug} comes twice"
                raise RemoteProtocolError(
                    "invalid-configuration", f"connection {at + 1}: expected {'one with ' if not slug else ''}{why}"
                )
        return self.connections

    def api(self, server: Url) -> Url | None:
        """Return the vendor's API: the one that is set, else the one that belongs to a server of the vendor's."""
        if self.api_url is not None:
            return read_url(self.api_url, "the API's URL")
        text, changed = _VENDOR.subn("//api.", str(server.origin), count=1)
        return read_url(text, "the API's URL") if changed else None

    def tunnel(
        self,
        connection: ConnectionConfig,
        role: Role,
        client_id: str,
        server: Url,
        *,
        server_id: str | None = None,
        preflight: list[dict[str, Any]] | None = None,
        authorization: Secret | None = None,
    ) -> TunnelConfig:
        """Return the settings of one tunnel, identify metadata included (broker-protocol.md §1.8)."""
        return TunnelConfig(
            server_url=str(server),
            token=connection.token,
            role=role,
            client_id=client_id,
            version=self.version,
            metadata=self._metadata(connection, role, client_id, preflight),
            epoch=self.epoch,
            polling_first=self.polling_first,
            authorization=authorization,
            extra_query=() if server_id is None else (("server_id", server_id),),
            primus_ping=self.ping_seconds,
            primus_pong=self.pong_seconds,
            connect=self.connect_seconds,
            # Where one of several connections cannot get through, the others are no reason to give it up.
            attempts=self.attempts if len(self.connections) < 2 else _MANY_ATTEMPTS,
            route=self.route,
        )

    def _metadata(
        self, connection: ConnectionConfig, role: Role, client_id: str, preflight: list[dict[str, Any]] | None
    ) -> dict[str, Any]:
        """Return what a tunnel says of itself in its identify, in the established client's order."""
        filters: Any = connection.rules.shown()
        told: dict[str, Any] = {
            "capabilities": [CAPABILITY_POST],
            "clientId": client_id,
            "identifier": hashed_token(connection.token.reveal()),
            **({} if preflight is None else {"preflightChecks": preflight}),
            "version": self.version,
            "clientConfig": {
                "brokerClientId": client_id,
                "version": self.version,
                "haMode": self.high_availability,
                "debugMode": False,
                "bodyLogMode": False,
                "credPooling": False,
                "privateCa": False,
                "tlsReject": False,
                "proxy": self.route != "direct",
                "customAccept": connection.rules is not DEFAULT_AGENT_RULES,
                "insecureDownstream": self.insecure_downstream,
                "universalBroker": bool(self.connections),
                **self.client_config,
            },
            "filters": filters,
            "role": role,
        }
        if self.connections:
            kind = connection.type or "container-registry-agent"
            told |= {"filters": {kind: filters}, "supportedIntegrationType": kind}
        if self.deployment_id is not None:
            told["deploymentId"] = self.deployment_id
        return told


def read_url(text: str, what: str) -> Url:
    """Return an operator's address. Raises RemoteProtocolError "invalid-configuration" that says which, not what."""
    try:
        return Url.parse(text, "invalid-configuration")
    except RemoteProtocolError as error:
        raise RemoteProtocolError("invalid-configuration", f"{what}: {error.message}") from None
