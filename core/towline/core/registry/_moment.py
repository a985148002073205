"""Moments as servers write them."""

from __future__ import annotations

from datetime import UTC, datetime

# The longest form there is: nine digits of a second and an offset.
_LONGEST = 40


def seconds_since_1970(text: object) -> float | None:
    """Read a moment as RFC 3339 writes it; None for anything else, as it is only shown to people."""
    if not isinstance(text, str) or len(text) > _LONGEST:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def date_stamp(wall: float) -> str:
    """Write a moment as AWS signatures have it: `20260115T120000Z`."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y%m%dT%H%M%SZ")
