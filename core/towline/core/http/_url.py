"""Absolute http and https addresses: parsed once, strictly, and written back byte for byte.

What is ambiguous between parsers is refused, because the dial guard, the credential rules and the server at
the other end must see one and the same address: no userinfo, no backslash, no space, no control or non-ASCII
character, no percent-escape in a host. A fragment never goes to the wire and is dropped.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NoReturn

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError

Scheme = Literal["http", "https"]

DEFAULT_PORTS: Final[dict[str, int]] = {"http": 80, "https": 443}

# Addresses of object stores are signed and reach 2 KiB; 8 KiB is what a request line may be (security.md §3).
URL_LENGTH: Final = 8 * 1024

_ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_WIRE: Final = re.compile(r"[\x21-\x7e]*")
_NAME: Final = re.compile(r"[A-Za-z0-9_\-]{1,63}(?:\.[A-Za-z0-9_\-]{1,63})*\.?")
_IPV6: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_PORT: Final = re.compile(r"[0-9]{1,5}")


class Origin(Record, frozen=True):
    """What a credential is bound to (security.md §4.2)."""

    scheme: Scheme
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{_authority(self.scheme, self.host, self.port)}"


class Url(Record, frozen=True):
    """One absolute address. `host` is lower case, an IPv6 address without its brackets; `path` begins with `/`."""

    scheme: Scheme
    host: str
    port: int
    path: str = "/"
    query: str | None = None

    @classmethod
    def parse(cls, text: str, kind: str = "bad-request") -> Url:
        """Read an absolute address; raise a RemoteProtocolError of this kind if it is none.

        Source:  RFC 3986 §3, RFC 9110 §4.2
        """
        if len(text) > URL_LENGTH:
            _refuse(kind, f"at most {URL_LENGTH} characters", f"{len(text)}")
        if not _WIRE.fullmatch(text):
            _refuse(kind, "visible ASCII characters only", "something else")
        scheme, colon, rest = text.partition("://")
        scheme = scheme.lower()
        if not colon or scheme not in DEFAULT_PORTS:
            _refuse(kind, "http:// or https://", "another scheme or none")
        rest = rest.partition("#")[0]
        end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
        authority, after = rest[:end], rest[end:]
        if "@" in authority:
            _refuse(kind, "no user name in the address", "one")
        host, port = _host_and_port(authority, scheme, kind)
        path, question, query = after.partition("?")
        known: Scheme = "https" if scheme == "https" else "http"
        return cls(known, host, port, path or "/", query if question else None)

    @property
    def origin(self) -> Origin:
        return Origin(self.scheme, self.host, self.port)

    @property
    def authority(self) -> str:
        """The Host header's value: the default port left out, IPv6 in brackets."""
        return _authority(self.scheme, self.host, self.port)

    @property
    def target(self) -> str:
        """The request line's target: path and query as they came."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    def join(self, reference: str, kind: str = "bad-request") -> Url:
        """Resolve a reference against this address; the query's bytes are kept as they came.

        Source:  RFC 3986 §5.2
        """
        if not _WIRE.fullmatch(reference):
            _refuse(kind, "visible ASCII characters only", "something else")
        reference = reference.partition("#")[0]
        if _ABSOLUTE.match(reference):
            return Url.parse(reference, kind)._tidy()
        if reference.startswith("//"):
            return Url.parse(f"{self.scheme}:{reference}", kind)._tidy()
        if len(reference) > URL_LENGTH:
            _refuse(kind, f"at most {URL_LENGTH} characters", f"{len(reference)}")
        path, question, query = reference.partition("?")
        after = query if question else None
        if not path:
            return Url(self.scheme, self.host, self.port, self.path, after if question else self.query)
        if not path.startswith("/"):
            path = self.path[: self.path.rfind("/") + 1] + path
        return Url(self.scheme, self.host, self.port, path, after)._tidy()

    def _tidy(self) -> Url:
        return Url(self.scheme, self.host, self.port, _without_dots(self.path), self.query)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def redacted(url: Url | str) -> str:
    """Return an address for logs and errors: no user name, the values of its query struck out.

    A text that cannot be read as an address is not shown at all: nobody can tell what is secret in it.
    """
    if isinstance(url, str):
        try:
            url = Url.parse(url)
        except RemoteProtocolError:
            return "(an address that cannot be read)"
    if url.query is None:
        return f"{url.origin}{url.path}"
    # A part without `=` may be a signature as well as a flag.
    parts = [f"{part.partition('=')[0]}=***" if "=" in part else "***" for part in url.query.split("&")]
    return f"{url.origin}{url.path}?{'&'.join(parts)}"


def _host_and_port(authority: str, scheme: str, kind: str) -> tuple[str, int]:
    if authority.startswith("["):
        host, bracket, after = authority[1:].partition("]")
        if not bracket or not _IPV6.fullmatch(host) or ":" not in host or (after and not after.startswith(":")):
            _refuse(kind, "an IPv6 address in brackets", "something else")
        colon, port = after[:1], after[1:]
    else:
        host, colon, port = authority.partition(":")
        if len(host) > 253 or not _NAME.fullmatch(host):
            _refuse(kind, "a host name or IPv4 address", "something else" if host else "none")
    if not colon or not port:
        # `host:` is legal and means the default port (RFC 3986 §3.2.3).
        return host.lower(), DEFAULT_PORTS[scheme]
    if not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        _refuse(kind, "a port from 1 to 65535", "something else")
    return host.lower(), int(port)


def _authority(scheme: str, host: str, port: int) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port == DEFAULT_PORTS[scheme] else f"{name}:{port}"


def _without_dots(path: str) -> str:
    """Remove `.` and `..` segments (RFC 3986 §5.2.4)."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for at, segment in enumerate(segments):
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
        if at == len(segments) - 1 and segment in (".", ".."):
            kept.append("")
    return "/" + "/".join(kept)


def _refuse(kind: str, expected: str, came: str) -> NoReturn:
    # The text itself is left out: it may hold a password before the `@` or a signature after the `?`.
    raise RemoteProtocolError(kind, f"not an address that can be used: expected {expected}, got {came}")
