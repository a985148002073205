"""One HTTP/1.1 link as its client: a request out, a response in, then the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, TypeAlias

import h11

from towline.core._contract import Data
from towline.core._errors import LocalProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._script import Body, Broken, Head, HeaderList, Tail
from towline.core._table import Table
from towline.core.http._framing import (
    BodyReader,
    BodyToTheEnd,
    BodyWriter,
    CountedBody,
    Fault,
    HeadReader,
    body_reader,
    fields,
    parse_head,
)
from towline.core.http._headers import FRAMING, check_method, check_target, members, without, written

ClientEvent: TypeAlias = Head | Body | Tail | Broken

CLIENT_TABLE: Final = Table(
    "http client",
    "idle",
    {
        ("idle", "request"): "waiting",
        ("idle", "bytes"): "closed",  # nobody asked: a poisoned queue of responses
        ("idle", "end"): "closed",
        ("waiting", "head"): "reading",
        ("waiting", "switch"): "switched",
        ("waiting", "fault"): "closed",
        ("waiting", "end"): "closed",
        ("reading", "reusable tail"): "idle",
        ("reading", "last tail"): "closed",
        ("reading", "fault"): "closed",
        ("reading", "end"): "closed",
    },
    ends=frozenset({"closed", "switched"}),
)


class ClientConnection:
    """The client's side of one link. The owner passes bytes in, takes every `next()`, and transmits `output()`.

    idle      no exchange runs; `request` leaves it
    waiting   the request is on its way, no response head came
    reading   the head came, body bytes are owed
    switched  101: the link belongs to another protocol, `upgrade()` has the bytes that came after the head
    closed    the link must be closed: it broke, one side said close, or bytes came that nobody asked for

    The request's body may still be going out in `waiting` and `reading`; a response that ends before it does
    leaves the link closed.
    """

    def __init__(self, link: int, *, limits: Limits = LIMITS) -> None:
        self.link: Final = link
        self.state = CLIENT_TABLE.start
        self.exchanges = 0  # requests sent on this link so far
        self.answered = False  # a byte of the current exchange's response came
        self._limits = limits
        self._inbox: deque[memoryview] = deque()  # bytes that came and were not read
        self._pieces: Iterator[Data] | None = None  # the body pieces of the bytes being read
        self._end: tuple[str, str] | None = None  # why and how the link ended, once it has; "" for an orderly end
        self._out: list[Data] = []
        self._close = False  # one of the two said that this exchange is the last
        self._interim = 0
        self._head: HeadReader | None = None
        self._parser: h11.Connection | None = None
        self._writer = BodyWriter(0)
        self._reader: BodyReader | None = None
        self._method = ""

    def __repr__(self) -> str:
        return f"ClientConnection(link={self.link}, state={self.state})"

    @property
    def idle(self) -> bool:
        """No exchange runs, nothing came that nobody asked for, and another may begin."""
        return self.state == "idle" and not self._inbox and self._end is None

    @property
    def reusable(self) -> bool:
        """The link may carry another request, at once or once this exchange has ended."""
        if self.state in ("waiting", "reading"):
            return not self._close
        return self.idle

    @property
    def left(self) -> int | None:
        """Body bytes of the response that are still owed; None while nobody knows."""
        return self._reader.left if self._reader is not None else None

    @property
    def sending(self) -> bool:
        """The request's body is still owed."""
        return not self._writer.done and self.state in ("waiting", "reading")

    # ── the request ────────────────────────────────────────────────────────────
    def request(
        self,
        method: str,
        target: str,
        headers: HeaderList,
        body: Data | None = None,
        *,
        length: int | None = None,
        chunked: bool = False,
    ) -> None:
        """Begin an exchange. The headers hold `Host`; framing headers among them are replaced.

        Shape:   `body` is the whole body, announced even when empty; or `length` or `chunked` announce one that
                 `send_body` and `end_body` bring; or none of them: no body, and nothing said about one
        Raises:  RemoteProtocolError "bad-request" if method, target or a header cannot be written (they may come
                 from a peer), LocalProtocolError if an exchange runs; the connection is unchanged after both
        """
        if not self.idle:
            raise LocalProtocolError(f"expected an idle connection for a request, got one that is {self.state}")
        if (body is not None) + (length is not None) + chunked > 1:
            raise LocalProtocolError("expected one of body, length and chunked, got several")
        check_method(method)
        check_target(target)
        lines = written(without(headers, FRAMING))
        if body is not None:
            length = len(body)
        if chunked:
            lines.append((b"Transfer-Encoding", b"chunked"))
        elif length is not None:
            lines.append((b"Content-Length", b"%d" % length))
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=self._limits.http_trailers)
        try:
            request = h11.Request(method=method, target=target, headers=lines)
        except h11.LocalProtocolError as error:
            raise LocalProtocolError(f"expected headers of a request, got: {str(error).partition(':')[0]}") from None
        self._out.append(parser.send(request))
        self._parser = parser
        self._head = HeadReader(self._limits, response=True)
        self._writer = BodyWriter(None if chunked else length or 0)
        self._reader = None
        self._method = method.upper()
        self._interim = 0
        self._close = "close" in members(v for k, v in headers if k.lower() == "connection" and isinstance(v, str))
        self.exchanges += 1
        self.answered = False
        self._step("request")
        if body is not None:
            self._out.extend(self._writer.piece(body))
        if body is not None or (length is None and not chunked):
            self._writer.end()

    def send_body(self, data: Data) -> None:
        """Send the next bytes of a streamed body."""
        if self.state not in ("waiting", "reading") or not self._writer.fits(len(data)):
            raise LocalProtocolError(f"expected at most the announced body, got {len(data)} bytes ({self.state})")
        self._out.extend(self._writer.piece(data))

    def end_body(self) -> None:
        """End a streamed body."""
        if self.state not in ("waiting", "reading") or self._writer.done or not self._writer.complete:
            raise LocalProtocolError(f"expected a body that is complete, got the end of another ({self.state})")
        self._out.extend(self._writer.end())

    def output(self) -> list[Data]:
        """Return what is to be transmitted, in order, and forget it."""
        out, self._out = self._out, []
        return out

    # ── the response ───────────────────────────────────────────────────────────
    def next(self) -> ClientEvent | None:
        """Return the response's next event: one Head, its Body pieces, one Tail; or one Broken.

        Bytes are read only as far as the event goes, so that wherever they are cut the owner stands at the same place
        when it decides. Call it until it returns None after each fact.
        """
        try:
            return self._read()
        except Fault as fault:
            return self._break(fault.why, "protocol-error", "fault")

    def received(self, data: Data) -> None:
        """Take bytes from the link."""
        if self.state != "closed" and len(data):
            self._inbox.append(memoryview(data))

    def ended(self) -> None:
        """The peer will send no more."""
        self._end = self._end or ("", "registry-unreachable")

    def lost(self, why: str, kind: str = "registry-unreachable") -> None:
        """The link is gone."""
        self._end = (why, kind)

    def upgrade(self) -> bytes:
        """Return the bytes that came after a 101; the link is the caller's from here on."""
        if self.state != "switched":
            raise LocalProtocolError(f"expected a connection that switched, got one that is {self.state}")
        leftover = b"".join(self._inbox)
        self._inbox.clear()
        return leftover

    def _read(self) -> ClientEvent | None:
        while self.state not in ("closed", "switched"):
            if self._pieces is not None:
                piece = next(self._pieces, None)
                if piece is not None:
                    return Body(piece)
                self._pieces = None
                self._put_back(self._reader.surplus if self._reader else memoryview(b""))
            if self.state == "reading" and self._reader is not None and self._reader.done:
                return self._end_exchange()
            if not self._inbox:
                return self._read_end()
            view = self._inbox.popleft()
            if self.state == "waiting":
                self.answered = True
                head = self._read_head(view)
                if head is not None:
                    return head
            elif self._reader is not None and self.state == "reading":
                self._pieces = self._reader.feed(view)
            else:
                self._step("bytes")
        if self.state == "closed":
            self._inbox.clear()
        return None

    def _read_head(self, view: memoryview) -> Head | None:
        assert self._head is not None
        assert self._parser is not None
        raw, rest = self._head.feed(view)
        self._put_back(rest)
        if raw is None:
            return None
        event = parse_head(self._parser, raw)
        assert not isinstance(event, h11.Request)
        if isinstance(event, h11.InformationalResponse) and event.status_code != 101:
            self._interim += 1
            if self._interim > self._limits.http_interim:
                raise Fault(400, f"expected a response after {self._limits.http_interim} interim ones, got another")
            return None
        head = fields(event)
        status = event.status_code
        if status == 101:
            self._step("switch")
            return Head(101, head.headers)
        if self._method == "HEAD" or status in (204, 304):
            self._reader = CountedBody(0)
        else:
            self._reader = body_reader(self._parser, head, self._limits, response=True)
        self._close = self._close or head.closes
        self._step("head")
        return Head(status, head.headers)

    def _read_end(self) -> ClientEvent | None:
        if self._end is None:
            return None
        why, kind = self._end
        if self.state == "idle":
            self._step("end")
            return None
        if self.state == "waiting":
            came = "part of one" if self.answered else "nothing"
            return self._break(why or f"expected a response, got {came}; the peer closed", kind, "end")
        assert self._reader is not None
        if not why:
            missing = self._reader.end()
            if missing is None:
                return self._end_exchange()
            why = f"{missing}; the peer closed"
        return self._break(why, kind, "end")

    def _end_exchange(self) -> Tail:
        last = self._close or not self._writer.done or isinstance(self._reader, BodyToTheEnd)
        self._step("last tail" if last else "reusable tail")
        return Tail()

    def _break(self, why: str, kind: str, fed: str) -> Broken:
        self._step(fed)
        self._pieces = None
        self._inbox.clear()
        return Broken(why, kind)

    def _put_back(self, rest: memoryview) -> None:
        if len(rest):
            self._inbox.appendleft(rest)

    def _step(self, fed: str) -> None:
        self.state = CLIENT_TABLE.next(self.state, fed)
