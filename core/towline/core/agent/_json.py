"""JSON as the agent reads and writes it: bounded on the way in, canonical on the way out."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from towline.core._contract import Data
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits

T = TypeVar("T")


def canonical(value: Any) -> bytes:
    """Return the one byte string that stands for a value: members sorted, no white space, UTF-8.

    Two values that are equal as JSON have the same canonical form, so its SHA-256 can stand for the value.
    """
    return msgspec.json.encode(value, order="sorted")


def decode_bounded(data: Data, *, what: str, kind: str = "bad-request", limits: Limits = LIMITS) -> Any:
    """Read a JSON document from outside.

    Bounds:  LIMITS.json_depth levels, LIMITS.json_keys members of one object
    Raises:  RemoteProtocolError(kind); the text names `what` and never quotes the document
    """
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # msgspec's own text is kept out: it may quote the document.
        raise RemoteProtocolError(kind, f"expected {what} to be JSON in UTF-8, got something else") from None
    level = [value]
    for _ in range(limits.json_depth):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                if len(item) > limits.json_keys:
                    raise RemoteProtocolError(kind, f"{what} has an object with more than {limits.json_keys} members")
                deeper.extend(item.values())
            elif isinstance(item, list):
                deeper.extend(item)
        if not deeper:
            return value
        level = deeper
    raise RemoteProtocolError(kind, f"{what} is nested deeper than {limits.json_depth} levels")


def decode_as(data: Data, shape: type[T], *, what: str, kind: str = "bad-request") -> T:
    """Read a JSON document that was found bounded before into a struct.

    Raises:  RemoteProtocolError(kind) that names the member and the type that was expected
    """
    try:
        return msgspec.json.decode(data, type=shape)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(kind, f"{what}: {error}") from None
