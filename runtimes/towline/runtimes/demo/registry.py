"""A small, honest OCI registry for the demo and the tests: the pull side, logins, pages; images live in memory.

It answers what the distribution spec says and nothing else: there is no push, and what it cannot do it refuses
with the spec's error codes.

    registry = DemoRegistry({"demo/this-machine": local_image().repository}, auth=Basic("demo", Secret("...")))
    async with running(registry, on_trio.open_pump) as address:      # or on_asyncio.open_pump
        ...                                                          # http://{address}/v2/
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import anyio

from towline.core import Entropy, Record, Secret
from towline.core.http import Answer, Asked, Face, ServerRequest
from towline.drivers import Listener
from towline.runtimes.demo.image import Repository

NAME: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
RANGE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
HOST: Final = re.compile(r"[A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9A-Fa-f:.]+\](?::\d{1,5})?")
SCOPE: Final = re.compile(r"repository:([^:]+):([a-z,*]+)|registry:catalog:([a-z,*]+)")

PAGE_SIZE: Final = 100
# Tokens live as long as Docker's own do; older ones are forgotten.
TOKEN_SECONDS: Final = 300.0
TOKENS: Final = 1_000


class Basic(Record, frozen=True):
    """One login, asked for by `WWW-Authenticate: Basic`."""

    username: str
    secret: Secret
    realm: str = "towline demo"


class Token(Record, frozen=True):
    """One login that is changed into a token at `/token` of this registry."""

    username: str
    secret: Secret
    service: str = "towline-demo"


class Reply(Record, frozen=True):
    """The answer to one request."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


Auth: TypeAlias = Basic | Token | None
Open: TypeAlias = Callable[..., AbstractAsyncContextManager[Any]]


