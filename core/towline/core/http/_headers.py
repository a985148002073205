"""Header fields: which belong to one hop, which frame a body, and what may be written at all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._secret import Secret

ValueT = TypeVar("ValueT", bound="str | Secret")

# They speak about this link only (RFC 9110 §7.6.1; `keep-alive` and the proxy fields by old usage).
HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

# They say where a body ends. Only the code that writes the body sets them.
FRAMING: Final = frozenset({"content-length", "transfer-encoding"})

# They carry a login and never leave the origin it belongs to (security.md §4.2).
CREDENTIAL: Final = frozenset({"authorization", "cookie", "proxy-authorization"})

# What may stand around a value and is no part of it.
SPACES: Final = " \t"

_NAME: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]{1,256}")
# Latin-1 without control characters, tab excepted: what RFC 9110 §5.5 lets a sender write.
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_METHOD: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]{1,32}")
_TARGET: Final = re.compile(r"[\x21-\x7e]{1,65536}")
_LENGTH: Final = re.compile(r"[0-9]{1,19}")


class Fields(Record, frozen=True):
    """Base of a head that came: its header fields, names in lower case, order and repeats kept."""

    headers: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        # Values are left out: a login may be among them, and a target or a body may hold more.
        return f"{type(self).__name__}({', '.join(name for name, _ in self.headers)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("headers", [name for name, _ in self.headers])]

    def get(self, name: str) -> str | None:
        """Return the first value of a header, or None. `name` is lower case."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def all(self, name: str) -> tuple[str, ...]:
        """Return every value of a header, in order."""
        return tuple([value for key, value in self.headers if key == name])


def members(values: Iterable[str]) -> list[str]:
    """Return the members of a comma-separated list field, in lower case: `Connection: close, TE`."""
    return [part for value in values for member in value.split(",") if (part := member.strip().lower())]


def strip_hop_by_hop(headers: Iterable[tuple[str, ValueT]]) -> tuple[tuple[str, ValueT], ...]:
    """Return what may be handed to the next hop: without the fields of this one and those `Connection` names."""
    given = tuple(headers)
    named = frozenset(
        members(value for name, value in given if name.lower() == "connection" and isinstance(value, str))
    )
    return tuple((name, value) for name, value in given if name.lower() not in HOP_BY_HOP | named)


def without(headers: Iterable[tuple[str, ValueT]], names: frozenset[str]) -> tuple[tuple[str, ValueT], ...]:
    """Return the headers whose lower-case names are not among `names`."""
    return tuple((name, value) for name, value in headers if name.lower() not in names)


def content_length(text: str) -> int | None:
    """Return a length of 1 to 19 ASCII digits as a number, None for anything else (security.md §3)."""
    return int(text) if _LENGTH.fullmatch(text) else None


def written(headers: Iterable[tuple[str, str | Secret]]) -> list[tuple[bytes, bytes]]:
    """Return the headers as the bytes of the wire, secrets revealed; raise "bad-request" at the first that is unfit.

    Names are checked for being tokens and values for characters that could end a line, so that no value can
    become a second header. The error names the header, never its value.
    """
    out: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        if not _NAME.fullmatch(name):
            raise RemoteProtocolError("bad-request", "expected a header name, got characters that a name cannot have")
        text = (value.reveal() if isinstance(value, Secret) else value).strip(SPACES)
        if not _VALUE.fullmatch(text):
            raise RemoteProtocolError(
                "bad-request",
                f"expected printable Latin-1 in the header {name.lower()}, got a control or wider character",
            )
        out.append((name.encode("ascii"), text.encode("latin-1")))
    return out


def check_method(method: str) -> None:
    """Raise "bad-request" unless this is a method that can stand in a request line."""
    if not _METHOD.fullmatch(method) or method.upper() == "CONNECT":
        raise RemoteProtocolError("bad-request", "expected an HTTP method, got something else")


def check_target(target: str) -> None:
    """Raise "bad-request" unless this is a target that can stand in a request line."""
    if not _TARGET.fullmatch(target):
        raise RemoteProtocolError("bad-request", "expected a request target of visible ASCII, got something else")
