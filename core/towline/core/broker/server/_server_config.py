"""Settings of a broker server."""

from __future__ import annotations

from typing import Literal

import msgspec

from towline.core._contract import Record
from towline.core._secret import Secret
from towline.core.broker.filter._expand import Variables
from towline.core.broker.filter._rules import AcceptRules, default_server_rules
from towline.core.broker.nodes._cluster import ClusterConfig


class BrokerServerConfig(Record, frozen=True):
    """Settings of a broker server.

    Shape:  `variables` fill `${VAR}` in the rules' origins; `tokens` None takes any client; `filter_strict` is
            Filter's `strict`; with a `cluster` the server is one of several nodes; `authorization` says who judges
            the credentials that clients have to show, at `gateway_url` if that is a gateway; `dispatcher_url` is told
            of this server and its clients, under `server_id`, and finds its health at `host_name`
    Units:  seconds. `answer_seconds` bounds a client's silence about a request, `grace_seconds` the time in which
            callers of a token whose last client just left are told to come again; `epoch` is wall-clock seconds since
            1970 minus the driver's `now`
    """

    rules: AcceptRules = msgspec.field(default_factory=default_server_rules)
    variables: Variables = msgspec.field(default_factory=dict)
    tokens: tuple[Secret, ...] | None = None
    version: str = "local"
    filter_strict: bool = True
    # Whether each request that a filter lets pass is noted, at debug level: a note costs a tenth of a request.
    note_passages: bool = True
    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    minimal_version: str = "4.100.0"
    recommended_version: str = "4.182.0"
    answer_seconds: float = 600.0
    upload_silence: float = 20 * 60.0
    grace_seconds: float = 60.0
    route: str = "direct"
    authorization: Literal["none", "gateway", "application"] = "none"
    gateway_url: str = ""
    dispatcher_url: str | None = None
    server_id: str = "0"
    host_name: str = "localhost"
    epoch: float = 0.0
    cluster: ClusterConfig | None = None
