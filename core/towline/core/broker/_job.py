"""What a client knows of a tunnel, and of one request that came down it."""

from __future__ import annotations

from collections import deque
from typing import Literal, TypeAlias

from towline.core._script import Head
from towline.core.broker._outgoing import Errand
from towline.core.tunnel import RequestPayload, TunnelClient

Way: TypeAlias = Literal["ack", "post", "chunk"]


class Tunnel:
    """One tunnel of the client as jobs see it, and what is under way on it."""

    __slots__ = ("capabilities", "client", "role", "running", "waiting")

    def __init__(self, role: Literal["primary", "secondary"], client: TunnelClient) -> None:
        self.role = role
        self.client = client
        self.capabilities: tuple[str, ...] = ()
        self.running = 0
        self.waiting: deque[Job] = deque()

    @property
    def open(self) -> bool:
        return self.client.state == "open"


class Job:
    """One request of the server, and its answer so far."""

    __slots__ = (
        "ack_id",
        "asked",
        "collected",
        "errand",
        "head",
        "inline",
        "over",
        "relaying",
        "request_id",
        "size",
        "started",
        "tunnel",
        "upload",
        "way",
    )

    def __init__(self, tunnel: Tunnel, asked: RequestPayload, ack_id: int | None, request_id: str) -> None:
        self.tunnel = tunnel
        self.asked = asked
        self.ack_id = ack_id
        self.request_id = request_id
        self.way: Way = "ack"
        self.errand: Errand | None = None
        self.head: Head | None = None
        # The answer is collected, and goes as one event if it can be a text.
        self.inline = False
        self.collected: list[bytes] = []
        self.size = 0
        self.relaying = False
        self.upload: Errand | None = None
        self.started = False
        self.over = False
