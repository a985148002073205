"""HTTP/1.1 as machines: one link as client or as server, scripts over a pool of links, a small API server.

`ClientConnection` and `ServerConnection` are parts: their owner passes bytes in and sends their output.
`Courier` and `Face` are root machines, driven as they are.
"""

from __future__ import annotations

from towline.core.http._client import CLIENT_TABLE, ClientConnection, ClientEvent
from towline.core.http._courier import USER_AGENT, Courier
from towline.core.http._headers import CREDENTIAL, FRAMING, HOP_BY_HOP, members, strip_hop_by_hop, without
from towline.core.http._pool import LINK_TABLE
from towline.core.http._server import (
    SERVER_TABLE,
    RequestHead,
    ServerConnection,
    ServerEvent,
    error_body,
)
from towline.core.http._url import Origin, Url, redacted

__all__ = [
    "CLIENT_TABLE",
    "CREDENTIAL",
    "ClientConnection",
    "ClientEvent",
    "Courier",
    "FRAMING",
    "HOP_BY_HOP",
    "LINK_TABLE",
    "Origin",
    "RequestHead",
    "SERVER_TABLE",
    "ServerConnection",
    "ServerEvent",
    "USER_AGENT",
    "Url",
    "error_body",
    "members",
    "redacted",
    "strip_hop_by_hop",
    "without",
]
