"""The engine.io transport of one connection, client side: packets out and in, however they travel.

Two ways to begin. A websocket without a session is one round trip. Polling is what the reference does first: a
handshake, then polls and posts, each on a link of its own, while a websocket is tried beside them; if that answers
the probe, the session moves there, else it stays where it is. A server that refuses the bare websocket with an
ordinary answer is polled instead, within the same attempt.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Iterator
from typing import Final, Literal

from towline.core._contract import Instant, Record, earliest
from towline.core._entropy import Entropy
from towline.core._errors import RemoteProtocolError
from towline.core._limits import Limits
from towline.core._script import Body, Broken, Head, HeaderList, Tail
from towline.core._wire import (
    Close,
    Drop,
    Ended,
    LinkNumbers,
    Lost,
    Open,
    Opened,
    Received,
    Share,
    Transmit,
    WireFact,
)
from towline.core.http import ClientConnection
from towline.core.tunnel import _engineio as engineio
from towline.core.tunnel._address import Address
from towline.core.tunnel._dial import Call, Purpose, Socket, unsound_upgrade
from towline.core.tunnel._engineio import Handshake, Packet
from towline.core.tunnel._state import TRANSPORT
from towline.core.tunnel._websocket import FrameEvent, PeerClosed, Text, Violated, WebSocket

# Statuses that say what another way of asking would also be told.
_FINAL_ANSWERS: Final = frozenset({301, 302, 303, 307, 308, 401, 403, 407, 429})


class Transport:
    """One connection's packets. A part of TunnelClient: wishes go straight to the owner's queue.

    `lost` says why the connection is gone, once it is; `status` is the HTTP status that refused it, where one did.
    """

    def __init__(
        self,
        address: Address,
        *,
        route: str,
        wishes: deque[Record],
        links: LinkNumbers,
        entropy: Entropy,
        limits: Limits,
    ) -> None:
        self.state = TRANSPORT.start
        self.lost: str | None = None
        self.cut_early = False  # the bare websocket was connected and cut before any answer: a proxy's way to refuse
        self.handshake: Handshake | None = None
        self._address = address
        self._route = route
        self._wishes = wishes
        self._links = links
        self._entropy = entropy
        self._limits = limits
        self._packets: deque[Packet] = deque()
        self._reading: Iterator[FrameEvent] | None = None  # what the last bytes of the websocket still hold
        self._calls: dict[int, Call] = {}
        self._socket: Socket | None = None
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._in_post = 0  # bytes of the post that is under way
        self._probe_by: Instant | None = None

    def __repr__(self) -> str:
        return f"Transport(state={self.state}, links={sorted(self._calls)})"

    # ── what the owner asks ────────────────────────────────────────────────────
    @property
    def name(self) -> Literal["polling", "websocket"]:
        return "websocket" if self.state in ("dialling", "websocket") else "polling"

    @property
    def unconfirmed(self) -> int:
        """Bytes that were handed over and that the server may not have taken yet."""
        frames = self._socket.frames if self._socket is not None and self.state == "websocket" else None
        return self._outbox_bytes + self._in_post + (frames.unconfirmed if frames is not None else 0)

    def owns(self, link: int) -> bool:
        return link in self._calls or (self._socket is not None and self._socket.link == link)

    def take(self, now: Instant) -> Packet | None:
        """Return the next packet that came. The owner acts on each before it takes the next."""
        while not self._packets and self._reading is not None:
            event = next(self._reading, None)
            if event is None:
                self._reading = None
                self._flush_socket()
            elif isinstance(event, Text):
                self._packet(event.data, now)
            elif isinstance(event, PeerClosed):
                self._socket_failed("the server closed the websocket", now)
            elif isinstance(event, Violated):
                self._socket_failed(f"the server broke the websocket protocol: {event.why}", now)
        return self._packets.popleft() if self._packets else None

    def deadline(self) -> Instant | None:
        late = self._socket.frames.deadline() if self._socket is not None and self._socket.frames is not None else None
        return earliest(late, self._probe_by)

    def wake(self, now: Instant) -> None:
        if self._probe_by is not None and now >= self._probe_by:
            self._give_up_probe(now)
        if self._socket is not None and self._socket.frames is not None:
            self._socket.frames.wake(now)
            self._flush_socket()

    # ── beginning and ending ───────────────────────────────────────────────────
    def begin(self, mode: Literal["websocket", "polling"], now: Instant) -> None:
        """Dial."""
        self._step(f"begin {mode}")
        if mode == "websocket":
            self._dial_socket(None, now)
        else:
            self._call("handshake", None, now)

    def proceed(self, now: Instant) -> None:
        """The owner has taken note of the handshake: poll, and try the websocket beside it."""
        if self.state != "polling" or self.handshake is None:
            return
        self._flush_outbox(now)
        if "websocket" in self.handshake.upgrades:
            self._step("upgrade")
            self._dial_socket(self.handshake.sid, now)
            self._probe_by = now + self._limits.tunnel_upgrade
        self._call("poll", None, now)

    def end(self, code: int | None) -> None:
        """Close in order where that can be done in one breath; nothing comes after it."""
        if self._socket is not None and self._socket.frames is not None and self.state == "websocket":
            self._socket.frames.send_close(code)
        self._break("closed here")

    # ── packets out ────────────────────────────────────────────────────────────
    def send(self, packet: bytes, now: Instant) -> None:
        """Send one packet, after those before it."""
        if self.state == "websocket" and self._socket is not None and self._socket.frames is not None:
            self._socket.frames.send_text(packet)
            self._flush_socket()
            return
        self._outbox.append(packet)
        self._outbox_bytes += len(packet)
        self._flush_outbox(now)

    def _flush_outbox(self, now: Instant) -> None:
        busy = any(call.purpose == "post" for call in self._calls.values())
        if not self._outbox or busy or self.handshake is None or self.state not in ("polling", "probing"):
            return
        batch: list[bytes] = []
        size = 0
        while self._outbox and len(batch) < self._limits.tunnel_packets:
            if batch and size + 1 + len(self._outbox[0]) > self.handshake.max_payload:
                break
            size += 1 + len(self._outbox[0])
            batch.append(self._outbox.popleft())
        self._outbox_bytes -= sum(map(len, batch))
        body = engineio.write_payload(batch, 4)
        self._in_post = len(body)
        self._call("post", body, now)

    def _flush_socket(self) -> None:
        if (socket := self._socket) is not None and socket.frames is not None:
            for data in socket.frames.output():
                self._wishes.append(Transmit(socket.link, data))

    # ── facts ──────────────────────────────────────────────────────────────────
    def handle(self, fact: WireFact, now: Instant) -> None:
        """Take a fact about one of the links that `owns` knows."""
        link = getattr(fact, "link", None)
        call = self._calls.get(link) if link is not None else None
        if call is not None:
            self._handle_call(call, fact, now)
        elif self._socket is not None and self._socket.link == link:
            self._handle_socket(self._socket, fact, now)

    def _call(self, purpose: Purpose, body: bytes | None, now: Instant) -> None:
        sid = self.handshake.sid if self.handshake is not None else None
        link = self._links.take()
        self._calls[link] = Call(purpose, link, self._address.target("polling", sid, now), body, self._limits)
        self._open(link)

    def _handle_call(self, call: Call, fact: WireFact, now: Instant) -> None:
        link, http = call.http.link, call.http
        if isinstance(fact, Opened) and http.idle:
            headers = self._address.poll_headers(posts=call.body is not None)
            self._ask(http, "GET" if call.body is None else "POST", call.target, headers, call.body)
        elif isinstance(fact, Received):
            http.received(fact.data)
        elif isinstance(fact, Ended):
            http.ended()
        elif isinstance(fact, Lost):
            if not http.exchanges:
                self._break(f"no connection: {fact.why}")
                return
            http.lost(fact.why, fact.kind)
        while (event := http.next()) is not None:
            if isinstance(event, Head):
                call.status = event.status
            elif isinstance(event, Body):
                call.answer += event.data
                if len(call.answer) > self._limits.ws_message:
                    self._break("a poll's answer passes its limit")
                    return
            elif isinstance(event, Broken):
                self._break(f"a poll broke: {event.why}")
                return
            elif isinstance(event, Tail):
                del self._calls[link]
                self._wishes.append(Close(link))
                self._answered(call, now)
                return

    def _answered(self, call: Call, now: Instant) -> None:
        if call.status != 200:
            self._break(f"expected 200 to a {call.purpose}, got {call.status}")
            return
        if call.purpose == "post":
            self._in_post = 0
        else:
            try:
                packets = engineio.read_payload(call.answer, 4, self._limits)
                if call.purpose == "handshake":
                    self._shake(packets.pop(0))
                    self._step("handshake")
            except RemoteProtocolError as broken:
                self._break(broken.message)
                return
            self._packets.extend(packets)
        if self.state == "pausing":
            self._pause(now)
        elif call.purpose == "poll":
            self._call("poll", None, now)
        self._flush_outbox(now)

    def _shake(self, packet: Packet) -> None:
        if packet.type != engineio.OPEN:
            raise RemoteProtocolError("tunnel-protocol", "expected an open packet first, got another")
        self.handshake = engineio.read_handshake(packet.data)
        self._packets.append(packet)

    # ── the websocket ──────────────────────────────────────────────────────────
    def _dial_socket(self, sid: str | None, now: Instant) -> None:
        key = base64.b64encode(self._entropy.bytes(16)).decode("ascii")
        link = self._links.take()
        self._socket = Socket(link, key, self._address.target("websocket", sid, now), self._limits)
        self._open(link)

    def _handle_socket(self, socket: Socket, fact: WireFact, now: Instant) -> None:
        if isinstance(fact, Opened) and not socket.asked:
            socket.asked = True
            self._ask(socket.http, "GET", socket.target, self._address.upgrade_headers(socket.key), None)
        elif isinstance(fact, Received):
            if socket.frames is not None:
                self._reading = socket.frames.receive(fact.data, now)
            else:
                socket.http.received(fact.data)
                self._read_answer(socket, now)
        elif isinstance(fact, Ended | Lost):
            why = "the server closed the connection" if isinstance(fact, Ended) else fact.why
            if socket.frames is not None:
                socket.frames.silence()
            if socket.frames is None and socket.asked:
                socket.http.ended()
                self._read_answer(socket, now)
            if self._socket is socket:
                self.cut_early = socket.asked and socket.frames is None
                self._socket_failed(why, now)

    def _read_answer(self, socket: Socket, now: Instant) -> None:
        while (event := socket.http.next()) is not None:
            if isinstance(event, Broken):
                self.cut_early = event.kind == "registry-unreachable"
                self._socket_failed(event.why, now)
                return
            if not isinstance(event, Head):
                continue
            if event.status != 101:
                self._refused(event.status, now)
                return
            wrong = unsound_upgrade(event, socket.key)
            if wrong is not None:
                self._socket_failed(wrong, now)
                return
            self._switched(socket, now)
            return

    def _switched(self, socket: Socket, now: Instant) -> None:
        socket.frames = WebSocket("client", entropy=self._entropy, limits=self._limits)
        self._wishes.append(Share(socket.link))
        if self.state == "dialling":
            self._step("switched")
        else:
            socket.frames.send_text(engineio.PING + engineio.PROBE)
            self._flush_socket()
        if leftover := socket.http.upgrade():
            self._reading = socket.frames.receive(leftover, now)

    def _refused(self, status: int, now: Instant) -> None:
        if self.state == "dialling" and status not in _FINAL_ANSWERS:
            self._drop_socket()
            self._step("refused")
            self._call("handshake", None, now)
        else:
            self._socket_failed(f"expected 101 to the upgrade, got {status}", now)

    def _packet(self, data: bytes, now: Instant) -> None:
        try:
            packet = engineio.read_packet(data)
            if self.state == "websocket":
                if self.handshake is None:
                    self._shake(packet)
                else:
                    self._packets.append(packet)
            elif self.state == "probing" and packet == Packet(engineio.PONG, engineio.PROBE):
                self._step("probe answered")
                self._probe_by = now + self._limits.tunnel_upgrade
                self._pause(now)
        except RemoteProtocolError as broken:
            if self.handshake is None:
                self._break(broken.message)

    def _pause(self, now: Instant) -> None:
        """Move to the websocket as soon as the polls under way have been answered."""
        if self._calls or self._socket is None or self._socket.frames is None:
            return
        self._step("paused")
        self._probe_by = None
        self._socket.frames.send_text(engineio.UPGRADE)
        while self._outbox:
            self._socket.frames.send_text(self._outbox.popleft())
        self._outbox_bytes = 0
        self._flush_socket()

    def _socket_failed(self, why: str, now: Instant) -> None:
        """The websocket is of no use: fatal if everything goes through it, else polling goes on."""
        if self.state in ("probing", "pausing"):
            self._give_up_probe(now)
        else:
            self._break(why)

    def _give_up_probe(self, now: Instant) -> None:
        self._probe_by = None
        self._drop_socket()
        self._step("probe failed")
        if not any(call.purpose == "poll" for call in self._calls.values()):
            self._call("poll", None, now)
        self._flush_outbox(now)

    # ── links ──────────────────────────────────────────────────────────────────
    def _ask(self, http: ClientConnection, method: str, target: str, headers: HeaderList, body: bytes | None) -> None:
        try:
            http.request(method, target, headers, body)
        except RemoteProtocolError as unsayable:  # a setting that HTTP cannot carry
            self._break(unsayable.message)
            return
        self._wishes.extend(Transmit(http.link, data) for data in http.output())

    def _open(self, link: int) -> None:
        url = self._address.url
        self._wishes.append(Open(link, url.host, url.port, url.scheme == "https", "configured", self._route))

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._flush_socket()
            self._wishes.append(
                Close(self._socket.link) if self._socket.frames is not None else Drop(self._socket.link)
            )
            self._socket = self._reading = None

    def _break(self, why: str) -> None:
        if self.state == "lost":
            return
        self._drop_socket()
        self._wishes.extend(Drop(link) for link in self._calls)
        self._calls.clear()
        self._outbox.clear()
        self._probe_by = None
        self.lost = why
        self.state = "lost"

    def _step(self, fed: str) -> None:
        self.state = TRANSPORT.next(self.state, fed)
