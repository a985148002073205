"""What an answer to a callback means, and when to try again (security.md §7, which refines agent.md §6.3)."""

from __future__ import annotations

from typing import Final, TypeAlias

from towline.core._contract import Record
from towline.core._entropy import Entropy
from towline.core._limits import LIMITS, MIB, Limits
from towline.core.http import http_date

BACKOFF_BASE: Final = 1.0
BACKOFF_CAP: Final = 5 * 60.0
DELIVERY_LIFE: Final = 7 * 24 * 3600.0
# A receiver may ask for a pause, but not switch delivery off.
RETRY_AFTER_CAP: Final = 3600.0
# 4xx that say something about the moment, not about the message.
PASSING: Final = frozenset({408, 409, 425, 429})
# The stock client's answer to a body past its limit is a 500 with a page of HTML (agent.md §4.2).
_WALL_FROM: Final = 1 * MIB


class Taken(Record, frozen=True):
    """The receiver has it: forget it."""


class Again(Record, frozen=True):
    """Not this time. `after` is what the receiver asked for, in seconds."""

    why: str
    after: float | None = None


class Smaller(Record, frozen=True):
    """Too large: halve the part and send again."""

    why: str


class Refusal(Record, frozen=True):
    """The receiver will never take it: set it aside, with the words that tell an operator what to mend."""

    why: str
    hint: str


Verdict: TypeAlias = Taken | Again | Smaller | Refusal


def judge(
    status: int,
    headers: tuple[tuple[str, str], ...],
    body_start: bytes,
    *,
    sent_bytes: int,
    part_bytes: int,
    path: str,
    wall: float,
    limits: Limits = LIMITS,
) -> Verdict:
    """Return what an answer means.

    `sent_bytes` is the size of the body that was sent, `part_bytes` the present size of a part.
    """
    if 200 <= status < 300:
        return Taken()
    html = _is_html(headers, body_start)
    if status == 413 or (status == 500 and html and sent_bytes > _WALL_FROM):
        why = f"answer {status} to a body of {sent_bytes} bytes"
        if min(part_bytes, sent_bytes) > limits.callback_bytes_least:
            return Smaller(why)
        if status == 413:
            return Refusal(why, f"the receiver takes less than {limits.callback_bytes_least} bytes at POST {path}")
    if 400 <= status < 500 and status not in PASSING:
        return Refusal(f"answer {status}", _mend(status, body_start, path))
    return Again(f"answer {status}", _retry_after(headers, wall))


def backoff(attempt: int, entropy: Entropy, asked: float | None = None) -> float:
    """Return the seconds until the attempt after number `attempt` (1 is the first): doubling, full jitter."""
    ceiling = min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(attempt - 1, 20))
    return max(entropy.fraction() * ceiling, min(asked or 0.0, RETRY_AFTER_CAP))


def halved(part_bytes: int, body_bytes: int, limits: Limits = LIMITS) -> int:
    """Return the size of the parts after a receiver found them too large."""
    return max(limits.callback_bytes_least, min(part_bytes, body_bytes) // 2)


def _mend(status: int, body_start: bytes, path: str) -> str:
    if status in (401, 404) or b"FILTER_BLOCKED" in body_start:
        return f"the broker has no rule for POST {path}, or has no connection for it"
    return f"the receiver refuses POST {path}"


def _is_html(headers: tuple[tuple[str, str], ...], body_start: bytes) -> bool:
    kind = next((value for name, value in headers if name == "content-type"), "")
    return "html" in kind.lower() or body_start[:256].lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _retry_after(headers: tuple[tuple[str, str], ...], wall: float) -> float | None:
    text = next((value for name, value in headers if name == "retry-after"), "").strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    when = http_date(text)
    return max(0.0, when - wall) if when is not None else None
