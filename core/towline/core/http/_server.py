"""One HTTP/1.1 link as its server: a request in, an answer out, then the next."""

from __future__ import annotations

from typing import Final

from towline.core._contract import Data, Instant
from towline.core._errors import LocalProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._script import Body, Broken, HeaderList, Tail
from towline.core._wire import Close, Drop, Shut, Transmit
from towline.core.http._exchange import SERVER_TABLE, ServerEvent, fault_body
from towline.core.http._framing import BodyReader, BodyWriter, Fault, window
from towline.core.http._heads import RequestReader
from towline.core.http._writing import answer_head, join_small


class ServerConnection:
    """The server's side of one link. The owner passes bytes in, takes every `next()`, and executes `wishes()`.

    idle       no request; a head may be on its way
    asked      a request's head was handed out, no answer began; body bytes may be owed
    answering  the answer's head is out, its body is not
    emptying   the answer is complete, the rest of the request's body is read and dropped
    lingering  the peer broke HTTP or was refused: the answer is out, what comes is dropped until it closes
    switched   another protocol has the link
    closed     the link is closed, or will be once the output has left

    Requests are handled one after the other: the next is parsed when the answer to the last is complete.
    A fault of the peer is answered with a 4xx or 5xx, where no answer has begun, and told as Broken where a
    request was handed out.
    """

    __slots__ = (
        "_begun", "_bodiless", "_dropped", "_end_told", "_ending", "_events", "_expects", "_fed", "_fresh", "_heads",
        "_held", "_inbox", "_keep_alive", "_last", "_limits", "_method", "_now", "_out", "_peer_ended", "_reader",
        "_silence", "_until", "_version", "_writer", "draining", "link", "state"
    )  # fmt: skip

    def __init__(
        self,
        link: int,
        now: Instant,
        *,
        limits: Limits = LIMITS,
        keep_alive: float | None = None,
        silence: float | None = None,
    ) -> None:
        """`keep_alive` is how long a quiet link is kept, limits.time_keep_alive by default. `silence` is how long a
        request's body may pause; None for an owner that holds the peer back and so cannot tell its silence."""
        self.link: Final = link
        self.state = SERVER_TABLE.start
        self.draining = False  # no further request is taken: the owner is stopping
        self._limits = limits
        self._keep_alive = limits.time_keep_alive if keep_alive is None else keep_alive
        self._silence = silence
        self._until: Instant | None = now + limits.time_head
        self._now = now  # of the last fact
        self._events: list[ServerEvent] = []
        self._inbox: list[memoryview] = []  # bytes that came and were not read
        self._fresh = False  # bytes came since a window was asked for
        self._out: list[Data] = []
        self._ending: Shut | Close | Drop | None = None
        self._heads = RequestReader(limits)
        self._reader: BodyReader | None = None  # None before a head and after the body's end
        self._fed = False  # the reader has bytes whose pieces were not all taken
        self._writer: BodyWriter | None = None
        self._method, self._version = "", "1.1"  # of the request
        self._bodiless = False  # the answer has no body, whatever its headers say
        self._last = False  # this exchange is the last on this link
        self._expects = False  # the peer asked for a 100 and has none
        self._begun = False  # bytes of the request's body came
        self._held = b""  # what came behind the request that is being answered
        self._peer_ended = False
        self._end_told = True  # False while the end of the peer's bytes was not acted on
        self._dropped = 0  # bytes thrown away while lingering

    def __repr__(self) -> str:
        return f"ServerConnection(link={self.link}, state={self.state})"

    @property
    def closed(self) -> bool:
        """The owner has, or gets with the next `wishes()`, the wish to close the link; it may be forgotten then."""
        return self.state == "closed"

    @property
    def idle(self) -> bool:
        """No request is being received or answered."""
        return self.state == "idle" and not len(self._heads) and not self._inbox and not self._held

    @property
    def answerable(self) -> bool:
        """A request was handed out and no answer to it began."""
        return self.state == "asked"

    @property
    def body_complete(self) -> bool:
        """The request's body came to its end."""
        return self._reader is None

    def deadline(self) -> Instant | None:
        return self._until

    # ── facts ──────────────────────────────────────────────────────────────────
    def received(self, data: Data, now: Instant) -> None:
        """Take bytes from the link."""
        self._now = now
        if self.state == "lingering":
            self._dropped += len(data)
            if self._dropped > self._limits.http_linger:
                self._finish("last", Close(self.link))
        elif self.state != "closed" and len(data):
            self._inbox.append(memoryview(data))
            self._fresh = True

    def window(self) -> int | None:
        """Return the limit of a Window to wish for, or None. Ask once `next` has returned None: it is said once, and
        again only when more bytes have come."""
        fresh, self._fresh = self._fresh, False
        return window(self._reader, self._limits) if fresh and self.state in ("asked", "answering") else None

    def ended(self, now: Instant) -> None:
        """The peer will send no more. It may still read: an answer under way is completed."""
        self._now = now
        self._peer_ended = True
        self._end_told = False

    def lost(self, why: str) -> None:
        """The link is gone."""
        if self.state in ("asked", "answering"):
            self._events.append(Broken(why, "protocol-error"))
        self.state = self.state if self.state == "switched" else "closed"
        self._forget_bytes()
        self._out.clear()
        self._ending = self._until = None

    def wake(self, now: Instant) -> None:
        """The deadline came, if it did: close a link that is quiet or slow."""
        self._now = now
        if self._until is None or now < self._until:
            return
        if self.state in ("emptying", "lingering") or (self.state == "idle" and not len(self._heads)):
            self._finish("last", Close(self.link))
        elif self.state in ("idle", "asked"):
            self._refuse(Fault(408, "expected the request sooner"))
        elif self.state == "answering":
            self._events.append(Broken("expected the rest of the request's body sooner", "timeout"))
            self._finish("cut", Drop(self.link))

    def drain(self, now: Instant) -> None:
        """Take no further request: an idle link closes at once, another after its answer."""
        self._now = now
        self.draining = True
        if self.idle:
            self._finish("last", Close(self.link))

    def next(self) -> ServerEvent | None:
        """Return the next event: a RequestHead, its Body pieces, a Tail; or a Broken, the last one of its request.

        Bytes are read only as far as the event goes, so that wherever they are cut the owner stands at the same place
        when it decides. Call it until it returns None after each fact and each complete answer.
        """
        while True:
            reader = self._reader
            if self._events:
                return self._events.pop(0)
            if self._fed and reader is not None:
                try:
                    piece = reader.piece()
                except Fault as fault:
                    self._refuse(fault)
                    continue
                if piece is None:
                    self._body_was_read(reader)
                elif self.state != "emptying":
                    return Body(piece)
            elif self.state == "idle" and self._held:
                self._inbox.insert(0, memoryview(self._held))
                self._held = b""
            elif self._inbox:
                view = self._inbox.pop(0)
                if self.state == "idle":
                    self._read_head(view)
                elif reader is not None and self.state in ("asked", "answering", "emptying"):
                    self._begun = self._fed = True
                    reader.feed(view)
                elif self.state in ("asked", "answering"):
                    self._hold(view)
            elif not self._end_told:
                self._end_told = True
                self._read_end()
            else:
                return None

    # ── the answer ─────────────────────────────────────────────────────────────
    def want_body(self) -> None:
        """The request's body is welcome: tell a peer that asked for a 100, also one that did not wait for it."""
        if self._expects and self.state == "asked":
            self._out.append(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._expects = False

    def respond(self, status: int, headers: HeaderList, body: Data = b"", *, now: Instant) -> None:
        """Answer in one piece. Framing headers are set here; HEAD and 304 get the length and no body."""
        self.respond_head(status, headers, length=len(body), now=now)
        assert self._writer is not None
        join_small(self._out, self._writer.piece(body[: self._writer.left]))
        self._answered(now)

    def respond_head(self, status: int, headers: HeaderList, *, length: int | None = None, now: Instant) -> None:
        """Begin an answer whose body follows by `send_body`; without a length it is chunked.

        Raises:  RemoteProtocolError "bad-request" if a header cannot be written; the connection is unchanged
        """
        if self.state != "asked":
            raise LocalProtocolError(f"expected a request that waits for its answer, got none ({self.state})")
        if not 200 <= status <= 999:
            raise LocalProtocolError(f"expected a final status, got {status}")
        self._write_head(status, headers, length)
        self._now = now
        self._step("answer head")

    def send_body(self, data: Data) -> None:
        """Send the next bytes of the answer's body; dropped where the answer has none (HEAD, 204, 304)."""
        if self.state != "answering" or self._writer is None:
            raise LocalProtocolError(f"expected an answer that is under way, got {self.state}")
        if self._bodiless:
            return
        if not self._writer.fits(len(data)):
            raise LocalProtocolError(f"expected at most {self._writer.left} bytes of body, got {len(data)}")
        self._out.extend(self._writer.piece(data))

    def end_body(self, *, now: Instant) -> None:
        """End the answer. One that is shorter than it announced is cut, so that the peer can tell."""
        if self.state != "answering" or self._writer is None:
            raise LocalProtocolError(f"expected an answer that is under way, got {self.state}")
        if self._writer.complete:
            self._answered(now)
        else:
            self.cut()

    def cut(self) -> None:
        """End the link so that the peer knows the answer is not complete."""
        if self.state not in ("closed", "switched"):
            self._finish("cut", Drop(self.link))

    def upgrade(self) -> bytes:
        """Hand the link over to another protocol, and return the bytes that came after the request."""
        if self.state != "asked" or self._reader is not None:
            raise LocalProtocolError(f"expected a whole request without an answer, got {self.state}")
        self._step("upgrade")
        self._until = None
        held = b"".join((self._held, *self._inbox))
        self._forget_bytes()
        return held

    def output(self) -> list[Data]:
        """Return what is to be transmitted, in order, and forget it."""
        out, self._out = self._out, []
        return out

    def wishes(self) -> list[Transmit | Shut | Close | Drop]:
        """Return what is wished for this link since the last call: its output, and its end, once."""
        wishes: list[Transmit | Shut | Close | Drop] = []
        if self._out:
            wishes += [Transmit(self.link, data) for data in self.output()]
        if self._ending is not None:
            wishes.append(self._ending)
            self._ending = None
        return wishes

    # ── inside ─────────────────────────────────────────────────────────────────
    def _read_head(self, view: memoryview) -> None:
        if not len(self._heads):
            self._until = self._now + self._limits.time_head
        try:
            opening, rest = self._heads.feed(view)
        except Fault as fault:
            self._refuse(fault)
            return
        self._put_back(rest)
        if opening is None:
            return
        head, reader = opening.head, opening.body(self._limits)
        self._reader = None if reader is None or reader.done else reader
        self._fed = self._begun = False
        self._writer = None
        self._method, self._version = head.method, head.version
        self._last = opening.closes or self.draining
        self._expects = opening.expects and self._reader is not None
        self._until = None if self._reader is None or self._silence is None else self._now + self._silence
        self._step("head")
        self._events.append(head)
        if self._reader is None:
            self._events.append(Tail())

    def _read_end(self) -> None:
        if self.state in ("idle", "emptying", "lingering"):
            self._finish("last", Close(self.link))
        elif self.state in ("asked", "answering") and self._reader is not None:
            self._events.append(Broken(f"{self._reader.end()}; the peer closed", "protocol-error"))
            self._finish("cut", Drop(self.link))

    def _put_back(self, rest: memoryview) -> None:
        if len(rest):
            self._inbox.insert(0, rest)

    def _body_was_read(self, reader: BodyReader) -> None:
        """Bytes of the request's body were read to their end: is it the body's?"""
        self._fed = False
        if not reader.done:
            if self.state != "emptying" and self._silence is not None:
                self._until = self._now + self._silence
            return
        self._put_back(reader.surplus)
        self._reader = None
        self._until = None
        if self.state == "emptying":
            self._after_answer()
        else:
            self._events.append(Tail())

    def _hold(self, view: memoryview) -> None:
        if len(self._held) + len(view) > self._limits.http_pipeline:
            self._last = True  # a request is lost from here on, so the link cannot go on after this answer
            self._held = b""
        if not self._last:
            self._held += view

    def _answered(self, now: Instant) -> None:
        """The answer is complete: go on to the next request, empty this one, or end."""
        assert self._writer is not None
        self._now = now
        self._out.extend(self._writer.end())
        self._step("answered")
        if self._reader is None:
            self._after_answer()
            return
        # The peer is still sending. A little more is read for the sake of the link; otherwise the peer is told to
        # stop by an answer it can read, which a reset would take from it.
        left = self._reader.left
        waits = self._expects and not self._begun  # it may send a body now, or another request: nobody can tell
        if self._last or waits or left is None or left > self._limits.http_drain:
            self._linger("linger")
            return
        self._until = now + self._limits.time_silence

    def _after_answer(self) -> None:
        if self._last or self.draining:
            self._finish("last", Close(self.link))
            return
        self._step("next")
        self._method, self._version = "", "1.1"
        self._until = self._now + self._keep_alive
        self._end_told = not self._peer_ended

    def _refuse(self, fault: Fault) -> None:
        """Answer the peer's fault, if no answer has begun, and take nothing more from it."""
        if self.state == "answering":
            self._events.append(Broken(fault.why, "protocol-error"))
            self._finish("cut", Drop(self.link))
            return
        if self.state == "asked":
            self._events.append(Broken(fault.why, "timeout" if fault.status == 408 else "protocol-error"))
        self._last = True
        body = fault_body(fault)
        self._write_head(fault.status, (("Content-Type", "application/json"),), len(body))
        if not self._bodiless:
            self._out.append(body)
        self._linger("fault")

    def _linger(self, fed: str) -> None:
        self._step(fed)
        if self._peer_ended:
            self._finish("last", Close(self.link))
            return
        self._ending = Shut(self.link)
        self._forget_bytes()
        self._until = self._now + self._limits.time_linger

    def _write_head(self, status: int, headers: HeaderList, length: int | None) -> None:
        bare = self._bodiless = self._method == "HEAD" or status in (204, 304)
        last = self._last or self.draining
        framed = answer_head(status, headers, length, bodiless=bare, version=self._version, last=last)
        head, self._writer, self._last = framed
        self._out.append(head)

    def _finish(self, fed: str, ending: Close | Drop) -> None:
        self._step(fed)
        self._ending = ending
        self._until = None
        self._forget_bytes()

    def _forget_bytes(self) -> None:
        self._inbox.clear()
        self._held = b""
        self._fed = False
        self._reader = None

    def _step(self, fed: str) -> None:
        self.state = SERVER_TABLE.next(self.state, fed)
