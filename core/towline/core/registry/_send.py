"""One request to a registry or a token server: redirects, a bounded body, and retries where they are safe."""

from __future__ import annotations

from collections.abc import Callable

from towline.core._contract import Record
from towline.core._errors import KINDS, RemoteProtocolError
from towline.core._script import Body, Broken, Head, Request, Step, clock, fetch, read, say, sleep
from towline.core._wire import Note
from towline.core.http import Url, fetch_following, redacted
from towline.core.registry._realm import realm_allowed
from towline.core.registry._retry import RETRYABLE_METHODS, RETRYABLE_STATUS, asked_wait, backoff
from towline.core.registry._session import Registry

REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Want(Record, frozen=True):
    """What to do with a success's body.

    `limit` bytes of it are read, and more is an error of kind `beyond`; None leaves it to be read by the caller.
    `may_leave` lets a redirect go to another origin, without credentials. `whole_errors` takes an error's body
    like a success's, for services whose errors are documents.
    """

    limit: int | None
    beyond: str = "protocol-error"
    may_leave: bool = False
    whole_errors: bool = False


class Reply(Record, frozen=True):
    """An answer: its head, where it came from at last, and its body as far as it was read."""

    head: Head
    url: Url
    body: bytes = b""

    @property
    def status(self) -> int:
        return self.head.status


Follow = Callable[[Request], Step[tuple[Head, Url] | Broken]]


def send(registry: Registry, request: Request, want: Want, follow: Follow | None = None) -> Step[Reply]:
    """Send a request, and again where that is safe and may help; return the last answer, whatever its status.

    Raises:  registry-rate-limited with `retry_after` when the wait asked for is longer than LIMITS.retry_after;
             the kind of the broken exchange when it broke every time
    """
    attempt = timeouts = 0
    while True:
        yield from _turn(registry)
        reply = yield from _once(registry, request, want, follow)
        last = attempt >= registry.retries or request.method not in RETRYABLE_METHODS
        now = yield from clock()
        if isinstance(reply, Broken):
            # Silence costs half a minute each time: twice is enough to tell it from an accident.
            timeouts += reply.kind == "timeout"
            if last or timeouts > 1 or not KINDS[reply.kind].retryable:
                # A Courier's Broken names method and address itself; after a redirect, those of the last hop.
                what = f"{request.method} {redacted(request.url)}"
                raise RemoteProtocolError(
                    reply.kind, reply.why if reply.why.startswith(what) else f"{what}: {reply.why}"
                )
            wait = backoff(attempt, registry.entropy, registry.limits)
        else:
            if reply.status not in RETRYABLE_STATUS:
                return reply
            asked = asked_wait(reply.head, now, registry.epoch)
            if registry.pace is not None and (reply.status == 429 or asked is not None):
                registry.pace.slow_down(now, min(asked or 0.0, registry.limits.retry_after))
            if asked is not None and asked > registry.limits.retry_after:
                raise too_long_a_wait(reply, asked, request.method)
            if last:
                if reply.status == 429:
                    raise too_long_a_wait(reply, asked, request.method)
                return reply
            wait = backoff(attempt, registry.entropy, registry.limits) if asked is None else asked
        attempt += 1
        why = reply.why if isinstance(reply, Broken) else str(reply.status)
        fields = {"method": request.method, "url": redacted(request.url), "why": why, "wait_seconds": round(wait, 3)}
        yield from say(Note("info", "registry.retry", fields))
        yield from sleep(now + wait)


def _turn(registry: Registry) -> Step[None]:
    """Wait for a request's turn, where the registry is asked at a pace."""
    if registry.pace is not None:
        now = yield from clock()
        at = registry.pace.turn(now)
        if at > now:
            yield from sleep(at)


def too_long_a_wait(reply: Reply, asked: float | None, method: str) -> RemoteProtocolError:
    """Return the error for a server that is asked too much, with the wait it asks for."""
    said = "" if asked is None else f" and a wait of {asked:.0f} s"
    return RemoteProtocolError(
        "registry-rate-limited" if reply.status == 429 else "registry-error",
        f"expected an answer to {method} {redacted(reply.url)}, got {reply.status}{said}",
        hint="wait, or log in: registries count requests by login and by address" if reply.status == 429 else None,
        retry_after=asked,
        registry_status=reply.status,
    )


def _once(registry: Registry, request: Request, want: Want, follow: Follow | None) -> Step[Reply | Broken]:
    if follow is None:
        limits = registry.limits
        answer = yield from fetch_following(
            request, secure_from=registry.base, max_redirects=limits.http_redirects, may_leave=want.may_leave
        )
    else:
        answer = yield from follow(request)
    if isinstance(answer, Broken):
        return answer
    head, url = answer
    if request.method == "HEAD" or head.status in (204, 304, 416):
        # 416 from distribution 2.8.2 announces a body it does not send.
        return Reply(head, url)
    if head.status >= 300 and not want.whole_errors:
        return Reply(head, url, (yield from _some_body(registry.limits.registry_error_body)))
    if want.limit is None:
        return Reply(head, url)
    body = yield from _whole_body(head, url, want.limit, want.beyond)
    return body if isinstance(body, Broken) else Reply(head, url, body)


def _some_body(limit: int) -> Step[bytes]:
    kept = bytearray()
    while len(kept) < limit:
        piece = yield from read()
        if not isinstance(piece, Body):
            break
        kept += piece.data
    return bytes(kept[:limit])


def _whole_body(head: Head, url: Url, limit: int, beyond: str) -> Step[bytes | Broken]:
    declared = head.get("content-length") or ""
    if declared.isascii() and declared.isdigit() and (len(declared) > 19 or int(declared) > limit):
        raise RemoteProtocolError(
            beyond, f"expected at most {limit} bytes from {redacted(url)}, got {declared[:20]} announced"
        )
    kept = bytearray()
    while True:
        piece = yield from read()
        if isinstance(piece, Broken):
            return piece
        if not isinstance(piece, Body):
            return bytes(kept)
        kept += piece.data
        if len(kept) > limit:
            raise RemoteProtocolError(beyond, f"expected at most {limit} bytes from {redacted(url)}, got more")


def follow_token(registry: Registry, request: Request) -> Step[tuple[Head, Url] | Broken]:
    """Fetch from a token server; each redirect passes the realm policy, and Basic stays at its origin.

    Raises:  redirect-blocked
    """
    url = Url.parse(request.url)
    for _ in range(registry.limits.http_redirects + 1):
        head = yield from fetch(request)
        if isinstance(head, Broken):
            return head
        location = head.get("location")
        if head.status not in REDIRECTS or location is None:
            return head, url
        target = url.join(location, "redirect-blocked")
        verdict = realm_allowed(registry.base, str(target), registry.allowed_realm_hosts, registry.dialect.realm_hosts)
        related = verdict.send_credentials or target.origin == url.origin
        if not related or (url.scheme == "https" and target.scheme == "http"):
            raise RemoteProtocolError(
                "redirect-blocked",
                f"expected a redirect of the token server {url.origin} to a related host, got {target.origin}"
                f" ({verdict.rule})",
                registry_status=head.status,
            )
        headers = request.headers
        if target.origin != url.origin:
            headers = tuple(pair for pair in headers if pair[0].lower() != "authorization")
        request = Request("GET", str(target), headers, purpose=request.purpose)
        url = target
    raise RemoteProtocolError(
        "redirect-blocked", f"expected at most {registry.limits.http_redirects} redirects, got more"
    )
