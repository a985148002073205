"""`WWW-Authenticate`: which login a registry asks for, read strictly where it matters and in one pass.

A challenge is a scheme, then nothing, or one token68, or a list of `name = value`. It fails closed: a
syntax error drops the challenge that is being read and the rest of its line, a repeated name drops its
challenge. Other clients keep what they read so far, or the first or last of two realms, and a hostile
server can use that to have the password sent to a host of its choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from towline.core._contract import Record
from towline.core._limits import LIMITS, Limits

_TCHAR: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_TOKEN68: Final = frozenset("-._~+/0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_BLANK: Final = frozenset(" \t")


class Challenge(Record, frozen=True):
    """One way to log in. Scheme and parameter names in lower case, values unescaped."""

    scheme: str
    params: dict[str, str]
    token68: str | None = None

    def get(self, name: str) -> str:
        """Return a parameter, or the empty string."""
        return self.params.get(name, "")


class Challenges(Record, frozen=True):
    """What the field lines of one answer hold.

    `malformed` tells that something was dropped, `lenient` that a form outside RFC 9110 was tolerated.
    """

    items: tuple[Challenge, ...]
    malformed: bool = False
    lenient: bool = False


class _Syntax(Exception):
    """The line breaks the grammar here."""


def parse_challenges(field_values: Iterable[str], limits: Limits = LIMITS) -> Challenges:
    """Read the challenges of an answer's `WWW-Authenticate` field lines, each line on its own.

    Bounds:  LIMITS.challenge_line characters a line, challenge_count challenges, challenge_params parameters each
    Source:  RFC 9110 §5.6, §11; unquoted URLs as values are tolerated
    """
    items: list[Challenge] = []
    malformed = lenient = False
    for line in field_values:
        reader = _Line(line, limits)
        if len(line) > limits.challenge_line:
            malformed = True
            continue
        try:
            while len(items) <= limits.challenge_count and (challenge := reader.challenge()) is not None:
                items.append(challenge)
        except _Syntax:
            malformed = True
        malformed |= reader.dropped
        lenient |= reader.lenient
    if len(items) > limits.challenge_count:
        malformed = True
    return Challenges(tuple(items[: limits.challenge_count]), malformed, lenient)


def select(challenges: Challenges) -> Challenge | None:
    """Choose: the first Bearer with an absolute http(s) realm, else the first Basic, else None."""
    for challenge in challenges.items:
        if challenge.scheme == "bearer" and challenge.get("realm").lower().startswith(("https://", "http://")):
            return challenge
    return next((challenge for challenge in challenges.items if challenge.scheme == "basic"), None)


class _Line:
    """A cursor over one field line. `pos` only ever grows, so that the work is linear."""

    def __init__(self, text: str, limits: Limits) -> None:
        self.text = text
        self.limits = limits
        self.pos = 0
        self.dropped = False
        self.lenient = False

    def challenge(self) -> Challenge | None:
        """Return the next usable challenge, or None at the end of the line."""
        while True:
            self._skip(_BLANK | {","})
            if self.pos == len(self.text):
                return None
            scheme = self._token()
            found = self._rest_of(scheme.lower())
            if found is not None:
                return found
            self.dropped = True

    def _rest_of(self, scheme: str) -> Challenge | None:
        if self._at_end_or_comma():
            return Challenge(scheme, {})
        if self._peek() not in _BLANK:
            raise _Syntax
        blank = self._skip(_BLANK)
        if self._at_end_or_comma():
            return Challenge(scheme, {})
        # SP is the grammar's separator after a scheme; HTAB is tolerated.
        tabbed = "\t" in blank
        token68 = self._token68()
        if token68 is not None:
            self.lenient |= tabbed
            return Challenge(scheme, {}, token68)
        params, unquoted, repeated = self._params()
        if repeated:
            return None
        self.lenient |= tabbed or unquoted
        return Challenge(scheme, params)

    def _token68(self) -> str | None:
        start, at = self.pos, self.pos
        while at < len(self.text) and self.text[at] in _TOKEN68:
            at += 1
        if at == start:
            return None
        while at < len(self.text) and self.text[at] == "=":
            at += 1
        end = at
        while at < len(self.text) and self.text[at] in _BLANK:
            at += 1
        if at < len(self.text) and self.text[at] != ",":
            return None
        self.pos = at
        return self.text[start:end]

    def _params(self) -> tuple[dict[str, str], bool, bool]:
        params: dict[str, str] = {}
        unquoted = repeated = False
        count = 0
        while True:
            name = self._token().lower()
            self._skip(_BLANK)
            if self._peek() != "=":
                raise _Syntax
            self.pos += 1
            self._skip(_BLANK)
            value, odd = self._value()
            unquoted |= odd
            count += 1
            if count > self.limits.challenge_params:
                raise _Syntax
            repeated |= name in params
            params[name] = value
            self._skip(_BLANK)
            if not self._at_end_or_comma():
                raise _Syntax
            if not self._another_param():
                return params, unquoted, repeated

    def _another_param(self) -> bool:
        # After a comma, a token with `=` behind it is a parameter of the running challenge.
        self._skip(_BLANK | {","})
        at = self.pos
        while at < len(self.text) and self.text[at] in _TCHAR:
            at += 1
        while at < len(self.text) and self.text[at] in _BLANK:
            at += 1
        return at < len(self.text) and self.text[at] == "="

    def _value(self) -> tuple[str, bool]:
        if self._peek() == '"':
            return self._quoted(), False
        start = self.pos
        while self.pos < len(self.text) and "!" <= self.text[self.pos] <= "~" and self.text[self.pos] not in '",':
            self.pos += 1
        value = self.text[start : self.pos]
        if not value:
            raise _Syntax
        return value, not _TCHAR.issuperset(value)

    def _quoted(self) -> str:
        self.pos += 1
        out: list[str] = []
        while self.pos < len(self.text):
            char = self.text[self.pos]
            self.pos += 1
            if char == '"':
                return "".join(out)
            if char == "\\":
                if self.pos == len(self.text):
                    break
                char = self.text[self.pos]
                self.pos += 1
            if (char < " " and char != "\t") or char == "\x7f":
                break
            out.append(char)
        raise _Syntax

    def _token(self) -> str:
        start = self.pos
        self._skip(_TCHAR)
        if self.pos == start:
            raise _Syntax
        return self.text[start : self.pos]

    def _skip(self, chars: frozenset[str]) -> str:
        start = self.pos
        while self.pos < len(self.text) and self.text[self.pos] in chars:
            self.pos += 1
        return self.text[start : self.pos]

    def _peek(self) -> str:
        return self.text[self.pos] if self.pos < len(self.text) else ""

    def _at_end_or_comma(self) -> bool:
        return self._peek() in ("", ",")
