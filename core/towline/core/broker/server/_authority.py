"""Who decides whether a client may connect: nobody, a gateway over HTTP, or the application (broker-protocol.md §4.2).

A gateway is asked by POST, and only its 201 admits. The application gets AuthorizationAsked and answers with Authorize.
A client renews its credential by POST /hidden/brokers/connections/TOKEN/auth/refresh: one that is refused ends the
session on purpose, one that cannot be checked leaves it as it is until what it showed before goes stale.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote

import msgspec

from towline.core._contract import Instant, Record
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._script import Body, Broken, Head
from towline.core._secret import Secret
from towline.core.broker._answers import RETRY_SOON
from towline.core.broker._desk import Desk, Visit
from towline.core.broker._outgoing import Errand, Outgoing
from towline.core.broker.nodes._forwarding import Forwarding
from towline.core.broker.server._directory import Directory, Session
from towline.core.http import ClientEvent, Url
from towline.core.tunnel import AuthorizationAsked, TunnelHost

CHECK_SECONDS: Final = 8.0
"""Less than the ten seconds for which the established client waits for a handshake's answer."""

_RENEWAL: Final = re.compile(r"/hidden/brokers/connections/([^/]+)/auth/refresh/?", re.IGNORECASE)
_MISSING: Final = "Missing required authorization header."
_INVALID: Final = "Invalid credentials."
_UNCHECKED: Final = "Credentials cannot be checked at the moment."
_TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")


class Authorize(Record, frozen=True):
    """The application's answer to an AuthorizationAsked: None lets the client in, a text says why not."""

    exchange: int
    refused: str | None = None


class Check:
    """One question to the gateway."""

    __slots__ = ("exchange", "size", "status")

    def __init__(self, exchange: int) -> None:
        self.exchange = exchange
        self.status = 0
        self.size = 0


class Authority:
    """Asks about clients' credentials and passes the answers on. `gateway` None leaves it to the application."""

    def __init__(
        self,
        desk: Desk,
        host: TunnelHost,
        directory: Directory,
        outgoing: Outgoing,
        wishes: deque[Any],
        *,
        gateway: str | None,
        forwarding: Forwarding | None,
        limits: Limits = LIMITS,
    ) -> None:
        self._desk = desk
        self._host = host
        self._directory = directory
        self._outgoing = outgoing
        self._wishes = wishes
        self._gateway = None if gateway is None else Url.parse(gateway, "invalid-configuration")
        self._forwarding = forwarding
        self._limits = limits
        # Credentials that are being renewed: by their visit's number, the visit, the session and what was shown.
        self._renewals: dict[int, tuple[Visit, Session, Secret]] = {}

    # ── questions ──────────────────────────────────────────────────────────────
    def ask(self, asked: AuthorizationAsked, now: Instant) -> None:
        """Find out whether a client may connect."""
        if self._gateway is None:
            self._wishes.append(asked)
            return
        forwarded = (("x-forwarded-for", asked.forwarded_for),) if asked.forwarded_for else ()
        document = {"data": {"type": "broker_connection", "attributes": {"broker_client_id": asked.client_id}}}
        token = quote(asked.token.reveal(), safe="")
        errand = Errand(
            Check(asked.exchange),
            "POST",
            self._gateway,
            f"{self._gateway.path.rstrip('/')}/hidden/brokers/connections/{token}/auth/validate"
            "?version=2024-02-08~experimental",
            (
                ("authorization", asked.authorization),
                ("Content-type", "application/vnd.api+json"),
                *forwarded,
                ("Host", self._gateway.authority),
            ),
            msgspec.json.encode(document),
            repeatable=True,
            retries=0,
            patience=CHECK_SECONDS,
        )
        try:
            self._outgoing.begin(errand, now)
        except RemoteProtocolError:  # a header that HTTP cannot carry
            self._decide(asked.exchange, 401, now)

    def visit(self, visit: Visit, now: Instant) -> bool:
        """Take a request that renews a credential; False if it is none."""
        found = _RENEWAL.fullmatch(visit.path) if visit.head.method == "POST" else None
        if found is not None:
            self._renew(visit, unquote(found[1]), now)
        return found is not None

    def _renew(self, visit: Visit, token: str, now: Instant) -> None:
        authorization = visit.head.get("authorization") or ""
        client_id = _client_id(visit.body)
        role = dict(parse_qsl(visit.query)).get("connection_role", "")
        session = next(
            (
                session
                for session in self._directory.all_of(token)
                if session.client_id == client_id and session.role == role
            ),
            None,
        )
        if session is None and self._forwarding is not None:
            # The tunnel is at another node, or at none.
            if visit.node is None:
                self._forwarding.call(visit, token, (401, [_TEXT], _MISSING.encode()), now)
            else:
                self._forwarding.peers.turn_away(visit, now)
            return
        if session is None or not client_id or authorization[:7].lower() != "bearer ":
            self._desk.respond(visit, 401, (_TEXT,), _MISSING.encode(), now=now)
            return
        self._renewals[visit.number] = visit, session, Secret(authorization)
        forwarded = visit.head.get("x-forwarded-for") or ""
        self.ask(
            AuthorizationAsked(visit.number, Secret(session.token), client_id, Secret(authorization), forwarded), now
        )

    def left(self, visit: Visit) -> None:
        """Who wanted to renew is gone."""
        self._renewals.pop(visit.number, None)

    # ── answers ────────────────────────────────────────────────────────────────
    def happened(self, errand: Errand, event: ClientEvent, now: Instant) -> None:
        """Take what the gateway says. Its status is the answer."""
        check: Check = errand.owner
        if isinstance(event, Head):
            check.status = event.status
            self._decide(check.exchange, event.status, now)
        elif isinstance(event, Body):
            check.size += len(event.data)
            if check.size > self._limits.registry_error_body:
                self._outgoing.give_up(errand)
        elif isinstance(event, Broken) and not check.status:
            self._decide(check.exchange, 503, now)

    def answer(self, fact: Authorize, now: Instant) -> None:
        """Take what the application says."""
        self._settle(fact.exchange, fact.refused, 401, now)

    def _decide(self, exchange: int, status: int, now: Instant) -> None:
        if status == 201:
            self._settle(exchange, None, 201, now)
        elif status < 500:
            self._settle(exchange, _INVALID, 401, now)
        else:
            self._settle(exchange, _UNCHECKED, 503, now)

    def _settle(self, exchange: int, refused: str | None, status: int, now: Instant) -> None:
        renewal = self._renewals.pop(exchange, None)
        if renewal is None:
            self._host.authorize(exchange, refused, now=now, status=status)
            return
        visit, session, authorization = renewal
        if refused is None:
            self._host.renew(session.number, authorization, now)
            self._desk.respond(visit, 201, (_TEXT,), b"OK", now=now)
            return
        if status == 401:
            self._host.close_session(session.number, deliberate=True, now=now, reason="a refused credential")
        headers = (_TEXT, RETRY_SOON) if status == 503 else (_TEXT,)
        self._desk.respond(visit, status, headers, refused.encode("utf-8", "replace"), now=now)


def _client_id(body: bytes | None) -> str:
    """Return the client's id in the body of a renewal, "" for a body that is none."""
    try:
        said = msgspec.json.decode(body or b"", type=_Renewal)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""
    found = said.data.attributes.get("broker_client_id")
    return found if isinstance(found, str) and len(found) <= 128 else ""


class _Data(msgspec.Struct):
    attributes: Mapping[str, Any]


class _Renewal(msgspec.Struct):
    data: _Data
