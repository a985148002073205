"""How a host's session moves its packets: polls that fetch them, a websocket, or the step from one to the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, Literal

from towline.core._contract import Data, Instant, Record, earliest
from towline.core._entropy import Entropy
from towline.core._errors import RemoteProtocolError
from towline.core._limits import Limits
from towline.core._wire import Close, Share, Transmit
from towline.core.tunnel import _engineio as engineio
from towline.core.tunnel._engineio import Packet
from towline.core.tunnel._events import Reply, Upgrade
from towline.core.tunnel._requests import POLL_HEADERS, POST_HEADERS, Asked, refusal, switching
from towline.core.tunnel._state import SESSION
from towline.core.tunnel._websocket import FrameEvent, PeerClosed, Text, Violated, WebSocket

NOOP_EVERY: Final = 0.1
"""A poll that is pending during an upgrade is ended this soon: what the reference's clients are used to."""


class Carrier:
    """The transport of one session, host side. A part of Session; wishes go straight to the host's queue.

    `over` says why no more packets will come, once that is so.
    """

    def __init__(self, revision: Literal[3, 4], *, wishes: deque[Record], entropy: Entropy, limits: Limits) -> None:
        self.state = SESSION.start
        self.revision: Final = revision
        self.over: str | None = None
        self._wishes = wishes
        self._entropy = entropy
        self._limits = limits
        self._packets: deque[Packet] = deque()
        self._reading: Iterator[FrameEvent] | None = None  # what the last bytes of the websocket still hold
        self._queue: list[bytes] = []
        self._queue_bytes = 0
        self._fetched = 0  # bytes in the last poll's answer; the next poll says that it arrived
        self._poll: Asked | None = None
        self.link: int | None = None
        self._frames: WebSocket | None = None
        self._upgrade_by: Instant | None = None
        self._noop_at: Instant | None = None

    # ── what the session asks ──────────────────────────────────────────────────
    @property
    def exchange(self) -> int | None:
        """The poll that is pending."""
        return self._poll.exchange if self._poll is not None else None

    @property
    def unconfirmed(self) -> int:
        """Bytes that were handed over and that the client may not have taken yet."""
        return self._queue_bytes + self._fetched + (self._frames.unconfirmed if self._frames is not None else 0)

    def take(self, now: Instant) -> Packet | None:
        """Return the next packet that came. The session acts on each before it takes the next."""
        while not self._packets and self._reading is not None:
            event = next(self._reading, None)
            if event is None:
                self._reading = None
            elif isinstance(event, Text):
                self._text(event.data, now)
            elif isinstance(event, PeerClosed):
                self._socket_over("the client closed the websocket")
            elif isinstance(event, Violated):
                self._socket_over(f"the client broke the websocket protocol: {event.why}")
        return self._packets.popleft() if self._packets else None

    def send(self, packet: bytes) -> None:
        """Send one packet after those before it; `flush` puts it on its way."""
        if self.state == "websocket" and self._frames is not None:
            self._frames.send_text(packet)
        else:
            self._queue.append(packet)
            self._queue_bytes += len(packet)

    def flush(self) -> None:
        """Put what was sent on its way: all of one turn in one poll's answer, or in one burst of frames."""
        if self._frames is not None and self.link is not None:
            for data in self._frames.output():
                self._wishes.append(Transmit(self.link, data))
        if self._poll is not None and self._queue:
            packets, self._queue = (
                self._queue[: self._limits.tunnel_packets],
                self._queue[self._limits.tunnel_packets :],
            )
            self._queue_bytes -= sum(map(len, packets))
            self._answer_poll(packets)
            if self.state == "ending" and not self._queue:
                self._step("closed")

    def deadline(self) -> Instant | None:
        late = self._frames.deadline() if self._frames is not None else None
        return earliest(late, self._upgrade_by, self._noop_at)

    def wake(self, now: Instant) -> None:
        if self._frames is not None:
            self._frames.wake(now)
        if self._upgrade_by is not None and now >= self._upgrade_by:
            self._offer_failed()
        if self._noop_at is not None and now >= self._noop_at:
            self._noop_at = now + NOOP_EVERY
            if self._poll is not None and not self._queue:
                self._answer_poll([engineio.NOOP])
        self.flush()

    # ── beginning and ending ───────────────────────────────────────────────────
    def begin_polling(self, asked: Asked, handshake: bytes) -> None:
        """Answer the handshake. What else there is to say waits for the next poll, as the reference's does."""
        self._step("poll")
        self._poll = asked
        self._answer_poll([handshake])

    def begin_websocket(self, asked: Asked, handshake: bytes) -> bool:
        """Answer the upgrade; False if it is none."""
        if not self._switch(asked):
            return False
        self._step("websocket")
        self.send(handshake)
        return True

    def offer(self, asked: Asked, now: Instant) -> bool:
        """A websocket for this session: it is used once it has been probed. False if there can be none."""
        if self.state != "polling" or not self._switch(asked):
            return False
        self._step("offer")
        self._upgrade_by = now + self._limits.tunnel_upgrade
        return True

    def end(self, code: int | None = None) -> None:
        """Close in order: a close frame, or a close packet for the poll that is pending or comes next."""
        if self.state == "websocket":
            self._drop_socket(code)
            self._close()
        elif self.state in ("polling", "offered", "probing"):
            self._drop_socket()
            self._step("end")
            self.send(engineio.CLOSE)
            self.flush()

    def forget(self) -> None:
        """Nobody will fetch what is left."""
        self._drop_socket()
        self._close()

    def _close(self) -> None:
        if self._poll is not None:
            self._answer_poll([engineio.NOOP])
        if self.state != "closed":
            self._step("closed")
        self._queue.clear()
        self._queue_bytes = 0

    # ── polls ──────────────────────────────────────────────────────────────────
    def fetch(self, asked: Asked) -> None:
        """A poll: it is answered as soon as there is something to say."""
        if self._poll is not None:
            self._wishes.append(refusal(asked, "request"))
            self.over = "polls overlapped"
            return
        self._fetched = 0
        self._poll = asked
        self.flush()

    def post(self, asked: Asked) -> None:
        """A poll's other direction: packets of the client."""
        try:
            packets = engineio.read_payload(asked.body, self.revision, self._limits)
        except RemoteProtocolError as broken:
            self._wishes.append(refusal(asked, "request"))
            self.over = broken.message
            return
        self._packets.extend(packets)
        self._wishes.append(Reply(asked.exchange, 200, (*asked.cors, *POST_HEADERS), b"ok"))

    def gone(self) -> None:
        """The pending poll's link closed."""
        self._poll = None
        if self.state == "ending":
            self._step("closed")
        else:
            self.over = "the poll's connection closed"

    def _answer_poll(self, packets: list[bytes]) -> None:
        if self._poll is None:
            return
        body = engineio.write_payload(packets, self.revision)
        self._wishes.append(Reply(self._poll.exchange, 200, (*self._poll.cors, *POLL_HEADERS), body))
        self._poll = None
        self._fetched = len(body)

    # ── the websocket ──────────────────────────────────────────────────────────
    def receive(self, data: Data, now: Instant) -> None:
        """Take bytes from the websocket's link."""
        if self._frames is not None:
            self._reading = self._frames.receive(data, now)

    def socket_gone(self, why: str) -> None:
        """The websocket's link ended: nothing more is said on it."""
        if self._frames is not None:
            self._frames.silence()
        self._socket_over(why)

    def _switch(self, asked: Asked) -> bool:
        response = switching(asked.key)
        if response is None or asked.method != "GET" or asked.body:
            return False
        self.link = asked.link
        self._frames = WebSocket(
            "server", entropy=self._entropy, limits=self._limits, message=self._limits.tunnel_payload
        )
        self._wishes.append(Upgrade(asked.exchange, asked.link, response))
        self._wishes.append(Share(asked.link))
        return True

    def _text(self, data: bytes, now: Instant) -> None:
        try:
            packet = engineio.read_packet(data)
        except RemoteProtocolError:
            return
        if self.state == "websocket":
            self._packets.append(packet)
        elif self.state == "offered" and packet == Packet(engineio.PING, engineio.PROBE) and self._frames is not None:
            self._step("probe")
            self._frames.send_text(engineio.PONG + engineio.PROBE)
            self._noop_at = now + NOOP_EVERY
            self._upgrade_by = now + self._limits.tunnel_upgrade
        elif self.state == "probing" and packet.type == engineio.UPGRADE and self._frames is not None:
            self._step("upgrade")
            self._upgrade_by = self._noop_at = None
            self._answer_poll([engineio.NOOP])
            waiting, self._queue, self._queue_bytes = self._queue, [], 0
            for late in waiting:
                self._frames.send_text(late)
        else:
            self._offer_failed()

    def _socket_over(self, why: str) -> None:
        if self.state in ("offered", "probing"):
            self._offer_failed()
            return
        self._drop_socket()
        self.over = why

    def _offer_failed(self) -> None:
        self._drop_socket()
        if self.state in ("offered", "probing"):
            self._step("offer failed")

    def _drop_socket(self, code: int | None = None) -> None:
        """Close the websocket in order, whatever it was for."""
        self._upgrade_by = self._noop_at = None
        if self._frames is not None and self.link is not None:
            self._frames.send_close(code)
            self._wishes.extend(Transmit(self.link, data) for data in self._frames.output())
            self._wishes.append(Close(self.link))
        self._frames = self._reading = self.link = None

    def _step(self, fed: str) -> None:
        self.state = SESSION.next(self.state, fed)
