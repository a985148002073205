"""Notes become log lines: one record a line, JSON or for people, secrets struck out (security.md §4.1, T12)."""

from __future__ import annotations

import base64
import datetime
import re
import sys
import time
from typing import Any, Final, Literal, TextIO
from urllib.parse import quote

import msgspec

from towline.core import LIMITS, Note, Secret, TowlineError

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "warn": 30, "error": 40}
# C0 and C1 controls, and the marks that reorder text: none of them may steer a reader's terminal.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORTEST_STRUCK: Final = 6


def plain(text: str, limit: int = LIMITS.foreign_text) -> str:
    """Return a foreign text as it may be shown: control characters escaped, cut at `limit` characters."""
    cut = text if len(text) <= limit else text[:limit] + "…"
    return _CONTROL.sub(_escaped, cut)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class Log:
    """Writes Notes to a stream.

    `strike` names secrets whose values, plain, base64 or percent-encoded, are replaced in finished lines. That is a
    last net: secrets are a type that prints as `***` long before.
    """

    def __init__(self, level: str, form: str | None, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._least = _LEVELS[level]
        self._json = form == "json" or (form is None and not self._stream.isatty())
        self._struck: list[str] = []

    def strike(self, secret: Secret | None) -> None:
        """Register a secret with the last net."""
        if secret is None or len(secret.reveal()) < _SHORTEST_STRUCK:
            return
        value = secret.reveal()
        encoded = base64.b64encode(value.encode()).decode().rstrip("=")
        in_json = msgspec.json.encode(value).decode()[1:-1]
        forms = {value, quote(value, safe=""), encoded, in_json, *self._struck}
        # The longest first, so that a secret that is part of another leaves nothing of it.
        self._struck = sorted(forms, key=len, reverse=True)

    def shows(self, level: Literal["debug", "info", "warning", "error"]) -> bool:
        """Whether a record of this level would be written."""
        return _LEVELS[level] >= self._least

    def note(self, note: Note) -> None:
        """Write one record, if its level is wanted."""
        if _LEVELS[note.level] < self._least:
            return
        fields = {name: _shown(value) for name, value in note.fields.items()}
        when = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
        line = self._line(note, when, fields)
        while len(line) > LIMITS.log_record and fields:
            # A record that is cut anywhere is no JSON; the longest field goes.
            del fields[max(fields, key=lambda name: len(str(fields[name])))]
            line = self._line(note, when, {**fields, "cut": True})
        self._stream.write(line[: LIMITS.log_record] + "\n")
        self._stream.flush()

    def _line(self, note: Note, when: datetime.datetime, fields: dict[str, Any]) -> str:
        if self._json:
            stamp = when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            head = {"time": stamp, "level": note.level, "event": note.event}
            line = msgspec.json.encode(head | fields | head).decode()
        else:
            told = "  ".join(f"{name}={value}" for name, value in fields.items())
            line = f"{when:%H:%M:%S} {note.level:<7} {note.event}  {told}".rstrip()
        for value in self._struck:
            line = line.replace(value, "***")
        return line

    def say(self, level: Literal["debug", "info", "warning", "error"], event: str, **fields: Any) -> None:
        """Write a record of the program's own."""
        self.note(Note(level, event, fields))


def _shown(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, TowlineError):
        return plain(f"{value.code}: {value.message}")
    return plain(str(value))
