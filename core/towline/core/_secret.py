"""Secrets are a type: what must not be printed cannot be printed by accident (security.md §4.1)."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """A text that shows as `***` everywhere and comes out only through `reveal()`.

    Two secrets are equal when their texts are, compared in constant time; a secret never equals a plain text.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text. Only code that puts it on the wire, or hashes it, calls this."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")
