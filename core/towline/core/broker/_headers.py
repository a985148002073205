"""Headers of brokered requests and answers: joined the Node way, validated, and rid of what one hop owns.

Sources: broker-protocol.md §2.1, §2.8, Q9; security.md §5.8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

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


def is_valid(name: str, value: object) -> bool:
    """Return whether the pair would survive the wire: a token, and a text without CR, LF, NUL and the like."""
    return isinstance(value, str) and TOKEN.fullmatch(name) is not None and VALUE.fullmatch(value) is not None


def fault(headers: Mapping[str, object], limits: Limits = LIMITS) -> str | None:
    """Return what is wrong with a relayed request's headers, or None."""
    if len(headers) > limits.http_headers:
        return f"more than {limits.http_headers} headers"
    total = 0
    seen: set[str] = set()
    for name, value in headers.items():
        if not is_valid(name, value):
            return "a header that would not survive the wire"
        size = len(name) + len(str(value))
        if size > limits.http_header:
            return f"a header of more than {limits.http_header} bytes"
        total += size + 4
        if name.lower() in seen:
            return "a header that comes twice in different spelling"
        seen.add(name.lower())
    return f"headers of more than {limits.http_head} bytes" if total > limits.http_head else None


def hop_names(connection: str) -> frozenset[str]:
    """Return what one hop owns, given the value of its Connection header."""
    return HOP_BY_HOP | {name.strip().lower() for name in connection.split(",")}


def end_to_end(headers: Mapping[str, str]) -> dict[str, str]:
    """Return a request's headers without those of one hop, of framing, of forwarding and of overriding."""
    hop = hop_names(next((value for name, value in headers.items() if name.lower() == "connection"), ""))
    kept = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower in hop or lower in _OURS or lower in _OVERRIDES or lower.startswith(("proxy-", "x-forwarded-")):
            continue
        kept[name] = value
    return kept


def answer_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return a response's headers without those of one hop, names in lower case, content-length kept."""
    listed = [(name.lower(), value) for name, value in headers]
    hop = hop_names(",".join(value for name, value in listed if name == "connection"))
    return [(name, value) for name, value in listed if name not in hop and not name.startswith("proxy-")]


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
