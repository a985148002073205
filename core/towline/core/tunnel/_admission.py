"""Who may open a session where clients must prove who they are (broker-protocol.md §4.2).

Every request of a client shows `authorization: Bearer …` and `x-snyk-broker-client-id`. Whether it is good, the owner
finds out: AuthorizationAsked goes out, `TunnelHost.authorize` comes back. A session's later requests are let through
without asking again while they show what it was opened with, or last renewed by.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

import msgspec

from towline.core._contract import Record
from towline.core._limits import Limits
from towline.core._secret import Secret
from towline.core.tunnel._events import AuthorizationAsked, Reply
from towline.core.tunnel._requests import Asked, crowded, unauthorized

MISSING = "Missing required authorization header."
INVALID = "Invalid credentials."
NO_JWT = "Invalid JWT."


class Credential(Record, frozen=True):
    """What a session was admitted with. `app` is the `azp` of its JWT, empty where it has none."""

    client_id: str
    authorization: Secret
    app: str

    def matches(self, client_id: str, authorization: Secret) -> bool:
        """Return whether this is the same client with the same credential."""
        return self.client_id == client_id and self.authorization == authorization

    def vouches(self, authorization: str) -> bool:
        """Return whether an upload with this header comes from the client that was admitted.

        A client that has renewed its credential is known by the application it is, which stays the same.
        """
        shown = bearer(authorization)
        if not shown:
            return False
        if Secret(authorization.strip()) == self.authorization:
            return True
        return bool(self.app) and Secret(app_of(shown)) == Secret(self.app)


def bearer(authorization: str) -> str | None:
    """Return the credential of a bearer header, "" for one without any, None for another header."""
    scheme, _, rest = authorization.strip().partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else None


def app_of(jwt: str) -> str:
    """Return the `azp` that a JWT claims, or "". Whether the claim is true, its issuer says and nobody here."""
    parts = jwt.split(".")
    if len(parts) != 3 or len(jwt) > 16_384:
        return ""
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, msgspec.MsgspecError, ValueError, RecursionError):
        return ""
    said = claims.get("azp") if isinstance(claims, dict) else None
    return said if isinstance(said, str) and len(said) <= 256 else ""


def credential_of(client_id: str, authorization: Secret) -> Credential:
    """Return the credential that a session is admitted with."""
    return Credential(client_id, authorization, app_of(bearer(authorization.reveal()) or ""))


class Admission:
    """The requests whose credential is being looked at. At most LIMITS.tunnel_sockets."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: dict[int, Asked] = {}

    def examine(self, asked: Asked, credentials: Iterable[Credential]) -> Reply | AuthorizationAsked | None:
        """Return what is to be said of a request; None lets it through.

        `credentials` are those of the session that the request belongs to, if there is such a session.
        """
        shown = bearer(asked.authorization.reveal())
        if shown is None or not asked.client_id:
            return unauthorized(asked, MISSING)
        if not shown:
            return unauthorized(asked, NO_JWT)
        if any(credential.matches(asked.client_id, asked.authorization) for credential in credentials):
            return None
        if len(self._waiting) >= self._limits.tunnel_sockets:
            return crowded(asked)
        self._waiting[asked.exchange] = asked
        return AuthorizationAsked(
            asked.exchange, asked.token, asked.client_id, asked.authorization, asked.forwarded_for
        )

    def take(self, exchange: int) -> Asked | None:
        """Return the request that waits under this number, and forget it."""
        return self._waiting.pop(exchange, None)
