"""One client's session at the host: heartbeats, identify, events; its packets are the carrier's affair."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from towline.core._contract import Instant, Record, earliest
from towline.core._entropy import Entropy
from towline.core._errors import RemoteProtocolError, TowlineError
from towline.core._limits import Limits
from towline.core._secret import Secret
from towline.core._wire import Note
from towline.core.tunnel import _ejson, _emitter, _primus
from towline.core.tunnel import _engineio as engineio
from towline.core.tunnel._admission import Credential
from towline.core.tunnel._carrier import Carrier
from towline.core.tunnel._engineio import Handshake, Packet
from towline.core.tunnel._events import (
    Acked,
    Arrived,
    HostConfig,
    Identified,
    Ponged,
    SessionClosed,
    SessionOpened,
    TunnelBusy,
)
from towline.core.tunnel._messages import IdentifyPayload, notification, read_identify, read_version
from towline.core.tunnel._requests import Asked


class Session:
    """A part of TunnelHost. Whatever the client sends, at worst this session ends.

    Timers: engine.io's ping and its pong; 35 s without a message, which pongs do not count as; identify within 10 s.
    """

    def __init__(
        self,
        number: int,
        sid: str,
        asked: Asked,
        config: HostConfig,
        *,
        wishes: deque[Record],
        entropy: Entropy,
        limits: Limits,
    ) -> None:
        self.number: Final = number
        self.sid: Final = sid
        self.token: Final = asked.token
        self.carrier: Final = Carrier(asked.revision, wishes=wishes, entropy=entropy, limits=limits)
        self.closed = False
        self.identified = False
        # What the session was opened with, and what it was last renewed by, if it was.
        self.credentials: tuple[Credential, ...] = ()
        self.role: Final = asked.role
        self.client_id: Final = asked.client_id
        self._config = config
        self._wishes = wishes
        self._limits = limits
        self._held: list[Arrived] = []
        self._held_bytes = 0
        self._pending: set[int] = set()
        self._last_id = 0
        self._renewed = False
        # Timers; None where nothing is waited for.
        self._ping_at: Instant | None = None
        self._pong_by: Instant | None = None
        self._message_by: Instant | None = None
        self._identify_by: Instant | None = None
        self._fetched_by: Instant | None = None
        self._stale_at: Instant | None = None

    def __repr__(self) -> str:
        return f"Session(number={self.number}, state={self.carrier.state}, identified={self.identified})"

    def begin(self, asked: Asked, now: Instant) -> bool:
        """Shake hands; False if the request cannot become a session."""
        config = self._config
        upgrades = () if asked.upgrade else ("websocket",)
        said = Handshake(self.sid, upgrades, config.ping_interval, config.ping_timeout, self._limits.tunnel_payload)
        opening = engineio.write_handshake(said)
        if not asked.upgrade:
            self.carrier.begin_polling(asked, opening)
        elif not self.carrier.begin_websocket(asked, opening):
            return False
        self._wishes.append(SessionOpened(self.number, self.token, self.role, self.client_id))
        self._send_message(_emitter.write_event("identify", [{"capabilities": config.capabilities}]))
        self.carrier.flush()
        self._message_by = now + config.silence
        self._identify_by = now + self._limits.tunnel_identify
        if self.carrier.revision == 4:
            self._ping_at = now + config.ping_interval
        else:
            self._pong_by = now + config.ping_interval + config.ping_timeout
        return True

    def admit(self, credential: Credential, now: Instant) -> None:
        """Take note of a credential that was found good; without another one the session ends when it is stale."""
        self.credentials = (*self.credentials[:1], credential)
        self._stale_at = now + self._config.credential_life

    # ── commands ───────────────────────────────────────────────────────────────
    def emit(self, name: str, args: Sequence[Any], ack: bool) -> int | None:
        message = _emitter.write_event(name, args, self._last_id + 1 if ack else None)
        if len(message) >= self._limits.tunnel_payload:
            raise TowlineError("request-too-large", f"expected an event the tunnel can carry, got {len(message)} bytes")
        if self.carrier.unconfirmed > self._limits.tunnel_buffer:
            raise TunnelBusy(f"{self.carrier.unconfirmed} bytes wait for this client already")
        self._send_message(message)
        self.carrier.flush()
        if not ack:
            return None
        self._last_id += 1
        self._pending.add(self._last_id)
        return self._last_id

    def acknowledge(self, ack_id: int, args: Sequence[Any], now: Instant) -> None:
        self._send_message(_emitter.write_ack(ack_id, args))
        self.settle(now)

    def forget(self, ack_id: int) -> None:
        self._pending.discard(ack_id)

    def close(
        self, reason: str, now: Instant, *, deliberate: bool = False, lost: bool = False, code: int | None = None
    ) -> None:
        """End the session: deliberately (the client stays away), in order, or because it is `lost`."""
        if self.closed:
            return
        self.closed = True
        if lost:
            self.carrier.forget()
        else:
            if deliberate:
                self._send_message(_primus.SERVER_CLOSE)
            self.carrier.end(code)
        self._ping_at = self._pong_by = self._message_by = self._identify_by = self._stale_at = None
        self._fetched_by = now + self._limits.tunnel_identify if self.carrier.state == "ending" else None
        self._held.clear()
        self._wishes.append(SessionClosed(self.number, reason, self.identified))

    # ── facts ──────────────────────────────────────────────────────────────────
    def deadline(self) -> Instant | None:
        inner = self.carrier.deadline()
        return earliest(
            self._ping_at,
            self._pong_by,
            self._message_by,
            self._identify_by,
            self._fetched_by,
            self._stale_at,
            inner,
        )

    def wake(self, now: Instant) -> None:
        self.carrier.wake(now)
        if _due(self._fetched_by, now):
            self._fetched_by = None
            self.carrier.forget()
        elif _due(self._identify_by, now):
            self.close("no identify in time", now)
        elif _due(self._stale_at, now):
            self.close("stale credentials", now, deliberate=True)
        elif _due(self._message_by, now):
            self.close("no message in time", now)
        elif _due(self._pong_by, now):
            self.close("no pong in time", now)
        elif _due(self._ping_at, now):
            self._ping_at, self._pong_by, self._renewed = None, now + self._config.ping_timeout, False
            self.carrier.send(engineio.PING)
            self.carrier.flush()
        self.settle(now)

    def settle(self, now: Instant) -> None:
        """Work off what the carrier brought, and put what came of it on its way."""
        while not self.closed:
            packet = self.carrier.take(now)
            if packet is None:
                if self.carrier.over is not None:
                    self.close(self.carrier.over, now, lost=True)
                elif self.carrier.unconfirmed > self._limits.tunnel_buffer + 2 * self._limits.tunnel_payload:
                    self.close("the client does not read what it is sent", now, lost=True)
                break
            self._take(packet, now)
        self.carrier.flush()

    def _take(self, packet: Packet, now: Instant) -> None:
        if self.carrier.revision == 3:
            self._pong_by = now + self._config.ping_interval + self._config.ping_timeout
        elif self._pong_by is not None and packet.type != engineio.PONG and not self._renewed:
            self._pong_by, self._renewed = now + self._config.ping_timeout, True
        if packet.type == engineio.MESSAGE:
            self._message_by = now + self._config.silence
            self._message(packet.data, now)
        elif packet.type == engineio.PONG and self.carrier.revision == 4:
            self._pong_by, self._ping_at = None, now + self._config.ping_interval
        elif packet.type == engineio.PING and self.carrier.revision == 3:
            self.carrier.send(engineio.PONG + packet.data)
        elif packet.type == engineio.CLOSE:
            self.close("the client closed the session", now, lost=True)

    def _message(self, data: bytes, now: Instant) -> None:
        try:
            value = _ejson.decode(data, self._limits)
        except RemoteProtocolError as junk:
            self._wishes.append(Note("debug", "tunnel.junk", {"session": self.number, "why": junk.message}))
            return
        control = _primus.read_control(value)
        if control is not None:
            if control.kind == "ping":
                self._send_message(_primus.pong(control.ms))
                self._wishes.append(Ponged(self.number, control.ms))
            elif control.kind == "ask-id":
                self._send_message(_primus.tell_id(self.sid))
            return
        packet = _emitter.read_packet(value, _emitter.RESERVED_AT_SERVER)
        if isinstance(packet, _emitter.Ack):
            if packet.id in self._pending:
                self._pending.discard(packet.id)
                self._wishes.append(Acked(self.number, packet.id, packet.args))
        elif packet is not None and packet.name == "identify":
            self._identify(packet.args, now)
        elif packet is not None:
            self._arrive(Arrived(self.number, packet.name, packet.args, packet.id), len(data), now)

    def _arrive(self, event: Arrived, size: int, now: Instant) -> None:
        """Hand an event on, or hold it until the client has said who it is (quirk 18)."""
        if self.identified:
            self._wishes.append(event)
            return
        self._held_bytes += size
        if self._held_bytes > self._limits.tunnel_buffer or len(self._held) >= self._limits.tunnel_waiting:
            self.close("too many events before identify", now)
            return
        self._held.append(event)

    def _identify(self, args: Sequence[Any], now: Instant) -> None:
        try:
            said = read_identify(args)
        except RemoteProtocolError as broken:
            self.close(broken.message, now)
            return
        if said is None:
            self._wishes.append(Note("warning", "tunnel.identify-without-token", {"session": self.number}))
            return
        if Secret(said.token.reveal().lower()) != self.token:
            self.close("expected the token of the address in identify, got another", now)
            return
        if not self._recent(said, now):
            return
        self._identify_by = None
        self.identified = True
        self._wishes.append(
            Identified(
                self.number,
                self.token,
                said.role or self.role,
                said.client_id or self.client_id,
                said.version,
                said.capabilities,
                said.metadata,
            )
        )
        self._wishes.extend(self._held)
        self._held.clear()

    def _recent(self, said: IdentifyPayload, now: Instant) -> bool:
        """Judge the client's version: too old ends the session for good, old is told so."""
        version = read_version(said.version) if said.version is not None else None
        if version is None:
            return True
        config = self._config
        least, better = read_version(config.minimal_version), read_version(config.recommended_version)
        if least is not None and version < least:
            self._notify("error", f"outdated. Minimal version: {config.minimal_version}")
            self.close("outdated version", now, deliberate=True)
            return False
        if better is not None and version < better:
            self._notify("warning", f"deprecated. Minimal version: {config.recommended_version}")
        return True

    def _notify(self, level: str, what: str) -> None:
        text = f"Broker client version is {what}. Please upgrade to latest version."
        self._send_message(_emitter.write_event("notification", [notification(level, text)]))

    def _send_message(self, message: bytes) -> None:
        self.carrier.send(engineio.MESSAGE + message)


def _due(at: Instant | None, now: Instant) -> bool:
    return at is not None and now >= at
