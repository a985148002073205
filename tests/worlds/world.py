"""Machines joined in memory: links that cut bytes anywhere, a clock moved by hand, and peers that are easy to script.

A party is anything with handle, poll and deadline. `World.add` gives it a name and the port it listens on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from towline.core import (
    WAKE,
    Accepted,
    Body,
    Broken,
    Close,
    Drained,
    Drop,
    Ended,
    Failed,
    Filled,
    Finished,
    Head,
    LinkNumbers,
    Lost,
    Note,
    Open,
    Opened,
    Received,
    Secret,
    Share,
    Shut,
    Tail,
    Transmit,
    Window,
)
from towline.core.http import ClientConnection, RequestHead, ServerConnection, Url


@dataclass
class End:
    """One end of a link."""

    party: Party
    number: int
    other: End | None = None
    inbox: deque[Any] = field(default_factory=deque)
    deaf: bool = False
    held: bool = False  # the test keeps what comes from being read
    window: int | None = None  # what the next read may bring in one piece

    @property
    def waiting(self) -> int:
        """Bytes that the other side sent and this one has not read."""
        return sum(len(item) for item in self.inbox if isinstance(item, bytes))


@dataclass(eq=False)
class Party:
    name: str
    machine: Any
    ends: dict[int, End] = field(default_factory=dict)
    events: list[Any] = field(default_factory=list)
    accepted: int = 0

    def notes(self, event: str) -> list[Note]:
        return [said for said in self.events if isinstance(said, Note) and said.event == event]

    def of(self, kind: type) -> list[Any]:
        return [said for said in self.events if isinstance(said, kind)]


class World:
    """`cut` is asked for the size of each piece that is delivered; `pick` for which of several links goes next."""

    def __init__(
        self, cut: Callable[[int], int] = lambda size: size, pick: Callable[[int], int] = lambda count: 0
    ) -> None:
        self.now = 100.0
        self.parties: list[Party] = []
        self._ports: dict[int, Party] = {}
        self._cut = cut
        # How a link is opened: a test may put something in between.
        self.opens: Callable[[Party, Open], None] = self._open
        self._pick = pick
        self.refusing: set[int] = set()
        self.windows = 0  # how many were filled

    def add(self, name: str, machine: Any, port: int | None = None) -> Party:
        party = Party(name, machine)
        self.parties.append(party)
        if port is not None:
            self._ports[port] = party
        self.tell(party, WAKE)
        return party

    def tell(self, party: Party, fact: Any) -> None:
        """One turn."""
        party.machine.handle(fact, self.now)
        while (wish := party.machine.poll()) is not None:
            self._do(party, wish)

    def run(self, seconds: float = 0.0) -> None:
        """Deliver everything; then move the clock from deadline to deadline for so many seconds."""
        until = self.now + seconds
        while True:
            self._deliver()
            due = [at for party in self.parties if (at := party.machine.deadline()) is not None]
            at = min(due, default=until + 1)
            if at > until:
                self.now = max(self.now, until)
                return
            self.now = max(self.now, at)
            for party in self.parties:
                if (when := party.machine.deadline()) is not None and when <= self.now:
                    self.tell(party, WAKE)

    def cut_link(self, end: End) -> None:
        """The cable of a link is cut: both sides lose it."""
        other = end.other
        for side in (end, other):
            if side is not None and not side.deaf:
                side.deaf = True
                side.inbox.clear()
                side.party.ends.pop(side.number, None)
                self.tell(side.party, Lost(side.number, "reset"))

    def kill(self, party: Party) -> None:
        """A party is gone without a word of its own."""
        self.parties.remove(party)
        self._ports = {port: other for port, other in self._ports.items() if other is not party}
        for end in list(party.ends.values()):
            end.deaf = True
            if end.other is not None and not end.other.deaf:
                end.other.deaf = True
                end.other.party.ends.pop(end.other.number, None)
                self.tell(end.other.party, Lost(end.other.number, "reset"))

    # ── inside ─────────────────────────────────────────────────────────────────
    def _deliver(self) -> None:
        for _ in range(1_000_000):
            ready = [end for party in self.parties for end in party.ends.values() if end.inbox and not end.held]
            if not ready:
                return
            end = ready[self._pick(len(ready)) % len(ready)]
            item = end.inbox.popleft()
            if isinstance(item, bytes):
                size = max(1, min(len(item), self._cut(len(item)), end.window or len(item)))
                if size < len(item):
                    end.inbox.appendleft(item[size:])
                if not end.deaf:
                    self._read(end, item[:size])
                if not end.waiting and end.other is not None and not end.other.deaf:
                    self.tell(end.other.party, Drained(end.other.number))
            elif not end.deaf:
                self.tell(end.party, item)
        raise AssertionError("the world does not come to rest")

    def _read(self, end: End, data: bytes) -> None:
        """Tell what came; what came into a window is gone after the turn, whoever still has it."""
        limit, end.window = end.window, None
        if limit is None:
            self.tell(end.party, Received(end.number, data))
            return
        buffer = bytearray(data)
        self.windows += 1
        self.tell(end.party, Filled(end.number, memoryview(buffer)))
        buffer[:] = b"?" * len(buffer)

    def _do(self, party: Party, wish: Any) -> None:
        if isinstance(wish, Open):
            self.opens(party, wish)
        elif isinstance(wish, Transmit):
            end = party.ends.get(wish.link)
            if end is not None and end.other is not None and len(wish.data):
                end.other.inbox.append(bytes(wish.data))
        elif isinstance(wish, Shut):
            end = party.ends.get(wish.link)
            if end is not None and end.other is not None:
                end.other.inbox.append(Ended(end.other.number))
        elif isinstance(wish, Close):
            end = party.ends.pop(wish.link, None)
            if end is not None:
                end.deaf = True
                if end.other is not None:
                    end.other.inbox.append(Ended(end.other.number))
        elif isinstance(wish, Drop):
            end = party.ends.pop(wish.link, None)
            if end is not None:
                end.deaf = True
                if end.other is not None and not end.other.deaf:
                    # Bytes on their way are lost with it; that it was open at all is known.
                    known = [item for item in end.other.inbox if not isinstance(item, bytes)]
                    end.other.inbox = deque([*known, Lost(end.other.number, "reset by peer")])
        elif isinstance(wish, Window):
            if wish.link in party.ends:
                party.ends[wish.link].window = wish.limit
        elif isinstance(wish, Share):
            pass
        else:
            party.events.append(wish)

    def _open(self, party: Party, wish: Open) -> None:
        near = End(party, wish.link)
        party.ends[wish.link] = near
        target = self._ports.get(wish.port)
        if target is None or wish.port in self.refusing:
            near.inbox.append(Lost(wish.link, f"cannot connect to {wish.host}:{wish.port}: connection refused"))
            return
        target.accepted += 2
        far = End(target, target.accepted, near)
        near.other = far
        target.ends[far.number] = far
        near.inbox.append(Opened(near.number))
        far.inbox.append(Accepted(far.number, "http", party.name))


class Upstream:
    """A server that answers by a function: request → what to do, in steps.

    A step is bytes of body, or "cut", "hang". `answer` returns (status, headers, steps); a header content-length
    announces the length, otherwise the body is chunked.
    """

    def __init__(self, answer: Callable[[RequestHead, bytes], tuple[int, list[tuple[str, str]], list[Any]]]) -> None:
        self.answer = answer
        self.requests: list[tuple[RequestHead, bytes]] = []
        self.lost: list[int] = []
        self._wishes: deque[Any] = deque()
        self._connections: dict[int, ServerConnection] = {}
        self._heads: dict[int, RequestHead] = {}
        self._bodies: dict[int, bytes] = {}
        self._steps: dict[int, list[Any]] = {}

    def handle(self, fact: Any, now: float) -> None:
        if isinstance(fact, Accepted):
            self._connections[fact.link] = ServerConnection(fact.link, now)
            return
        connection = self._connections.get(getattr(fact, "link", -1))
        if connection is None:
            return
        if isinstance(fact, Received):
            connection.received(fact.data, now)
        elif isinstance(fact, Ended):
            connection.ended(now)
        elif isinstance(fact, Lost):
            self.lost.append(fact.link)
            connection.lost(fact.why)
        while (event := connection.next()) is not None:
            if isinstance(event, RequestHead):
                self._heads[connection.link], self._bodies[connection.link] = event, b""
                connection.want_body()
            elif isinstance(event, Body):
                self._bodies[connection.link] += bytes(event.data)
            elif isinstance(event, Tail):
                self._asked(connection, now)
        self._wishes.extend(connection.wishes())

    def _asked(self, connection: ServerConnection, now: float) -> None:
        head, body = self._heads[connection.link], self._bodies[connection.link]
        self.requests.append((head, body))
        status, headers, steps = self.answer(head, body)
        if steps == ["hang"]:
            return
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), None)
        connection.respond_head(status, tuple(headers), length=length, now=now)
        for step in steps:
            if step == "cut":
                connection.cut()
                return
            if step == "hang":
                self._steps[connection.link] = steps[steps.index(step) + 1 :]
                return
            connection.send_body(step)
        connection.end_body(now=now)

    def poll(self) -> Any:
        return self._wishes.popleft() if self._wishes else None

    def deadline(self) -> float | None:
        return None


@dataclass
class Answer:
    """What a caller got so far. `end` is "whole", "broken", or None while it goes on."""

    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    end: str | None = None
    link: int = -1

    @property
    def pending(self) -> bool:
        """Whether no status came yet."""
        return self.status is None

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


class Caller:
    """A client that makes one request on each link."""

    def __init__(self) -> None:
        self._links = LinkNumbers()
        self._wishes: deque[Any] = deque()
        self._connections: dict[int, ClientConnection] = {}
        self.answers: dict[int, Answer] = {}

    def ask(
        self,
        url: str,
        method: str = "GET",
        headers: tuple[tuple[str, str | Secret], ...] = (),
        body: bytes | None = None,
        *,
        chunked: bool = False,
    ) -> Answer:
        where = Url.parse(url)
        link = self._links.take()
        connection = self._connections[link] = ClientConnection(link)
        answer = self.answers[link] = Answer(link=link)
        connection.request(method, where.target, (("Host", where.authority), *headers), body, chunked=chunked)
        self._wishes.append(Open(link, where.host, where.port, False))
        self._wishes.extend(Transmit(link, data) for data in connection.output())
        return answer

    def more(self, answer: Answer, data: bytes, *, end: bool = False) -> None:
        connection = self._connections[answer.link]
        connection.send_body(data)
        if end:
            connection.end_body()
        self._wishes.extend(Transmit(answer.link, data) for data in connection.output())

    def leave(self, answer: Answer, *, quietly: bool = False) -> None:
        """Cut the link; `quietly`: end our side, which is all that a peer sees of one that closes."""
        self._wishes.append(Shut(answer.link) if quietly else Drop(answer.link))

    def handle(self, fact: Any, now: float) -> None:
        connection = self._connections.get(getattr(fact, "link", -1))
        if connection is None:
            return
        if isinstance(fact, Received):
            connection.received(fact.data)
        elif isinstance(fact, Ended):
            connection.ended()
        elif isinstance(fact, Lost):
            connection.lost(fact.why)
        answer = self.answers[connection.link]
        while (event := connection.next()) is not None:
            if isinstance(event, Head):
                answer.status, answer.headers = event.status, event.headers
            elif isinstance(event, Body):
                answer.body += bytes(event.data)
            else:
                answer.end = "broken" if isinstance(event, Broken) else "whole"

    def poll(self) -> Any:
        return self._wishes.popleft() if self._wishes else None

    def deadline(self) -> float | None:
        return None


__all__ = ["Answer", "Caller", "Drained", "Failed", "Finished", "Party", "Upstream", "World"]
