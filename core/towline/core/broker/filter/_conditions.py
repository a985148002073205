"""The `valid` part of an accept rule: conditions on body, query and headers (broker-protocol.md §3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from towline.core._errors import RemoteProtocolError
from towline.core._limits import Limits
from towline.core.broker.filter._dotted import values_at
from towline.core.broker.filter._json import Json, body_json
from towline.core.broker.filter._pattern import compile_glob
from towline.core.broker.filter._regex import compile_regex
from towline.core.broker.filter._rules import BodyPattern, BodyValue, Condition, HeaderValues, QueryGlobs

_UNREAD: Final = object()


class RequestView:
    """A request as conditions see it; the body is parsed once, and only if a condition asks."""

    def __init__(self, query: str, headers: Mapping[str, Any], body: bytes | str | None, limits: Limits) -> None:
        self._query = query
        self._headers = headers
        self._body = body
        self._limits = limits
        self._document: Any = _UNREAD

    @property
    def document(self) -> Json:
        """The body as strict JSON, or None if it is none."""
        if self._document is _UNREAD:
            try:
                self._document = body_json(self._body or b"", self._limits)
            except RemoteProtocolError:
                self._document = None
        document: Json = self._document
        return document

    def parameter(self, name: str) -> str | None:
        """Return a query parameter decoded once, or None unless it comes exactly once and can be read one way only."""
        if ";" in self._query:
            # Some servers separate parameters by semicolons too, and would see others than we do.
            return None
        found: list[bytes] = []
        for pair in self._query.split("&"):
            key, _, value = pair.replace("+", " ").partition("=")
            # `ref[]=x` and `ref[a]=x` are the parameter `ref` to servers that know object notation.
            if unquote_to_bytes(key).partition(b"[")[0] == name.encode():
                if unquote_to_bytes(key) != name.encode():
                    return None
                found.append(unquote_to_bytes(value))
        if len(found) != 1:
            return None
        try:
            text = found[0].decode("utf-8")
        except UnicodeDecodeError:
            return None
        return text if text.isprintable() else None

    def header(self, name: str) -> str | None:
        """Return a header by its lower-case name, or None unless it comes exactly once."""
        found = [value for key, value in self._headers.items() if key.lower() == name]
        return found[0] if len(found) == 1 else None


class Conditions:
    """The conditions of one rule, made ready.

    Where there are conditions on body, pattern or query, one of these three kinds must hold: for body and
    pattern one entry is enough, of the query every entry must hold. Header conditions must all hold besides.
    """

    def __init__(self, conditions: Sequence[Condition], *, strict: bool) -> None:
        self._strict = strict
        self._values = [entry for entry in conditions if isinstance(entry, BodyValue)]
        self._patterns = [
            (entry.path, compile_regex(entry.regex)) for entry in conditions if isinstance(entry, BodyPattern)
        ]
        self._queries = [
            (entry.parameter, entry.globs, [compile_glob(glob) for glob in entry.globs])
            for entry in conditions
            if isinstance(entry, QueryGlobs)
        ]
        self._headers = [entry for entry in conditions if isinstance(entry, HeaderValues)]

    def hold(self, request: RequestView) -> bool:
        if any(request.header(entry.name) not in entry.values for entry in self._headers):
            return False
        if not (self._values or self._patterns or self._queries):
            return True
        return self._body_holds(request) or self._pattern_holds(request) or self._query_holds(request)

    def _body_holds(self, request: RequestView) -> bool:
        return any(self._value_holds(entry, request.document) for entry in self._values)

    def _value_holds(self, entry: BodyValue, document: Json) -> bool:
        values = values_at(document, entry.path)
        if not entry.has_value or not (self._strict or "*" in entry.path):
            return any(_is_truthy(value) for value in values)
        return any(_is_same(value, entry.value) for value in values)

    def _pattern_holds(self, request: RequestView) -> bool:
        for path, automaton in self._patterns:
            if automaton is None:
                continue
            for value in values_at(request.document, path):
                if isinstance(value, str) and automaton.matches([ord(char) for char in value]):
                    return True
        return False

    def _query_holds(self, request: RequestView) -> bool:
        if not self._queries:
            return False
        for name, globs, automata in self._queries:
            value = request.parameter(name)
            if value is None:
                return False
            if value in globs:
                continue
            if {".", ".."}.intersection(value.split("/")):
                return False
            symbols = [ord(char) for char in value]
            if not any(automaton.matches(symbols) for automaton in automata):
                return False
        return True


def _is_truthy(value: Json) -> bool:
    """As JavaScript sees it: lists and objects always are."""
    return isinstance(value, (list, dict)) or bool(value)


def _is_same(value: Json, wanted: Any) -> bool:
    """Equal by value and by type; a list or an object is the same as nothing."""
    if isinstance(value, bool) or isinstance(wanted, bool) or value is None or wanted is None:
        return value is wanted
    if isinstance(value, Decimal):
        return isinstance(wanted, (int, float, Decimal)) and value == Decimal(str(wanted))
    return isinstance(value, str) and isinstance(wanted, str) and value == wanted
