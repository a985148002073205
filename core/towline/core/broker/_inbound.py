"""What a request that came over HTTP becomes before it goes down a tunnel (broker-protocol.md §2.1, §2.2)."""

from __future__ import annotations

import re
import zlib
from typing import Final

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core.broker._desk import Visit
from towline.core.broker._headers import join_headers

CONTEXT_HEADER: Final = "x-snyk-broker-context-id"
_CONTEXT: Final = re.compile(r"/ctx/([^/]+)/")


class Incoming(Record, frozen=True):
    """A request as it is filtered and relayed; `body` is None for a request without one."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None


def incoming(visit: Visit, url: str, limits: Limits = LIMITS) -> Incoming:
    """Return what is relayed of a whole request.

    Raises:  RemoteProtocolError: request-too-large if the body unpacks to too much, unsupported-media-type (415)
             for a content encoding that is not undone, bad-request for one that is broken
    """
    headers = join_headers(visit.head.headers)
    body = visit.body
    encoding = headers.pop("content-encoding", "identity").strip().lower()
    if body and encoding not in ("identity", ""):
        body = _decoded(body, encoding, limits.http_request_body)
    return Incoming(visit.head.method, url, headers, body)


def route_of(path: str) -> tuple[str, str, str]:
    """Return a path's first segment in lower case, its second as it is, and the rest with its slash."""
    first, _, after = path[1:].partition("/")
    second, slash, rest = after.partition("/")
    return first.lower(), second, slash + rest


def is_primus(path: str) -> bool:
    """Return whether a path belongs to the tunnel side."""
    return path.startswith("/primus")


def is_marked(visit: Visit) -> bool:
    """Return whether a request says that asking twice changes nothing, so that another client may be asked too."""
    return bool(visit.head.get("idempotency-key"))


def without_context(path: str) -> tuple[str, str | None]:
    """Cut `/ctx/<id>/` out of a path, where it comes first; return the id too."""
    found = _CONTEXT.search(path)
    return (path, None) if found is None else (path[: found.start()] + "/" + path[found.end() :], found[1])


def without_role(query: str) -> str:
    """Take `connection_role` out of a query; the other parameters stay byte for byte."""
    return "&".join(part for part in query.split("&") if part.partition("=")[0] != "connection_role")


def target_of(path: str, query: str, head_target: str) -> str:
    """Return path and query as one target. A query that came empty stays."""
    return f"{path}?{query}" if query or head_target.endswith("?") else path


def _decoded(body: bytes, encoding: str, most: int) -> bytes:
    """Undo gzip or deflate, as the established broker does on reading; later hops see no content-encoding."""
    if encoding in ("gzip", "x-gzip"):
        return _inflated(body, 31, most)
    if encoding == "deflate":
        # The name stands for zlib's format, and in practice for bare deflate too.
        return _inflated(body, 15 if body[0] & 0x0F == 8 else -15, most)
    raise RemoteProtocolError("unsupported-media-type", f"expected a body plain, gzip or deflate, got {encoding[:40]}")


def _inflated(body: bytes, window: int, most: int) -> bytes:
    inflater = zlib.decompressobj(window)
    try:
        plain = inflater.decompress(body, most + 1)
    except zlib.error:
        raise RemoteProtocolError("bad-request", "expected a compressed body, got bytes that do not unpack") from None
    if len(plain) > most:
        raise RemoteProtocolError("request-too-large", f"expected a body of at most {most} bytes unpacked, got more")
    if not inflater.eof or inflater.unused_data:
        raise RemoteProtocolError("bad-request", "expected one whole compressed body, got part of one or more")
    return plain
