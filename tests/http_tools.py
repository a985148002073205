"""What the HTTP tests share: reading a part's events, cutting bytes, and a network in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from towline.core import (
    WAKE,
    Body,
    Close,
    Drop,
    Ended,
    Failed,
    Finished,
    Lost,
    Open,
    Opened,
    Received,
    Shut,
    Tail,
    TowlineError,
    Transmit,
)
from towline.core.http import ClientConnection, Courier, RequestHead, ServerConnection


class Owned(ServerConnection):
    """A server connection whose owner takes its events after each call, as it must."""

    def __init__(self, link: int, now: float, **settings: Any) -> None:
        super().__init__(link, now, **settings)
        self._taken: deque[Any] = deque()

    def next(self) -> Any:
        self._take()
        return self._taken.popleft() if self._taken else None

    def _take(self) -> None:
        while (event := super().next()) is not None:
            self._taken.append(event)

    def received(self, data: Any, now: float) -> None:
        super().received(data, now)
        self._take()

    def ended(self, now: float) -> None:
        super().ended(now)
        self._take()

    def respond(self, *answer: Any, now: float) -> None:
        super().respond(*answer, now=now)
        self._take()

    def end_body(self, *, now: float) -> None:
        super().end_body(now=now)
        self._take()


def events(part: ClientConnection | ServerConnection) -> list[Any]:
    """Return a part's events so far, neighbouring body pieces joined."""
    told: list[Any] = []
    while (event := part.next()) is not None:
        if isinstance(event, Body):
            event = Body(bytes(event.data))
            if told and isinstance(told[-1], Body):
                event = Body(bytes(told.pop().data) + bytes(event.data))
        told.append(event)
    return told


def sent(part: ClientConnection | ServerConnection) -> bytes:
    """Return the bytes that a part wants transmitted."""
    return b"".join(bytes(data) for data in part.output())


def pieces(data: bytes, cuts: Sequence[int]) -> Iterable[bytes]:
    """Cut bytes into pieces of these lengths, over and over."""
    at = turn = 0
    while at < len(data):
        size = max(1, cuts[turn % len(cuts)])
        yield data[at : at + size]
        at, turn = at + size, turn + 1


def drain(machine: Any) -> list[Any]:
    """Return every wish there is."""
    wishes: list[Any] = []
    while (wish := machine.poll()) is not None:
        wishes.append(wish)
    return wishes


def tell(machine: Any, fact: Any, now: float = 0.0) -> list[Any]:
    """Hand over one fact, return every wish."""
    machine.handle(fact, now)
    return drain(machine)


Site = Callable[[RequestHead, bytes], tuple[int, tuple[tuple[str, str], ...], bytes]]


class Network:
    """Play a courier against servers of ours, in memory, with a clock that moves a little each turn.

    `site` answers a request with status, headers and body. `opened` are the origins in the order of their links,
    `requests` the heads that came, `ended` how the courier ended each link.
    """

    def __init__(self, site: Site, *, cuts: Sequence[int] = (1 << 20,)) -> None:
        self.site = site
        self.cuts = cuts
        self.now = 0.0
        self.opened: list[tuple[str, int, str]] = []
        self.requests: list[RequestHead] = []
        self.ended: dict[int, str] = {}
        self.events: list[Any] = []
        self._servers: dict[int, ServerConnection] = {}
        self._bodies: dict[int, list[bytes]] = {}
        self._facts: deque[Any] = deque()

    def run(self, courier: Courier[Any]) -> Any:
        """Return the courier's value, or raise its error."""
        self._facts.append(WAKE)
        for _ in range(100_000):
            if self._facts:
                fact = self._facts.popleft()
            else:
                due = courier.deadline()
                assert due is not None, "the courier waits for nothing"
                self.now, fact = max(self.now, due), WAKE
            self.now += 0.001
            for wish in tell(courier, fact, self.now):
                if isinstance(wish, Finished):
                    return wish.value
                if isinstance(wish, Failed):
                    raise wish.error
                self._execute(wish)
        raise AssertionError("the courier does not end")

    def lose(self, link: int, why: str = "reset") -> None:
        """The network breaks a link."""
        self._facts.append(Lost(link, why))
        self._servers.pop(link, None)

    def _execute(self, wish: Any) -> None:
        if isinstance(wish, Open):
            self.opened.append((wish.host, wish.port, wish.purpose))
            self._servers[wish.link] = ServerConnection(wish.link, self.now)
            self._facts.append(Opened(wish.link))
        elif isinstance(wish, Transmit):
            if wish.link in self._servers:
                self._servers[wish.link].received(wish.data, self.now)
                self._serve(wish.link)
        elif isinstance(wish, Close | Drop):
            self.ended[wish.link] = type(wish).__name__
            self._servers.pop(wish.link, None)
        else:
            self.events.append(wish)

    def _serve(self, link: int) -> None:
        server = self._servers[link]
        while (event := server.next()) is not None:
            if isinstance(event, RequestHead):
                self.requests.append(event)
                self._bodies[link] = []
            elif isinstance(event, Body):
                self._bodies[link].append(bytes(event.data))
            elif isinstance(event, Tail):
                server.respond(*self.site(self.requests[-1], b"".join(self._bodies[link])), now=self.now)
        for wish in server.wishes():
            if isinstance(wish, Transmit):
                self._facts.extend(Received(link, piece) for piece in pieces(bytes(wish.data), self.cuts))
            elif isinstance(wish, Shut | Close):
                self._facts.append(Ended(link))
            else:
                self.lose(link)


def raised(call: Callable[[], Any]) -> TowlineError:
    """Return the error that a call raises."""
    try:
        call()
    except TowlineError as error:
        return error
    raise AssertionError("no error was raised")