class DemoRegistry:
    """What the registry holds and answers, without a socket: `reply(request, now)`.

    `page_size` is how many names or tags a page has where the asker names no number, and the most it may name.
    `scheme` is how it is reached, for the token realm in its challenges.
    """

    def __init__(
        self,
        images: Mapping[str, Repository],
        auth: Auth = None,
        *,
        entropy: Entropy,
        page_size: int = PAGE_SIZE,
        scheme: str = "http",
    ) -> None:
        for name in images:
            if not NAME.fullmatch(name):
                raise ValueError(f"expected a repository name, got {name!r}")
        self.images: Final = dict(images)
        self.auth: Final = auth
        self._entropy = entropy
        self._page_size = page_size
        self._scheme = scheme
        self._tokens: dict[str, tuple[float, frozenset[str]]] = {}  # token → (expires at, scopes)

    def __repr__(self) -> str:
        kind = type(self.auth).__name__.lower() if self.auth else "anonymous"
        return f"DemoRegistry({len(self.images)} repositories, {kind})"

    def reply(self, request: ServerRequest, now: float) -> Reply:
        """Answer one request."""
        if request.path == "/token" and isinstance(self.auth, Token):
            return self._token(request, self.auth, now)
        if request.path != "/v2" and not request.path.startswith("/v2/"):
            return _error(404, "UNSUPPORTED", "there is nothing at this path")
        if request.method not in ("GET", "HEAD"):
            return _error(405, "UNSUPPORTED", "this registry is read only", ("Allow", "GET, HEAD"))
        parts = request.segments[1:]
        match parts:
            case [] | [""]:
                return self._login(request, None, now) or Reply(200, _JSON, b"{}")
            case ["_catalog"]:
                return self._login(request, "registry:catalog:*", now) or self._names(request)
            case [*name, "tags", "list"] if name:
                return self._in_repository(request, name, now, self._tags)
            case [*name, "manifests", reference] if name:
                return self._in_repository(request, name, now, lambda r, n: self._manifest(r, n, reference))
            case [*name, "blobs", digest] if name:
                return self._in_repository(request, name, now, lambda r, n: self._blob(r, n, digest))
        return _error(404, "UNSUPPORTED", "there is nothing at this path")

    # ── logins ─────────────────────────────────────────────────────────────────
    def _login(self, request: ServerRequest, scope: str | None, now: float) -> Reply | None:
        """Return None where the request may go on, else what is asked of it."""
        if self.auth is None:
            return None
        given = request.get("authorization") or ""
        if isinstance(self.auth, Basic):
            if _is_login(given, self.auth.username, self.auth.secret):
                return None
            return _error(
                401, "UNAUTHORIZED", "a login is needed", ("WWW-Authenticate", f'Basic realm="{self.auth.realm}"')
            )
        kind, _, token = given.partition(" ")
        expires_at, scopes = self._tokens.get(token, (0.0, frozenset[str]()))
        valid = kind.lower() == "bearer" and now < expires_at
        if valid and (scope is None or scope in scopes):
            return None
        host = request.get("host") or ""
        base = f"{self._scheme}://{host}" if HOST.fullmatch(host) else ""
        challenge = f'Bearer realm="{base}/token",service="{self.auth.service}"'
        challenge += f',scope="{scope}"' if scope else ""
        if given:
            challenge += ',error="insufficient_scope"' if valid else ',error="invalid_token"'
        return _error(401, "UNAUTHORIZED", "a token is needed", ("WWW-Authenticate", challenge))

    def _token(self, request: ServerRequest, auth: Token, now: float) -> Reply:
        """Change a login into a token (distribution's token protocol, the GET form)."""
        if request.method != "GET":
            return _error(405, "UNSUPPORTED", "tokens are asked for by GET", ("Allow", "GET"))
        if not _is_login(request.get("authorization") or "", auth.username, auth.secret):
            return _error(401, "UNAUTHORIZED", "a login is needed", ("WWW-Authenticate", 'Basic realm="token"'))
        if request.parameter("service") != auth.service:
            return _error(400, "DENIED", f"expected service={auth.service}")
        asked = [scope for name, value in request.query if name == "scope" for scope in value.split(" ") if scope]
        granted = [scope for text in asked if (scope := _granted(text)) is not None]
        token = self._entropy.token(24)
        self._tokens = {known: kept for known, kept in self._tokens.items() if kept[0] > now}
        while len(self._tokens) >= TOKENS:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[token] = (now + TOKEN_SECONDS, frozenset(granted))
        return Reply(200, _JSON, json.dumps({"token": token, "expires_in": int(TOKEN_SECONDS)}).encode())

    # ── content ────────────────────────────────────────────────────────────────
    def _in_repository(
        self, request: ServerRequest, name: Sequence[str], now: float, answer: Callable[[ServerRequest, str], Reply]
    ) -> Reply:
        full = "/".join(name)
        if not NAME.fullmatch(full):
            return _error(400, "NAME_INVALID", "expected a repository name")
        refused = self._login(request, f"repository:{full}:pull", now)
        if refused is not None:
            return refused
        if full not in self.images:
            return _error(404, "NAME_UNKNOWN", "there is no such repository")
        return answer(request, full)

    def _names(self, request: ServerRequest) -> Reply:
        return self._page(request, "repositories", sorted(self.images), {})

    def _tags(self, request: ServerRequest, name: str) -> Reply:
        return self._page(request, "tags", sorted(self.images[name].tags), {"name": name})

    def _page(self, request: ServerRequest, key: str, items: list[str], beside: dict[str, str]) -> Reply:
        """Return one page, in order of names, with a Link to the next while there is one."""
        wanted = request.parameter("n")
        if wanted is not None and (not wanted.isascii() or not wanted.isdigit() or len(wanted) > 9):
            return _error(400, "PAGINATION_NUMBER_INVALID", "expected a number")
        size = min(int(wanted), self._page_size) if wanted is not None else self._page_size
        last = request.parameter("last")
        rest = [item for item in items if last is None or item > last]
        page = rest[:size]
        headers = list(_JSON)
        if page and len(rest) > len(page):
            headers.append(("Link", f'<{request.path}?last={quote(page[-1], safe="")}&n={size}>; rel="next"'))
        return Reply(200, tuple(headers), json.dumps({**beside, key: page}).encode())

    def _manifest(self, request: ServerRequest, name: str, reference: str) -> Reply:
        repository = self.images[name]
        if ":" in reference:
            if not DIGEST.fullmatch(reference):
                return _error(400, "DIGEST_INVALID", "expected a sha256 digest")
            digest: str | None = reference
        elif not TAG.fullmatch(reference):
            return _error(400, "TAG_INVALID", "expected a tag")
        else:
            digest = repository.tags.get(reference)
        stored = repository.manifests.get(digest) if digest is not None else None
        if digest is None or stored is None:
            return _error(404, "MANIFEST_UNKNOWN", "there is no such manifest")
        headers = (("Content-Type", stored.media_type), ("Docker-Content-Digest", digest), ("ETag", f'"{digest}"'))
        if request.get("if-none-match") in (f'"{digest}"', digest):
            return Reply(304, headers, stored.data)
        return Reply(200, headers, stored.data)

    def _blob(self, request: ServerRequest, name: str, digest: str) -> Reply:
        if not DIGEST.fullmatch(digest):
            return _error(400, "DIGEST_INVALID", "expected a sha256 digest")
        data = self.images[name].blobs.get(digest)
        if data is None:
            return _error(404, "BLOB_UNKNOWN", "there is no such blob")
        headers = (
            ("Content-Type", "application/octet-stream"),
            ("Docker-Content-Digest", digest),
            ("Accept-Ranges", "bytes"),
            ("ETag", f'"{digest}"'),
        )
        match = RANGE.fullmatch(request.get("range") or "")
        other = request.get("if-range") not in (None, f'"{digest}"')
        if match is None or other or not match[1] + match[2] or request.method == "HEAD":
            return Reply(200, headers, data)
        return _ranged(data, match[1], match[2], headers)


