"""A recorded session of the stock pair: its messages, and what its content says about how both peers were set up."""

from __future__ import annotations

import base64
import json
import re
from collections import defaultdict
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

TUNNEL, CALLER, UPSTREAM, AGENT, PLATFORM = (
    "client-server",
    "caller-server",
    "client-upstream",
    "agent-client",
    "server-platform",
)


class Message(msgspec.Struct):
    """One line of a recording."""

    line: int
    t: float
    hop: str
    conn: int
    dir: str
    kind: str
    raw: bytes = b""
    start: str = ""
    headers: list[tuple[str, str]] = []
    body: bytes = b""
    opcode: int = 0
    fin: bool = True
    payload: bytes = b""
    bodiless: bool = False

    @property
    def is_request(self) -> bool:
        return self.kind == "http-request"

    @property
    def is_response(self) -> bool:
        return self.kind == "http-response"

    @property
    def is_frame(self) -> bool:
        return self.kind == "ws-frame"

    @property
    def target(self) -> str:
        return self.start.split(" ")[1]

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def packets(self) -> list[str]:
        """The engine.io packets that the message carries as text."""
        if self.is_frame and self.opcode == 1:
            return [self.payload.decode("utf-8", "replace")]
        carries = self.hop == TUNNEL and (self.is_response or self.start.startswith("POST /primus"))
        texts = (self.header("content-type") or "").startswith("text/plain")
        if carries and texts and self.body:
            return self.body.decode("utf-8", "replace").split("\x1e")
        return []


