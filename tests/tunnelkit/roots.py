"""The smallest root around a TunnelHost: its HTTP side, and nothing of the broker's business."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from towline.core import (
    LIMITS,
    Accepted,
    Body,
    Broken,
    Ended,
    Entropy,
    Limits,
    LinkNumbers,
    Lost,
    Received,
    Record,
    Secret,
    Tail,
    Transmit,
    Wake,
)
from towline.core.http import RequestHead, ServerConnection
from towline.core.tunnel import HostConfig, Reply, TunnelClient, TunnelConfig, TunnelHost, Upgrade

TOKEN = "00000000-0000-4000-8000-000000000001"
CLIENT_ID = "55dad1e6-181f-45c3-94ad-63ea348e77fc"
METADATA = {
    "capabilities": ["post-streams"],
    "clientId": CLIENT_ID,
    "version": "local",
    "filters": {},
    "role": "primary",
}
EPOCH = 1_795_444_815.0


class Whole(Record, frozen=True):
    """A request with its body, as the host wants it."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class HostRoot:
    """Machine[Accepted | Received | Ended | Lost | Wake, wishes of links and the host's events].

    `answer` may be replaced: it is told each event of the host and may call the host back.
    """

    def __init__(self, config: HostConfig | None = None, *, seed: bytes = b"h" * 16, limits: Limits = LIMITS) -> None:
        self.host = TunnelHost(config or HostConfig(), entropy=Entropy(seed), limits=limits)
        self._limits = limits
        self._links: dict[int, ServerConnection] = {}
        self._heads: dict[int, RequestHead] = {}
        self._bodies: dict[int, bytearray] = {}
        self._exchanges: dict[int, int] = {}  # exchange → link
        self._taken = 0
        self._wishes: deque[Any] = deque()

    def handle(self, fact: Any, now: float) -> None:
        link = getattr(fact, "link", None)
        if isinstance(fact, Wake):
            self.host.handle(fact, now)
            for connection in list(self._links.values()):
                connection.wake(now)
        elif isinstance(fact, Accepted):
            self._links[fact.link] = ServerConnection(fact.link, now, limits=self._limits)
        elif link is not None and self.host.owns(link):
            self.host.handle(fact, now)
        elif link in self._links:
            self._http(self._links[link], fact, now)
        self.drain(now)

    def poll(self) -> Any:
        return self._wishes.popleft() if self._wishes else None

    def deadline(self) -> float | None:
        timers = [self.host.deadline(), *(connection.deadline() for connection in self._links.values())]
        return min((at for at in timers if at is not None), default=None)

    def _http(self, connection: ServerConnection, fact: Any, now: float) -> None:
        if isinstance(fact, Received):
            connection.received(fact.data, now)
        elif isinstance(fact, Ended):
            connection.ended(now)
        elif isinstance(fact, Lost):
            connection.lost(fact.why)
        link = connection.link
        while (event := connection.next()) is not None:
            if isinstance(event, RequestHead):
                self._heads[link], self._bodies[link] = event, bytearray()
                connection.want_body()
            elif isinstance(event, Body):
                self._bodies[link] += event.data
                if len(self._bodies[link]) > self._limits.tunnel_payload:
                    connection.respond(413, (("Connection", "close"),), now=now)
                    del self._heads[link], self._bodies[link]
                    break
            elif isinstance(event, Tail) and link in self._heads:
                head = self._heads.pop(link)
                self._taken += 1
                self._exchanges[self._taken] = link
                body = bytes(self._bodies.pop(link))
                self.host.request(self._taken, link, Whole(head.method, head.target, head.headers, body), now)
            elif isinstance(event, Broken):
                self._gone(link, now)
        if isinstance(fact, Ended | Lost):
            self._gone(link, now)

    def _gone(self, link: int, now: float) -> None:
        for exchange in [number for number, on in self._exchanges.items() if on == link]:
            self.host.gone(exchange, now)

    def drain(self, now: float) -> None:
        while True:
            for wish in self._host_wishes():
                if isinstance(wish, Reply):
                    connection = self._links.get(self._exchanges.pop(wish.exchange))
                    if connection is not None and connection.answerable:
                        connection.respond(wish.status, wish.headers, wish.body, now=now)
                elif isinstance(wish, Upgrade):
                    connection = self._links.pop(self._links[wish.link].link)
                    del self._exchanges[wish.exchange]
                    self._wishes.append(Transmit(wish.link, wish.response))
                    if leftover := connection.upgrade():
                        self.host.handle(Received(wish.link, leftover), now)
                else:
                    self._wishes.append(wish)
            before = self._taken
            for link, connection in list(self._links.items()):
                self._http(connection, Wake(), now)  # an answer lets a connection go on to what came behind it
                self._wishes.extend(connection.wishes())
                if connection.closed:
                    del self._links[link]
            if self._taken == before:
                return

    def _host_wishes(self) -> Iterator[Any]:
        while (wish := self.host.poll()) is not None:
            yield wish


def make_client(
    *, polling_first: bool = False, seed: bytes = b"c" * 16, limits: Limits = LIMITS, **settings: Any
) -> TunnelClient:
    config = TunnelConfig(
        server_url="http://127.0.0.1:17340",
        token=Secret(TOKEN),
        role="primary",
        client_id=CLIENT_ID,
        version="local",
        metadata=METADATA,
        epoch=EPOCH,
        polling_first=polling_first,
    )
    config = msgspec.structs.replace(config, **settings)
    return TunnelClient(config, links=LinkNumbers(), entropy=Entropy(seed), limits=limits)
