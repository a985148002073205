"""EJSON: JSON in which a byte string is `{"$binary": "<base64>"}` (broker-protocol.md §1.5).

A value is what JSON has, and beside it `bytes` and `Date`. What came from outside is bounded before it is built:
a few bytes of JSON become a hundred bytes of objects, so the number of values is counted first.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import Any, Final

import msgspec

from towline.core._contract import Data, Record
from towline.core._errors import LocalProtocolError, RemoteProtocolError
from towline.core._limits import LIMITS, Limits

# A JSON string with its quotes; linear, because no two branches can begin alike.
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder()
_SPECIAL: Final = frozenset({"$binary", "$date", "$InfNaN", "$escape"})
_PLAIN: Final = frozenset({str, int, bool})
_INFINITIES: Final = {1: math.inf, -1: -math.inf, 0: math.nan}


class Date(Record, frozen=True):
    """An instant that a peer sent as `{"$date": ms}`: milliseconds since 1970."""

    ms: float


def decode(text: Data, limits: Limits = LIMITS) -> Any:
    """Return the value of an EJSON text.

    Shape:   UTF-8
    Bounds:  LIMITS.json_values values, LIMITS.json_depth levels
    Errors:  "tunnel-protocol" for what is no EJSON, or too much of it
    """
    data = bytes(text)
    brackets = data.count(b"{") + data.count(b"[")
    if brackets + data.count(b",") > limits.json_values:
        bare = _STRING.sub(b"", data)
        brackets = bare.count(b"{") + bare.count(b"[")
        if brackets + bare.count(b",") > limits.json_values:
            raise RemoteProtocolError("tunnel-protocol", f"expected at most {limits.json_values} values in one message")
    try:
        value = _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise RemoteProtocolError("tunnel-protocol", "expected JSON, got something else") from None
    if brackets > limits.json_depth or b'"$' in data:
        return _revive(value, limits.json_depth)
    return value


def encode(value: Any) -> bytes:
    """Return the EJSON text of a value, compact, in UTF-8.

    Errors:  LocalProtocolError for what JSON cannot say
    """
    try:
        out = _ENCODER.encode(value if _is_plain(value) else _dress(value))
    except (TypeError, ValueError, RecursionError) as wrong:
        raise LocalProtocolError(f"expected a JSON value: {type(wrong).__name__}") from None
    if b"\xe2\x80" in out:  # JavaScript once took these two for line ends, and the pair writes them escaped
        out = out.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return out


def _revive(value: Any, depth: int) -> Any:
    if depth < 0:
        raise RemoteProtocolError("tunnel-protocol", "expected JSON of less depth")
    if type(value) is list:
        return [_revive(item, depth - 1) for item in value]
    if type(value) is not dict:
        return value
    if len(value) == 1:
        ((key, inner),) = value.items()
        if key in _SPECIAL:
            return _special(key, inner, value, depth)
    return {key: _revive(item, depth - 1) for key, item in value.items()}


def _special(key: str, inner: Any, value: dict[str, Any], depth: int) -> Any:
    if key == "$binary" and type(inner) is str:
        try:
            return binascii.a2b_base64(inner, strict_mode=True)
        except (binascii.Error, ValueError):
            raise RemoteProtocolError("tunnel-protocol", "expected base64 in $binary") from None
    if key == "$date" and type(inner) in (int, float):
        return Date(inner)
    if key == "$InfNaN" and type(inner) is int and inner in _INFINITIES:
        return _INFINITIES[inner]
    if key == "$escape" and type(inner) is dict:  # it only looked special: unwrap one level, convert below it
        return {name: _revive(item, depth - 2) for name, item in inner.items()}
    return {name: _revive(item, depth - 1) for name, item in value.items()}


def _is_plain(value: Any) -> bool:
    """Whether JSON says this value as it is; of most events it does, and a look is cheaper than a copy."""
    kind = type(value)
    if kind is dict:
        if len(value) == 1 and next(iter(value)) in _SPECIAL:
            return False
        value = value.values()
    elif kind is not list and kind is not tuple:
        return kind in _PLAIN or value is None
    for item in value:  # noqa: SIM110 - twice as fast as a generator
        if type(item) not in _PLAIN and item is not None and not _is_plain(item):
            return False
    return True


def _dress(value: Any) -> Any:
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is bytes or kind is bytearray or kind is memoryview:
        return {"$binary": base64.b64encode(value).decode("ascii")}
    if kind is dict:
        dressed = {key: _dress(item) for key, item in value.items()}
        if len(value) == 1 and next(iter(value)) in _SPECIAL:
            return {"$escape": dressed}
        return dressed
    if kind is list or kind is tuple:
        return [_dress(item) for item in value]
    if kind is float and not math.isfinite(value):
        return {"$InfNaN": 0 if math.isnan(value) else 1 if value > 0 else -1}
    if isinstance(value, Date):
        return {"$date": value.ms}
    if isinstance(value, msgspec.Struct):
        return _dress(msgspec.to_builtins(value, builtin_types=(bytes,)))
    return value
