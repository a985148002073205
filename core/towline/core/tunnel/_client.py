"""A client's tunnel through all its connections: dial, identify, keep alive, carry events, come back when lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Literal

from towline.core._contract import Instant, Record, earliest
from towline.core._entropy import Entropy
from towline.core._errors import RemoteProtocolError, TowlineError
from towline.core._limits import LIMITS, Limits
from towline.core._wire import LinkNumbers, Note, Wake, WireFact
from towline.core.tunnel import _ejson, _emitter, _primus
from towline.core.tunnel import _engineio as engineio
from towline.core.tunnel._address import Address
from towline.core.tunnel._engineio import Handshake, Packet
from towline.core.tunnel._events import (
    Acked,
    Arrived,
    TunnelBusy,
    TunnelClosed,
    TunnelConfig,
    TunnelIdentified,
    TunnelOpened,
)
from towline.core.tunnel._messages import read_capabilities
from towline.core.tunnel._state import CLIENT
from towline.core.tunnel._transport import Transport

# An ack handle is the connection's number above these bits, and the wire's id below.
_ID_BITS: Final = 53


class _Queued(Record, frozen=True):
    """An event that waits for the tunnel to open: its message without an id."""

    message: bytes
    handle: int | None


class TunnelClient:
    """One tunnel of a broker client. A part: its owner hands it the facts of the links that it `owns`, and WAKE.

    waiting     no connection; the next attempt is at `deadline`, the first one at once
    connecting  links are being opened, up to the server's open packet
    open        identified itself; events go both ways
    closed      for good: `primus::server::close` came, too many attempts failed, or `close` was called

    Bounds:  what is emitted while the tunnel is down, or faster than the server reads, waits up to
             LIMITS.tunnel_buffer bytes (and LIMITS.tunnel_waiting events when down); beyond, `emit` raises TunnelBusy
    """

    def __init__(self, config: TunnelConfig, *, links: LinkNumbers, entropy: Entropy, limits: Limits = LIMITS) -> None:
        self._config = config
        self._links = links
        self._entropy = entropy
        self._limits = limits
        self._state = CLIENT.start
        self._wishes: deque[Record] = deque()
        self._transport: Transport | None = None
        self._session = 0  # connections that opened so far
        self._tried = False
        self._failures = 0  # in a row
        self._avoid_websocket = False
        self._queue: deque[_Queued] = deque()
        self._queue_bytes = 0
        self._handles = 0
        self._last_id = 0
        self._pending: dict[int, int] = {}  # wire id → handle of events whose acknowledgement is awaited
        # Timers; None where nothing is waited for.
        self._attempt_at: Instant | None = None
        self._open_by: Instant | None = None
        self._heard_by: Instant | None = None
        self._ping_at: Instant | None = None
        self._pong_by: Instant | None = None
        self._good_at: Instant | None = None
        self._patience = 0.0

    def __repr__(self) -> str:
        return f"TunnelClient(role={self._config.role}, state={self._state}, session={self._session})"

    # ── what the owner asks ────────────────────────────────────────────────────
    @property
    def state(self) -> str:
        """A state of the CLIENT table."""
        return self._state

    @property
    def transport(self) -> Literal["polling", "websocket"] | None:
        """What the tunnel travels by at present; None when it is not open."""
        return self._transport.name if self._transport is not None and self._state == "open" else None

    def owns(self, link: int) -> bool:
        return self._transport is not None and self._transport.owns(link)

    def poll(self) -> Record | None:
        return self._wishes.popleft() if self._wishes else None

    def deadline(self) -> Instant | None:
        if self._state == "closed":
            return None
        inner = self._transport.deadline() if self._transport is not None else None
        return earliest(
            self._attempt_at, self._open_by, self._heard_by, self._ping_at, self._pong_by, self._good_at, inner
        )

    # ── commands ───────────────────────────────────────────────────────────────
    def emit(self, name: str, args: Sequence[Any], *, ack: bool = False, now: Instant) -> int | None:
        """Emit an event, or queue it until the tunnel is open; return the handle of its Acked if one is wanted.

        Raises:  TunnelBusy when too much waits already; TowlineError "request-too-large" for what no server takes,
                 "tunnel-lost" when the tunnel is closed for good
        """
        if self._state == "closed":
            raise RemoteProtocolError("tunnel-lost", "the tunnel is closed for good")
        message = _emitter.write_event(name, args)
        if len(message) >= min(self._limits.tunnel_payload, self._peer_limit()):
            raise TowlineError("request-too-large", f"expected an event the tunnel can carry, got {len(message)} bytes")
        waits = self._queue_bytes + (self._transport.unconfirmed if self._transport is not None else 0)
        if waits > self._limits.tunnel_buffer or len(self._queue) >= self._limits.tunnel_waiting:
            raise TunnelBusy(f"{waits} bytes wait for the tunnel already")
        handle: int | None = None
        if ack:
            self._handles += 1
            handle = self._handles
        self._queue.append(_Queued(message, handle))
        self._queue_bytes += len(message)
        if self._state == "open":
            self._flush(now)
        return handle

    def handle_of(self, number: int) -> int:
        """Return the `ack_id` of the Arrived that the server numbered so in this session."""
        return (self._session << _ID_BITS) | (number & _emitter.MOST_ID)

    def acknowledge(self, ack_id: int, args: Sequence[Any], *, now: Instant) -> None:
        """Answer an event by the `ack_id` of its Arrived. One of a connection that is gone is dropped."""
        message = _emitter.write_ack(ack_id & _emitter.MOST_ID, args)
        if self._state == "open" and ack_id >> _ID_BITS == self._session:
            self._send_message(message, now)
            self._settle(now)

    def forget(self, ack_id: int) -> None:
        """Nobody waits for this acknowledgement; the event itself is not sent if it still waits."""
        kept = [item for item in self._queue if item.handle != ack_id]
        if len(kept) != len(self._queue):
            self._queue = deque(kept)
            self._queue_bytes = sum(len(item.message) for item in kept)
        self._pending = {number: handle for number, handle in self._pending.items() if handle != ack_id}

    def reconfigure(self, config: TunnelConfig) -> None:
        """Take these settings from the next attempt on; of a connection that opens later, the metadata too."""
        self._config = config

    def close(self, reason: str, *, now: Instant) -> None:
        """End the tunnel for good."""
        if self._state != "closed":
            self._finish("close", reason, code=1001)

    # ── facts ──────────────────────────────────────────────────────────────────
    def handle(self, fact: WireFact, now: Instant) -> None:
        """Take WAKE, or a fact about a link of this tunnel."""
        if self._state == "closed":
            return
        if isinstance(fact, Wake):
            self._wake(now)
        elif self._transport is not None:
            self._transport.handle(fact, now)
        self._settle(now)

    def _wake(self, now: Instant) -> None:
        if self._state == "waiting" and (not self._tried or (self._attempt_at is not None and now >= self._attempt_at)):
            self._attempt(now)
            return
        if self._transport is not None:
            self._transport.wake(now)
        if _due(self._good_at, now):
            self._good_at, self._failures = None, 0
        if _due(self._open_by, now):
            self._lose("no answer to the handshake in time", now)
        elif _due(self._heard_by, now):
            self._lose("the server sent no engine.io ping in time", now)
        elif _due(self._pong_by, now):
            self._lose("the server sent no Primus pong in time", now)
        elif _due(self._ping_at, now):
            self._ping_at, self._pong_by = None, now + self._config.primus_pong
            self._send_message(_primus.ping(int((self._config.epoch + now) * 1000)), now)

    def _settle(self, now: Instant) -> None:
        """Work off what the transport brought."""
        transport = self._transport
        while transport is not None and transport is self._transport:
            packet = transport.take(now)
            if packet is None:
                if transport.lost is not None:
                    self._avoid_websocket = transport.cut_early and not self._avoid_websocket
                    self._lose(transport.lost, now)
                elif transport.unconfirmed > self._limits.tunnel_buffer + 2 * self._limits.tunnel_payload:
                    self._lose("the server does not read what it is sent", now)
                return
            self._take(packet, now)

    # ── packets ────────────────────────────────────────────────────────────────
    def _take(self, packet: Packet, now: Instant) -> None:
        if packet.type == engineio.OPEN:
            self._opened(now)
        elif packet.type == engineio.PING:
            self._heard_by = now + self._patience
            self._send(engineio.PONG + packet.data, now)
        elif packet.type == engineio.CLOSE:
            self._lose("the server closed the session", now)
        elif packet.type == engineio.MESSAGE:
            self._message(packet.data, now)

    def _opened(self, now: Instant) -> None:
        transport = self._transport
        if self._state != "connecting" or transport is None or transport.handshake is None:
            return
        self._step("open")
        self._session += 1
        self._last_id = 0
        self._patience = self._clamped(transport.handshake)
        self._open_by = None
        self._heard_by = now + self._patience
        self._ping_at = now + self._config.primus_ping
        self._good_at = now + self._config.good_service
        self._wishes.append(TunnelOpened(self._session, self._config.role, transport.name))
        hello = {"token": self._config.token.reveal(), "metadata": dict(self._config.metadata)}
        self._send_message(_emitter.write_event("identify", [hello]), now)
        self._flush(now)
        transport.proceed(now)

    def _clamped(self, said: Handshake) -> float:
        least, most = self._config.heartbeat_least, self._config.heartbeat_most
        return sum(min(max(advertised, least), most) for advertised in (said.ping_interval, said.ping_timeout))

    def _message(self, data: bytes, now: Instant) -> None:
        try:
            value = _ejson.decode(data, self._limits)
        except RemoteProtocolError as junk:
            self._note("debug", "tunnel.junk", why=junk.message)
            return
        control = _primus.read_control(value)
        if control is not None:
            if control.kind == "server-close":
                self._finish("server close", "the server closed the tunnel for good", code=None)
            elif control.kind == "pong":
                self._pong_by, self._ping_at = None, now + self._config.primus_ping
            return
        packet = _emitter.read_packet(value, _emitter.RESERVED_AT_CLIENT)
        if isinstance(packet, _emitter.Ack):
            handle = self._pending.pop(packet.id, None)
            if handle is not None:
                self._wishes.append(Acked(self._session, handle, packet.args))
        elif packet is not None and packet.name == "identify":
            self._failures = 0
            said = read_capabilities(packet.args)
            self._wishes.append(TunnelIdentified(self._session, self._config.role, said))
        elif packet is not None:
            ack_id = (self._session << _ID_BITS) | packet.id if packet.id is not None else None
            self._wishes.append(Arrived(self._session, packet.name, packet.args, ack_id))

    def _flush(self, now: Instant) -> None:
        """Send what waits. Ids are counted from 1 on each connection."""
        while self._queue:
            item = self._queue.popleft()
            self._queue_bytes -= len(item.message)
            message = item.message
            if item.handle is not None:
                self._last_id += 1
                self._pending[self._last_id] = item.handle
                message = b'%s,"id":%d}' % (message[:-1], self._last_id)
            self._send_message(message, now)

    def _send_message(self, message: bytes, now: Instant) -> None:
        self._send(engineio.MESSAGE + message, now)

    def _send(self, packet: bytes, now: Instant) -> None:
        if self._transport is not None:
            self._transport.send(packet, now)

    def _peer_limit(self) -> int:
        said = self._transport.handshake if self._transport is not None else None
        return said.max_payload if said is not None else self._limits.tunnel_payload

    # ── attempts ───────────────────────────────────────────────────────────────
    def _attempt(self, now: Instant) -> None:
        config = self._config
        polls = config.polling_first or self._avoid_websocket
        self._attempt_at = None
        self._open_by = now + (config.connect_again if self._tried else config.connect)
        self._tried = True
        address = Address(config, self._entropy.uuid4(), now)
        self._transport = Transport(
            address,
            route=config.route,
            wishes=self._wishes,
            links=self._links,
            entropy=self._entropy.fork(),
            limits=self._limits,
        )
        self._step("attempt")
        self._transport.begin("polling" if polls else "websocket", now)

    def _lose(self, why: str, now: Instant) -> None:
        """The connection or the attempt is gone: come back after a while, or never."""
        self._failures += 1
        if self._failures > self._config.attempts:
            self._finish("exhausted", f"{why}; gave up after {self._config.attempts} attempts", code=None)
            return
        session = self._session if self._state == "open" else 0
        lost = self._leave(None)
        self._step("lost")
        self._attempt_at = now + self._delay()
        self._wishes.append(TunnelClosed(session, self._config.role, why, False, lost, self._attempt_at))

    def _delay(self) -> float:
        """How long to wait before the next attempt (broker-protocol.md §1.11). Units: seconds."""
        if self._failures <= 1:
            return self._config.backoff
        # Past the 64th the cap holds; a client that never gives up would leave the range of a float.
        grown = (1 + self._entropy.fraction()) * self._config.backoff * 1.5 ** min(self._failures - 1, 64)
        return min(round(grown, 3), self._config.backoff_cap)

    def _finish(self, fed: str, reason: str, code: int | None) -> None:
        session = self._session if self._state == "open" else 0
        lost = (*self._leave(code), *(item.handle for item in self._queue if item.handle is not None))
        self._queue.clear()
        self._queue_bytes = 0
        self._step(fed)
        self._wishes.append(TunnelClosed(session, self._config.role, reason, True, lost, exhausted=fed == "exhausted"))

    def _leave(self, code: int | None) -> tuple[int, ...]:
        """Let go of the connection and return the handles that nobody will answer."""
        if self._transport is not None:
            self._transport.end(code)
            self._transport = None
        self._attempt_at = self._open_by = self._heard_by = self._ping_at = self._pong_by = self._good_at = None
        lost = tuple(self._pending.values())
        self._pending.clear()
        return lost

    def _step(self, fed: str) -> None:
        self._state = CLIENT.next(self._state, fed)

    def _note(self, level: Literal["debug", "info", "warning"], event: str, **fields: Any) -> None:
        self._wishes.append(Note(level, event, {"role": self._config.role, **fields}))


def _due(at: Instant | None, now: Instant) -> bool:
    return at is not None and now >= at
