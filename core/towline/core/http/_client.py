"""One HTTP/1.1 link as its client: a request out, a response in, then the next."""

from __future__ import annotations

from collections import deque
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
    """The client's side of one link. The owner passes bytes in and forwards `output()` as Transmit.

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
        self.poisoned = False  # bytes came that nobody asked for
        self._limits = limits
        self._events: deque[ClientEvent] = deque()
        self._out: list[Data] = []
        self._close = False  # one of the two said that this exchange is the last
        self._interim = 0
        self._head: HeadReader | None = None
        self._parser: h11.Connection | None = None
        self._writer = BodyWriter(0)
        self._reader: BodyReader | None = None
        self._leftover = b""
        self._method = ""

    def __repr__(self) -> str:
        return f"ClientConnection(link={self.link}, state={self.state})"

    @property
    def idle(self) -> bool:
        """No exchange runs and another may begin."""
        return self.state == "idle"

    @property
    def reusable(self) -> bool:
        """The link may carry another request, at once or once this exchange has ended."""
        if self.state in ("waiting", "reading"):
            return not self._close
        return self.state == "idle"

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
        if self.state != "idle" or self._events:
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
        """Return the response's next event: one Head, its Body pieces, one Tail; or one Broken."""
        return self._events.popleft() if self._events else None

    def received(self, data: Data) -> None:
        """Take bytes from the link."""
        view = memoryview(data)
        try:
            while len(view):
                if self.state == "waiting":
                    self.answered = True
                    view = self._read_head(view)
                elif self.state == "reading":
                    view = self._read_body(view)
                elif self.state == "idle":
                    self.poisoned = True
                    self._step("bytes")
                elif self.state == "switched":
                    self._leftover += view
                    return
                else:
                    return
        except Fault as fault:
            self._break(fault.why, "protocol-error", "fault")

    def ended(self) -> None:
        """The peer will send no more."""
        if self.state == "reading" and self._reader is not None:
            missing = self._reader.end()
            if missing is None:
                self._end_exchange()
            else:
                self._break(f"{missing}; the peer closed", "registry-unreachable", "end")
        elif self.state == "waiting":
            came = "part of one" if self.answered else "nothing"
            self._break(f"expected a response, got {came}; the peer closed", "registry-unreachable", "end")
        elif self.state == "idle":
            self._step("end")

    def lost(self, why: str, kind: str = "registry-unreachable") -> None:
        """The link is gone."""
        if self.state in ("waiting", "reading"):
            self._break(why, kind, "end")
        elif self.state == "idle":
            self._step("end")

    def upgrade(self) -> bytes:
        """Return the bytes that came after a 101; the link is the caller's from here on."""
        if self.state != "switched":
            raise LocalProtocolError(f"expected a connection that switched, got one that is {self.state}")
        leftover, self._leftover = self._leftover, b""
        return leftover

    def _read_head(self, view: memoryview) -> memoryview:
        assert self._head is not None
        assert self._parser is not None
        raw, view = self._head.feed(view)
        if raw is None:
            return view
        event = parse_head(self._parser, raw)
        assert not isinstance(event, h11.Request)
        if isinstance(event, h11.InformationalResponse) and event.status_code != 101:
            self._interim += 1
            if self._interim > self._limits.http_interim:
                raise Fault(400, f"expected a response after {self._limits.http_interim} interim ones, got another")
            return view
        head = fields(event)
        status = event.status_code
        if status == 101:
            self._events.append(Head(101, head.headers))
            self._step("switch")
            return view
        if self._method == "HEAD" or status in (204, 304):
            self._reader = CountedBody(0)
        else:
            self._reader = body_reader(self._parser, head, self._limits, response=True)
        self._close = self._close or head.closes
        self._events.append(Head(status, head.headers))
        self._step("head")
        if self._reader.done:
            self._end_exchange()
        return view

    def _read_body(self, view: memoryview) -> memoryview:
        assert self._reader is not None
        for piece in self._reader.feed(view):
            self._events.append(Body(piece))
        if self._reader.done:
            self._end_exchange()
        return self._reader.surplus

    def _end_exchange(self) -> None:
        self._events.append(Tail())
        assert self._reader is not None
        last = self._close or not self._writer.done or isinstance(self._reader, BodyToTheEnd)
        self._step("last tail" if last else "reusable tail")

    def _break(self, why: str, kind: str, fed: str) -> None:
        self._events.append(Broken(why, kind))
        self._step(fed)

    def _step(self, fed: str) -> None:
        self.state = CLIENT_TABLE.next(self.state, fed)
