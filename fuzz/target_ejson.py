"""EJSON: what is read can be written, and is then read as the same."""

from __future__ import annotations

import json
import math
from typing import Any

from fuzz.harness import refused_or_taken
from towline.core.tunnel._ejson import decode, encode


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def run(data: bytes) -> None:
    value = refused_or_taken(lambda: decode(data))
    if value is None:
        return
    text = refused_or_taken(lambda: encode(value))
    assert text is not None, "what came in cannot go out"
    json.loads(text)
    again = refused_or_taken(lambda: decode(text))
    # An escape adds a level, so that what was read at the limit of depth may be refused when it comes back.
    assert again is None or same(again, value)
