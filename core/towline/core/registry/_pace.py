"""How fast one registry is asked, by all conversations with it together."""

from __future__ import annotations

from typing import Final

from towline.core._contract import Instant

# A registry that asks for a wait is asked half as fast, down to this share of what is allowed at most.
_LEAST: Final = 1 / 64
# Seconds without such an answer until it is asked as fast as before.
_RECOVERY: Final = 60.0


class Pace:
    """A bucket of one second's requests, filled as time goes by. Each registry's host has one.

    Units:   `most` is requests a second
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._rate = most
        # How many requests may go at once; below zero are those that wait for their turn.
        self._room = max(1.0, most)
        self._at: Instant | None = None
        self._held_until: Instant | None = None

    def turn(self, now: Instant) -> Instant:
        """Take a request's turn; return when it comes, `now` if at once."""
        past = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._rate = min(self._most, self._rate + self._most * past / _RECOVERY)
        self._room = min(max(1.0, self._most), self._room + past * self._rate) - 1.0
        wait = max(0.0, -self._room / self._rate)
        return now + wait if self._held_until is None else max(now + wait, self._held_until)

    def slow_down(self, now: Instant, seconds: float) -> None:
        """The registry asked for a wait: nobody asks it meanwhile, and then everybody half as fast."""
        self._rate = max(self._most * _LEAST, self._rate / 2)
        self._held_until = max(self._held_until or now, now + seconds)
