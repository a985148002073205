"""When to ask again: what the server says about it, else growing waits with full jitter."""

from __future__ import annotations

from typing import Final

from towline.core._contract import Instant
from towline.core._entropy import Entropy
from towline.core._limits import Limits
from towline.core._script import Head

RETRYABLE_STATUS: Final = frozenset({408, 429, 500, 502, 503, 504})
RETRYABLE_METHODS: Final = frozenset({"GET", "HEAD"})

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
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
    wall = now + epoch if epoch is not None else _http_date(head.get("date") or "")
    for name in ("retry-after", "x-retry-after", "x-ratelimit-reset", "ratelimit-reset"):
        value = (head.get(name) or "").strip()
        if not value:
            continue
        if value.isascii() and value.isdigit() and len(value) <= 19:
            seconds = float(value)
            if seconds < _EPOCH_FLOOR:
                return seconds
            return max(0.0, seconds - wall) if wall is not None else None
        until = _http_date(value)
        if until is not None and wall is not None:
            return max(0.0, until - wall)
    return None


def _http_date(text: str) -> float | None:
    # `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that is sent (RFC 9110 §5.6.7).
    parts = text.split()
    if len(parts) != 6 or parts[5] != "GMT" or parts[2] not in _MONTHS:
        return None
    clock = parts[4].split(":")
    numbers = [parts[1], parts[3], *clock]
    if len(clock) != 3 or not all(part.isascii() and part.isdigit() and len(part) <= 4 for part in numbers):
        return None
    day, year, hour, minute, second = map(int, numbers)
    return _days(year, _MONTHS.index(parts[2]) + 1, day) * 86400.0 + hour * 3600 + minute * 60 + second


def _days(year: int, month: int, day: int) -> int:
    # Days since 1970-01-01 in the proleptic Gregorian calendar; years begin in March, so that leap days come last.
    year -= month <= 2
    era_year = year % 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return year // 400 * 146097 + era_year * 365 + era_year // 4 - era_year // 100 + day_of_year - 719468
