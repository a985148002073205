"""The links of a courier: opened as they are needed, kept while they are good, at most so many for each origin."""

from __future__ import annotations

from collections import deque
from typing import Any, Final, TypeAlias

from towline.core._contract import Instant
from towline.core._limits import Limits
from towline.core._script import Body, Broken, Head, HeaderList, Request, Tail
from towline.core._table import Table
from towline.core._wire import Close, Drop, Ended, Filled, LinkNumbers, Lost, Open, Opened, Received, Transmit
from towline.core.http._client import ClientConnection
from towline.core.http._headers import check_method, written
from towline.core.http._url import Origin, Url, redacted

LINK_TABLE: Final = Table(
    "courier link",
    "opening",
    {
        ("opening", "opened"): "idle",
        ("opening", "gone"): "closed",
        ("idle", "request"): "busy",
        ("idle", "gone"): "closed",
        ("busy", "answered"): "idle",
        ("busy", "given up"): "emptying",
        ("busy", "gone"): "closed",
        ("emptying", "answered"): "idle",
        ("emptying", "gone"): "closed",
    },
    ends=frozenset({"closed"}),
)

# A link opened for a configured origin passes the dial guard where an untrusted one does not, so they are not mixed.
PoolKey: TypeAlias = tuple[Origin, str]

# Asking twice changes nothing (RFC 9110 §9.2.2): sent again when a kept link turns out to be dead.
_REPEATABLE: Final = frozenset({"GET", "HEAD"})


class Exchange:
    """One request and what came of it. Events wait here until the script asks for them."""

    def __init__(self, request: Request, url: Url, headers: HeaderList, limits: Limits) -> None:
        self.request: Final = request
        self.url: Final = url
        self.headers: Final = headers
        self.key: Final[PoolKey] = (url.origin, request.purpose)
        self.head_came = False
        self.over = False  # its last event, a Tail or a Broken, is in `_events` or was taken
        self.sent_again = False
        self.unread = 0  # body bytes in `_events`
        self._limits = limits
        self._events: deque[Head | Body | Tail | Broken] = deque()
        self._last: Tail | Broken | None = None
        # The slowest body that is borne: bytes for each stretch of waiting. Only the time in which the script waits
        # for bytes is counted; the rest is its own.
        self._asked_at: Instant | None = None
        self._waited = 0.0
        self._bytes = 0

    def take(self) -> Head | Body | Tail | Broken | None:
        """Return the next event, or None; the last one again and again."""
        if not self._events:
            return self._last
        event = self._events.popleft()
        if isinstance(event, Body):
            self.unread -= len(event.data)
        return event

    def keep(self) -> None:
        """Copy what was not taken: it came in a window, which is good for one turn."""
        if self.unread:
            self._events = deque(Body(bytes(e.data)) if isinstance(e, Body) else e for e in self._events)

    def ask(self, now: Instant) -> None:
        """The script waits for the next piece from this instant on."""
        if self._asked_at is None:
            self._asked_at = now

    def put(self, event: Head | Body | Tail | Broken, now: Instant) -> None:
        """Take an event from the link."""
        if self._asked_at is not None:
            self._waited += now - self._asked_at
            self._asked_at = None
        if isinstance(event, Body):
            self.unread += len(event.data)
            self._bytes += len(event.data)
        elif isinstance(event, Head):
            self.head_came = True
        else:
            self.over = True
            self._last = event
        self._events.append(event)

    def break_off(self, why: str, kind: str, now: Instant, *, sent: bool = True) -> None:
        """End the exchange before its time. The error names method and address, without what is secret in it."""
        self.put(Broken(f"{self.request.method} {redacted(self.url)}: {why}", kind, sent), now)

    def deadline(self) -> Instant | None:
        """The instant at which this body is too silent or too slow; None while nobody waits for it."""
        if self._asked_at is None or self.over:
            return None
        return self._asked_at + min(self._limits.time_silence, self._limits.time_min_rate_window - self._waited)

    def wake(self, now: Instant) -> str | None:
        """The deadline came: return what is wrong with the body's pace, or None if it goes on."""
        assert self._asked_at is not None
        if now >= self._asked_at + self._limits.time_silence:
            return f"expected the next bytes within {self._limits.time_silence:g} s, got none"
        window = self._limits.time_min_rate_window
        if self._bytes < window * self._limits.time_min_rate:
            return f"expected {self._limits.time_min_rate} bytes a second over {window:g} s, got {self._bytes} in all"
        self._bytes, self._waited, self._asked_at = 0, 0.0, now
        return None


class _Slot:
    """One link of the pool: its state, what it carries, until when that may last."""

    def __init__(self, number: int, exchange: Exchange, until: Instant, limits: Limits) -> None:
        self.number: Final = number
        self.key: Final = exchange.key
        self.state = LINK_TABLE.start
        self.connection: Final = ClientConnection(number, limits=limits)
        self.exchange: Exchange | None = exchange
        self.until: Instant | None = until
        self.answered_at: Instant | None = None  # when its last response ended

    def step(self, fed: str) -> None:
        self.state = LINK_TABLE.next(self.state, fed)

    def deadline(self) -> Instant | None:
        if self.until is None and self.exchange is not None:
            return self.exchange.deadline()
        return self.until


