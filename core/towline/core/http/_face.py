"""A small HTTP API's root machine: requests come out whole, answers go in whole or streamed."""

from __future__ import annotations

from collections import deque
from typing import Any, Final, TypeAlias

from towline.core._contract import Data, Instant, Record
from towline.core._errors import LocalProtocolError, RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._script import Body, HeaderList, Tail
from towline.core._wire import Accepted, Close, Ended, Finished, Lost, Received, WireFact
from towline.core.http._exchange import RequestHead, error_body
from towline.core.http._headers import Fields
from towline.core.http._server import ServerConnection


class ServerRequest(Fields, frozen=True):
    """A whole request. `target` and `path` are as they came; `segments` and `query` are percent-decoded."""

    method: str
    target: str
    path: str
    segments: tuple[str, ...]
    query: tuple[tuple[str, str], ...]
    body: bytes
    listener: str
    peer: str

    def __repr__(self) -> str:
        return f"ServerRequest({self.method}, {len(self.body)} bytes, peer={self.peer})"

    def parameter(self, name: str) -> str | None:
        """Return the first query parameter of this name, or None."""
        return next((value for key, value in self.query if key == name), None)


# ── events ─────────────────────────────────────────────────────────────────────
class Asked(Record, frozen=True):
    """A request wants an answer under this number."""

    exchange: int
    request: ServerRequest


class Gone(Record, frozen=True):
    """The asker left before its answer was complete. An answer on its way to the machine is ignored."""

    exchange: int


# ── commands ───────────────────────────────────────────────────────────────────
class Answer(Record, frozen=True):
    """Answer whole. A `Content-Length` is added, nothing else."""

    exchange: int
    status: int
    headers: HeaderList = ()
    body: bytes = b""


class AnswerHead(Record, frozen=True):
    """Begin a streamed answer; chunked, unless the headers have a `Content-Length`."""

    exchange: int
    status: int
    headers: HeaderList = ()


class AnswerBody(Record, frozen=True):
    exchange: int
    data: Data


class AnswerEnd(Record, frozen=True):
    exchange: int


class AnswerCut(Record, frozen=True):
    """End a streamed answer so that the asker knows it is not complete."""

    exchange: int


class Drain(Record, frozen=True):
    """Take no more requests; Finished follows when the last answer has gone out and the links are closed."""


FaceCommand: TypeAlias = Answer | AnswerHead | AnswerBody | AnswerEnd | AnswerCut | Drain


class _Caller:
    """One accepted link: its connection, and the request that is being received or answered."""

    def __init__(self, connection: ServerConnection, listener: str, peer: str) -> None:
        self.connection: Final = connection
        self.listener: Final = listener
        self.peer: Final = peer
        self.head: RequestHead | None = None  # of a request whose body is still coming
        self.pieces: list[Data] = []
        self.size = 0
        self.exchange: int | None = None  # the request that was handed out and has no whole answer


