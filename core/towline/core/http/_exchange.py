"""What a server's link is about: its events, the order of its steps, and the words of its answers."""

from __future__ import annotations

import json
from typing import Final, TypeAlias

from towline.core._script import Body, Broken, Tail
from towline.core._table import Table
from towline.core.http._headers import Fields, members


class RequestHead(Fields, frozen=True):
    """A request began. `target` is byte for byte what stood in the request line; it begins with `/` or is `*`."""

    method: str
    target: str
    version: str = "1.1"

    def __repr__(self) -> str:
        return f"RequestHead({self.method}, {', '.join(name for name, _ in self.headers)})"

    @property
    def upgrades_to(self) -> str | None:
        """The protocol this request wants to switch to, in lower case, or None (RFC 9110 §7.8)."""
        if self.version == "1.0" or "upgrade" not in members(self.all("connection")):
            return None
        return next(iter(members(self.all("upgrade"))), None)


ServerEvent: TypeAlias = RequestHead | Body | Tail | Broken

SERVER_TABLE: Final = Table(
    "http server",
    "idle",
    {
        ("idle", "head"): "asked",
        ("idle", "fault"): "lingering",
        ("idle", "end"): "closed",
        ("idle", "last"): "closed",
        ("asked", "answer head"): "answering",
        ("asked", "upgrade"): "switched",
        ("asked", "fault"): "lingering",
        ("asked", "cut"): "closed",
        ("answering", "answered"): "emptying",
        ("answering", "cut"): "closed",
        ("emptying", "next"): "idle",
        ("emptying", "last"): "closed",
        ("emptying", "linger"): "lingering",
        ("emptying", "cut"): "closed",
        ("lingering", "last"): "closed",
        ("lingering", "cut"): "closed",
    },
    ends=frozenset({"closed", "switched"}),
)


def error_body(code: str, message: str) -> bytes:
    """Return the small JSON body of an error answer (agent.md §5)."""
    return json.dumps({"error": {"code": code, "message": message}}, separators=(",", ":")).encode("ascii")


# For people who read the wire; the protocol does not need them.
REASONS: Final[dict[int, str]] = {
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "No Content",
    206: "Partial Content",
    301: "Moved Permanently",
    302: "Found",
    303: "See Other",
    304: "Not Modified",
    307: "Temporary Redirect",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}
