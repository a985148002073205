"""The links of a client's transport: a poll with its answer, a websocket before and after its 101."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from towline.core._limits import Limits
from towline.core._script import Head
from towline.core.http import ClientConnection, members
from towline.core.tunnel._websocket import WebSocket, accept_value

Purpose: TypeAlias = Literal["handshake", "poll", "post"]


class Call:
    """One poll: a request on a link of its own, and its whole answer."""

    def __init__(self, purpose: Purpose, link: int, target: str, body: bytes | None, limits: Limits) -> None:
        self.purpose: Final = purpose
        self.http = ClientConnection(link, limits=limits)
        self.target = target
        self.body = body
        self.status = 0
        self.answer = bytearray()


class Socket:
    """The link of a websocket, before and after its 101."""

    def __init__(self, link: int, key: str, target: str, limits: Limits) -> None:
        self.link: Final = link
        self.key = key
        self.target = target
        self.http = ClientConnection(link, limits=limits)
        self.frames: WebSocket | None = None
        self.asked = False


def unsound_upgrade(head: Head, key: str) -> str | None:
    """Return what is wrong with a 101, or None if it proves that the server speaks websocket (RFC 6455 §4.1)."""
    upgrade, connection = members(head.all("upgrade")), members(head.all("connection"))
    if "websocket" not in upgrade or "upgrade" not in connection:
        return "the server's 101 is not about websocket"
    if head.get("sec-websocket-accept") != accept_value(key):
        return "the server's 101 does not prove that it read the request"
    if head.get("sec-websocket-extensions") or head.get("sec-websocket-protocol"):
        return "the server chose an extension that was not offered"
    return None