class Face:
    """Receive requests, hand them out, send the answers: Machine[WireFact | FaceCommand, WireWish | Asked | Gone].

    Bodies are read whole, up to limits.http_request_body; more is answered 413. A target whose escapes are not
    UTF-8 is answered 400. One request of a link at a time.
    """

    def __init__(self, limits: Limits = LIMITS, *, keep_alive: float | None = None) -> None:
        self._limits = limits
        self._keep_alive = keep_alive
        self._wishes: deque[Any] = deque()
        self._callers: dict[int, _Caller] = {}
        self._links: dict[int, int] = {}  # exchange → link, while it has no whole answer
        self._next_exchange = 1
        self._draining = False
        self._over = False

    def __repr__(self) -> str:
        return f"Face(links={len(self._callers)}, exchanges={len(self._links)}, draining={self._draining})"

    def owns(self, link: int) -> bool:
        """True if this is an accepted link of this face."""
        return link in self._callers

    # ── the contract ───────────────────────────────────────────────────────────
    def handle(self, fact: WireFact | FaceCommand, now: Instant) -> None:
        if self._over:
            return
        if isinstance(fact, Accepted) and fact.link in self._callers:
            raise LocalProtocolError(f"link {fact.link} was accepted before, and is still open")
        if isinstance(fact, Answer | AnswerHead | AnswerBody | AnswerEnd | AnswerCut):
            self._answer(fact, now)  # alone: if it breaks the law, nothing has changed
        else:
            self._wake(now)
        if isinstance(fact, Accepted):
            self._accept(fact, now)
        elif isinstance(fact, Received | Ended | Lost):
            self._from_link(fact, now)
        elif isinstance(fact, Drain):
            self._draining = True
            for caller in list(self._callers.values()):
                caller.connection.drain(now)
                self._settle(caller, now)
        if self._draining and not self._callers:
            self._over = True
            self._wishes.append(Finished(None))

    def poll(self) -> Any:
        return self._wishes.popleft() if self._wishes else None

    def deadline(self) -> Instant | None:
        due = (caller.connection.deadline() for caller in self._callers.values())
        return min((at for at in due if at is not None), default=None)

    # ── links ──────────────────────────────────────────────────────────────────
    def _wake(self, now: Instant) -> None:
        for caller in list(self._callers.values()):
            due = caller.connection.deadline()
            if due is not None and now >= due:
                caller.connection.wake(now)
                self._settle(caller, now)

    def _accept(self, fact: Accepted, now: Instant) -> None:
        if self._draining:
            self._wishes.append(Close(fact.link))
            return
        connection = ServerConnection(
            fact.link, now, limits=self._limits, keep_alive=self._keep_alive, silence=self._limits.time_silence
        )
        self._callers[fact.link] = _Caller(connection, fact.listener, fact.peer)

    def _from_link(self, fact: Received | Ended | Lost, now: Instant) -> None:
        caller = self._callers.get(fact.link)
        if caller is None:
            return
        if isinstance(fact, Received):
            caller.connection.received(fact.data, now)
        elif isinstance(fact, Ended):
            caller.connection.ended(now)
        else:
            caller.connection.lost(fact.why)
        self._settle(caller, now)

    def _settle(self, caller: _Caller, now: Instant) -> None:
        """Take a connection's events and wishes, and forget it when it is closed."""
        connection = caller.connection
        while (event := connection.next()) is not None:
            if isinstance(event, RequestHead):
                self._begin(caller, event, now)
            elif isinstance(event, Body):
                self._collect(caller, event.data, now)
            elif isinstance(event, Tail):
                self._ask(caller, now)
            else:
                self._give_up(caller)
        self._wishes.extend(connection.wishes())
        if connection.closed:
            self._give_up(caller)
            self._callers.pop(connection.link, None)

    def _begin(self, caller: _Caller, head: RequestHead, now: Instant) -> None:
        announced = head.get("content-length")
        if announced is not None and int(announced) > self._limits.http_request_body:
            self._too_large(caller, now)
            return
        caller.head = head
        caller.connection.want_body()

    def _collect(self, caller: _Caller, data: Data, now: Instant) -> None:
        caller.size += len(data)
        # A copy: the piece may be a small view of a large buffer.
        caller.pieces.append(bytes(data))
        if caller.size > self._limits.http_request_body:
            self._forget(caller)
            self._too_large(caller, now)

    def _ask(self, caller: _Caller, now: Instant) -> None:
        head, body = caller.head, b"".join(caller.pieces)
        self._forget(caller)
        assert head is not None
        try:
            request = server_request(head, body, caller.listener, caller.peer)
        except RemoteProtocolError as error:
            self._refuse(caller, 400, error.message, now)
            return
        caller.exchange = self._next_exchange
        self._next_exchange += 1
        self._links[caller.exchange] = caller.connection.link
        self._wishes.append(Asked(caller.exchange, request))

    def _too_large(self, caller: _Caller, now: Instant) -> None:
        self._refuse(caller, 413, f"expected a body of at most {self._limits.http_request_body} bytes, got more", now)

    def _refuse(self, caller: _Caller, status: int, why: str, now: Instant) -> None:
        code = "REQUEST_TOO_LARGE" if status == 413 else "BAD_REQUEST"
        headers = (("Content-Type", "application/json"),)
        caller.connection.respond(status, headers, error_body(code, why), now=now)

    def _forget(self, caller: _Caller) -> None:
        caller.head = None
        caller.pieces = []
        caller.size = 0

    def _give_up(self, caller: _Caller) -> None:
        self._forget(caller)
        if caller.exchange is not None:
            del self._links[caller.exchange]
            self._wishes.append(Gone(caller.exchange))
            caller.exchange = None

    # ── answers ────────────────────────────────────────────────────────────────
    def _answer(self, fact: Answer | AnswerHead | AnswerBody | AnswerEnd | AnswerCut, now: Instant) -> None:
        if not 0 < fact.exchange < self._next_exchange:
            raise LocalProtocolError(f"expected an answer to a request that was asked, got one to {fact.exchange}")
        link = self._links.get(fact.exchange)
        if link is None:
            return  # the asker is gone, and this answer was on its way
        caller = self._callers[link]
        try:
            self._write(caller.connection, fact, now)
        except RemoteProtocolError as error:
            raise LocalProtocolError(f"expected an answer that can be written: {error.message}") from None
        if not isinstance(fact, AnswerHead | AnswerBody):
            del self._links[fact.exchange]
            caller.exchange = None
        self._wishes.extend(caller.connection.wishes())  # before the next request is asked
        self._settle(caller, now)

    def _write(
        self,
        connection: ServerConnection,
        fact: Answer | AnswerHead | AnswerBody | AnswerEnd | AnswerCut,
        now: Instant,
    ) -> None:
        if isinstance(fact, Answer):
            connection.respond(fact.status, fact.headers, fact.body, now=now)
        elif isinstance(fact, AnswerHead):
            connection.respond_head(fact.status, fact.headers, length=_announced(fact.headers), now=now)
        elif isinstance(fact, AnswerBody):
            connection.send_body(fact.data)
        elif isinstance(fact, AnswerEnd):
            connection.end_body(now=now)
        else:
            connection.cut()


