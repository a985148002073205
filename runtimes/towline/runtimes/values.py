"""How the value of a setting is read: a text from the environment, or whatever a file has.

Each takes either and returns the value, or raises ValueError, which says what was expected and never shows a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from towline.core import LIMITS, Secret


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got {shown(value)}")
    return value


def secret(value: Any) -> Secret:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got a {type(value).__name__}")
    return Secret(value)


def number(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"expected a whole number, got {shown(value)}")


def positive(value: Any) -> int:
    got = number(value)
    if got == 0:
        raise ValueError("expected a whole number above 0, got 0")
    return got


def callback_size(value: Any) -> int:
    got = number(value)
    if got < LIMITS.callback_bytes_least:
        # Below it hardly more than its envelope would fit in a message.
        raise ValueError(f"expected at least {LIMITS.callback_bytes_least} bytes, got {got}")
    return got


def message_size(value: Any) -> int:
    got = number(value)
    if not LIMITS.ws_message_least <= got <= LIMITS.ws_message_most:
        least, most = LIMITS.ws_message_least, LIMITS.ws_message_most
        raise ValueError(f"expected {least} to {most} bytes, got {got}")
    return got


def port(value: Any) -> int:
    got = number(value)
    if got > 65535:
        raise ValueError(f"expected a port from 0 to 65535, got {got}")
    return got


def switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError(f"expected true or false, got {shown(value)}")


def words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return tuple(value)
    raise ValueError(f"expected a list of texts, got {shown(value)}")


def secrets(value: Any) -> tuple[Secret, ...]:
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(word, str) for word in value)):
        return tuple(Secret(word) for word in words(value))
    raise ValueError(f"expected a list of texts, got a {type(value).__name__}")


def seconds(value: Any) -> float:
    """A duration: `300ms`, `30s`, `5m`, `2h`, or a bare number of seconds."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h)", value)):
        return float(match[1]) * units[match[2]]
    raise ValueError(f"expected a duration such as 300ms, 30s or 5m, got {shown(value)}")


def drain_time(value: Any) -> float:
    got = seconds(value)
    if got > LIMITS.drain_most:
        raise ValueError(f"expected at most {LIMITS.drain_most:g} s, got {got:g} s")
    return got


def version(value: Any) -> str:
    if not isinstance(value, str) or re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9}){2}", value) is None:
        raise ValueError(f"expected a version such as 4.182.0, got {shown(value)}")
    return value


def milliseconds(value: Any) -> float:
    """A duration in the stock variables: a bare number of milliseconds."""
    return number(value) / 1000 if isinstance(value, str) and value.isdigit() else seconds(value)


def choice(*known: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if isinstance(value, str) and value.lower() in known:
            return value.lower()
        raise ValueError(f"expected one of {', '.join(known)}, got {shown(value)}")

    return read


def shown(value: Any) -> str:
    return f'"{value[:64]}"' if isinstance(value, str) else str(value)[:64]