class Recording:
    """All messages of a file, and what can be read off them."""

    def __init__(self, path: Path) -> None:
        first, *lines = path.read_text("utf-8").splitlines()
        head = json.loads(first)
        self.name: str = head.get("vector", path.stem)
        self.about: str = head.get("about", "")
        self.messages = [_message(number, json.loads(line)) for number, line in enumerate(lines, start=2)]
        self._complete_bodiless()
        # Which of the recorded engine.io sessions a connection belongs to, by the recorded session id.
        self.session_of = self._sessions()

    @property
    def end(self) -> float:
        return self.messages[-1].t if self.messages else 0.0

    def on(self, hop: str, direction: str | None = None) -> list[Message]:
        return [one for one in self.messages if one.hop == hop and direction in (None, one.dir)]

    # ── who the peers were ─────────────────────────────────────────────────────
    @property
    def real_client(self) -> bool:
        """Whether the client was the stock one: it polls first, and says what it polls with."""
        asked = self._handshakes()
        return bool(asked) and asked[0].header("user-agent") == "node-XMLHttpRequest"

    @property
    def real_server(self) -> bool:
        """Whether the server was the stock one; the recordings of others say so in their own words."""
        return bool(self._handshakes()) and not self.about.startswith("real client")

    # ── how they were set up ───────────────────────────────────────────────────
    @property
    def token(self) -> str:
        path = self._handshakes()[0].target.partition("?")[0]
        return unquote(path.removeprefix("/primus/").rstrip("/"))

    @property
    def server_address(self) -> str:
        return self._handshakes()[0].header("host") or "127.0.0.1:1"

    @property
    def upstream_address(self) -> str | None:
        return next((one.header("host") for one in self.on(UPSTREAM) if one.is_request), None)

    @property
    def client_address(self) -> str | None:
        return next((one.header("host") for one in self.on(AGENT) if one.is_request), None)

    @property
    def platform_rules(self) -> list[dict[str, str]]:
        """The server's private rules, as far as the platform was asked."""
        asked = [one for one in self.on(PLATFORM) if one.is_request]
        rules = []
        for one in asked:
            path = one.target.partition("?")[0]
            pattern = "/*" if "%" in path else re.sub(r"([:*?+()\\])", r"\\\1", path)
            rules.append({"method": one.start.split(" ")[0], "path": pattern, "origin": f"http://{one.header('host')}"})
        return [rule for at, rule in enumerate(rules) if rule not in rules[:at]]

    @property
    def handshake(self) -> dict[str, Any]:
        """The first open packet; empty if there was none."""
        packets = [packet for one in self.on(TUNNEL, "s2c") for packet in one.packets()]
        return next((json.loads(packet[1:]) for packet in packets if packet.startswith("0{")), {})

    @property
    def metadata(self) -> dict[str, Any]:
        """What the client said of itself; empty if it never got to it."""
        for one in self.on(TUNNEL, "c2s"):
            for packet in one.packets():
                if packet.startswith("4{") and '"identify"' in packet:
                    said: dict[str, Any] = json.loads(packet[1:])["data"][1].get("metadata", {})
                    return said
        return {}

    @property
    def wants_credentials(self) -> bool:
        """Whether the server admits only clients that bring credentials."""
        answers = [one for one in self.on(TUNNEL, "s2c") if one.is_response and " 401 " in one.start]
        return any(b"authorization" in one.body for one in answers)

    @property
    def primus_ping(self) -> float:
        """Seconds after which the client pinged first; 25 if it never did."""
        opened: dict[str, float] = {}
        for one in self.on(TUNNEL):
            session = self.session_of.get(one.conn, "")
            for packet in one.packets():
                if packet.startswith("0{"):
                    opened[session] = one.t
                elif packet.startswith('4"primus::ping::') and session in opened:
                    return round(2 * (one.t - opened[session])) / 2 or 25.0
        return 25.0

    @property
    def variables(self) -> dict[str, str]:
        """What the client filled into its rules' credentials, where an upstream was shown it."""
        found: dict[str, str] = {}
        for rule in self.metadata.get("filters", {}).get("private", []):
            auth = rule.get("auth") or {}
            shown = next(
                (one.header("authorization") for one in self.on(UPSTREAM) if one.is_request and _by(rule, one)), None
            )
            if shown is None:
                continue
            if auth.get("scheme") == "basic" and "token" not in auth:
                texts = base64.b64decode(shown.partition(" ")[2]).decode().split(":", 1)
                templates = [auth.get("username", ""), auth.get("password", "")]
            else:
                texts = [shown if auth.get("scheme") == "raw" else shown.partition(" ")[2]]
                templates = [auth.get("token", "")]
            for template, text in zip(templates, texts, strict=False):
                if (named := re.fullmatch(r"\$\{(\w+)\}", template)) is not None:
                    found[named[1]] = text
        return found

    @property
    def epoch(self) -> float:
        """Wall-clock seconds at the session's zero, to the second."""
        for one in self.messages:
            if (said := one.header("date")) is not None:
                return parsedate_to_datetime(said).timestamp() - one.t
        return 0.0

    @property
    def client_end(self) -> float:
        """When the client was ended by hand: the first websocket that it left while the server had not."""
        left: set[int] = set()
        sockets = {one.conn for one in self.on(TUNNEL) if one.is_frame}
        for one in self.on(TUNNEL):
            if one.dir == "s2c" and (one.kind in ("tcp-eof", "tcp-error") or one.opcode == 8):
                left.add(one.conn)
            elif one.dir == "c2s" and one.kind == "tcp-eof" and one.conn in sockets - left:
                return one.t
        return self.end

    def downs(self) -> list[tuple[float, float]]:
        """When nothing listened at the server: from the end of what it had to the next connection that it took."""
        spans: list[tuple[float, float]] = []
        tunnel = self.on(TUNNEL)
        for at, one in enumerate(tunnel):
            if one.kind == "refused" and not (spans and spans[-1][0] <= one.t < spans[-1][1]):
                before = [past.t for past in tunnel[:at] if past.kind == "tcp-eof"]
                after = [later.t for later in tunnel[at:] if later.is_request]
                spans.append((before[-1] if before else 0.0, after[0] if after else self.end))
        return spans

    def left_first(self, asked: Message) -> str:
        """Which side of a request's connection ended it; nothing if neither did."""
        ends = ("tcp-eof", "tcp-error")
        later = [one for one in self.on(asked.hop) if one.conn == asked.conn and one.line > asked.line]
        return next((one.dir for one in later if one.kind in ends), "")

    # ── inside ─────────────────────────────────────────────────────────────────
    def _handshakes(self) -> list[Message]:
        return [one for one in self.on(TUNNEL, "c2s") if one.is_request and one.target.startswith("/primus")]

    def _complete_bodiless(self) -> None:
        """An answer without a body by its nature is whole, whatever length it tells."""
        asked: dict[tuple[str, int], str] = {}
        for one in self.messages:
            if one.is_request:
                asked[one.hop, one.conn] = one.start
            elif one.kind == "partial" and one.dir == "s2c" and one.start.startswith("HTTP/"):
                head = asked.get((one.hop, one.conn), "").startswith("HEAD ")
                if head or one.start.split(" ")[1] in ("204", "304"):
                    one.kind, one.bodiless = "http-response", True

    def _sessions(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for one in self.on(TUNNEL):
            if one.is_request and (asked := re.search(r"[?&]sid=([^&]+)", one.target)):
                found.setdefault(one.conn, unquote(asked[1]))
            for packet in one.packets() if one.dir == "s2c" else ():
                if packet.startswith("0{"):
                    found.setdefault(one.conn, json.loads(packet[1:])["sid"])
        return found

    def by_conn(self, hop: str) -> dict[int, list[Message]]:
        conns: dict[int, list[Message]] = defaultdict(list)
        for one in self.on(hop):
            conns[one.conn].append(one)
        return conns


def _by(rule: dict[str, Any], one: Message) -> bool:
    """Whether a request was let through by this rule, which adds credentials and names one path."""
    return bool(rule.get("auth")) and one.target.partition("?")[0] == rule.get("path")


def _message(number: int, said: dict[str, Any]) -> Message:
    raw = base64.b64decode(said.get("raw_b64", ""))
    one = Message(number, said["t"], said["hop"], said["conn"], said["dir"], said["kind"], raw)
    if "start" in said:
        one.start = said["start"]
        one.headers = [(name, value) for name, value in said["headers"]]
        one.body = _body(one, said)
    elif one.kind == "partial":
        start, *lines = raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        one.start = start if " " in start else ""
        one.headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    elif "opcode" in said:
        one.opcode, one.fin = said["opcode"], bool(said["fin"])
        one.payload = said["text"].encode() if "text" in said else base64.b64decode(said.get("payload_b64", ""))
    return one


def _body(one: Message, said: dict[str, Any]) -> bytes:
    if "body_text" in said:
        return str(said["body_text"]).encode()
    if "body_b64" in said:
        return base64.b64decode(said["body_b64"])
    from vectors.broker_player.wire import HttpReader  # the exact bytes hold what the line leaves out

    reader = HttpReader("response" if one.is_response else "request")
    whole = [*reader.feed(one.raw), *reader.end()]
    return whole[0].body if whole else b""