def server_request(head: RequestHead, body: bytes, listener: str, peer: str) -> ServerRequest:
    """Put a whole request together; raise "bad-request" if its target's escapes cannot be decoded.

    Source:  RFC 3986 §2.1; the query as HTML forms write it, `+` for a space
    """
    path, _, query = head.target.partition("?")
    segments = tuple(_decoded(segment) for segment in path.split("/")[1:])
    pairs = [part.partition("=") for part in query.split("&") if part]
    parsed = tuple((_decoded(name.replace("+", " ")), _decoded(value.replace("+", " "))) for name, _, value in pairs)
    return ServerRequest(head.headers, head.method, head.target, path, segments, parsed, body, listener, peer)


_HEX: Final = frozenset("0123456789abcdefABCDEF")


def _decoded(text: str) -> str:
    if "%" not in text:
        return text
    first, *escaped = text.split("%")
    out = bytearray(first.encode("ascii"))
    for part in escaped:
        if len(part) < 2 or not _HEX.issuperset(part[:2]):
            raise RemoteProtocolError("bad-request", "expected two hexadecimal digits after a % in the target")
        out.append(int(part[:2], 16))
        out += part[2:].encode("ascii")
    try:
        return out.decode("utf-8")
    except UnicodeDecodeError:
        raise RemoteProtocolError("bad-request", "expected UTF-8 in the target's escapes, got other bytes") from None


def _announced(headers: HeaderList) -> int | None:
    for name, value in headers:
        if name.lower() == "content-length" and isinstance(value, str):
            if not value.isascii() or not value.isdigit():
                raise LocalProtocolError("expected a Content-Length of digits in an answer")
            return int(value)
    return None
