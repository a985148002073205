"""Headers of brokered requests and answers: joined the Node way, validated, and rid of what one hop owns.

Sources: broker-protocol.md §2.1, §2.8, Q9; security.md §5.8.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from towline.core._limits import LIMITS, Limits

TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

# What belongs to one hop, by RFC 9110 §7.6.1 and the older habits beside it.
HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "te", "trailer", "trailers", "transfer-encoding", "upgrade", "expect"}
)
# Headers that tell a server to serve another path, method or host than the filter saw.
_OVERRIDES: Final = frozenset(
    {
        "x-original-url",
        "x-original-host",
        "x-original-uri",
        "x-rewrite-url",
        "x-override-url",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-http-path-override",
        "x-host",
    }
)
_OURS: Final = frozenset({"host", "content-length", "forwarded", "x-real-ip", "x-client-ip"})

_NOT_RELAYED: Final = HOP_BY_HOP | _OURS | _OVERRIDES
_NOT_RELAYED_FAMILIES: Final = ("proxy-", "x-forwarded-")

# Where Node keeps the first of several headers with one name (broker-protocol.md §2.1).
_SINGLE: Final = frozenset(
    {
        "age",
        "authorization",
        "content-length",
        "content-type",
        "etag",
        "expires",
        "from",
        "host",
        "if-modified-since",
        "if-unmodified-since",
        "last-modified",
        "location",
        "max-forwards",
        "proxy-authorization",
        "referer",
        "retry-after",
        "server",
        "user-agent",
    }
)


def join_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return a request's headers as one text for each lower-case name, joined as Node joins them."""
    joined: dict[str, str] = {}
    for name, value in headers:
        name = name.lower()
        if name not in joined:
            joined[name] = value
        elif name not in _SINGLE:
            joined[name] += ("; " if name == "cookie" else ", ") + value
    return joined


def are_valid(names: Collection[str], values: Collection[str]) -> bool:
    """Return whether each pair would survive the wire. What holds for every character holds for all texts joined."""
    joined, texts = "".join(names), "".join(values)
    if "" in names or not ((texts.isascii() and texts.isprintable()) or VALUE.fullmatch(texts)):
        return False
    ordinary = joined.isascii() and joined.replace("-", "").isalnum()
    return ordinary or not names or TOKEN.fullmatch(joined) is not None


def fault(headers: Mapping[str, Any], limits: Limits = LIMITS) -> str | None:
    """Return what is wrong with a relayed request's headers, or None."""
    if len(headers) > limits.http_headers:
        return f"more than {limits.http_headers} headers"
    try:
        if not are_valid(headers.keys(), headers.values()):
            return "a header that would not survive the wire"
    except TypeError:
        return "a header that would not survive the wire"
    total = sum(map(len, headers)) + sum(map(len, headers.values())) + 4 * len(headers)
    if total > limits.http_header and any(
        len(name) + len(value) > limits.http_header for name, value in headers.items()
    ):
        return f"a header of more than {limits.http_header} bytes"
    if len({name.lower() for name in headers}) != len(headers):
        return "a header that comes twice in different spelling"
    return f"headers of more than {limits.http_head} bytes" if total > limits.http_head else None


def hop_names(connection: str) -> frozenset[str]:
    """Return what one hop owns, given the value of its Connection header."""
    return HOP_BY_HOP | {name.strip().lower() for name in connection.split(",")}


def end_to_end(headers: Mapping[str, str]) -> dict[str, str]:
    """Return a request's headers without those of one hop, of framing, of forwarding and of overriding."""
    kept = {}
    named = None
    for name, value in headers.items():
        lower = name.lower()
        if lower in _NOT_RELAYED or lower.startswith(_NOT_RELAYED_FAMILIES):
            if lower == "connection" and named is None:
                named = hop_names(value)
            continue
        kept[name] = value
    if named is None or named <= HOP_BY_HOP:
        return kept
    return {name: value for name, value in kept.items() if name.lower() not in named}


def answer_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return a response's headers without those of one hop, names in lower case, content-length kept."""
    kept = []
    named = ""
    for name, value in headers:
        lower = name.lower()
        if lower in HOP_BY_HOP:
            if lower == "connection":
                named += "," + value
        elif not lower.startswith("proxy-"):
            kept.append((lower, value))
    if not named:
        return kept
    hop = hop_names(named)
    return [pair for pair in kept if pair[0] not in hop]


def answer_object(headers: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    """Return a response's end-to-end headers as a JSON object: texts, `set-cookie` a list of texts."""
    out: dict[str, str | list[str]] = {}
    plain: list[tuple[str, str]] = []
    cookies: list[str] = []
    for name, value in answer_headers(headers):
        if name == "set-cookie":
            cookies.append(value)
        else:
            plain.append((name, value))
    out.update(join_headers(plain))
    if cookies:
        out["set-cookie"] = cookies
    return out
