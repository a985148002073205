"""Requests under /primus as the host reads them, and the answers that need no session (broker-protocol.md §1.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote

import msgspec

from towline.core._contract import Record
from towline.core._secret import Secret
from towline.core.http import members
from towline.core.tunnel._events import HttpRequest, Reply
from towline.core.tunnel._websocket import accept_value, key_is_sound

PREFIX: Final = "/primus"
PRIMUS_VERSION: Final = "6.1.0"

POLL_HEADERS: Final = (
    ("cache-control", "no-store"),
    ("Pragma", "no-cache"),
    ("Content-Type", "text/plain; charset=UTF-8"),
)
POST_HEADERS: Final = (("cache-control", "no-store"), ("Pragma", "no-cache"), ("Content-Type", "text/html"))

_NOT_KEPT: Final = (("Cache-Control", "no-store, no-cache, must-revalidate, max-age=0"), ("Pragma", "no-cache"))

# engine.io's numbers for what it refuses.
REFUSALS: Final = {
    "transport": (0, "Transport unknown"),
    "session": (1, "Session ID unknown"),
    "method": (2, "Bad handshake method"),
    "request": (3, "Bad request"),
}


class Asked(Record, frozen=True):
    """What a request under /primus asks for. Texts from outside are cut at 128 characters."""

    exchange: int
    link: int
    method: str
    describe: bool  # the description of the service is asked for
    token: Secret
    query: dict[str, str]
    upgrade: bool
    key: str
    origin: str | None
    client_id: str
    role: str
    authorization: Secret
    forwarded_for: str
    body: bytes

    @property
    def transport(self) -> str:
        return self.query.get("transport", "")

    @property
    def sid(self) -> str | None:
        return self.query.get("sid")

    @property
    def revision(self) -> Literal[3, 4]:
        return 4 if self.query.get("EIO") == "4" else 3

    @property
    def cors(self) -> tuple[tuple[str, str], ...]:
        """The headers that let the asking page read the answer."""
        if self.origin is None:
            return ()
        return (
            ("Access-Control-Allow-Origin", self.origin),
            ("Access-Control-Allow-Credentials", "true"),
            ("Vary", "Origin"),
        )


def read_request(exchange: int, link: int, request: HttpRequest) -> Asked:
    """Return what a request asks for; whatever is odd about it is told by its fields."""
    path, _, query = request.target.partition("?")
    pairs = parse_qsl(query[:8192], keep_blank_values=True, encoding="utf-8", errors="replace")
    first = dict(reversed(pairs))  # of several with one name the first counts
    token = unquote(path.removeprefix(PREFIX), errors="replace").removeprefix("/").removesuffix("/")
    wants = "websocket" in members(_all(request, "upgrade")) and "upgrade" in members(_all(request, "connection"))
    return Asked(
        exchange,
        link,
        request.method,
        path.rstrip("/") == f"{PREFIX}/spec",
        Secret(token.lower()),
        first,
        wants,
        _one(request, "sec-websocket-key") if _one(request, "sec-websocket-version") == "13" else "",
        next(iter(_all(request, "origin")), None),
        _one(request, "x-snyk-broker-client-id")[:128],
        (first.get("connection_role") or _one(request, "x-snyk-broker-client-role"))[:128],
        Secret(_one(request, "authorization")),
        _one(request, "x-forwarded-for")[:1024],
        request.body,
    )


def aside(asked: Asked, silence: float) -> Reply | None:
    """Return the answer to what is no business of a session: CORS and the description of the service."""
    if asked.method == "OPTIONS":
        methods = ("Access-Control-Allow-Methods", "GET, HEAD, PUT, POST, DELETE, OPTIONS")
        return Reply(asked.exchange, 200, (*asked.cors, methods, ("Access-Control-Max-Age", "2592000")), b"")
    if asked.describe and asked.method in ("GET", "HEAD"):
        spec = {
            "timeout": round(silence * 1000),
            "pathname": PREFIX,
            "version": PRIMUS_VERSION,
            "parser": "ejson",
            "transformer": "engine.io",
        }
        headers = (*asked.cors, ("Content-Type", "application/json"))
        return Reply(asked.exchange, 200, headers, msgspec.json.encode(spec))
    return None


def refusal(asked: Asked, why: str, status: int = 400) -> Reply:
    """Return a refusal: JSON to a poll, a text to an upgrade, whose link then closes."""
    code, text = REFUSALS[why]
    if asked.upgrade:
        return Reply(asked.exchange, status, (("Connection", "close"), ("Content-type", "text/html")), text.encode())
    body = msgspec.json.encode({"code": code, "message": text})
    return Reply(asked.exchange, status, (*asked.cors, ("Content-Type", "application/json"), *_NOT_KEPT), body)


def unauthorized(asked: Asked, why: str) -> Reply:
    """Return the 401 to a client that is not let in."""
    headers = (
        *asked.cors,
        *((("Connection", "close"),) if asked.upgrade else ()),
        ("Content-Type", "application/json"),
        ("WWW-Authenticate", "Bearer"),
        *_NOT_KEPT,
    )
    return Reply(asked.exchange, 401, headers, msgspec.json.encode({"error": why}))


def crowded(asked: Asked, why: str = "Too many connections.") -> Reply:
    """Return the 503 to a client for whom there is no room at present."""
    headers = (("Connection", "close"), ("Content-Type", "application/json"), ("Retry-After", "1"))
    return Reply(asked.exchange, 503, (*asked.cors, *headers), msgspec.json.encode({"error": why}))


def switching(key: str) -> bytes | None:
    """Return the 101 that answers this Sec-WebSocket-Key, or None if it is none."""
    if not key_is_sound(key):
        return None
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_value(key)}\r\n\r\n"
    ).encode("ascii")


def _all(request: HttpRequest, name: str) -> Sequence[str]:
    return [value for key, value in request.headers if key == name]


def _one(request: HttpRequest, name: str) -> str:
    values = _all(request, name)
    return values[0].strip() if len(values) == 1 else ""
