"""What a server's link is about: its events, the order of its steps, and the words of its answers."""

from __future__ import annotations

import json
from typing import Final, TypeAlias

import h11

from towline.core._script import Body, Broken, HeaderList, Tail
from towline.core._table import Table
from towline.core.http._framing import BodyWriter, Fault, HeadFields, fields, parse_head
from towline.core.http._headers import FRAMING, Fields, members, without, written


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
        ("idle", "last"): "closed",
        ("idle", "cut"): "closed",
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


def read_request(parser: h11.Connection, raw: bytes) -> tuple[HeadFields, RequestHead]:
    """Let h11 judge a request's complete head; raise a Fault for one that no server of ours answers."""
    event = parse_head(parser, raw)
    assert isinstance(event, h11.Request)
    head = fields(event)
    method, target = event.method.decode("ascii"), event.target.decode("ascii")
    if method == "CONNECT":
        raise Fault(405, "expected a method other than CONNECT, got it")
    if not target.startswith("/") and (target, method) != ("*", "OPTIONS"):
        raise Fault(400, "expected a target that begins with /, got another form")
    return head, RequestHead(head.headers, method, target, head.version)


def answer_head(
    status: int, headers: HeaderList, length: int | None, *, bodiless: bool, version: str, last: bool
) -> tuple[h11.Response, BodyWriter, bool]:
    """Frame an answer: its head, the writer of its body, and whether it is the link's last.

    `length` None is a body of unknown length: chunked, or up to the end of the link for an HTTP/1.0 peer.
    """
    lines = written(without(headers, FRAMING))
    to_the_end = length is None and version == "1.0" and not bodiless
    if length is not None and status != 204:
        lines.append((b"Content-Length", b"%d" % length))
    elif length is None and version != "1.0" and not bodiless:
        lines.append((b"Transfer-Encoding", b"chunked"))
    closes = "close" in members(v for k, v in headers if k.lower() == "connection" and isinstance(v, str))
    last = last or to_the_end or closes
    if last and not closes:
        lines.append((b"Connection", b"close"))
    head = h11.Response(status_code=status, headers=lines, reason=REASONS.get(status, "").encode("ascii"))
    return head, BodyWriter(0 if bodiless else length, to_the_end=to_the_end), last


def fault_body(fault: Fault) -> bytes:
    """Return the body of the answer to a peer's fault."""
    code = {408: "TIMEOUT", 413: "REQUEST_TOO_LARGE", 431: "REQUEST_TOO_LARGE"}.get(fault.status, "BAD_REQUEST")
    return error_body(code, fault.why)


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
