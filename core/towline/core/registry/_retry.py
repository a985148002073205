"""When to ask again: what the server says about it, else growing waits with full jitter."""

from __future__ import annotations

from typing import Final

from towline.core._contract import Instant
from towline.core._entropy import Entropy
from towline.core._limits import Limits
from towline.core._script import Head
from towline.core.http import http_date

RETRYABLE_STATUS: Final = frozenset({408, 429, 500, 502, 503, 504})
RETRYABLE_METHODS: Final = frozenset({"GET", "HEAD"})

# Unix times where the name promises one; a number below is a count of seconds (year 2001 in unix time).
_EPOCH_FLOOR: Final = 1_000_000_000


def backoff(attempt: int, entropy: Entropy, limits: Limits) -> float:
    """Return the seconds to wait before attempt number `attempt` + 1, counted from 0: full jitter."""
    return entropy.fraction() * min(limits.retry_cap, limits.retry_base * float(2 ** min(attempt, 16)))


def asked_wait(head: Head, now: Instant, epoch: float | None) -> float | None:
    """Return the seconds the server asks us to wait, or None where it does not say.

    `epoch` is wall time minus `now`; without it a date is compared with the answer's own Date.
    Source:  RFC 9110 §10.2.3; X-Retry-After and RateLimit-Reset as unix time (Docker Hub, GitHub)
    """
    wall = now + epoch if epoch is not None else http_date(head.get("date") or "")
    for name in ("retry-after", "x-retry-after", "x-ratelimit-reset", "ratelimit-reset"):
        value = (head.get(name) or "").strip()
        if not value:
            continue
        if value.isascii() and value.isdigit() and len(value) <= 19:
            seconds = float(value)
            if seconds < _EPOCH_FLOOR:
                return seconds
            return max(0.0, seconds - wall) if wall is not None else None
        until = http_date(value)
        if until is not None and wall is not None:
            return max(0.0, until - wall)
    return None
