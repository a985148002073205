"""One HTTP/1.1 link as its client: a request out, a response in, then the next."""

from __future__ import annotations

from typing import Final, TypeAlias

from towline.core._contract import Data
from towline.core._errors import LocalProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._script import Body, Broken, Head, HeaderList, Tail
from towline.core._table import Table
from towline.core.http._framing import BodyReader, BodyToTheEnd, BodyWriter, CountedBody, Fault, window
from towline.core.http._heads import ResponseReader
from towline.core.http._writing import join_small, request_head

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

    __slots__ = (
        "_close", "_end", "_fed", "_fresh", "_heads", "_inbox", "_interim", "_limits", "_method", "_out", "_reader",
        "_writer", "answered", "exchanges", "link", "state"
    )  # fmt: skip

    def __init__(self, link: int, *, limits: Limits = LIMITS) -> None:
        self.link: Final = link
        self.state = CLIENT_TABLE.start
        self.exchanges = 0  # requests sent on this link so far
        self.answered = False  # a byte of the current exchange's response came
        self._limits = limits
        self._inbox: list[memoryview] = []  # bytes that came and were not read
        self._fresh = False  # bytes came since a window was asked for
        self._end: tuple[str, str] | None = None  # why and how the link ended, once it has; "" for an orderly end
        self._out: list[Data] = []
        self._close = False  # one of the two said that this exchange is the last
        self._interim = 0
        self._heads = ResponseReader(limits)
        self._writer: BodyWriter | None = None  # None before the first request
        self._reader: BodyReader | None = None  # None before a head and after the body's end
        self._fed = False  # the reader has bytes whose pieces were not all taken
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
        return self._writer is not None and not self._writer.done and self.state in ("waiting", "reading")

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
        if body is not None:
            length = len(body)
        head, self._close, self._heads.upgrades = request_head(method, target, headers, length=length, chunked=chunked)
        self._out.append(head)
        writer = self._writer = BodyWriter(None if chunked else length or 0)
        self._method = method.upper()
        self._interim = 0
        self.exchanges += 1
        self.answered = False
        self._step("request")
        if body is not None:
            join_small(self._out, writer.piece(body))
        if body is not None or (length is None and not chunked):
            writer.end()

    def send_body(self, data: Data) -> None:
        """Send the next bytes of a streamed body."""
        writer = self._writer
        if writer is None or self.state not in ("waiting", "reading") or not writer.fits(len(data)):
            raise LocalProtocolError(f"expected at most the announced body, got {len(data)} bytes ({self.state})")
        self._out.extend(writer.piece(data))

    def end_body(self) -> None:
        """End a streamed body."""
        writer = self._writer
        if writer is None or self.state not in ("waiting", "reading") or writer.done or not writer.complete:
            raise LocalProtocolError(f"expected a body that is complete, got the end of another ({self.state})")
        self._out.extend(writer.end())

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
            # What waits for `upgrade` outlives the turn, and a window does not.
            self._inbox.append(memoryview(data if self.state != "switched" else bytes(data)))
            self._fresh = True

    def window(self) -> int | None:
        """Return the limit of a Window to wish for, or None. Ask once `next` has returned None: it is said once, and
        again only when more bytes have come."""
        fresh, self._fresh = self._fresh, False
        return window(self._reader, self._limits) if fresh and self.state == "reading" else None

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
            reader = self._reader
            if self._fed and reader is not None:
                piece = reader.piece()
                if piece is not None:
                    return Body(piece)
                self._fed = False
                self._put_back(reader.surplus)
            if reader is not None and reader.done:
                return self._end_exchange()
            if not self._inbox:
                return self._read_end()
            view = self._inbox.pop(0)
            if self.state == "waiting":
                self.answered = True
                head = self._read_head(view)
                if head is not None:
                    return head
            elif reader is not None:
                reader.feed(view)
                self._fed = True
            else:
                self._step("bytes")
        if self.state == "closed":
            self._inbox.clear()
        return None

    def _read_head(self, view: memoryview) -> Head | None:
        opening, rest = self._heads.feed(view)
        self._put_back(rest)
        if opening is None:
            return None
        status = opening.head.status
        if status == 101:
            self._step("switch")
            self._inbox = [memoryview(bytes(view)) for view in self._inbox]
            return opening.head
        if status < 200:
            self._interim += 1
            if self._interim > self._limits.http_interim:
                raise Fault(400, f"expected a response after {self._limits.http_interim} interim ones, got another")
            return None
        if self._method == "HEAD" or status in (204, 304):
            self._reader = CountedBody(0)
        else:
            self._reader = opening.body(self._limits) or BodyToTheEnd()
        self._close = self._close or opening.closes
        self._step("head")
        return opening.head

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
        assert self._writer is not None
        last = self._close or not self._writer.done or isinstance(self._reader, BodyToTheEnd)
        self._reader = None
        self._step("last tail" if last else "reusable tail")
        return Tail()

    def _break(self, why: str, kind: str, fed: str) -> Broken:
        self._step(fed)
        self._reader = None
        self._fed = False
        self._inbox.clear()
        return Broken(why, kind)

    def _put_back(self, rest: memoryview) -> None:
        if len(rest):
            self._inbox.insert(0, rest)

    def _step(self, fed: str) -> None:
        self.state = CLIENT_TABLE.next(self.state, fed)
