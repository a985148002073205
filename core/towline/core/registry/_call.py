"""Calling a service beside the registry: no redirects, a bounded answer, an error that says which service it was."""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from towline.core._errors import RemoteProtocolError
from towline.core._json import typed_json
from towline.core._script import Broken, Head, HeaderList, Request, Step, fetch
from towline.core._secret import Secret
from towline.core.http import Url, redacted
from towline.core.registry._send import REDIRECTS, Reply, Want, send
from towline.core.registry._session import Registry

T = TypeVar("T")

FORM = ("content-type", "application/x-www-form-urlencoded")


def call(registry: Registry, request: Request) -> Step[Reply]:
    """Send a request to a cloud's service; return its answer of any status but a redirect.

    Raises:  redirect-blocked, and what a request raises
    """
    want = Want(registry.limits.registry_token_answer, whole_errors=True)
    return (yield from send(registry, request, want, _stay))


def metadata(registry: Registry, method: str, url: str, headers: HeaderList) -> Step[Reply]:
    """Ask the machine's own metadata service, the one place for which link-local addresses are dialled."""
    return (yield from call(registry, Request(method, url, headers, purpose="metadata")))


def read(reply: Reply, shape: type[T], what: str) -> T:
    """Read an answer of 200; any other is an error of the login.

    Raises:  registry-unauthorized with the service's code, protocol-error
    """
    if reply.status != 200:
        raise refused(reply, what)
    return typed_json(reply.body, shape, f"{what} {redacted(reply.url)}")


class _Refusal(msgspec.Struct):
    # The types are the peer's choice: an OAuth error is a text, others are objects.
    error: Any = None


def refused(reply: Reply, what: str, code: str | None = None) -> RemoteProtocolError:
    """Return the error of a service that gives no identity. What it says is not shown: it may repeat the request."""
    if code is None:
        try:
            said = msgspec.json.decode(reply.body, type=_Refusal).error
        except (msgspec.DecodeError, UnicodeDecodeError):
            said = None
        code = said[:64] if isinstance(said, str) and said.isascii() and said.isprintable() else None
    kind = "registry-error" if reply.status >= 500 else "registry-unauthorized"
    return RemoteProtocolError(
        kind,
        f"expected {what} from {redacted(reply.url)}, got {reply.status}{f' {code}' if code else ''}",
        registry_status=reply.status,
        registry_code=code,
    )


def form(fields: dict[str, str | Secret]) -> bytes:
    """Write a form as services read it, with every blank and sign escaped."""
    pairs = ((name, value.reveal() if isinstance(value, Secret) else value) for name, value in fields.items())
    return "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in pairs).encode()


def _stay(request: Request) -> Step[tuple[Head, Url] | Broken]:
    head = yield from fetch(request)
    if isinstance(head, Broken):
        return head
    url = Url.parse(request.url)
    if head.status in REDIRECTS:
        raise RemoteProtocolError(
            "redirect-blocked", f"expected an answer from {redacted(url)}, got {head.status}: it never redirects"
        )
    return head, url
