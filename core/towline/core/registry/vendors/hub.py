"""Docker Hub's own listing: its catalogue is closed, so repositories are listed namespace by namespace.

Source:  Docker Hub API reference; registries-a.md §1
"""

from __future__ import annotations

import msgspec

from towline.core._errors import RemoteProtocolError
from towline.core._json import typed_json
from towline.core._script import HeaderList, Request, Step, clock
from towline.core._secret import Secret
from towline.core.http import redacted
from towline.core.registry._failure import failure
from towline.core.registry._listing import is_tag_name
from towline.core.registry._moment import seconds_since_1970
from towline.core.registry._pages import Collected, Details, Listing, TagDetail, Wanted, gather
from towline.core.registry._reference import check_repository, is_repository
from towline.core.registry._send import Reply, Want, send
from towline.core.registry._session import Registry, TokenKey
from towline.core.registry._token import Credentials
from towline.core.registry.vendors._api import Page, api_url, namespaces_of, walk, walk_each

# The Hub does not say how long its tokens live; five minutes is what its registry's tokens live.
_TOKEN_LIFETIME = 300.0


class _Repository(msgspec.Struct):
    name: str
    namespace: str
    repository_type: str | None = None


class _Page(msgspec.Struct):
    results: list[_Repository]
    next: str | None = None


class _Tag(msgspec.Struct):
    name: str
    digest: str | None = None
    full_size: int | None = None
    tag_last_pushed: str | None = None
    media_type: str | None = None


class _Tags(msgspec.Struct):
    results: list[_Tag]
    next: str | None = None


class _Login(msgspec.Struct):
    access_token: str


def list_repositories(registry: Registry, wanted: Wanted) -> Step[Listing]:
    """List the repositories of the configured namespaces, or of the user's own.

    Raises:  catalog-unsupported when no namespace is known
    """
    namespaces = namespaces_of(registry)
    n = registry.page_size(wanted.page_size)

    # A namespace is the first component of a repository's name, and checked as one.
    paths = [f"v2/namespaces/{check_repository(name.lower())}/repositories" for name in namespaces]
    firsts = [api_url(registry, path, f"page_size={n}" if n else None) for path in paths]

    def walk_all(collected: Collected) -> Step[None]:
        headers = yield from _login(registry)
        yield from walk_each(registry, firsts, headers, _read_page, collected)

    return (yield from gather(registry, "catalogue", is_repository, wanted, walk_all)).listing()


def list_details(registry: Registry, repository: str, wanted: Wanted) -> Step[Details]:
    """List the tags by the Hub's API, with digest, size and time of the push; it does not count as a pull."""
    namespace, _, name = repository.partition("/")
    n = registry.page_size(wanted.page_size)
    first = api_url(registry, f"v2/namespaces/{namespace}/repositories/{name}/tags", f"page_size={n}" if n else None)

    def walk_all(collected: Collected) -> Step[None]:
        headers = yield from _login(registry)
        yield from walk(registry, first, headers, _read_tags, collected)

    return (yield from gather(registry, "tags", is_tag_name, wanted, walk_all)).details()


def _read_tags(reply: Reply) -> Page:
    page = typed_json(reply.body, _Tags, f"page {redacted(reply.url)}")
    details = [
        TagDetail(tag.name, tag.digest, seconds_since_1970(tag.tag_last_pushed), tag.full_size, tag.media_type)
        for tag in page.results
    ]
    return Page(details, page.next or None)


def _read_page(reply: Reply) -> Page:
    page = typed_json(reply.body, _Page, f"page {redacted(reply.url)}")
    images = [found for found in page.results if found.repository_type in (None, "image")]
    return Page([f"{found.namespace}/{found.name}" for found in images], page.next or None)


def _login(registry: Registry) -> Step[HeaderList]:
    accept = ("accept", "application/json")
    who = registry.credentials
    if who is None:
        return (accept,)
    registry.check_not_refused()
    url = api_url(registry, "v2/auth/token")
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