class Pool:
    """All links of one courier. Wishes go to the queue that the courier gives."""

    def __init__(self, wishes: deque[Any], links: LinkNumbers, *, limits: Limits, user_agent: str, route: str) -> None:
        self._wishes = wishes
        self._links = links
        self._limits = limits
        self._user_agent = user_agent
        self._route = route
        self._slots: dict[int, _Slot] = {}
        self._idle: dict[PoolKey, list[_Slot]] = {}  # the last used at the end: it is the likeliest to be alive
        self._waiting: dict[PoolKey, deque[Exchange]] = {}
        self._reading: tuple[_Slot, Close | Drop | None] | None = (
            None  # whom the last fact was about, and how it may end
        )

    def owns(self, link: int) -> bool:
        """True if this is an open link of the pool."""
        return link in self._slots

    # ── exchanges ──────────────────────────────────────────────────────────────
    def begin(self, request: Request, now: Instant) -> Exchange:
        """Start an exchange; raise a RemoteProtocolError if the request cannot be written."""
        url = Url.parse(request.url)
        exchange = Exchange(request, url, self._headers(request, url), self._limits)
        check_method(request.method)
        written(exchange.headers)
        opening = (s for s in self._slots.values() if s.key == exchange.key and s.state == "opening")
        unclaimed = next((s for s in opening if s.exchange is None), None)
        if unclaimed is not None:
            unclaimed.exchange = exchange
            return exchange
        slot = self._rested(exchange.key, now)
        if slot is not None:
            self._send(slot, exchange, now)
        elif self._has_room(exchange.key):
            self._open(exchange, now)
        else:
            self._waiting.setdefault(exchange.key, deque()).append(exchange)
        return exchange

    def _rested(self, key: PoolKey, now: Instant) -> _Slot | None:
        """Return an idle link for a new request.

        Not one whose last response ended at this very instant, while another can be had: bytes that follow a
        response are found out before they can pass for the answer to the next request (security.md T10).
        """
        idle = self._idle.get(key, [])
        for slot in reversed(idle):
            rested = slot.answered_at is None or slot.answered_at < now or not self._has_room(key)
            if rested and slot.connection.idle:
                idle.remove(slot)
                return slot
        return None

    def give_up(self, exchange: Exchange, now: Instant) -> None:
        """Nobody wants the rest of this exchange: keep its link if that is cheap, drop it otherwise."""
        if exchange.over:
            return
        exchange.over = True
        waiting = self._waiting.get(exchange.key)
        if waiting and exchange in waiting:
            waiting.remove(exchange)
            return
        slot = next(slot for slot in self._slots.values() if slot.exchange is exchange)
        slot.exchange = None
        if slot.state == "opening":
            return  # let it open: the next request to this origin is likely
        left = slot.connection.left
        if slot.connection.reusable and left is not None and left <= self._limits.http_drain:
            slot.step("given up")
            slot.until = now + self._limits.time_silence
        else:
            self._remove(slot, Drop(slot.number), now)

    def close(self) -> None:
        """Close every link."""
        for slot in self._slots.values():
            self._wishes.append(Close(slot.number) if slot.state == "idle" else Drop(slot.number))
            slot.step("gone")
        self._slots.clear()
        self._idle.clear()
        self._waiting.clear()

    # ── facts ──────────────────────────────────────────────────────────────────
    def handle(self, fact: Opened | Received | Filled | Ended | Lost, now: Instant) -> None:
        """Take a fact about a link; one about a link that is gone already is late and says nothing.

        What came of it is told by `advance`, event by event.
        """
        slot = self._slots.get(fact.link)
        if slot is None:
            return
        if slot.state == "opening":
            if isinstance(fact, Opened):
                slot.step("opened")
                self._free(slot, now)
            elif isinstance(fact, Lost):
                if slot.exchange is not None:
                    slot.exchange.break_off(fact.why, fact.kind, now, sent=False)
                self._remove(slot, None, now)
        elif isinstance(fact, Received):
            slot.connection.received(fact.data)
            self._reading = slot, Drop(slot.number)
        elif isinstance(fact, Filled):
            slot.connection.received(fact.view)
            self._reading = slot, Drop(slot.number)
        elif isinstance(fact, Ended):
            slot.connection.ended()
            self._reading = slot, Close(slot.number)
        elif isinstance(fact, Lost):
            slot.connection.lost(fact.why, fact.kind)
            self._reading = slot, None

    def advance(self, now: Instant) -> bool:
        """Take the next event of the link that the last fact was about; return whether there was any.

        Between two events the scripts have their say, so that it does not matter how many came with one fact.
        """
        if self._reading is None:
            return False
        slot, ending = self._reading
        event = slot.connection.next() if slot.state != "closed" else None
        if event is None:
            self._reading = None
            if slot.state != "closed" and slot.connection.state in ("closed", "switched"):
                self._remove(slot, ending, now)
                return True
            return False
        exchange = slot.exchange
        if isinstance(event, Broken):
            if exchange is not None and self._stale(slot, exchange):
                exchange.sent_again = True
                self._remove(slot, ending, now, keep_room=True)
                self._open(exchange, now)
                return True
            if exchange is not None:
                exchange.break_off(event.why, event.kind, now)
            self._remove(slot, ending, now)
            return True
        if exchange is not None:
            if isinstance(event, Head):
                slot.until = None
            exchange.put(event, now)
            if exchange.unread > self._limits.tunnel_buffer:
                why = f"expected the body to be read, got more than {self._limits.tunnel_buffer} bytes of it unread"
                exchange.break_off(why, "too-busy", now)
                self._remove(slot, Drop(slot.number), now)
        if isinstance(event, Tail) and slot.state != "closed":
            if slot.connection.state == "idle":
                slot.step("answered")
                slot.exchange = None
                slot.answered_at = now
                self._free(slot, now)
            else:
                self._remove(slot, Close(slot.number) if ending is not None else None, now)
        return True

    def carried(self, link: int) -> Exchange | None:
        """Return the exchange that a link carries, if it does."""
        slot = self._slots.get(link)
        return None if slot is None else slot.exchange

    def window(self, link: int) -> int | None:
        """Return the limit of a Window to wish for one of these links, or None."""
        return self._slots[link].connection.window()

    def wake(self, now: Instant) -> None:
        """Act on every deadline that has come."""
        for slot in list(self._slots.values()):
            due = slot.deadline()
            if due is None or now < due or slot.state == "closed":
                continue
            exchange = slot.exchange
            if slot.state == "idle":
                self._remove(slot, Close(slot.number), now)
                continue
            if exchange is not None:
                if slot.state == "opening":
                    why: str | None = f"expected a connection within {self._limits.time_connect:g} s, got none"
                elif slot.until is not None:
                    why = f"expected a response head within {self._limits.time_head:g} s, got none"
                else:
                    why = exchange.wake(now)
                if why is None:
                    continue
                exchange.break_off(why, "timeout", now, sent=slot.state != "opening")
            self._remove(slot, Drop(slot.number), now)

    def deadline(self) -> Instant | None:
        """The next instant at which `wake` has something to do."""
        return min((due for slot in self._slots.values() if (due := slot.deadline()) is not None), default=None)

    # ── inside ─────────────────────────────────────────────────────────────────
    def _stale(self, slot: _Slot, exchange: Exchange) -> bool:
        """True if a kept link died before it answered anything, so that asking again is safe."""
        kept = slot.connection.exchanges > 1 and not slot.connection.answered
        return kept and not exchange.sent_again and exchange.request.method in _REPEATABLE

    def _open(self, exchange: Exchange, now: Instant) -> None:
        url, number = exchange.url, self._links.take()
        self._slots[number] = _Slot(number, exchange, now + self._limits.time_connect, self._limits)
        purpose = exchange.request.purpose
        self._wishes.append(Open(number, url.host, url.port, url.scheme == "https", purpose, self._route))

    def _free(self, slot: _Slot, now: Instant) -> None:
        """A link can take a request: its own, else the one that has waited longest."""
        exchange, slot.exchange = slot.exchange, None
        waiting = self._waiting.get(slot.key)
        if exchange is None and waiting:
            exchange = waiting.popleft()
        if exchange is not None:
            self._send(slot, exchange, now)
        else:
            slot.until = now + self._limits.links_idle
            self._idle.setdefault(slot.key, []).append(slot)

    def _send(self, slot: _Slot, exchange: Exchange, now: Instant) -> None:
        slot.step("request")
        slot.exchange = exchange
        slot.until = now + self._limits.time_head
        request = exchange.request
        announced = request.body or request.method.upper() in ("POST", "PUT", "PATCH")
        body = request.body if announced else None
        slot.connection.request(request.method, exchange.url.target, exchange.headers, body)
        for data in slot.connection.output():
            self._wishes.append(Transmit(slot.number, data))

    def _remove(self, slot: _Slot, ending: Close | Drop | None, now: Instant, *, keep_room: bool = False) -> None:
        if slot.state == "idle":
            self._idle[slot.key].remove(slot)
        slot.step("gone")
        slot.exchange = None
        del self._slots[slot.number]
        if ending is not None:
            self._wishes.append(ending)
        waiting = self._waiting.get(slot.key)
        if waiting and not keep_room:
            self._open(waiting.popleft(), now)

    def _has_room(self, key: PoolKey) -> bool:
        return sum(slot.key == key for slot in self._slots.values()) < self._limits.links_per_origin

    def _headers(self, request: Request, url: Url) -> HeaderList:
        given = {name.lower() for name, _ in request.headers}
        own = (("Host", url.authority), ("User-Agent", self._user_agent), ("Accept-Encoding", "identity"))
        return tuple((name, value) for name, value in own if name.lower() not in given) + request.headers
