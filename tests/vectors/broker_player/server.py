"""Our server against recorded clients, callers and platform."""

from __future__ import annotations

import re

from vectors.broker_player.meaning import Item, Where, frame_item, packet_item, response_fields
from vectors.broker_player.recording import CALLER, PLATFORM, TUNNEL, Message, Recording
from vectors.broker_player.stage import SEED, Cue, Line, Stage, http_of
from vectors.broker_player.wire import Frame, Http, HttpReader, with_body, write_frame

from towline.core import Accepted, Entropy
from towline.core.broker import AcceptRules, BrokerServer, BrokerServerConfig


def server_config(recording: Recording) -> BrokerServerConfig:
    """Return the settings that the recorded server had, as far as the recording shows them."""
    said = recording.handshake
    rules = {"public": [{"method": "any", "path": "/*"}], "private": recording.platform_rules}
    return BrokerServerConfig(
        rules=AcceptRules.load(rules),
        ping_interval=said.get("pingInterval", 25000) / 1000,
        ping_timeout=said.get("pingTimeout", 20000) / 1000,
        authorization="application" if recording.wants_credentials else "none",
        epoch=recording.epoch,
    )


class ServerStage(Stage):
    """Whatever recorded clients and callers said is said to our server, byte for byte but for what it made afresh."""

    asks = (PLATFORM,)

    def __init__(self, recording: Recording, seed: bytes = SEED) -> None:
        super().__init__(recording, "server")
        self.machine = BrokerServer(server_config(recording), entropy=Entropy(seed))
        self._answers: dict[int, int] = {}
        # What a recorded server made afresh: nobody else can say it before ours made its own.
        self._made = self._made_afresh()
        self._asks = self._asked_in_sessions()
        for hop in (TUNNEL, CALLER):
            for messages in recording.by_conn(hop).values():
                self._prepare(hop, messages)

    def play(self) -> None:
        self.run(self.recording.end + 1.0)

    # ── what is to be said ─────────────────────────────────────────────────────
    def _prepare(self, hop: str, messages: list[Message]) -> None:
        asked = [one for one in messages if one.dir == "c2s" and one.start]
        if not asked:
            return
        link = 2 * (len(self.lines) + 1)
        line = self.lines[link] = Line(link, HttpReader("response"))
        line.reader.heads = [one.start.startswith("HEAD ") for one in asked]
        line.conn = messages[0].conn
        session = self.recording.session_of.get(line.conn) if hop == TUNNEL else None
        line.where = (hop, "session", session) if session else (hop, f"#{line.conn}")
        line.cues.append(Cue(messages[0].t, lambda: self.tell(Accepted(link, "http", "127.0.0.1"))))
        answers = 0
        for one in messages:
            if one.dir == "s2c":
                answers += one.is_response
                self._expect(line, hop, one)
            elif one.kind != "refused":
                line.cues.append(self._cue(line, one, answers))

    def _expect(self, line: Line, hop: str, one: Message) -> None:
        where = (hop, f"#{line.conn}")
        if one.is_response:
            packets = one.packets()
            fields = response_fields(http_of(one), body=not packets)
            self.ledger.expect(Item(where, ("response",), fields, one.t, one.line))
        elif one.kind == "partial" and one.start.startswith("HTTP/"):
            fields = response_fields(http_of(one), body=False)
            self.ledger.expect(Item(where, ("cut response",), fields, one.t, one.line))
        elif one.is_frame and one.opcode != 1:
            frame = Frame(one.fin, one.opcode, one.payload, False)
            self.ledger.expect(frame_item(line.where, frame, one.t, one.line))
        for packet in one.packets():
            self.ledger.expect(packet_item(line.where, packet, one.t, one.line))

    def _cue(self, line: Line, one: Message, answers: int) -> Cue:
        hop = line.where[0]

        def ready() -> bool:
            excused = one.header("snyk-request-id") in self.ledger.excused
            return self._answers.get(line.link, 0) >= answers and (excused or self._known(line, one))

        def say() -> None:
            if one.kind in ("tcp-eof", "tcp-error"):
                self.leave(line, one.kind)
            elif self._known(line, one):
                self.hear(line, self._rewritten(line, one))
            elif one.is_request:
                # Ours never said what this answers, so that nobody would say it.
                self._answers[line.link] = self._answers.get(line.link, 0) + 1
                self.ledger.skip((hop, f"#{line.conn}"), ("response",))

        return Cue(one.t, say, ready)

    # ── what is made afresh ────────────────────────────────────────────────────
    def _made_afresh(self) -> set[str]:
        said = " ".join(
            packet for one in self.recording.on(TUNNEL, "s2c") for packet in one.packets() if packet[0] in "04"
        )
        return set(re.findall(r'"(?:sid|streamingID)":"([^"]+)"', said))

    def _known(self, line: Line, one: Message) -> bool:
        made = [name for name in self._made if name in one.start]
        asked = [ack for ack in _acked(one) if self._asked_with(line.where, ack)]
        return all(name in self.ledger.names.ours for name in made) and all(
            (line.where, ack) in self.acks for ack in asked
        )

    def _asked_with(self, where: Where, ack: int) -> bool:
        """Whether the recorded server ever asked with this number in this session."""
        return (where, ack) in self._asks

    def _asked_in_sessions(self) -> set[tuple[Where, int]]:
        found: set[tuple[Where, int]] = set()
        for one in self.recording.on(TUNNEL, "s2c"):
            where: Where = (TUNNEL, "session", self.recording.session_of.get(one.conn, ""))
            for packet in one.packets():
                ack = packet_item(where, packet, 0.0).ack
                if ack is not None:
                    found.add((where, ack))
        return found

    def _rewritten(self, line: Line, one: Message) -> bytes:
        if one.is_frame:
            payload = one.payload
            for ack in _acked(one):
                payload = _with_ack(payload, ack, self.acks.get((line.where, ack), ack))
            return one.raw if payload == one.payload else write_frame(one.opcode, payload, masked=True, fin=one.fin)
        raw = one.raw
        for theirs, ours in self.ledger.names.ours.items():
            if theirs in self._made:
                head, gap, body = raw.partition(b"\r\n\r\n")
                raw = head.replace(theirs.encode(), ours.encode()) + gap + body
        body = one.body
        for ack in _acked(one):
            body = _with_ack(body, ack, self.acks.get((line.where, ack), ack))
        return raw if body == one.body else with_body(raw, body)

    # ── what ours says ─────────────────────────────────────────────────────────
    def finish(self) -> None:
        """Where the recorded server closed after an answer, ours has."""
        for line in self._lines():
            if line.conn is None or line.upgraded:
                continue
            hop = line.where[0]
            if (begun := line.reader.begun) is not None and line.closed:
                fields = response_fields(begun, body=False)
                self.ledger.came(Item((hop, f"#{line.conn}"), ("cut response",), fields, 0.0))
            answers = [one for one in self.recording.on(hop, "s2c") if one.conn == line.conn and one.is_response]
            if answers and (answers[-1].header("connection") or "").lower() == "close" and not line.closed:
                item = Item((hop, f"#{line.conn}"), ("link",), {}, self.now, answers[-1].line)
                self.ledger.problem(item, "end", "closed after the answer", "open")

    def listens(self, address: str) -> bool:
        return any(one.header("host") == address for one in self.recording.on(PLATFORM) if one.is_request)

    def _cut_off(self, line: Line, hop: str) -> bool:
        """Whether the recorded server was killed before it could say what ours says last."""
        mine = [one for one in self.recording.on(hop) if one.conn == line.conn]
        asked = [one for one in mine if one.is_request]
        answered = sum(one.is_response for one in mine)
        return answered < len(asked) == self._answers[line.link] and self.recording.left_first(asked[-1]) == "s2c"

    def said_http(self, line: Line, message: Http) -> None:
        if line.conn is None:
            self.answer_by_request(line, PLATFORM, message)
            return
        self._answers[line.link] = self._answers.get(line.link, 0) + 1
        hop = line.where[0]
        if self._cut_off(line, hop):
            return
        texts = "".join(message.all("content-type")).startswith("text/plain") and hop == TUNNEL and bool(message.body)
        fields = response_fields(message, body=not texts)
        self.ledger.came(Item((hop, f"#{line.conn}"), ("response",), fields, self.now))
        line.upgraded = message.switches
        for packet in message.body.decode("utf-8", "replace").split("\x1e") if texts else ():
            self.said_packet(line, packet)


def _acked(one: Message) -> list[int]:
    """The numbers of the events that a recorded message acknowledges."""
    keys = [packet_item(("",), packet, 0.0).key for packet in one.packets()]
    return [int(key[1]) for key in keys if key[0] == "ack" and key[1].isdigit()]


def _with_ack(payload: bytes, theirs: int, ours: int) -> bytes:
    return re.sub(rb'("id"\s*:\s*)%d\b' % theirs, rb"\g<1>%d" % ours, payload) if theirs != ours else payload
