"""A request that comes twice is answered once (agent.md §5.3)."""

from __future__ import annotations

import hmac
from typing import Final, Literal

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError

KEY_LIFE: Final = 24 * 3600.0
"""Seconds for which a key is remembered."""


class KnownKey(Record, frozen=True):
    """A key that was used before: for which request, and the job that came of it."""

    digest: str
    job_id: str
    expires_at: float


def decide(known: KnownKey | None, digest: str, wall: float) -> Literal["fresh", "repeat"]:
    """Tell whether a request under a key is new or the same as before.

    Raises:  RemoteProtocolError("idempotency-conflict") if the key was used for another request
    """
    if known is None or known.expires_at <= wall:
        return "fresh"
    if hmac.compare_digest(known.digest, digest):
        return "repeat"
    raise RemoteProtocolError(
        "idempotency-conflict",
        f"this requestId was used for another request (job {known.job_id})",
        hint="use a new requestId for each request",
    )
