"""A root machine on a stage: a clock moved by hand, links in memory, and a recorded peer at their far ends."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from vectors.broker_filters import bad_tail, target_reason
from vectors.broker_player.ledger import Ledger
from vectors.broker_player.meaning import Item, Where, frame_item, packet_item, request_fields
from vectors.broker_player.recording import AGENT, CALLER, TUNNEL, UPSTREAM, Message, Recording
from vectors.broker_player.wire import Frame, FrameReader, Http, HttpReader

from towline.core import WAKE, Close, Drained, Drop, Ended, Lost, Open, Opened, Received, Shut, Transmit

# What our machines draw from, where no other is given.
SEED = b"recorded" * 4
# How long something recorded waits for what it was said in answer to, before it is said all the same.
PATIENCE = 0.5
# How much longer than the recorded peer ours may take in all.
OVERTIME = 30.0


class Cue:
    """Something that a recorded peer says: when it may, and how."""

    def __init__(
        self,
        t: float,
        say: Callable[[], None],
        ready: Callable[[], bool] = lambda: True,
        patience: float = PATIENCE,
    ) -> None:
        self.t = t
        self.say = say
        self.ready = ready
        self.patience = patience

    @property
    def due(self) -> float:
        return self.t if self.ready() else self.t + self.patience


class Line:
    """One link of the machine: what is read from it, and what its far end still has to say."""

    def __init__(self, link: int, reader: HttpReader, address: str = "") -> None:
        self.link = link
        self.reader = reader
        self.frames = FrameReader()
        self.address = address
        self.conn: int | None = None
        self.where: Where = ()
        self.shift = 0.0
        self.cues: list[Cue] = []
        self.closed = False
        self.upgraded = False
        self.said: list[str] = []


class Stage:
    """What both players share. A subclass says what the machine's bytes mean and what the recorded peer does next.

    `asks` are the hops on which the machine asks, request by request.
    """

    asks: tuple[str, ...] = ()

    def __init__(self, recording: Recording, role: str) -> None:
        self.recording = recording
        self.role = role
        self.ledger = Ledger(recording.name, role)
        self.lines: dict[int, Line] = {}
        self.now = 0.0
        self.machine: Any = None
        # What ids of events that want an answer became, by session.
        self.acks: dict[tuple[Where, int], int] = {}
        # Recorded requests that ours has not made yet, by hop.
        self._unasked: dict[str, list[Message]] = {}
        # Ids of requests that somebody outside chose: the same on both sides.
        outside = [one for one in recording.messages if one.is_request and one.hop in (CALLER, AGENT)]
        self.given_ids = {one.header("snyk-request-id") for one in outside}
        self.ledger.excused = excused(recording)

    # ── time ───────────────────────────────────────────────────────────────────
    def run(self, end: float) -> None:
        """Play up to `end`, or as long as it is unfinished after that.

        What waits for something that does not come is said when its patience is over.
        """
        last = end + OVERTIME
        self.tell(WAKE)
        while True:
            self._say_what_is_due()
            due = [cue.due for line in self._lines() if (cue := _first(line))]
            if (deadline := self.machine.deadline()) is not None:
                due.append(deadline)
            at = max(self.now, min(due, default=end + 1.0))
            if at > end:
                if not self.unfinished() or at > last:
                    break
                end = at + PATIENCE
            self.now = at
            if deadline is not None and deadline <= at:
                self.tell(WAKE)
        self.now = end
        self.finish()
        self.tell_unasked()
        self.ledger.settle()

    def _lines(self) -> list[Line]:
        return list(self.lines.values())

    def _say_what_is_due(self) -> None:
        busy = True
        while busy:
            busy = False
            for line in self._lines():
                cue = _first(line)
                if cue is not None and cue.due <= self.now:
                    line.cues.pop(0)
                    cue.say()
                    busy = True

    # ── the machine ────────────────────────────────────────────────────────────
    def tell(self, fact: Any) -> None:
        """One turn, and what the machine wishes in it."""
        self.machine.handle(fact, self.now)
        sent: set[int] = set()
        while (wish := self.machine.poll()) is not None:
            if isinstance(wish, Transmit):
                sent.add(wish.link)
                self._transmitted(self.lines[wish.link], bytes(wish.data))
            elif isinstance(wish, Open):
                self._open(wish)
            elif isinstance(wish, Close | Drop | Shut):
                self.lines[wish.link].closed = True
            else:
                self.wished(wish)
        for link in sent:
            if not self.lines[link].closed:
                self.tell(Drained(link))

    def hear(self, line: Line, data: bytes) -> None:
        """The far end of a link said this."""
        if not line.closed:
            self.tell(Received(line.link, data))

    def leave(self, line: Line, kind: str = "tcp-eof") -> None:
        if not line.closed:
            self.tell(Ended(line.link) if kind == "tcp-eof" else Lost(line.link, "connection reset"))

    def _open(self, wish: Open) -> None:
        address = f"{wish.host}:{wish.port}"
        line = self.lines[wish.link] = Line(wish.link, HttpReader("request"), address)
        # Opened in a turn of its own, as soon as this one is over.
        if self.listens(address):
            line.cues.append(Cue(self.now, lambda: self.tell(Opened(wish.link))))
        else:
            line.closed = True
            why = "connection refused"
            line.cues.append(Cue(self.now, lambda: self.tell(Lost(wish.link, why))))

    def _transmitted(self, line: Line, data: bytes) -> None:
        if line.closed:
            return
        if not line.upgraded:
            for message in line.reader.feed(data):
                self.said_http(line, message)
            if not line.upgraded or line.reader.rest is None:
                return
            data, line.reader.rest = bytes(line.reader.rest), None
        for frame in line.frames.feed(data):
            self.said_frame(line, frame)

    def unfinished(self) -> bool:
        """Whether our machine, which comes back at random times, is later than the recorded one, and still at it."""
        return False

    def wished(self, wish: Any) -> None:
        """Our machine wished something that is no link's business."""

    def finish(self) -> None:
        """The play is over: compare what can be seen only then."""

    def listens(self, address: str) -> bool:
        """Whether somebody takes connections there at this time."""
        raise NotImplementedError

    def said_http(self, line: Line, message: Http) -> None:
        """Our machine said a whole HTTP message."""
        raise NotImplementedError

    def said_frame(self, line: Line, frame: Frame) -> None:
        """Our machine said a websocket frame."""
        if frame.opcode == 1:
            self.said_packet(line, frame.payload.decode("utf-8", "replace"))
        else:
            self.ledger.came(frame_item(line.where, frame, self.now), line.shift)

    def said_packet(self, line: Line, packet: str) -> None:
        item = packet_item(line.where, packet, self.now)
        line.said.append(packet)
        expected = self.ledger.came(item, line.shift)
        if expected is not None and expected.ack is not None and item.ack is not None:
            self.acks[line.where, expected.ack] = item.ack

    # ── upstreams, platforms, uploads: answered request by request ─────────────
    def answer_by_request(self, line: Line, hop: str, message: Http) -> None:
        """Find the recorded request that this one stands for, compare them, and let its answer follow."""
        fields = request_fields(message)
        asked = next((one for one in self._asked(hop) if _alike(one, message, self)), None)
        if asked is None:
            self.ledger.came(Item((hop,), ("request", *message.start.split(" ")[:2]), fields, self.now))
            return
        self._asked(hop).remove(asked)
        name = (hop, f"#{asked.conn}")
        self.ledger.expect(request_item(name, asked))
        self.ledger.came(Item(name, ("request", *asked.start.split(" ")[:1]), fields, self.now))
        answer = next((one for one in self.recording.on(hop, "s2c") if _answers(one, asked)), None)
        if answer is not None:
            raw = answer.raw
            line.cues.append(Cue(self.now + max(0.0, answer.t - asked.t), lambda: self.hear(line, raw)))
            if answer.kind == "partial":
                line.cues.append(Cue(line.cues[-1].t, lambda: self.leave(line)))

    def _asked(self, hop: str) -> list[Message]:
        if hop not in self._unasked:
            self._unasked[hop] = [one for one in self.recording.on(hop, "c2s") if self.is_asked(one)]
        return self._unasked[hop]

    def is_asked(self, one: Message) -> bool:
        return one.is_request and not one.target.startswith("/primus")

    def tell_unasked(self) -> None:
        """What was never asked of an upstream, a platform or the server is told."""
        for hop in self.asks:
            for one in self._asked(hop):
                self.ledger.expect(request_item((hop, f"#{one.conn}"), one))


