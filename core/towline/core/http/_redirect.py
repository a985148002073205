"""Follow redirects by the rules that keep a login where it belongs.

Source: security.md §4.2; registries-common.md §8; RFC 9110 §15.4
"""

from __future__ import annotations

from typing import Final, NoReturn

from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS
from towline.core._script import Broken, Head, HeaderList, Request, Step, fetch
from towline.core._secret import Secret
from towline.core.http._headers import CREDENTIAL
from towline.core.http._url import Url, redacted

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_FOLLOWED: Final = frozenset({"GET", "HEAD"})


class BlockedRedirect(RemoteProtocolError):
    """A redirect that is not followed. `target` is where it leads, None if that cannot be said."""

    def __init__(self, message: str, status: int | None, target: Url | None) -> None:
        super().__init__("redirect-blocked", message, registry_status=status)
        self.target = target


def fetch_following(
    request: Request, *, secure_from: Url, max_redirects: int = LIMITS.http_redirects, may_leave: bool = True
) -> Step[tuple[Head, Url] | Broken]:
    """Fetch, follow redirects of GET and HEAD, and return the last head with the address it came from.

    `secure_from` is the address that was configured: a redirect away from its origin is fetched as untrusted and
    without any login, and stays so for the rest of the way; if it is https, nothing on the way may be http.
    With `may_leave` False a redirect to another origin is refused.

    Raises:  BlockedRedirect for a redirect that leads where it must not, or for one too many
    """
    url = Url.parse(request.url)
    for _ in range(max_redirects + 1):
        head = yield from fetch(request)
        if isinstance(head, Broken):
            return head
        if head.status not in _REDIRECTS or request.method.upper() not in _FOLLOWED or not head.all("location"):
            return head, url
        target = _target(url, head)
        if target.scheme == "http" and "https" in (url.scheme, secure_from.scheme):
            _block(url, f"expected a redirect that stays on https, got one to {redacted(target)}", head, target)
        if target.origin != url.origin:
            if not may_leave:
                _block(url, f"expected a redirect within the origin, got one to {redacted(target)}", head, target)
            request = Request(request.method, str(target), _without_login(request.headers), purpose="untrusted")
        else:
            request = Request(request.method, str(target), request.headers, purpose=request.purpose)
        url = target
    raise BlockedRedirect(f"{redacted(url)}: expected at most {max_redirects} redirects, got another", None, None)


def _target(url: Url, head: Head) -> Url:
    places = frozenset(head.all("location"))
    if len(places) > 1:
        _block(url, "expected one Location, got several that differ", head, None)
    return url.join(next(iter(places)), kind="redirect-blocked")


def _without_login(headers: HeaderList) -> HeaderList:
    """Drop what carries a login: the known headers, and every one that is secret here."""
    return tuple(
        (name, value)
        for name, value in headers
        if name.lower() not in CREDENTIAL and name.lower() != "host" and not isinstance(value, Secret)
    )


def _block(url: Url, why: str, head: Head, target: Url | None) -> NoReturn:
    raise BlockedRedirect(f"{redacted(url)}: {why}", head.status, target)
