"""A client and a host in memory, with a clock moved by hand and links that delay, cut and die."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

from tunnelkit.roots import HostRoot

from towline.core import WAKE, Accepted, Close, Drop, Ended, Lost, Open, Opened, Received, Shut, Transmit
from towline.core.tunnel import TunnelClient


class Pair:
    """One tunnel's two ends. Bytes take `delay` seconds; `cut` says how they are cut; `up` whether dialling works."""

    def __init__(
        self,
        client: TunnelClient,
        root: HostRoot,
        *,
        delay: float = 0.001,
        cut: Callable[[bytes], list[bytes]] = lambda data: [data],
    ) -> None:
        self.client = client
        self.root = root
        self.now = 0.0
        self.up = True
        self.refuse: Callable[[bytes], bool] = lambda data: False  # bytes at which a link dies, as at some proxies
        self.delay = delay
        self.cut = cut
        self.heard: list[Any] = []  # the client's events
        self.host_heard: list[Any] = []
        self.dials: list[float] = []
        self.told: dict[str, list[tuple[float, Any]]] = {"client": [], "host": []}  # every fact, for a transcript
        self.sent: dict[str, bytearray] = {"client": bytearray(), "host": bytearray()}
        self._soon: list[tuple[float, int, str, Any]] = []
        self._count = 0
        self._links: dict[int, int] = {}  # client's link → host's
        self._back: dict[int, int] = {}
        self._next_even = 2
        self._frozen = False
        self._held: list[tuple[str, Any]] = []
        self.tell_client(WAKE)
        self.tell_host(WAKE)

    # ── turns ──────────────────────────────────────────────────────────────────
    def tell_client(self, fact: Any) -> None:
        if isinstance(fact, type(WAKE)) or self.client.owns(fact.link):
            self.told["client"].append((self.now, fact))
            self.client.handle(fact, self.now)
        self.drain_client()

    def tell_host(self, fact: Any) -> None:
        self.told["host"].append((self.now, fact))
        self.root.handle(fact, self.now)
        self.drain_host()

    def drain_client(self) -> None:
        while (wish := self.client.poll()) is not None:
            if isinstance(wish, Open):
                self.dials.append(self.now)
                if self.up:
                    self._post("dial", wish.link)
                else:
                    self._post("client", Lost(wish.link, "refused", "tunnel-refused"))
            elif isinstance(wish, Transmit):
                self.sent["client"] += wish.data
                if self.refuse(bytes(wish.data)):
                    self.kill(wish.link)
                    continue
                for piece in self.cut(bytes(wish.data)):
                    self._post("to host", (wish.link, piece))
            elif isinstance(wish, Close | Drop | Shut):
                self._post("client left", wish.link)
            elif not hasattr(wish, "link"):
                self.heard.append(wish)

    def drain_host(self) -> None:
        while (wish := self.root.poll()) is not None:
            if isinstance(wish, Transmit):
                self.sent["host"] += wish.data
                for piece in self.cut(bytes(wish.data)):
                    self._post("to client", (wish.link, piece))
            elif isinstance(wish, Close | Drop | Shut):
                self._post("host left", wish.link)
            elif not hasattr(wish, "link"):
                self.host_heard.append(wish)

    def kill(self, link: int) -> None:
        """Both ends lose this link of the client's."""
        even = self._links.pop(link, None)
        if even is not None:
            del self._back[even]
            self._post("host", Lost(even, "reset"))
        self._post("client", Lost(link, "reset"))

    def kill_all(self) -> None:
        for link in list(self._links):
            self.kill(link)

    def freeze(self, frozen: bool = True) -> None:
        """Let nothing through, and say nothing of it; what is under way arrives when the path thaws, as with TCP."""
        self._frozen = frozen
        if not frozen:
            held, self._held = self._held, []
            for place, (kind, what) in enumerate(held, -len(held)):
                # Before what was sent later and is still under way: a stream keeps its order.
                heapq.heappush(self._soon, (self.now, place, kind, what))

    # ── time ───────────────────────────────────────────────────────────────────
    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            timers = [at for at in (self.client.deadline(), self.root.deadline()) if at is not None]
            ahead = min([*timers, self._soon[0][0] if self._soon else until + 1])
            if ahead > until:
                break
            self.now = max(self.now, ahead)
            due: deque[tuple[str, Any]] = deque()
            while self._soon and self._soon[0][0] <= self.now:
                _, _, kind, what = heapq.heappop(self._soon)
                due.append((kind, what))
            for kind, what in due:
                self._happen(kind, what)
            for machine, tell in ((self.client, self.tell_client), (self.root, self.tell_host)):
                at = machine.deadline()
                if at is not None and at <= self.now:
                    tell(WAKE)
        self.now = until

    def _post(self, kind: str, what: Any) -> None:
        self._count += 1
        heapq.heappush(self._soon, (self.now + self.delay, self._count, kind, what))

    def _happen(self, kind: str, what: Any) -> None:
        if kind == "client":
            self.tell_client(what)
        elif kind == "host":
            self.tell_host(what)
        elif self._frozen:
            self._held.append((kind, what))
        elif kind == "dial":
            self._links[what], self._back[self._next_even] = self._next_even, what
            self.tell_host(Accepted(self._next_even, "http", "127.0.0.1"))
            self._next_even += 2
            self.tell_client(Opened(what))
        elif kind == "to host" and what[0] in self._links:
            self.tell_host(Received(self._links[what[0]], what[1]))
        elif kind == "to client" and what[0] in self._back:
            self.tell_client(Received(self._back[what[0]], what[1]))
        elif kind == "client left" and what in self._links:
            even = self._links.pop(what)
            del self._back[even]
            self.tell_host(Ended(even))
        elif kind == "host left" and what in self._back:
            link = self._back.pop(what)
            del self._links[link]
            self.tell_client(Ended(link))