def excused(recording: Recording) -> dict[str, str]:
    """Return requests that ours treat otherwise from end to end by a rule, and that row of the deviations.

    Read off the request and what the recorded pair made of it, without the machines.
    """
    found: dict[str, str] = {}
    asked = Counter(one.header("snyk-request-id") for one in recording.on(UPSTREAM) if one.is_request)
    uploads = [one for one in recording.on(TUNNEL, "c2s") if one.is_request and "/response-data/" in one.target]
    uploaded = {one.header("snyk-request-id") for one in uploads}
    for one in recording.messages:
        name = one.header("snyk-request-id")
        if not one.is_request or one.hop not in (CALLER, AGENT) or name is None:
            continue
        answer = next((other for other in recording.on(one.hop, "s2c") if _answers(other, one)), None)
        status = "" if answer is None else answer.start.split(" ")[1]
        whole = answer is not None and answer.is_response
        relayed = re.match(r"/broker/([^/?]+)(/.*)", one.target)
        target = relayed[2] if relayed is not None else one.target
        if relayed is not None and relayed[1] != relayed[1].lower() and status == "404":
            found[name] = "token-in-capitals"
        elif status != "401" and (relayed or one.hop == AGENT) and (target_reason(target) or bad_tail(_path(target))):
            found[name] = "denied-target"
        elif relayed is not None and re.search(r"/ctx/[^/]+/", target) and not recording.metadata.get("contexts"):
            found[name] = "unknown-context"
        elif not whole and (name in uploaded or recording.left_first(one) == "c2s"):
            found[name] = "caller-left"
        elif asked[name] > 1:
            found[name] = "no-repeats"
    return found


