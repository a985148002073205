"""Answers that a broker makes itself, in the established broker's words (broker-protocol.md §2.2, §2.8, §3.6)."""

from __future__ import annotations

import json
from typing import Any, Final, Literal, TypeAlias

from towline.core._script import Broken
from towline.core._secret import Secret
from towline.core.tunnel import ResponsePayload

JSON: Final = ("Content-Type", "application/json; charset=utf-8")
RETRY_SOON: Final = ("Retry-After", "1")
WS_RESPONSE: Final = "x-broker-ws-response"

# Why no client serves a token.
Missing: TypeAlias = Literal["no-connection", "connection-not-ready", "bad-request"]
# Status, headers and body of a whole answer.
WholeAnswer: TypeAlias = tuple[int, list[tuple[str, str]], bytes]

DENIED_OVER_HTTP: Final = "Request does not match any accept rule, blocking HTTP request"
DENIED_OVER_TUNNEL: Final = "[Websocket Flow][Blocked Request] Does not match any accept rule"


def compact(document: object) -> bytes:
    """Return a document of ours as compact ASCII JSON."""
    return json.dumps(document, separators=(",", ":")).encode("ascii")


UNKNOWN_SESSION: Final[WholeAnswer] = (400, [JSON], compact({"code": 1, "message": "Session ID unknown"}))
UNKNOWN_STREAM: Final[WholeAnswer] = (
    500,
    [JSON],
    compact({"message": "Unable to find request matching streaming id."}),
)


def no_client(missing: Missing) -> WholeAnswer:
    """Return status, headers and body for a token that no client serves at the moment, by the reason."""
    status = {"no-connection": 404, "connection-not-ready": 503, "bad-request": 400}[missing]
    headers = [("x-broker-failure", missing), JSON]
    if status == 503:
        headers.append(RETRY_SOON)
    return status, headers, compact({"ok": False})


def clients_page(clients: list[Any]) -> WholeAnswer:
    """Return status, headers and body of the page that shows a token's clients."""
    if not clients:
        return 404, [JSON, ("x-broker-failure", "no-connection")], compact({"ok": False})
    return 200, [JSON], compact({"ok": True, "clients": clients})


def denial(reason: str, url: str) -> dict[str, Any]:
    """Return the body of a denial. It names the rule set, never what was wrong (security.md §5.10)."""
    return {"code": "FILTER_BLOCKED", "message": "blocked", "reason": reason, "url": url}


def downstream_failure(broken: Broken, where: str) -> tuple[int, str, dict[str, Any]]:
    """Return status, errorType and body for an upstream that did not answer (broker-protocol.md §2.8)."""
    if broken.kind == "timeout":
        status, code = 504, "DOWNSTREAM_TIMEOUT"
    elif not broken.sent and broken.kind == "registry-unreachable":
        status, code = 502, "DOWNSTREAM_UNREACHABLE"
    else:
        status, code = 502, "DOWNSTREAM_ERROR"
    verb = "request" if broken.sent else "connect"
    return status, code, {"code": code, "message": f"{verb} {where}: {broken.why}"[:1024]}


def error_type_of(status: int) -> str | None:
    """Return the label of an upstream's own error status (broker-protocol.md §2.3)."""
    if status < 400 or status == 404:
        return None
    if status >= 500:
        return "DOWNSTREAM_SERVER_ERROR"
    named = {401: "DOWNSTREAM_UNAUTHORIZED", 403: "DOWNSTREAM_FORBIDDEN", 429: "DOWNSTREAM_RATE_LIMITED"}
    return named.get(status, "DOWNSTREAM_UNEXPECTED")


def acknowledged(
    status: int,
    body: Any,
    request_id: str,
    headers: dict[str, str | list[str]] | None = None,
    *,
    error_type: str | None = None,
    original_body_size: int | None = None,
) -> dict[str, Any]:
    """Return the argument of an acknowledgement that answers a request (broker-protocol.md §2.5)."""
    full = (headers or {}) | {"snyk-request-id": request_id, WS_RESPONSE: "true"}
    return ResponsePayload(status, full, body, error_type, original_body_size).to_wire()


def too_large(size: int, most: int) -> dict[str, Any]:
    """Return the body of an answer that is too large for the tunnel."""
    message = f"body size of {size} is greater than max allowed of {most} bytes"
    return {"code": "BODY_TOO_LARGE", "message": message}


def payload_body(body: Any, headers: dict[str, str]) -> tuple[bytes, str | None]:
    """Return an acknowledgement's body as bytes, and the content type that goes with it if none came."""
    named = "content-type" in headers
    if isinstance(body, bytes):
        return body, None
    if isinstance(body, str):
        return body.encode("utf-8", "replace"), None if named or not body else "text/html; charset=utf-8"
    if body is None:
        return b"", None
    return compact(body), None if named else "application/json; charset=utf-8"


def token_text(token: Secret) -> str:
    """Return a token as tables and paths have it: lower case."""
    return token.reveal().lower()
