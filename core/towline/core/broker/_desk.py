"""Where requests come in: the accepted links of a broker root, each request told once it is whole, or as it comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

from towline.core._contract import Data, Instant, Record, joined
from towline.core._entropy import Entropy
from towline.core._errors import LocalProtocolError, RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._script import Body, Broken, Tail
from towline.core._wire import Accepted, Ended, Filled, Lost, Received, Window
from towline.core.broker._alarms import Alarms, Timed
from towline.core.broker._ids import request_id_of
from towline.core.http import RequestHead, ServerConnection, error_body, write_http_date

Headers: TypeAlias = Iterable[tuple[str, str]]

JSON: Final = ("Content-Type", "application/json; charset=utf-8")


class Visit:
    """One request and where its answer goes."""

    __slots__ = (
        "body",
        "head",
        "limit",
        "link",
        "listener",
        "node",
        "number",
        "path",
        "peer",
        "pieces",
        "query",
        "request_id",
        "size",
    )

    def __init__(self, number: int, head: RequestHead, request_id: str, limit: int | None, seat: _Seat) -> None:
        self.number = number
        self.link = seat.connection.link
        self.head = head
        self.request_id = request_id
        # What the body may be; None if it comes in pieces.
        self.limit = limit
        self.listener = seat.listener
        self.peer = seat.peer
        self.path, _, self.query = head.target.partition("?")
        # For a request that another node of the cluster handed on: how it is told that it has to go on looking.
        self.node: str | None = None
        # The whole body, once it is there; None for a request without one.
        self.body: bytes | None = None
        self.pieces: list[bytes] = []
        self.size = 0

    def __repr__(self) -> str:
        return f"Visit({self.number}, link={self.link}, {self.head.method})"


class Came(Record, frozen=True):
    """A whole request is here."""

    visit: Visit


class Began(Record, frozen=True):
    """A request whose body comes in pieces."""

    visit: Visit


class Piece(Record, frozen=True):
    visit: Visit
    data: Data


class Over(Record, frozen=True):
    """The body that came in pieces is complete."""

    visit: Visit


class Left(Record, frozen=True):
    """The asker is gone, or broke off, before its answer was complete."""

    visit: Visit


DeskEvent: TypeAlias = Came | Began | Piece | Over | Left


class _Seat(Timed):
    """One accepted link: its connection, the request under way, and the patience with that request's body."""

    __slots__ = ("body_until", "connection", "left", "listener", "peer", "visit")

    def __init__(self, connection: ServerConnection, listener: str, peer: str) -> None:
        super().__init__()
        self.connection = connection
        self.listener = listener
        self.peer = peer
        self.visit: Visit | None = None
        self.body_until: Instant | None = None
        # Bytes that the answer under way still owes; None while nobody counts.
        self.left: int | None = None


