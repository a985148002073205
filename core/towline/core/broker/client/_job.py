"""What a client knows of a tunnel, and of one request that came down it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal, TypeAlias

from towline.core._contract import Instant, Record
from towline.core._script import Head
from towline.core.broker._alarms import Timed
from towline.core.broker._outgoing import Errand
from towline.core.broker._tally import NO_RULE
from towline.core.broker.client._rewrite import UrlRewriter
from towline.core.http import Url
from towline.core.tunnel import RequestPayload, TunnelClient

if TYPE_CHECKING:
    from towline.core.broker.client._connection import Connection

Way: TypeAlias = Literal["ack", "post", "chunk"]


class Place(Record, frozen=True):
    """Which server a tunnel goes to, and the id by which that server is found behind its balancer."""

    server: Url
    server_id: str | None = None


class Tunnel(Timed):
    """One tunnel of the client as jobs see it, and what is under way on it."""

    __slots__ = ("capabilities", "client", "connection", "exhausted", "failures", "place", "role", "running", "waiting")

    def __init__(
        self, connection: Connection, role: Literal["primary", "secondary"], client: TunnelClient, place: Place
    ) -> None:
        super().__init__()
        self.connection = connection
        self.role = role
        self.client = client
        self.place = place
        # Attempts since it was last open.
        self.failures = 0
        # It will not come back, because too many attempts failed.
        self.exhausted = False
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
        "began_at",
        "collected",
        "errand",
        "head",
        "inline",
        "over",
        "place",
        "relaying",
        "request_id",
        "rewriter",
        "rule",
        "size",
        "started",
        "status",
        "tunnel",
        "upload",
        "way",
    )

    def __init__(
        self, tunnel: Tunnel, asked: RequestPayload, ack_id: int | None, request_id: str, began_at: Instant
    ) -> None:
        self.tunnel = tunnel
        # Where the answer goes, wherever the tunnel goes next.
        self.place = tunnel.place
        self.asked = asked
        self.ack_id = ack_id
        self.request_id = request_id
        self.began_at = began_at
        # The accept rule that let it in, and the status of its answer, 0 while there is none.
        self.rule = NO_RULE
        self.status = 0
        self.way: Way = "ack"
        self.errand: Errand | None = None
        self.head: Head | None = None
        # The answer is collected, and goes as one event if it can be a text.
        self.inline = False
        self.collected: list[bytes] = []
        self.size = 0
        self.rewriter: UrlRewriter | None = None
        self.relaying = False
        self.upload: Errand | None = None
        self.started = False
        self.over = False
