"""Our client against a recorded server, agent and upstream."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from vectors.broker_player.meaning import Item, Where, frame_item, packet_item, request_fields, response_fields
from vectors.broker_player.recording import AGENT, TUNNEL, UPSTREAM, Message, Recording
from vectors.broker_player.stage import OVERTIME, SEED, Cue, Line, Stage, http_of
from vectors.broker_player.wire import Frame, Http, HttpReader, accept_of, write_frame

from towline.core import Accepted, Entropy, Note, Secret
from towline.core.broker import DEFAULT_AGENT_RULES, AcceptRules, BrokerClient, BrokerClientConfig

# After how long a poll too many is ended, as the recorded server does it (broker-protocol.md §1.3).
NOOP_AFTER = 0.1
NOOP = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=UTF-8\r\nContent-Length: 1\r\nConnection: close\r\n\r\n6"
TAKEN = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
# How long a frame waits for what it was said in answer to, from when its connection is there.
FRAME_PATIENCE = 2.0
PACE = (("tunnel", "poll"), ("tunnel", "post"), ("tunnel", "handshake"))


def client_config(recording: Recording) -> BrokerClientConfig:
    """Return the settings that the recorded client had, as far as the recording shows them."""
    said = recording.metadata
    filters = said.get("filters") or {}
    first = next(one for one in recording.on(TUNNEL, "c2s") if one.is_request)
    flags = {name: value for name, value in said.get("clientConfig", {}).items() if isinstance(value, bool)}
    given = bool(filters.get("private") or filters.get("public"))
    return BrokerClientConfig(
        server_url=f"http://{recording.server_address}",
        token=Secret(recording.token),
        agent_url=f"http://{recording.upstream_address or '127.0.0.1:9'}",
        version=said.get("version", first.header("x-broker-client-version") or "local"),
        client_id=first.header("x-snyk-broker-client-id"),
        variables=recording.variables,
        ping_seconds=recording.primus_ping,
        epoch=recording.epoch,
        one_event_answers=False,
        polling_first=True,
        client_config=flags,
        rules=AcceptRules.load(filters) if given else DEFAULT_AGENT_RULES,
    )


class ClientStage(Stage):
    """Whatever the recorded server, agent and upstream said is said to our client when it was, or a little later."""

    asks = (UPSTREAM, TUNNEL)

    def __init__(self, recording: Recording, seed: bytes = SEED) -> None:
        super().__init__(recording, "client")
        self.machine = BrokerClient(client_config(recording), entropy=Entropy(seed))
        self.end = recording.client_end
        self._downs = recording.downs()
        self._conns = recording.by_conn(TUNNEL)
        self._asked_first = {
            conn: first
            for conn, messages in self._conns.items()
            if (first := next((one for one in messages if one.is_request), None)) is not None
            and first.target.startswith("/primus")
        }
        self._bound: set[int] = set()
        self._attempts: Counter[str] = Counter()
        # Attempts in a row that failed, by role.
        self._failures: Counter[str] = Counter()
        self._answers: dict[int, int] = {}
        for key in PACE:
            self.ledger.any_number(key)
        for conn, first in self._asked_first.items():
            self._expect(conn, first)
        for conn, messages in recording.by_conn(AGENT).items():
            self._prepare_agent(conn, messages)

    def play(self) -> None:
        self.run(self.end)

    # ── what is expected, and what the agent says ──────────────────────────────
    def _expect(self, conn: int, first: Message) -> None:
        if first.t > self.end:
            return
        self.ledger.expect(_tunnel_item(first, request_fields(_without_packets(http_of(first))), first.t, first.line))
        session = (TUNNEL, "session", self.recording.session_of.get(conn, ""))
        for one in self._conns[conn]:
            if one.dir != "c2s" or one.t > self.end:
                continue
            for packet in one.packets():
                self.ledger.expect(packet_item(session, packet, one.t, one.line))
            if one.is_frame and one.opcode != 1:
                frame = Frame(one.fin, one.opcode, one.payload, True)
                self.ledger.expect(frame_item(session, frame, one.t, one.line))

    def _prepare_agent(self, conn: int, messages: list[Message]) -> None:
        link = 2 * (len(self.lines) + 1)
        line = self.lines[link] = Line(link, HttpReader("response"))
        line.conn, line.where = conn, (AGENT, f"#{conn}")
        line.cues.append(Cue(messages[0].t, lambda: self.tell(Accepted(link, "http", "127.0.0.1"))))
        answers = 0
        for one in messages:
            if one.is_response:
                answers += 1
                self.ledger.expect(Item(line.where, ("response",), response_fields(http_of(one)), one.t, one.line))
            elif one.dir == "c2s":
                line.cues.append(self._agent_cue(line, one, answers))

    def _agent_cue(self, line: Line, one: Message, answers: int) -> Cue:
        def say() -> None:
            self.ledger.slack = max(self.ledger.slack, self.now - one.t)
            if one.is_request or one.kind == "partial":
                self.hear(line, one.raw)
            else:
                self.leave(line, one.kind)

        def ready() -> bool:
            return self._answers.get(line.link, 0) >= answers and self._open_by_then(one.t)

        return Cue(one.t, say, ready, OVERTIME)

    def _open_by_then(self, t: float) -> bool:
        """Whether every websocket that the recorded client had at this time is ours, too."""
        for conn, messages in self._conns.items():
            before = [one for one in messages if one.t <= t]
            moved = any(one.is_frame and one.dir == "c2s" and one.payload == b"5" for one in before)
            ended = any(one.kind in ("tcp-eof", "tcp-error") for one in before)
            if moved and not ended and not any(one.conn == conn and "5" in one.said for one in self._lines()):
                return False
        return True

    def unfinished(self) -> bool:
        left = (one for conn, one in self._asked_first.items() if conn not in self._bound and one.t <= self.end)
        waits = any(_kind(one.start) in ("handshake", "upgrade") for one in left)
        return waits or any(line.cues for line in self._lines() if not line.closed)

    # ── what ours says ─────────────────────────────────────────────────────────
    def wished(self, wish: Any) -> None:
        """Hold every reconnection to the formula of broker-protocol.md §1.11: its delays are random by right."""
        if not isinstance(wish, Note) or "role" not in wish.fields:
            return
        role = wish.fields["role"]
        if wish.event == "tunnel.open":
            self._failures[role] = 0
        elif wish.event == "tunnel.closed" and not wish.fields["final"]:
            self._failures[role] += 1
            times = self._failures[role]
            least = 0.5 if times == 1 else 0.5 * 1.5 ** (times - 1)
            most = least if times == 1 else 2 * least
            delay = wish.fields["retry_in"]
            if not least - 0.001 <= delay <= most + 0.001:
                item = Item((TUNNEL, role), ("attempt", str(times)), {}, self.now)
                self.ledger.problem(item, "delay", f"{least:.3f} to {most:.3f} s", f"{delay:.3f} s")

    def finish(self) -> None:
        """Who was refused came again, at either side."""
        for role in ("primary", "secondary"):
            theirs = sum(
                _role(one.start) == role and _kind(one.start) == "handshake" and one.t <= self.end
                for one in self._asked_first.values()
            )
            if (self._attempts[role] > 1) != (theirs > 1) or (self._attempts[role] > 0) != (theirs > 0):
                item = Item((TUNNEL, role), ("tunnel", "handshake"), {}, self.now)
                self.ledger.problem(item, "attempts", theirs, self._attempts[role])

    def listens(self, address: str) -> bool:
        if address == self.recording.server_address:
            return not any(start <= self.now < end for start, end in self._downs)
        return address == self.recording.upstream_address

    def is_asked(self, one: Message) -> bool:
        return super().is_asked(one) and one.t <= self.end

    def said_http(self, line: Line, message: Http) -> None:
        if line.where and line.where[0] == AGENT:
            self._answers[line.link] = self._answers.get(line.link, 0) + 1
            self.ledger.came(Item(line.where, ("response",), response_fields(message), self.now))
        elif line.address != self.recording.server_address:
            self.answer_by_request(line, UPSTREAM, message)
        elif not message.start.split(" ")[1].startswith("/primus"):
            self.answer_by_request(line, TUNNEL, message)
        else:
            self._tunnel_request(line, message)

    def _tunnel_request(self, line: Line, message: Http) -> None:
        kind = _kind(message.start)
        role = _role(message.start)
        conn = next((c for c, one in self._asked_first.items() if c not in self._bound and _same(one, message)), None)
        if conn is not None:
            self._bound.add(conn)
            line.conn = conn
            line.shift = max(0.0, self.now - self._asked_first[conn].t)
            self.ledger.slack = max(self.ledger.slack, line.shift)
        packets = _packets(message)
        fields = request_fields(_without_packets(message))
        self.ledger.came(_tunnel_item(message, fields, self.now), line.shift)
        if kind == "handshake":
            self._attempts[role] += 1
        session = self.recording.session_of.get(conn, "") if conn is not None else _sid(message.start)
        line.where = (TUNNEL, "session", session)
        for packet in packets:
            self.said_packet(line, packet)
        if conn is None:
            # One more than the recorded client made: answered as the recorded server answers those.
            if kind == "poll":
                line.cues.append(Cue(self.now + NOOP_AFTER, lambda: self.hear(line, NOOP)))
            elif kind == "post":
                line.cues.append(Cue(self.now, lambda: self.hear(line, TAKEN)))
            return
        self._answer(line, conn, message)

    def _answer(self, line: Line, conn: int, message: Http) -> None:
        """Let follow what the recorded server said on this connection."""
        asked = self._asked_first[conn]
        for one in self._conns[conn]:
            if one.dir != "s2c" or one.t > self.end:
                continue
            if one.is_response:
                raw = one.raw
                if one.start.startswith("HTTP/1.1 101"):
                    line.upgraded = True
                    theirs = one.header("sec-websocket-accept") or ""
                    raw = raw.replace(theirs.encode(), accept_of(message.all("sec-websocket-key")[0]).encode())
                at = self.now + max(0.0, one.t - asked.t)
                line.cues.append(Cue(at, _saying(self, line, raw)))
            elif one.is_frame:
                line.cues.append(self._frame_cue(line, one))
            elif one.kind in ("tcp-eof", "tcp-error") and self.recording.left_first(asked) == "s2c":
                line.cues.append(Cue(one.t, _leaving(self, line, one.kind)))

    def _frame_cue(self, line: Line, one: Message) -> Cue:
        packets = one.packets()
        item = packet_item(line.where, packets[0], 0.0) if packets else None
        key: Where = item.key if item is not None else ()
        probes = any(other.payload == b"2probe" for other in self._conns[one.conn] if other.dir == "c2s")

        def ready() -> bool:
            if key == ("packet", "3probe"):
                return "2probe" in line.said
            if probes and "5" not in line.said:
                # What is no part of the probe comes once the session has moved here.
                return False
            if key == ("primus", "pong"):
                return sum(said.startswith('4"primus::ping') for said in line.said) > 0
            if key[:1] == ("ack",) and self._wanted(line.where, int(key[1])):
                return (line.where, int(key[1])) in self.acks
            return True

        def say() -> None:
            payload = one.payload
            if key[:1] == ("ack",):
                theirs = int(key[1])
                ours = self.acks.get((line.where, theirs), theirs)
                payload = re.sub(rb'("id"\s*:\s*)%d\b' % theirs, rb"\g<1>%d" % ours, payload, count=1)
            if key == ("primus", "pong"):
                line.said = [said for said in line.said if not said.startswith('4"primus::ping')]
            self.hear(line, write_frame(one.opcode, payload, masked=False, fin=one.fin))

        return Cue(max(one.t, self.now), say, ready, FRAME_PATIENCE)

    def _wanted(self, where: Where, ack: int) -> bool:
        """Whether the recorded client asked with this number in this session."""
        for conn in (conn for conn, session in self.recording.session_of.items() if session == where[-1]):
            for one in self._conns[conn]:
                for packet in one.packets() if one.dir == "c2s" else ():
                    if packet_item(where, packet, 0.0).ack == ack:
                        return True
        return False


def _saying(stage: Stage, line: Line, raw: bytes) -> Callable[[], None]:
    return lambda: stage.hear(line, raw)


def _leaving(stage: Stage, line: Line, kind: str) -> Callable[[], None]:
    return lambda: stage.leave(line, kind)


def _kind(start: str) -> str:
    method, target, _ = start.split(" ")
    if "transport=websocket" in target:
        return "upgrade"
    return "post" if method == "POST" else "poll" if "sid=" in target else "handshake"


def _role(start: str) -> str:
    return parse_qs(start.split(" ")[1].partition("?")[2]).get("connection_role", [""])[0]


def _sid(start: str) -> str:
    return parse_qs(start.split(" ")[1].partition("?")[2]).get("sid", [""])[0]


def _same(one: Message, message: Http) -> bool:
    return (_kind(one.start), _role(one.start), _sid(one.start)) == (
        _kind(message.start),
        _role(message.start),
        _sid(message.start),
    )


def _tunnel_item(one: Message | Http, fields: dict[str, object], t: float, line: int = 0) -> Item:
    return Item((TUNNEL, _role(one.start)), ("tunnel", _kind(one.start)), fields, t, line)


def _without_packets(message: Http) -> Http:
    """Return a post without the packets it carries, which are compared one by one."""
    return Http(message.start, message.headers, b"", message.framing)


def _packets(message: Http) -> list[str]:
    return message.body.decode("utf-8", "replace").split("\x1e") if message.body else []