class Desk:
    """The accepted links of a root. Wishes go to the queue that the root gives.

    `limit_of` says for a request's head how large its body may be, or None if the body is to come in pieces. Answers
    are dated where `epoch` (unix time minus the driver's) is known.
    """

    def __init__(
        self,
        wishes: deque[Any],
        limit_of: Callable[[RequestHead], int | None],
        *,
        entropy: Entropy,
        numbers: Iterator[int],
        limits: Limits = LIMITS,
        stream_silence: float = 20 * 60.0,
        epoch: float = 0.0,
    ) -> None:
        self._wishes = wishes
        self._limit_of = limit_of
        self._entropy = entropy
        self._limits = limits
        self._stream_silence = stream_silence
        self._epoch = epoch
        # The date of the second that was written last.
        self._second, self._date = -1.0, ("Date", "")
        self._seats: dict[int, _Seat] = {}
        self._events: deque[DeskEvent] = deque()
        self._alarms: Alarms[_Seat] = Alarms()
        self._numbers = numbers
        self._draining = False

    # ── facts ──────────────────────────────────────────────────────────────────
    def owns(self, link: int) -> bool:
        return link in self._seats

    def accepted(self, fact: Accepted, now: Instant) -> None:
        if fact.link in self._seats:
            raise LocalProtocolError(f"link {fact.link} was accepted before, and is still open")
        seat = _Seat(ServerConnection(fact.link, now, limits=self._limits), fact.listener, fact.peer)
        seat.connection.draining = self._draining
        self._seats[fact.link] = seat
        self._alarms.set(seat, seat.connection.deadline())

    def handle(self, fact: Received | Filled | Ended | Lost, now: Instant) -> None:
        """Take a fact about one of these links."""
        seat = self._seats[fact.link]
        if isinstance(fact, Received):
            seat.connection.received(fact.data, now)
        elif isinstance(fact, Filled):
            seat.connection.received(fact.view, now)
        elif isinstance(fact, Ended):
            seat.connection.ended(now)
        elif isinstance(fact, Lost):
            seat.connection.lost(fact.why)
        self._settle(seat, now)
        if isinstance(fact, Ended) and seat.visit is not None:
            # Nobody says goodbye otherwise: a caller that closes sends no more than this before it is written to.
            # The established server, too, lets a request go whose asker has ended its side.
            self._leave(seat)
            seat.connection.cut()
            self._settle(seat, now)

    def wake(self, now: Instant) -> None:
        for seat in self._alarms.due(now):
            if self._seats.get(seat.connection.link) is not seat:
                continue
            if seat.body_until is not None and now >= seat.body_until:
                self._too_slow(seat, now)
            else:
                seat.connection.wake(now)
            self._settle(seat, now)

    def deadline(self) -> Instant | None:
        return self._alarms.deadline()

    def next(self) -> DeskEvent | None:
        return self._events.popleft() if self._events else None

    def drain(self) -> None:
        """Let each link close after its next answer. An idle one stays until then: what a client uploads to finish
        what is under way may be on its way on it, and would be lost."""
        self._draining = True
        for seat in self._seats.values():
            seat.connection.draining = True

    def reading_before(self, number: int) -> bool:
        """Whether a request that began before the one with this number is still coming in."""
        return any(
            seat.visit is not None and seat.visit.number < number and seat.body_until is not None
            for seat in self._seats.values()
        )

    # ── answers ────────────────────────────────────────────────────────────────
    def waits(self, visit: Visit) -> bool:
        """Whether no answer to this request has begun, and one may."""
        seat = self._seats.get(visit.link)
        return seat is not None and seat.visit is visit and seat.connection.answerable

    def respond(
        self, visit: Visit, status: int, headers: Headers, body: Data = b"", *, now: Instant, echo: bool = True
    ) -> None:
        """Answer in one piece; nothing if the asker has left. `echo` adds the request's id."""
        if not self.waits(visit):
            return
        seat = self._seats[visit.link]
        try:
            seat.connection.respond(status, self._dressed(visit, headers, echo, now), body, now=now)
        except RemoteProtocolError:
            seat.connection.respond(502, (JSON,), error_body("PROTOCOL_ERROR", "the answer cannot be written"), now=now)
        seat.visit = None
        self._settle(seat, now)

    def begin(self, visit: Visit, status: int, headers: Headers, length: int | None, *, now: Instant) -> bool:
        """Begin an answer in pieces; return whether that was possible."""
        if not self.waits(visit):
            return False
        seat = self._seats[visit.link]
        try:
            seat.connection.respond_head(status, self._dressed(visit, headers, True, now), length=length, now=now)
        except RemoteProtocolError:
            return False
        bodiless = visit.head.method == "HEAD" or status in (204, 304)
        seat.left = None if bodiless else length
        self._wishes.extend(seat.connection.wishes())
        return True

    def send(self, visit: Visit, data: Data, *, now: Instant) -> bool:
        """Send the answer's next bytes; False, and the answer is cut, if it has more than it announced."""
        seat = self._answering(visit)
        if seat is None:
            return False
        if seat.left is not None:
            seat.left -= len(data)
            if seat.left < 0:
                self.cut(visit, now=now)
                return False
        seat.connection.send_body(data)
        self._wishes.extend(seat.connection.wishes())
        return True

    def end(self, visit: Visit, *, now: Instant) -> None:
        """End an answer in pieces. One that is shorter than announced is cut."""
        seat = self._answering(visit)
        if seat is not None:
            seat.visit = None
            seat.connection.end_body(now=now)
            self._settle(seat, now)

    def cut(self, visit: Visit, *, now: Instant) -> None:
        """End the link so that the peer knows that something is missing."""
        seat = self._seats.get(visit.link)
        if seat is not None and seat.visit is visit:
            seat.visit = None
            seat.connection.cut()
            self._settle(seat, now)

    def hand_over(self, visit: Visit) -> bytes | None:
        """Give the link away to another protocol and return what came behind the request; None if it is gone."""
        if not self.waits(visit):
            return None
        seat = self._seats.pop(visit.link)
        self._alarms.set(seat, None)
        return seat.connection.upgrade()

    # ── inside ─────────────────────────────────────────────────────────────────
    def _dressed(self, visit: Visit, headers: Headers, echo: bool, now: Instant) -> tuple[tuple[str, str], ...]:
        """Return an answer's headers with the date (RFC 9110 §6.6.1), and with the request's id if it is echoed."""
        given = tuple(headers)
        names = {name.lower() for name, _ in given}
        if self._epoch and "date" not in names:
            second = (self._epoch + now) // 1
            if second != self._second:
                self._second, self._date = second, ("Date", write_http_date(second))
            given += (self._date,)
        return (("snyk-request-id", visit.request_id), *given) if echo and "snyk-request-id" not in names else given

    def _answering(self, visit: Visit) -> _Seat | None:
        seat = self._seats.get(visit.link)
        return seat if seat is not None and seat.visit is visit and seat.connection.state == "answering" else None

    def _settle(self, seat: _Seat, now: Instant) -> None:
        """Hand out what a connection has to tell, and do what it wishes."""
        connection = seat.connection
        pieces: list[Data] = []
        while (event := connection.next()) is not None:
            if type(event) is Body:
                if seat.visit is not None and seat.visit.limit is None:
                    pieces.append(event.data)
                else:
                    self._body(seat, event.data, now)
                continue
            self._pieces(seat, pieces, now)
            if isinstance(event, RequestHead):
                self._head(seat, event, now)
            elif isinstance(event, Tail):
                self._tail(seat)
            elif isinstance(event, Broken) and seat.visit is not None:
                self._leave(seat)
        self._pieces(seat, pieces, now)
        self._wishes.extend(connection.wishes())
        limit = connection.window()
        if limit is not None:
            self._wishes.append(Window(connection.link, limit))
        if connection.closed:
            self._leave(seat)
            self._seats.pop(connection.link, None)
            self._alarms.set(seat, None)
        else:
            at, patience = connection.deadline(), seat.body_until
            self._alarms.set(seat, patience if at is None or (patience is not None and patience < at) else at)

    def _leave(self, seat: _Seat) -> None:
        if seat.visit is not None:
            self._events.append(Left(seat.visit))
        seat.visit = None
        seat.body_until = None

    def _head(self, seat: _Seat, head: RequestHead, now: Instant) -> None:
        limit = self._limit_of(head)
        visit = seat.visit = Visit(next(self._numbers), head, request_id_of(head.headers, self._entropy), limit, seat)
        length = head.get("content-length")
        if limit is None:
            self._events.append(Began(visit))
            seat.connection.want_body()
        elif length is not None and int(length) > limit:
            self._too_large(seat, visit, now)
            return
        elif length is not None or head.get("transfer-encoding") is not None:
            visit.body = b""
            seat.connection.want_body()
        if not seat.connection.body_complete:
            seat.body_until = now + (self._stream_silence if limit is None else self._limits.time_silence)

    def _pieces(self, seat: _Seat, pieces: list[Data], now: Instant) -> None:
        """Tell what a turn brought of a body as one piece: small chunks cost less joined than one by one."""
        if pieces and seat.visit is not None:
            seat.body_until = now + self._stream_silence
            self._events.append(Piece(seat.visit, joined(pieces)))
        pieces.clear()

    def _body(self, seat: _Seat, data: Data, now: Instant) -> None:
        visit = seat.visit
        if visit is None or visit.limit is None:
            return
        visit.size += len(data)
        if visit.size > visit.limit:
            self._too_large(seat, visit, now)
            return
        visit.pieces.append(bytes(data))
        seat.body_until = now + self._limits.time_silence

    def _tail(self, seat: _Seat) -> None:
        seat.body_until = None
        visit = seat.visit
        if visit is None:
            return
        if visit.limit is None:
            self._events.append(Over(visit))
            return
        if visit.pieces:
            visit.body = b"".join(visit.pieces)
            visit.pieces = []
        self._events.append(Came(visit))

    def _too_large(self, seat: _Seat, visit: Visit, now: Instant) -> None:
        seat.visit = None
        seat.body_until = None
        visit.pieces = []
        body = error_body("REQUEST_TOO_LARGE", f"expected a body of at most {visit.limit} bytes, got more")
        seat.connection.respond(413, self._dressed(visit, (JSON,), True, now), body, now=now)

    def _too_slow(self, seat: _Seat, now: Instant) -> None:
        visit = seat.visit
        seat.body_until = None
        if visit is not None and seat.connection.answerable and visit.limit is not None:
            seat.visit = None
            body = error_body("TIMEOUT", "expected the rest of the request's body sooner")
            seat.connection.respond(408, self._dressed(visit, (JSON,), True, now), body, now=now)
        elif visit is not None:
            self._leave(seat)
            seat.connection.cut()
