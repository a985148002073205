"""What a registry says about a failure: codes and the best text for a human, from any body."""

from __future__ import annotations

import json
from typing import Any, Final

from towline.core._contract import Record
from towline.core._limits import LIMITS, Limits

# Where vendors put the text, in the order in which the more telling comes first.
_TEXT_KEYS: Final = ("details", "detail", "error_description", "message", "error")
_CODES: Final = 16
_CODE_LENGTH: Final = 64


class ErrorReport(Record, frozen=True):
    """A registry's own words. `message` is None when there are none, or when they are HTML."""

    codes: tuple[str, ...] = ()
    message: str | None = None

    @property
    def code(self) -> str | None:
        """The first code, or None."""
        return self.codes[0] if self.codes else None


def parse_error_body(status: int, content_type: str | None, body: bytes, limits: Limits = LIMITS) -> ErrorReport:
    """Read an error's body: the OCI form, the vendors' own, plain text, or nothing that can be used.

    Bounds:  LIMITS.registry_error_body bytes are looked at, LIMITS.foreign_text characters kept
    Raises:  nothing
    """
    text = bytes(body[: limits.registry_error_body]).decode("utf-8", "replace").strip()
    if not text or status == 304:
        return ErrorReport()
    if "html" in (content_type or "").lower() or text.startswith("<"):
        return ErrorReport()
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        # Half a JSON document reads as noise; a plain text does not begin like one.
        return ErrorReport(message=None if text[0] in '{["' else _shown(text, limits))
    if isinstance(document, str):
        return ErrorReport(message=_shown(document, limits))
    return _from_object(document, limits) if isinstance(document, dict) else ErrorReport()


def _from_object(document: dict[str, Any], limits: Limits) -> ErrorReport:
    entries = document.get("errors")
    entries = [entry for entry in entries[:_CODES] if isinstance(entry, dict)] if isinstance(entries, list) else []
    codes = tuple(_code(entry.get("code")) for entry in entries if _code(entry.get("code")))
    texts = [_shown(entry.get("message"), limits) for entry in entries]
    texts += [_shown(document.get(key), limits) for key in _TEXT_KEYS]
    return ErrorReport(codes, next((text for text in texts if text), None))


def _code(value: object) -> str:
    return "".join(char for char in value if "!" <= char <= "~")[:_CODE_LENGTH] if isinstance(value, str) else ""


def _shown(value: object, limits: Limits) -> str | None:
    if not isinstance(value, str):
        return None
    # One line, no control characters: it goes into logs and terminals.
    text = " ".join("".join(char if char.isprintable() else " " for char in value).split())
    if not text or text.startswith("<"):
        return None
    return text[: limits.foreign_text]
