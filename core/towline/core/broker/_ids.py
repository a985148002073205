"""Names that requests and tokens go by (broker-protocol.md §1.9, §2.1)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from towline.core._entropy import Entropy

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NIL: Final = "00000000-0000-0000-0000-000000000000"

# In this order the first that holds an id names the request.
REQUEST_ID_HEADERS: Final = (
    "x-akamai-request-id",
    "x-request-id",
    "snyk-request-id",
    "x-github-delivery",
    "x-gitlab-event-uuid",
)


def is_uuid(text: str) -> bool:
    """Return whether a text is a UUID and not the nil one."""
    return _UUID.fullmatch(text) is not None and text != _NIL


def request_id_of(headers: Iterable[tuple[str, str]], entropy: Entropy) -> str:
    """Return the id a request came with, or a new one. Names of headers are lower case."""
    given: dict[str, str] = {}
    for name, value in headers:
        given.setdefault(name, value)
    for name in REQUEST_ID_HEADERS:
        text = given.get(name)
        if text is not None and is_uuid(text):
            return text
    return entropy.uuid4()


def masked_token(token: str) -> str:
    """Return a token as logs and platforms may see it: `abcd-...-wxyz`."""
    return f"{token[:4]}-...-{token[-4:]}" if len(token) > 8 else "***"


def hashed_token(token: str) -> str:
    """Return the name that a token goes by where the token itself must not be known."""
    return hashlib.sha256(token.encode()).hexdigest()
