"""Requests that a broker makes: to the upstream, to the platform, and the uploads of answers.

Links are kept alive, the last used first. A request is tried again only while no byte of it was sent (Q13), or
when a kept link turns out to be dead and asking twice changes nothing. Bodies may be streamed both ways; what is
streamed is transmitted at once, also on a link that is still opening, so that the driver's law holds back
whoever fills it.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Literal

from towline.core._contract import Data, Instant, joined
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._script import Body, Broken, HeaderList, Tail
from towline.core._wire import Close, Drop, Ended, Filled, LinkNumbers, Lost, Open, Opened, Received, Transmit, Window
from towline.core.broker._alarms import Alarms, Timed
from towline.core.http import ClientConnection, ClientEvent, Origin, Url

RETRIES: Final = 3
RETRY_AFTER: Final = 0.5


class Errand(Timed):
    """One request, and what is known of it.

    `length` or `chunked` announce a body that `Outgoing.send` brings. `repeatable` says that asking twice changes
    nothing, `retries` how often a link that does not open is dialled again. `counts` adds the established client's
    count of tries to the headers (broker-protocol.md §2.3).
    """

    __slots__ = (
        "attempt",
        "body",
        "chunked",
        "counts",
        "ended",
        "errors",
        "headers",
        "kept",
        "kept_bytes",
        "length",
        "line",
        "method",
        "over",
        "owner",
        "patience",
        "repeatable",
        "retries",
        "target",
        "url",
    )

    def __init__(
        self,
        owner: Any,
        method: str,
        url: Url,
        target: str,
        headers: HeaderList,
        body: bytes | None = None,
        *,
        length: int | None = None,
        chunked: bool = False,
        repeatable: bool | None = None,
        counts: bool = False,
        retries: int = RETRIES,
        patience: float = 600.0,
    ) -> None:
        super().__init__()
        self.owner = owner
        self.method = method
        self.url = url
        self.target = target
        self.headers = headers
        self.body = body
        self.length = length
        self.chunked = chunked
        self.repeatable = method in ("GET", "HEAD") if repeatable is None else repeatable
        self.counts = counts
        self.retries = retries
        # Seconds without any progress after which it is given up.
        self.patience = patience
        self.attempt = 0
        self.errors: list[str] = []
        self.line: _Line | None = None
        self.over = False
        # The streamed body so far, while it may have to be sent again; None once it is not kept.
        self.kept: list[Data] | None = [] if body is None and (chunked or length is not None) else None
        self.kept_bytes = 0
        self.ended = False

    def __repr__(self) -> str:
        return f"Errand({self.method} {self.url.origin}, attempt={self.attempt}, over={self.over})"

    @property
    def streams(self) -> bool:
        return self.body is None and (self.chunked or self.length is not None)


class _Line(Timed):
    """One link: opening, carrying an errand, or kept for the next."""

    __slots__ = ("connection", "errand", "key", "opened")

    def __init__(self, link: int, key: Origin, limits: Limits) -> None:
        super().__init__()
        self.connection = ClientConnection(link, limits=limits)
        self.key = key
        self.errand: Errand | None = None
        self.opened = False

    @property
    def link(self) -> int:
        return self.connection.link


class Outgoing:
    """The links of a root's own requests. Wishes go to the queue that the root gives, events come from `next`."""

    def __init__(
        self, wishes: deque[Any], links: LinkNumbers, *, limits: Limits = LIMITS, route: str = "direct"
    ) -> None:
        self._wishes = wishes
        self._links = links
        self._limits = limits
        self._route = route
        self._lines: dict[int, _Line] = {}
        self._idle: dict[Origin, list[_Line]] = {}
        self._events: deque[tuple[Errand, ClientEvent]] = deque()
        self._alarms: Alarms[_Line | Errand] = Alarms()

    def owns(self, link: int) -> bool:
        return link in self._lines

    def next(self) -> tuple[Errand, ClientEvent] | None:
        """Return the next event: a Head, its Body pieces and a Tail, or a Broken, and the errand it belongs to."""
        while self._events:
            errand, event = self._events.popleft()
            if not errand.over:
                errand.over = isinstance(event, (Tail, Broken))
                return errand, event
        return None

    def deadline(self) -> Instant | None:
        return self._alarms.deadline()

    # ── requests ───────────────────────────────────────────────────────────────
    def begin(self, errand: Errand, now: Instant) -> None:
        """Send a request.

        Raises:  RemoteProtocolError "bad-request" if it cannot be written; nothing was begun then
        """
        idle = self._idle.get(errand.url.origin)
        self._start(errand, idle.pop() if idle else self._open(errand, now), now)

    def send(self, errand: Errand, data: Data, now: Instant) -> None:
        """Send the next bytes of a streamed body. They are transmitted at once, so a view stays good for the turn."""
        if errand.over:
            return
        if errand.kept is not None:
            errand.kept_bytes += len(data)
            if errand.kept_bytes <= self._limits.stream_buffer:
                errand.kept.append(bytes(data))
            elif errand.line is None:
                # Between two tries nothing holds back the filler but this.
                self._break(errand, Broken("too much to send before a link was open", "too-busy", sent=False))
                return
            else:
                errand.kept = None
        if errand.line is not None:
            errand.line.connection.send_body(data)
            self._transmit(errand.line)
            self._alarms.set(errand, now + errand.patience)

    def end(self, errand: Errand, now: Instant) -> None:
        """End a streamed body."""
        errand.ended = True
        if not errand.over and errand.line is not None:
            errand.line.connection.end_body()
            self._transmit(errand.line)
            self._alarms.set(errand, now + errand.patience)

    def give_up(self, errand: Errand) -> None:
        """Nobody wants the rest. A request whose body is not complete is cut, so that the peer knows."""
        errand.over = True
        self._alarms.set(errand, None)
        line, errand.line = errand.line, None
        if line is not None:
            self._remove(line, Drop(line.link))

    def break_off(self, errand: Errand) -> None:
        """End a request whose body will not be complete, after what was sent of it."""
        errand.over = True
        self._alarms.set(errand, None)
        line, errand.line = errand.line, None
        if line is not None:
            self._remove(line, Close(line.link))

    # ── facts ──────────────────────────────────────────────────────────────────
    def handle(self, fact: Opened | Received | Filled | Ended | Lost, now: Instant) -> None:
        """Take a fact about one of these links."""
        line = self._lines.get(fact.link)
        if line is None:
            return
        if isinstance(fact, Received):
            self._received(line, fact.data, now)
        elif isinstance(fact, Filled):
            self._received(line, fact.view, now)
        elif isinstance(fact, Opened):
            line.opened = True
            if line.errand is not None:
                line.errand.kept = None
        elif isinstance(fact, Ended):
            line.connection.ended()
            self._events_of(line, Close(line.link), now)
        elif isinstance(fact, Lost):
            if not line.opened:
                self._not_opened(line, fact, now)
            else:
                line.connection.lost(fact.why, fact.kind)
                self._events_of(line, None, now)

    def _received(self, line: _Line, data: Data, now: Instant) -> None:
        line.connection.received(data)
        self._events_of(line, Drop(line.link), now)
        limit = line.connection.window()
        if limit is not None and line.link in self._lines:
            self._wishes.append(Window(line.link, limit))

    def wake(self, now: Instant) -> None:
        for thing in self._alarms.due(now):
            if isinstance(thing, Errand):
                if thing.over:
                    continue
                if thing.line is None:
                    self._start(thing, self._open(thing, now), now)
                else:
                    line = thing.line
                    self._remove(line, Drop(line.link))
                    self._break(thing, Broken(f"no progress in {thing.patience:g} s", "timeout", sent=line.opened))
            elif thing.errand is None and thing.link in self._lines:
                self._remove(thing, Close(thing.link))
            elif not thing.opened and thing.link in self._lines:
                self._wishes.append(Drop(thing.link))
                why = f"no connection in {self._limits.time_connect:g} s"
                self._not_opened(thing, Lost(thing.link, why, "timeout"), now)

    # ── inside ─────────────────────────────────────────────────────────────────
    def _open(self, errand: Errand, now: Instant) -> _Line:
        url = errand.url
        line = _Line(self._links.take(), url.origin, self._limits)
        self._lines[line.link] = line
        self._wishes.append(Open(line.link, url.host, url.port, url.scheme == "https", "configured", self._route))
        # The driver's own limit is as long, and its word on what went wrong is better: it goes first.
        self._alarms.set(line, now + self._limits.time_connect + 1.0)
        return line

    def _start(self, errand: Errand, line: _Line, now: Instant) -> None:
        headers = errand.headers
        if errand.counts:
            headers += (("snyk-broker-retry-count", str(errand.attempt)),)
            if errand.errors:
                headers += (("snyk-broker-retry-errors", ",".join(errand.errors)),)
        try:
            line.connection.request(
                errand.method, errand.target, headers, errand.body, length=errand.length, chunked=errand.chunked
            )
        except RemoteProtocolError:
            self._remove(line, Close(line.link))
            raise
        if line.opened:
            self._alarms.set(line, None)
        line.errand = errand
        errand.line = line
        for data in errand.kept or ():
            line.connection.send_body(data)
        if errand.ended and errand.streams:
            line.connection.end_body()
        self._transmit(line)
        self._alarms.set(errand, now + errand.patience)

    def _transmit(self, line: _Line) -> None:
        link = line.link
        for data in line.connection.output():
            self._wishes.append(Transmit(link, data))

    def _events_of(self, line: _Line, ending: Close | Drop | None, now: Instant) -> None:
        errand, connection = line.errand, line.connection
        whole = False
        pieces: list[Data] = []
        while (event := connection.next()) is not None:
            if type(event) is Body:
                pieces.append(event.data)
                continue
            whole = isinstance(event, Tail)
            if errand is None or errand.over:
                continue
            self._body(errand, pieces, now)
            if isinstance(event, Broken) and self._stale(line, errand):
                self._remove(line, ending)
                errand.repeatable = False
                self._start(errand, self._open(errand, now), now)
                return
            self._events.append((errand, event))
            self._alarms.set(errand, None if isinstance(event, (Tail, Broken)) else now + errand.patience)
        if errand is not None and not errand.over:
            self._body(errand, pieces, now)
        if connection.idle and errand is not None:
            line.errand = errand.line = None
            self._idle.setdefault(line.key, []).append(line)
            self._alarms.set(line, now + self._limits.links_idle)
        elif connection.state in ("closed", "switched"):
            if connection.state == "switched" and errand is not None:
                self._events.append((errand, Broken("the peer switched protocols", "protocol-error")))
            self._remove(line, Close(line.link) if whole and ending is not None else ending)

    def _body(self, errand: Errand, pieces: list[Data], now: Instant) -> None:
        """Tell what a turn brought of a body as one piece: small chunks cost less joined than one by one."""
        if pieces:
            self._events.append((errand, Body(joined(pieces))))
            self._alarms.set(errand, now + errand.patience)
            pieces.clear()

    def _stale(self, line: _Line, errand: Errand) -> bool:
        """Whether a kept link died before it answered anything, so that asking again on a new one is safe."""
        kept = line.connection.exchanges > 1 and not line.connection.answered
        return kept and errand.repeatable and (not errand.streams or errand.kept is not None)

    def _not_opened(self, line: _Line, lost: Lost, now: Instant) -> None:
        errand = line.errand
        self._remove(line, None)
        if errand is None or errand.over:
            return
        errand.line = None
        errand.errors.append(_code(lost))
        whole = not errand.streams or errand.kept is not None
        if whole and errand.attempt < errand.retries and lost.kind not in ("address-blocked", "tls-error"):
            errand.attempt += 1
            self._alarms.set(errand, now + RETRY_AFTER)
        else:
            self._break(errand, Broken(lost.why, lost.kind, sent=False))

    def _break(self, errand: Errand, broken: Broken) -> None:
        errand.line = None
        self._alarms.set(errand, None)
        self._events.append((errand, broken))

    def _remove(self, line: _Line, ending: Close | Drop | None) -> None:
        if self._lines.pop(line.link, None) is None:
            return
        idle = self._idle.get(line.key)
        if idle is not None and line in idle:
            idle.remove(line)
            if not idle:
                del self._idle[line.key]
        if line.errand is not None:
            line.errand.line = None
            line.errand = None
        self._alarms.set(line, None)
        if ending is not None:
            self._wishes.append(ending)


def _code(lost: Lost) -> Literal["ETIMEDOUT", "ECONNREFUSED"]:
    """Return what the established client calls a failure to connect."""
    return "ETIMEDOUT" if lost.kind == "timeout" else "ECONNREFUSED"