def _path(target: str) -> str:
    return target.partition("?")[0].removeprefix("/")


def request_item(where: Where, one: Message) -> Item:
    return Item(where, ("request", one.start.split(" ")[0]), request_fields(http_of(one)), one.t, one.line)


def http_of(one: Message) -> Http:
    """Return a recorded HTTP message as the readers return ours."""
    message = Http(one.start, one.headers, one.body)
    if one.bodiless:
        pass
    elif "chunked" in (one.header("transfer-encoding") or ""):
        message.framing = "chunked"
    elif one.header("content-length") is not None:
        message.framing = "length"
    elif one.body and one.is_response:
        message.framing = "close"
    return message


def _first(line: Line) -> Cue | None:
    return line.cues[0] if line.cues else None


def _answers(one: Message, asked: Message) -> bool:
    answers = one.is_response or one.kind == "partial"
    return answers and one.conn == asked.conn and one.line > asked.line


def _alike(one: Message, message: Http, stage: Stage) -> bool:
    """Whether a recorded request and one of ours are the same: by line, and by id where that is no fresh one."""
    if one.start.split(" ")[:2] != message.start.split(" ")[:2]:
        return False
    theirs, ours = one.header("snyk-request-id"), "".join(message.all("snyk-request-id")[:1])
    fresh = theirs not in stage.given_ids
    return theirs == ours or fresh
