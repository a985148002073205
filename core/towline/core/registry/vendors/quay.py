"""Quay: a catalogue of what the login may see, and an API for OAuth tokens.

Source:  Quay's API reference and source; registries-a.md §4
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from towline.core._errors import RemoteProtocolError
from towline.core._json import typed_json
from towline.core._script import HeaderList, Step
from towline.core._secret import Secret
from towline.core.http import Url, redacted
from towline.core.registry._access import let_in
from towline.core.registry._details import look_into_each
from towline.core.registry._listing import is_tag_name, walk_catalogue
from towline.core.registry._pages import Collected, Details, Listing, TagDetail, Wanted, gather
from towline.core.registry._reference import is_repository
from towline.core.registry._send import Reply
from towline.core.registry._session import Registry
from towline.core.registry.vendors._api import Page, items_a_page, namespaces_of, walk, walk_each

OAUTH_USER = "$oauthtoken"


class _Repository(msgspec.Struct):
    namespace: str
    name: str
    kind: str = "image"


class _Repositories(msgspec.Struct):
    repositories: list[_Repository]
    next_page: str | None = None


class _Tag(msgspec.Struct):
    name: str
    manifest_digest: str | None = None
    start_ts: int | None = None
    size: int | None = None
    is_manifest_list: bool | None = None


class _Tags(msgspec.Struct):
    tags: list[_Tag]
    has_additional: bool = False
    page: int = 1


def list_repositories(registry: Registry, wanted: Wanted) -> Step[Listing]:
    """List by the catalogue, or with an OAuth token by the API, namespace by namespace.

    The catalogue answers anybody, with what is public; so the login comes first.
    """
    if not _has_oauth(registry) or not registry.namespaces:
        yield from let_in(registry)
        return (yield from walk_catalogue(registry, wanted, need=None))
    names = namespaces_of(registry)

    def walk_all(collected: Collected) -> Step[None]:
        firsts = [_url(registry, "repository", f"namespace={quote(name, safe='')}") for name in names]
        yield from walk_each(registry, firsts, _headers(registry), _read_repositories, collected)

    return (yield from gather(registry, "catalogue", is_repository, wanted, walk_all)).listing()


def list_details(registry: Registry, repository: str, wanted: Wanted) -> Step[Details]:
    """List the tags by the API, which takes OAuth tokens only; else look into each."""
    if not _has_oauth(registry):
        return (yield from look_into_each(registry, repository, wanted))
    n = items_a_page(registry, wanted)
    first = _url(registry, f"repository/{repository}/tag/", f"limit={n}&page=1&onlyActiveTags=true")

    def walk_all(collected: Collected) -> Step[None]:
        yield from walk(registry, first, _headers(registry), _read_tags, collected)

    return (yield from gather(registry, "tags", is_tag_name, wanted, walk_all)).details()


def _has_oauth(registry: Registry) -> bool:
    return registry.credentials is not None and registry.credentials.username == OAUTH_USER


def _headers(registry: Registry) -> HeaderList:
    assert registry.credentials is not None
    token = Secret("Bearer " + registry.credentials.secret.reveal())
    return (("accept", "application/json"), ("authorization", token))


def _url(registry: Registry, path: str, query: str) -> Url:
    base = registry.base
    return Url(base.scheme, base.host, base.port, f"/api/v1/{path}", query)


def _read_repositories(reply: Reply) -> Page:
    page = typed_json(reply.body, _Repositories, f"page {redacted(reply.url)}")
    images = [f"{found.namespace}/{found.name}" for found in page.repositories if found.kind == "image"]
    return Page(images, _with(reply.url, "next_page", page.next_page) if page.next_page else None)


def _read_tags(reply: Reply) -> Page:
    page = typed_json(reply.body, _Tags, f"page {redacted(reply.url)}")
    details = [
        TagDetail(tag.name, tag.manifest_digest, None if tag.start_ts is None else float(tag.start_ts), tag.size)
        for tag in page.tags
    ]
    if page.has_additional and not 0 < page.page < 1_000_000:
        raise RemoteProtocolError("protocol-error", f"expected the number of a page from {redacted(reply.url)}")
    return Page(details, _with(reply.url, "page", str(page.page + 1)) if page.has_additional else None)


def _with(url: Url, name: str, value: str) -> Url:
    kept = [part for part in (url.query or "").split("&") if part and part.partition("=")[0] != name]
    return Url(url.scheme, url.host, url.port, url.path, "&".join([*kept, f"{name}={quote(value, safe='')}"]))
