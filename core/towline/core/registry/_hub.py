"""Docker Hub's own listing: its catalogue is closed, so repositories are listed namespace by namespace.

Source:  Docker Hub API reference; registries-a.md §1
"""

from __future__ import annotations

from typing import Any

import msgspec

from towline.core._errors import RemoteProtocolError, TowlineError
from towline.core._json import typed_json
from towline.core._script import HeaderList, Request, Step, clock
from towline.core._secret import Secret
from towline.core.http import Url, redacted
from towline.core.registry._failure import failure
from towline.core.registry._link import follow_link
from towline.core.registry._pages import Collected, Listing
from towline.core.registry._reference import check_repository, is_path
from towline.core.registry._send import Want, send
from towline.core.registry._session import Registry, TokenKey
from towline.core.registry._token import Credentials

# The Hub does not say how long its tokens live; five minutes is what its registry's tokens live.
_TOKEN_LIFETIME = 300.0
_PAGE_SIZE_MOST = 100


class _Repository(msgspec.Struct):
    name: str
    namespace: str
    repository_type: str | None = None


class _Page(msgspec.Struct):
    results: list[_Repository]
    next: str | None = None


class _Login(msgspec.Struct):
    access_token: str


def list_hub_repositories(
    registry: Registry, *, page_size: int | None, limit: int | None, partial: bool
) -> Step[Listing]:
    """List the repositories of the configured namespaces, or of the user's own.

    Raises:  catalog-unsupported when no namespace is known
    """
    namespaces = registry.namespaces or ((registry.username,) if registry.username else ())
    if not namespaces:
        raise RemoteProtocolError(
            "catalog-unsupported",
            "expected a namespace to list, got none: Docker Hub has no catalogue",
            hint=registry.dialect.catalogue_hint,
        )
    n = min(registry.dialect.page_size if page_size is None else page_size, _PAGE_SIZE_MOST)
    collected = Collected("catalogue", lambda item: isinstance(item, str) and is_path(item), limit, registry.limits)
    try:
        headers = yield from _login(registry)
        for namespace in namespaces:
            yield from _list_namespace(registry, namespace, n, headers, collected)
            if collected.full:
                break
    except TowlineError as error:
        if not partial or not collected.pages:
            raise
        return collected.cut_short(error)
    return collected.listing()


def _list_namespace(
    registry: Registry, namespace: str, n: int, headers: HeaderList, collected: Collected
) -> Step[None]:
    # A namespace is the first component of a repository's name, and checked as one.
    path = f"v2/namespaces/{check_repository(namespace.lower())}/repositories"
    url: Url | None = _api(registry, path, f"page_size={n}" if n else None)
    want = Want(registry.limits.list_page, "list-limit")
    while url is not None:
        reply = yield from send(registry, Request("GET", str(url), headers), want)
        if reply.status != 200:
            raise failure(registry, "api", "GET", reply.head, reply.url, reply.body)
        page = typed_json(reply.body, _Page, f"page {redacted(url)}")
        images = [found for found in page.results if found.repository_type in (None, "image")]
        names: list[Any] = [f"{found.namespace}/{found.name}" for found in images]
        collected.add(names, url)
        url = follow_link(url, page.next) if page.next else None
        collected.check_next(url)
        if collected.full:
            return


def _login(registry: Registry) -> Step[HeaderList]:
    accept = ("accept", "application/json")
    who = registry.credentials
    if who is None:
        return (accept,)
    registry.check_not_refused()
    url = _api(registry, "v2/auth/token")
    key = TokenKey(str(url), "hub", (), who.username)
    now = yield from clock()
    shown = registry.cached(key, now)
    if shown is None:
        headers = (accept, ("content-type", "application/json"))
        request = Request("POST", str(url), headers, _login_body(who))
        reply = yield from send(registry, request, Want(registry.limits.registry_token_answer))
        if reply.status != 200:
            error = failure(registry, "token", "POST", reply.head, reply.url, reply.body)
            raise registry.refuse(error) if reply.status == 401 else error
        token = typed_json(reply.body, _Login, "login answer").access_token
        if not token or not all("!" <= char <= "~" for char in token):
            raise RemoteProtocolError("protocol-error", "expected a token of visible characters in the login answer")
        shown = registry.keep(key, Secret(token), _TOKEN_LIFETIME, now)
    return (accept, ("authorization", shown.header))


def _login_body(who: Credentials) -> bytes:
    return msgspec.json.encode({"identifier": who.username, "secret": who.secret.reveal()})


def _api(registry: Registry, path: str, query: str | None = None) -> Url:
    base = Url.parse(registry.dialect.api or "")
    return Url(base.scheme, base.host, base.port, f"/{path}", query)
