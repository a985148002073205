"""Heads as they are written, so that no name and no value can become a line of its own."""

from __future__ import annotations

import re
from typing import Final

from towline.core._contract import Data
from towline.core._errors import LocalProtocolError
from towline.core._limits import KIB
from towline.core._script import HeaderList
from towline.core._secret import Secret
from towline.core.http._framing import BodyWriter
from towline.core.http._headers import FRAMING, SPACES, check_method, check_target, members, without, written

_LINES: Final = re.compile(r"(?:[-!#$%&'*+.^_`|~0-9A-Za-z]{1,256}: [\t\x20-\x7e\x80-\xff]*\r\n)*")

_SORTED: Final = frozenset({"connection", "host", "upgrade", *FRAMING})

# Bytes of a body that are copied to go out with its head: about what a second piece costs a driver.
_JOINED: Final = 16 * KIB


class _Fields:
    """The fields of a head that is written, without those that frame its body: who writes the body writes them."""

    __slots__ = ("connection", "hosts", "lines", "text", "upgrades")

    def __init__(self, headers: HeaderList) -> None:
        """Raises:  RemoteProtocolError "bad-request" at the first field that cannot be written"""
        names = [name.lower() for name, _ in headers]
        lines = [
            f"{name}: {(value.reveal() if isinstance(value, Secret) else value).strip(SPACES)}\r\n"
            for name, value in headers
        ]
        self.hosts = 0
        self.connection: list[str] = []  # the lines that say it
        self.upgrades = False
        if not _SORTED.isdisjoint(names):
            lines = self._sort(names, lines)
        self.lines = lines
        self.text = "".join(lines)
        # Three looks at all of it cost less than one at each: it is made of field lines, there are as many of them as
        # there are fields, and what stands before the colon is the whole of a name.
        if _LINES.fullmatch(self.text) is None or self.text.count("\r\n") != len(lines) or ":" in "".join(names):
            written(without(headers, FRAMING))

    def _sort(self, names: list[str], lines: list[str]) -> list[str]:
        """Return the lines to be written, `Host` first (RFC 9112 §3.2), and learn what some of them say."""
        first: list[str] = []
        others: list[str] = []
        for name, line in zip(names, lines, strict=True):
            if name not in _SORTED:
                others.append(line)
            elif name == "host":
                first.append(line)
            elif name not in FRAMING:
                others.append(line)
                if name == "connection":
                    self.connection.append(line)
                elif members((line.partition(":")[2],)):
                    self.upgrades = True
        self.hosts = len(first)
        return first + others

    @property
    def options(self) -> list[str]:
        """What `Connection` says, in lower case."""
        return members([line.partition(":")[2] for line in self.connection]) if self.connection else []


def request_head(
    method: str, target: str, headers: HeaderList, *, length: int | None, chunked: bool
) -> tuple[bytes, bool, bool]:
    """Return a request's head, whether it is the link's last, and whether it asks for another protocol.

    Raises:  RemoteProtocolError "bad-request" if it cannot be written, LocalProtocolError unless there is one `Host`
    """
    check_method(method)
    check_target(target)
    fields = _Fields(headers)
    if fields.hosts != 1:
        wrong = "Found multiple" if fields.hosts else "Missing mandatory"
        raise LocalProtocolError(f"expected headers of a request, got: {wrong} Host")
    _check_length(length)
    framing = "Transfer-Encoding: chunked\r\n" if chunked else "" if length is None else f"Content-Length: {length}\r\n"
    head = f"{method} {target} HTTP/1.1\r\n{fields.text}{framing}\r\n"
    return head.encode("latin-1"), "close" in fields.options, fields.upgrades


def answer_head(
    status: int, headers: HeaderList, length: int | None, *, bodiless: bool, version: str, last: bool
) -> tuple[bytes, BodyWriter, bool]:
    """Frame an answer: its head, the writer of its body, and whether it is the link's last.

    `length` None is a body of unknown length: chunked, or up to the end of the link for an HTTP/1.0 peer.

    Raises:  RemoteProtocolError "bad-request" if a header cannot be written
    """
    fields = _Fields(headers)
    _check_length(length)
    text, framing = fields.text, ""
    to_the_end = length is None and version == "1.0" and not bodiless
    if status != 204:
        if length is not None:
            framing = f"Content-Length: {length}\r\n"
        elif version != "1.0" and status != 304:
            framing = "Transfer-Encoding: chunked\r\n"
    closes = "close" in fields.options
    last = last or to_the_end or closes
    if last and not closes:
        options = sorted({*fields.options, "close"} - {"keep-alive"})
        text = "".join(line for line in fields.lines if line not in fields.connection)
        framing += "".join(f"Connection: {option}\r\n" for option in options)
    start = _STARTS.get(status) or f"HTTP/1.1 {status} \r\n"
    head = f"{start}{text}{framing}\r\n".encode("latin-1")
    return head, BodyWriter(0 if bodiless else length, to_the_end=to_the_end), last


def join_small(out: list[Data], pieces: list[Data]) -> None:
    """Put a body behind the head that was written last: in one piece with it, if that costs less than a piece."""
    for data in pieces:
        if len(data) <= _JOINED and isinstance(out[-1], bytes):
            out[-1] = b"".join((out[-1], data))
        else:
            out.append(data)


def _check_length(length: int | None) -> None:
    if length is not None and not 0 <= length < 10**19:
        raise LocalProtocolError(f"expected a length of 1 to 19 digits, got {length}")


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

_STARTS: Final = {status: f"HTTP/1.1 {status} {reason}\r\n" for status, reason in REASONS.items()}