def _ranged(data: bytes, first: str, last: str, headers: tuple[tuple[str, str], ...]) -> Reply:
    """Return the part of a blob that one byte range names (RFC 9110 §14.1.2)."""
    size = len(data)
    if first and last and int(last) < int(first):
        return Reply(200, headers, data)
    begin = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    if begin >= size:
        return Reply(416, (*headers, ("Content-Range", f"bytes */{size}")))
    return Reply(206, (*headers, ("Content-Range", f"bytes {begin}-{end - 1}/{size}")), data[begin:end])


def _granted(scope: str) -> str | None:
    """Return the scope that a token gets where it asked for this one: pulling and listing, nothing else."""
    match = SCOPE.fullmatch(scope)
    if match is None:
        return None
    actions = set((match[2] or match[3]).split(","))
    if match[1] is None:
        return "registry:catalog:*" if "*" in actions else None
    return f"repository:{match[1]}:pull" if actions & {"pull", "*"} else None


def _is_login(header: str, username: str, secret: Secret) -> bool:
    kind, _, encoded = header.partition(" ")
    if kind.lower() != "basic":
        return False
    try:
        name, colon, given = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:
        return False
    return bool(colon) and name == username and Secret(given) == secret


_JSON: Final = (("Content-Type", "application/json"), ("Docker-Distribution-Api-Version", "registry/2.0"))


def _error(status: int, code: str, message: str, *headers: tuple[str, str]) -> Reply:
    body = json.dumps({"errors": [{"code": code, "message": message, "detail": None}]}).encode()
    return Reply(status, (*_JSON, *headers), body)


@asynccontextmanager
async def running(
    registry: DemoRegistry,
    open_pump: Open,
    listener: Listener | None = None,
    on_reply: Callable[[ServerRequest, Reply], None] | None = None,
) -> AsyncIterator[str]:
    """Serve the registry while the block lasts; gives its `host:port`. `open_pump` is that of the loop's driver."""
    listener = listener or Listener()
    async with open_pump(Face(), listeners={"registry": listener}) as pump, anyio.create_task_group() as tasks:

        async def answer_all() -> None:
            async for event in pump.events:
                if isinstance(event, Asked):
                    reply = registry.reply(event.request, anyio.current_time())
                    pump.tell(Answer(event.exchange, reply.status, reply.headers, reply.body))
                    if on_reply is not None:
                        on_reply(event.request, reply)

        tasks.start_soon(answer_all)
        yield f"{listener.host}:{pump.ports['registry']}"
        tasks.cancel_scope.cancel()
