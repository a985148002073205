"""JSON that two readers cannot read differently: depth, digits and keys bounded, duplicate keys refused.

Numbers are Decimal, so that a document that is written again has the numbers it came with.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, Final, NoReturn, TypeAlias

import msgspec

from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits

Json: TypeAlias = "bool | Decimal | str | list[Json] | dict[str, Json] | None"

_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")
# A text (with its escapes) or one bracket: enough to know how deep a document is before it is parsed.
_STRUCTURE: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def strict_json(data: bytes | str, limits: Limits = LIMITS) -> Json:
    """Return the document.

    Bounds:  LIMITS.json_depth, json_digits, json_keys
    Raises:  RemoteProtocolError of kind bad-request
    """
    try:
        document = data if isinstance(data, str) else data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused(f"a byte that is not UTF-8 at {error.start}") from None
    depth = 0
    for piece in _STRUCTURE.findall(document):
        if piece in "[{":
            depth += 1
            if depth > limits.json_depth:
                raise _refused(f"more than {limits.json_depth} levels")
        elif piece in "]}":
            depth -= 1

    def number(text: str) -> Decimal:
        if len(text) > limits.json_digits:
            raise _refused(f"a number of more than {limits.json_digits} digits")
        try:
            return Decimal(text)
        except ArithmeticError:
            raise _refused("a number out of range") from None

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > limits.json_keys:
            raise _refused(f"an object of more than {limits.json_keys} keys")
        found = dict(pairs)
        if len(found) != len(pairs):
            raise _refused("a key that comes twice")
        return found

    def constant(name: str) -> NoReturn:
        raise _refused(name)

    try:
        parsed: Json = json.loads(
            document, object_pairs_hook=members, parse_int=number, parse_float=number, parse_constant=constant
        )
    except ValueError as error:
        raise _refused(str(error)) from None
    return parsed


def compact_json(document: Json) -> bytes:
    """Return a document as compact UTF-8 JSON.

    Raises:  RemoteProtocolError of kind bad-request, for half a surrogate pair
    """
    try:
        return _ENCODER.encode(document)
    except UnicodeEncodeError:
        raise _refused("half a surrogate pair") from None


def _refused(what: str) -> RemoteProtocolError:
    return RemoteProtocolError("bad-request", f"expected one strict JSON document, got {what[:200]}")
