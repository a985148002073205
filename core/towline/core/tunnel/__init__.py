"""Tunnels: websocket or long polling, engine.io, Primus and emitter packets, from both ends (broker-protocol.md §1)."""

from towline.core.tunnel._client import TunnelClient
from towline.core.tunnel._events import (
    Acked,
    Arrived,
    HostConfig,
    HttpRequest,
    Identified,
    Ponged,
    Reply,
    Role,
    SessionClosed,
    SessionOpened,
    TunnelBusy,
    TunnelClosed,
    TunnelConfig,
    TunnelIdentified,
    TunnelOpened,
    Upgrade,
)

__all__ = [
    "Acked",
    "Arrived",
    "HostConfig",
    "HttpRequest",
    "Identified",
    "Ponged",
    "Reply",
    "Role",
    "SessionClosed",
    "SessionOpened",
    "TunnelBusy",
    "TunnelClient",
    "TunnelClosed",
    "TunnelConfig",
    "TunnelIdentified",
    "TunnelOpened",
    "Upgrade",
]
