"""JSON: bounded and without repeated names on the way in, canonical on the way out.

Two readers that take the first and the last of two equal names see two different documents; so a repeated
name is refused. The standard library's parser tells us about names and numbers; msgspec converts.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, TypeVar

import msgspec

from towline.core._contract import Data
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits

T = TypeVar("T")


class _Refused(Exception):
    pass


def strict_json(
    data: Data | str, what: str, *, kind: str = "protocol-error", limits: Limits = LIMITS, exact: bool = False
) -> Any:
    """Read one JSON document.

    `exact` makes every number a Decimal, so that a document that is written again has the numbers it came with.

    Bounds:  LIMITS.json_depth, json_digits, json_keys; the caller bounds the length
    Raises:  RemoteProtocolError of `kind`, with `what` in its text
    """

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > limits.json_keys:
            raise _Refused(f"at most {limits.json_keys} names in one object, got {len(pairs)}")
        found = dict(pairs)
        if len(found) != len(pairs):
            raise _Refused("each name once in an object, got one twice")
        return found

    def number(text: str) -> int | Decimal:
        if len(text) > limits.json_digits:
            raise _Refused(f"numbers of at most {limits.json_digits} digits, got {len(text)}")
        return _decimal(text) if exact else int(text)

    def fraction(text: str) -> float | Decimal:
        if len(text) > limits.json_digits:
            raise _Refused(f"numbers of at most {limits.json_digits} digits, got {len(text)}")
        return _decimal(text) if exact else float(text)

    def constant(text: str) -> Any:
        raise _Refused(f"a number, got {text}")

    try:
        document = json.loads(
            data if isinstance(data, str) else bytes(data).decode("utf-8"),
            object_pairs_hook=members,
            parse_int=number,
            parse_float=fraction,
            parse_constant=constant,
        )
    except _Refused as refused:
        raise RemoteProtocolError(kind, f"{what}: expected {refused}") from None
    except RecursionError:
        raise RemoteProtocolError(kind, f"{what}: expected at most {limits.json_depth} levels, got more") from None
    except UnicodeDecodeError:
        raise RemoteProtocolError(kind, f"{what}: expected UTF-8, got other bytes") from None
    except ValueError:
        raise RemoteProtocolError(kind, f"{what}: expected JSON, got {_beginning(data)}") from None
    if _depth_beyond(document, limits.json_depth):
        raise RemoteProtocolError(kind, f"{what}: expected at most {limits.json_depth} levels, got more")
    return document


def broken_at(data: Data) -> int | None:
    """Return at which character, counted from 1, a text stops being JSON; None where it does not, or is no text.

    For what must not be shown: a person who knows the text finds the place.
    """
    try:
        json.loads(bytes(data).decode("utf-8"))
    except json.JSONDecodeError as error:
        return error.pos + 1
    except (ValueError, RecursionError):
        pass
    return None


def typed_json(data: bytes, type: type[T], what: str, *, kind: str = "protocol-error", limits: Limits = LIMITS) -> T:
    """Read one JSON document as a type."""
    return typed(strict_json(data, what, kind=kind, limits=limits), type, what, kind=kind)


def typed(document: Any, type: type[T], what: str, *, kind: str = "protocol-error") -> T:
    """Put a type on a document that was read."""
    try:
        return msgspec.convert(document, type)
    except msgspec.ValidationError as error:
        # msgspec's text names places and types, never values.
        raise RemoteProtocolError(kind, f"{what}: {error}") from None


def decode_as(data: Data, type: type[T], what: str, *, kind: str = "protocol-error") -> T:
    """Read a document that was found strict before straight into a type, raw members as they stand.

    Raises:  RemoteProtocolError of `kind` that names the member and the type that was expected
    """
    try:
        return msgspec.json.decode(data, type=type)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(kind, f"{what}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RemoteProtocolError(kind, f"{what}: expected JSON in UTF-8, got something else") from None


def canonical(value: Any) -> bytes:
    """Return the one byte string that stands for a value: members sorted, no white space, UTF-8.

    Two values that are equal as JSON have the same canonical form, so its SHA-256 can stand for the value.
    """
    return msgspec.json.encode(value, order="sorted")


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:
        raise _Refused("a number in range, got one that is not") from None


def _depth_beyond(document: Any, limit: int) -> bool:
    level = [document] if isinstance(document, (dict, list)) else []
    depth = 0
    while level:
        depth += 1
        if depth > limit:
            return True
        below: list[Any] = []
        for item in level:
            inner = item.values() if isinstance(item, dict) else item
            below += [child for child in inner if isinstance(child, (dict, list))]
        level = below
    return False


def _beginning(data: Data | str) -> str:
    start = (data.encode("utf-8", "replace") if isinstance(data, str) else bytes(data)).lstrip()[:1]
    if not start:
        return "nothing"
    if start == b"<":
        return "a page of HTML or XML"
    return "something else"
