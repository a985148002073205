"""A server's side of all tunnels: requests under /primus and websockets in, sessions and their events out."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from towline.core._contract import Instant, Record
from towline.core._entropy import Entropy
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._secret import Secret
from towline.core._wire import Ended, Lost, Received, Wake, WireFact
from towline.core.tunnel._admission import INVALID, Admission, credential_of
from towline.core.tunnel._events import HostConfig, HttpRequest, Reply
from towline.core.tunnel._requests import Asked, aside, crowded, read_request, refusal, unauthorized
from towline.core.tunnel._session import Session

GOING_AWAY: Final = 1001
"""Close code of a server that stops (RFC 6455 §7.4.1)."""


class TunnelHost:
    """Every client's session. A part: its owner reads HTTP and hands over what is asked under /primus.

    The owner answers `Reply` on its HTTP side; at `Upgrade` it sends the response, gives the link up, and from then
    on hands the link's facts to `handle`. A request's body is bounded by the owner at LIMITS.tunnel_payload.

    Bounds:  LIMITS.tunnel_sockets sessions, LIMITS.tunnel_sockets_per_token for one token
    """

    def __init__(self, config: HostConfig, *, entropy: Entropy, limits: Limits = LIMITS) -> None:
        self._config = config
        self._entropy = entropy
        self._limits = limits
        self._wishes: deque[Record] = deque()
        self._sessions: dict[int, Session] = {}
        self._by_sid: dict[str, Session] = {}
        self._by_link: dict[int, Session] = {}
        self._by_poll: dict[int, Session] = {}
        self._links: dict[int, int] = {}
        self._polls: dict[int, int] = {}
        self._per_token: dict[Secret, int] = {}
        self._taken = 0
        self._admission = Admission(limits) if config.authorization else None
        self._stopping = False
        # What each session's id begins with, so that several servers behind one address can tell whose it is.
        self.mark = ""
        # A lazy heap: an entry may be too early, never too late. `_armed` holds each session's earliest entry.
        self._timers: list[tuple[Instant, int]] = []
        self._armed: dict[int, Instant] = {}

    def __repr__(self) -> str:
        return f"TunnelHost(sessions={len(self._sessions)})"

    # ── what the owner asks ────────────────────────────────────────────────────
    def owns(self, link: int) -> bool:
        return link in self._by_link

    def has(self, sid: str) -> bool:
        """Whether a session with this id is here."""
        return sid in self._by_sid

    def poll(self) -> Record | None:
        return self._wishes.popleft() if self._wishes else None

    def deadline(self) -> Instant | None:
        while self._timers and self._timers[0][1] not in self._sessions:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    # ── commands ───────────────────────────────────────────────────────────────
    def emit(self, session: int, name: str, args: Sequence[Any], *, ack: bool = False, now: Instant) -> int | None:
        """Emit an event to one client; return the `ack_id` of its Acked if one is wanted.

        Raises:  TunnelBusy when too much waits for this client; "request-too-large" for what no client takes;
                 "tunnel-lost" when there is no such session
        """
        held = self._sessions.get(session)
        if held is None or held.closed:
            raise RemoteProtocolError("tunnel-lost", "the session is gone")
        number = held.emit(name, args, ack)
        self._keep(held, now)
        return number

    def acknowledge(self, session: int, ack_id: int, args: Sequence[Any], *, now: Instant) -> None:
        """Answer an event by the `ack_id` of its Arrived; dropped when the session is gone."""
        held = self._sessions.get(session)
        if held is not None and not held.closed:
            held.acknowledge(ack_id, args, now)
            self._keep(held, now)

    def forget(self, session: int, ack_id: int) -> None:
        """Nobody waits for this acknowledgement."""
        held = self._sessions.get(session)
        if held is not None:
            held.forget(ack_id)

    def close_session(self, session: int, *, deliberate: bool, now: Instant, reason: str = "closed here") -> None:
        """End a session; a client that is told `deliberate` does not come back."""
        held = self._sessions.get(session)
        if held is not None:
            held.close(reason, now, deliberate=deliberate)
            self._keep(held, now)

    def authorize(self, exchange: int, refused: str | None, *, now: Instant, status: int = 401) -> None:
        """Answer an AuthorizationAsked: None lets the client in, a text says why not. Nothing if it has left."""
        asked = self._admission.take(exchange) if self._admission is not None else None
        if asked is None:
            return
        if refused is None:
            self._proceed(asked, now)
        else:
            self._wishes.append(unauthorized(asked, refused) if status == 401 else crowded(asked, refused))

    def renew(self, session: int, authorization: Secret, now: Instant) -> None:
        """Take note of a credential of this session's client that was found good."""
        held = self._sessions.get(session)
        if held is not None and not held.closed:
            held.admit(credential_of(held.client_id, authorization), now)
            self._keep(held, now)

    def vouches(self, session: int, authorization: str) -> bool:
        """Return whether who shows this header is the client of this session."""
        held = self._sessions.get(session)
        return held is not None and any(credential.vouches(authorization) for credential in held.credentials)

    def stop(self) -> None:
        """Open no more sessions."""
        self._stopping = True

    def close_all(self, now: Instant) -> None:
        """End every session in order: the server goes away, and the clients may come back."""
        for session in list(self._sessions.values()):
            session.close("the server stops", now, code=GOING_AWAY)
            self._keep(session, now)

    # ── facts ──────────────────────────────────────────────────────────────────
    def request(self, exchange: int, link: int, request: HttpRequest, now: Instant) -> None:
        """Take a whole request whose path begins with /primus. It is answered by Reply or Upgrade, perhaps later."""
        asked = read_request(exchange, link, request)
        answer = aside(asked, self._config.silence)
        if answer is None and len(asked.body) > self._limits.tunnel_payload:
            answer = Reply(exchange, 413, (*asked.cors, ("Connection", "close")), b"")
        if answer is not None:
            self._wishes.append(answer)
        elif not self._knows(asked.token):
            self._wishes.append(unauthorized(asked, INVALID))
        elif self._admission is not None:
            session = self._by_sid.get(asked.sid) if asked.sid is not None else None
            said = self._admission.examine(asked, session.credentials if session is not None else ())
            if said is None:
                self._proceed(asked, now)
            else:
                self._wishes.append(said)
        else:
            self._proceed(asked, now)

    def _proceed(self, asked: Asked, now: Instant) -> None:
        if asked.transport not in ("polling", "websocket"):
            self._wishes.append(refusal(asked, "transport"))
        elif asked.sid is not None:
            self._resume(asked, asked.sid, now)
        else:
            self._begin(asked, now)

    def gone(self, exchange: int, now: Instant) -> None:
        """The asker of this exchange left before its Reply."""
        if self._admission is not None:
            self._admission.take(exchange)
        session = self._by_poll.get(exchange)
        if session is not None and session.carrier.exchange == exchange:
            session.carrier.gone()
            session.settle(now)
            self._keep(session, now)

    def handle(self, fact: WireFact, now: Instant) -> None:
        """Take WAKE, or a fact about a websocket's link."""
        if isinstance(fact, Wake):
            self._wake(now)
            return
        session = self._by_link.get(getattr(fact, "link", -1))
        if session is None:
            return
        if isinstance(fact, Received):
            session.carrier.receive(fact.data, now)
        elif isinstance(fact, Ended):
            session.carrier.socket_gone("the client closed the connection")
        elif isinstance(fact, Lost):
            session.carrier.socket_gone(fact.why)
        else:
            return
        session.settle(now)
        self._keep(session, now)

    def _wake(self, now: Instant) -> None:
        while self._timers and self._timers[0][0] <= now:
            at, number = heapq.heappop(self._timers)
            session = self._sessions.get(number)
            if session is None or self._armed.get(number) != at:
                continue
            del self._armed[number]
            due = session.deadline()
            if due is not None and due <= now:
                session.wake(now)
            self._keep(session, now)

    # ── sessions ───────────────────────────────────────────────────────────────
    def _knows(self, token: Secret) -> bool:
        if self._config.tokens is None:
            return True
        known = False
        for listed in self._config.tokens:  # every one is compared, so that time tells nothing
            known |= Secret(listed.reveal().lower()) == token
        return known

    def _begin(self, asked: Asked, now: Instant) -> None:
        if asked.method != "GET":
            self._wishes.append(refusal(asked, "method"))
        elif (asked.transport == "websocket") != asked.upgrade:
            self._wishes.append(refusal(asked, "request"))
        elif self._stopping:
            self._wishes.append(crowded(asked, "The server stops."))
        elif (
            len(self._sessions) >= self._limits.tunnel_sockets
            or self._per_token.get(asked.token, 0) >= self._limits.tunnel_sockets_per_token
        ):
            self._wishes.append(crowded(asked))
        else:
            self._taken += 1
            session = Session(
                self._taken,
                self.mark + self._entropy.token(15)[len(self.mark) :],
                asked,
                self._config,
                wishes=self._wishes,
                entropy=self._entropy,
                limits=self._limits,
            )
            if not session.begin(asked, now):
                self._wishes.append(refusal(asked, "request"))
                return
            if self._admission is not None:
                session.admit(credential_of(asked.client_id, asked.authorization), now)
            self._sessions[session.number] = session
            self._by_sid[session.sid] = session
            self._per_token[session.token] = self._per_token.get(session.token, 0) + 1
            self._keep(session, now)

    def _resume(self, asked: Asked, sid: str, now: Instant) -> None:
        session = self._by_sid.get(sid)
        if session is None or session.token != asked.token:
            self._wishes.append(refusal(asked, "session"))
            return
        carrier = session.carrier
        if asked.upgrade:
            if asked.transport != "websocket" or session.closed or not carrier.offer(asked, now):
                self._wishes.append(refusal(asked, "request"))
                return
        elif asked.transport != "polling" or carrier.state == "websocket":
            self._wishes.append(refusal(asked, "request"))
            return
        elif asked.method == "GET":
            carrier.fetch(asked)
        elif asked.method == "POST" and not session.closed:
            carrier.post(asked)
        else:
            self._wishes.append(refusal(asked, "request"))
            return
        session.settle(now)
        self._keep(session, now)

    def _keep(self, session: Session, now: Instant) -> None:
        """Bring the tables up to date with a session that was touched."""
        number, carrier = session.number, session.carrier
        _move(self._by_poll, self._polls, session, carrier.exchange)
        _move(self._by_link, self._links, session, carrier.link)
        if session.closed and carrier.state == "closed":
            del self._sessions[number], self._by_sid[session.sid]
            self._armed.pop(number, None)
            left = self._per_token[session.token] - 1
            if left:
                self._per_token[session.token] = left
            else:
                del self._per_token[session.token]
            return
        due = session.deadline()
        if due is not None and due < self._armed.get(number, math.inf):
            self._armed[number] = due
            heapq.heappush(self._timers, (due, number))


def _move(index: dict[int, Session], known: dict[int, int], session: Session, key: int | None) -> None:
    """Let `index` find a session under its present key, and under no former one."""
    before = known.get(session.number)
    if before == key:
        return
    if before is not None:
        del index[before], known[session.number]
    if key is not None:
        index[key] = session
        known[session.number] = key
