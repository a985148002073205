"""`Link`: where the next page of a listing is; never a silent end, never another host.

A list that is cut short looks like a complete one, so everything that is not clearly "no next page" is an
error: a Link that cannot be read, another origin, a downgrade to http, userinfo, or the page just read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core.http import Url, redacted

Fault = Literal["malformed", "cross-origin", "scheme", "userinfo", "loop"]

_TCHAR: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_SCHEME: Final = frozenset("+-.0123456789abcdefghijklmnopqrstuvwxyz")


class BadLink(RemoteProtocolError):
    """The next page cannot be followed. `fault` names the rule that forbids it."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__("list-loop" if fault == "loop" else "protocol-error", message)
        self.fault: Fault = fault


class _Link(Record, frozen=True):
    target: str
    rel: str
    anchored: bool


def next_page(
    request_url: Url, field_values: Iterable[str], limits: Limits = LIMITS, *, query_only: bool = False
) -> Url | None:
    """Return the address of the page after the one just read, or None when it was the last.

    Shape:   the target may be relative; its query is kept byte for byte, a raw blank becomes %20. With `query_only`
             that is all that is taken of it, for registries whose links name a host or path of the inside
    Raises:  BadLink
    Source:  RFC 8288 §3, RFC 3986 §5, distribution-spec v1.1 "Listing Tags"
    """
    for line in field_values:
        if len(line) > limits.challenge_line:
            raise BadLink(
                "malformed", f"expected a Link of at most {limits.challenge_line} characters, got {len(line)}"
            )
        for link in _links(line):
            if not link.anchored and "next" in link.rel.lower().split():
                target = f"?{link.target.partition('#')[0].partition('?')[2]}" if query_only else link.target
                return follow_link(request_url, target)
    return None


def follow_link(request_url: Url, target: str) -> Url:
    """Resolve the address of a next page; raise BadLink if it may not be followed."""
    where = redacted(request_url)
    target = target.partition("#")[0].strip(" \t")
    if not target:
        raise BadLink("malformed", f"expected an address in the Link of {where}, got an empty one")
    target = "".join(char if "!" <= char <= "~" else _escaped(char, where) for char in target)
    if "\\" in target:
        raise BadLink("malformed", f"expected an address in the Link of {where}, got one with a backslash")
    scheme, colon, rest = target.partition(":")
    if colon and scheme[:1].isalpha() and _SCHEME.issuperset(scheme.lower()):
        if scheme.lower() not in ("http", "https") or (request_url.scheme == "https" and scheme.lower() == "http"):
            raise BadLink("scheme", f"expected a next page on {request_url.scheme}, got {scheme[:20]}: from {where}")
    else:
        rest = target
    if rest.startswith("//") and "@" in rest[2:].partition("/")[0].partition("?")[0]:
        raise BadLink("userinfo", f"expected a next page without a user name, got one with, from {where}")
    try:
        url = request_url.join(target)
    except RemoteProtocolError as error:
        raise BadLink("malformed", f"{error.message}, in the Link of {where}") from None
    if url.origin != request_url.origin:
        raise BadLink("cross-origin", f"expected a next page on {request_url.origin}, got {url.origin}, from {where}")
    if url == request_url:
        raise BadLink("loop", f"expected another page, got the same again, from {where}")
    return url


def _escaped(char: str, where: str) -> str:
    if char < " " or char == "\x7f":
        raise BadLink("malformed", f"expected an address in the Link of {where}, got control characters")
    # Header values are bytes; what came as a latin-1 character goes back as the same byte.
    raw = char.encode("latin-1") if char < "\u0100" else char.encode("utf-8", "replace")
    return "".join(f"%{byte:02X}" for byte in raw)


def _links(line: str) -> Iterator[_Link]:
    cursor = _Cursor(line)
    while True:
        cursor.skip(" \t,")
        if cursor.peek() == "":
            return
        cursor.expect("<")
        target = cursor.until(">")
        rel: str | None = None
        anchored = False
        while True:
            cursor.skip(" \t")
            if cursor.peek() in ("", ","):
                break
            cursor.expect(";")
            cursor.skip(" \t;")
            if cursor.peek() in ("", ","):
                break
            name, value = cursor.param()
            if name == "rel" and rel is None:
                rel = value
            anchored |= name == "anchor"
        yield _Link(target, rel or "", anchored)


class _Cursor:
    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0

    def peek(self) -> str:
        return self.text[self.pos] if self.pos < len(self.text) else ""

    def skip(self, chars: str) -> None:
        while self.pos < len(self.text) and self.text[self.pos] in chars:
            self.pos += 1

    def expect(self, char: str) -> None:
        if self.peek() != char:
            raise BadLink("malformed", f"expected {char!r} in a Link, got {self.peek()[:1]!a}")
        self.pos += 1

    def until(self, char: str) -> str:
        end = self.text.find(char, self.pos)
        if end < 0:
            raise BadLink("malformed", f"expected {char!r} in a Link, got its end")
        found, self.pos = self.text[self.pos : end], end + 1
        return found

    def param(self) -> tuple[str, str]:
        start = self.pos
        while self.pos < len(self.text) and self.text[self.pos] in _TCHAR:
            self.pos += 1
        name = self.text[start : self.pos].lower()
        if not name:
            raise BadLink("malformed", f"expected a parameter's name in a Link, got {self.peek()[:1]!a}")
        self.skip(" \t")
        if self.peek() != "=":
            return name, ""
        self.pos += 1
        self.skip(" \t")
        if self.peek() == '"':
            return name, self.quoted()
        start = self.pos
        while self.pos < len(self.text) and self.text[self.pos] not in ' \t;,"':
            self.pos += 1
        return name, self.text[start : self.pos]

    def quoted(self) -> str:
        self.pos += 1
        out: list[str] = []
        while self.pos < len(self.text):
            char = self.text[self.pos]
            self.pos += 1
            if char == '"':
                return "".join(out)
            if char == "\\":
                char = self.peek()
                self.pos += 1
            out.append(char)
        raise BadLink("malformed", "expected a closing quote in a Link, got its end")
