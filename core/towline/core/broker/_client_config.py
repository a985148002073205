"""Settings of a broker client, and what they mean for its tunnels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._secret import Secret
from towline.core.broker._checks import CheckConfig
from towline.core.broker._expand import Variables
from towline.core.broker._ids import hashed_token
from towline.core.broker._rules import DEFAULT_AGENT_RULES, AcceptRules
from towline.core.broker._substitution import ONLY_TO_AGENT
from towline.core.http import Url
from towline.core.tunnel import CAPABILITY_POST, TunnelConfig

Role = Literal["primary", "secondary"]
ROLES: Final[tuple[Role, Role]] = ("primary", "secondary")

_WEBSOCKET: Final = re.compile(r"ws(s?)://", re.IGNORECASE)


class BrokerClientConfig(Record, frozen=True):
    """Settings of a broker client.

    Shape:  `variables` fill `${VAR}` in rules, `substitutable` lists those of them that the far side may name
            besides the fixed ones; `client_config` holds the flags of identify's `clientConfig`
    Units:  seconds; `epoch` is wall-clock seconds since 1970 minus the driver's `now`
    """

    server_url: str
    token: Secret
    agent_url: str | None = None
    client_url: str | None = None
    rules: AcceptRules = DEFAULT_AGENT_RULES
    variables: Variables = msgspec.field(default_factory=dict)
    substitutable: tuple[str, ...] = ()
    version: str = "local"
    client_id: str | None = None
    epoch: float = 0.0
    one_event_answers: bool = True
    polling_first: bool = False
    filter_strict: bool = True
    healthcheck_path: str = "/healthcheck"
    systemcheck_path: str = "/systemcheck"
    check_url: str | None = None
    check_method: str = "GET"
    check_authorizations: tuple[Secret, ...] = ()
    check_seconds: float = 5.0
    client_config: Mapping[str, bool] = msgspec.field(default_factory=dict)
    answer_seconds: float = 600.0
    callback_wait: float = 3.0
    ping_seconds: float = 25.0
    pong_seconds: float = 10.0
    connect_seconds: float = 10.0
    attempts: int = 30
    route: str = "direct"

    def server(self) -> Url:
        """Return the server's address; `ws` and `wss` stand for `http` and `https`."""
        text = _WEBSOCKET.sub(r"http\1://", self.server_url, count=1)
        return _read(text, "the broker server's URL")

    def agent(self) -> Url | None:
        return None if self.agent_url is None else _read(self.agent_url, "the agent's URL")

    def filled(self) -> dict[str, str | Secret]:
        """Return the variables that rules are filled in with: the given ones, and the two addresses."""
        variables = dict(self.variables)
        if self.agent_url is not None:
            variables["CR_AGENT_URL"] = self.agent_url
        if self.client_url is not None:
            variables["BROKER_CLIENT_URL"] = self.client_url
        return variables

    def check(self) -> CheckConfig | None:
        """Return what `/systemcheck` asks: what is configured, else the agent's own check of the registry."""
        authorizations = self.check_authorizations
        if self.check_url is not None:
            url = _read(self.check_url, "the check's URL")
        elif self.agent_url is not None:
            url = _read(self.agent_url.rstrip("/") + "/systemcheck", "the agent's URL")
            credentials = self.variables.get(ONLY_TO_AGENT)
            if not authorizations and credentials:
                authorizations = (credentials if isinstance(credentials, Secret) else Secret(credentials),)
        else:
            return None
        return CheckConfig(url, self.check_method, authorizations, self.check_seconds)

    def tunnel(self, role: Role, client_id: str, server: Url) -> TunnelConfig:
        """Return the settings of one of the two tunnels, identify metadata included (broker-protocol.md §1.8)."""
        metadata: dict[str, Any] = {
            "capabilities": [CAPABILITY_POST],
            "clientId": client_id,
            "identifier": hashed_token(self.token.reveal()),
            "version": self.version,
            "clientConfig": {
                "brokerClientId": client_id,
                "version": self.version,
                "haMode": False,
                "debugMode": False,
                "bodyLogMode": False,
                "credPooling": False,
                "privateCa": False,
                "tlsReject": True,
                "proxy": self.route != "direct",
                "customAccept": self.rules is not DEFAULT_AGENT_RULES,
                "insecureDownstream": False,
                "universalBroker": False,
                **self.client_config,
            },
            "role": role,
        }
        return TunnelConfig(
            server_url=str(server),
            token=self.token,
            role=role,
            client_id=client_id,
            version=self.version,
            metadata=metadata,
            epoch=self.epoch,
            polling_first=self.polling_first,
            primus_ping=self.ping_seconds,
            primus_pong=self.pong_seconds,
            connect=self.connect_seconds,
            attempts=self.attempts,
            route=self.route,
        )


def _read(text: str, what: str) -> Url:
    try:
        return Url.parse(text, "invalid-configuration")
    except RemoteProtocolError as error:
        raise RemoteProtocolError("invalid-configuration", f"{what}: {error.message}") from None
