"""DigitalOcean's API: registries, their repositories and tags.

Source:  DigitalOcean's API reference, "Container Registries"; registries-a.md §6
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from towline.core._json import typed_json
from towline.core._script import HeaderList, Step
from towline.core._secret import Secret
from towline.core.http import redacted
from towline.core.registry._listing import is_tag_name
from towline.core.registry._moment import seconds_since_1970
from towline.core.registry._pages import Collected, Details, Listing, TagDetail, Wanted, gather
from towline.core.registry._reference import is_repository
from towline.core.registry._send import Reply
from towline.core.registry._session import Registry
from towline.core.registry.vendors._api import Page, api_url, get, items_a_page, walk, walk_each


class _Pages(msgspec.Struct):
    next: str | None = None


class _Links(msgspec.Struct):
    pages: _Pages = msgspec.field(default_factory=_Pages)


class _Repository(msgspec.Struct):
    registry_name: str
    name: str


class _Repositories(msgspec.Struct):
    repositories: list[_Repository] | None = None
    links: _Links = msgspec.field(default_factory=_Links)


class _Tag(msgspec.Struct):
    tag: str
    manifest_digest: str | None = None
    compressed_size_bytes: int | None = None
    updated_at: str | None = None


class _Tags(msgspec.Struct):
    tags: list[_Tag] | None = None
    links: _Links = msgspec.field(default_factory=_Links)


class _Name(msgspec.Struct):
    name: str


class _Registries(msgspec.Struct):
    registries: list[_Name] | None = None


def list_repositories(registry: Registry, wanted: Wanted) -> Step[Listing]:
    """List the repositories of the configured registries, or of all that the account has."""
    n = items_a_page(registry, wanted)

    def walk_all(collected: Collected) -> Step[None]:
        names = registry.namespaces or (yield from _registries(registry))
        paths = [f"v2/registries/{quote(name, safe='')}/repositoriesV2" for name in names]
        firsts = [api_url(registry, path, f"per_page={n}") for path in paths]
        yield from walk_each(registry, firsts, _headers(registry), _read_repositories, collected)

    return (yield from gather(registry, "catalogue", is_repository, wanted, walk_all)).listing()


def list_details(registry: Registry, repository: str, wanted: Wanted) -> Step[Details]:
    """List the tags by the API, with digest, size and time."""
    of, _, name = repository.partition("/")
    n = items_a_page(registry, wanted)
    first = api_url(registry, f"v2/registries/{of}/repositories/{quote(name, safe='')}/tags", f"per_page={n}")

    def walk_all(collected: Collected) -> Step[None]:
        yield from walk(registry, first, _headers(registry), _read_tags, collected)

    return (yield from gather(registry, "tags", is_tag_name, wanted, walk_all)).details()


def _registries(registry: Registry) -> Step[tuple[str, ...]]:
    reply = yield from get(registry, api_url(registry, "v2/registries"), _headers(registry))
    found = typed_json(reply.body, _Registries, f"page {redacted(reply.url)}").registries or []
    return tuple(it.name for it in found)


def _headers(registry: Registry) -> HeaderList:
    headers: HeaderList = (("accept", "application/json"),)
    if registry.credentials is None:
        return headers
    return (*headers, ("authorization", Secret("Bearer " + registry.credentials.secret.reveal())))


def _read_repositories(reply: Reply) -> Page:
    page = typed_json(reply.body, _Repositories, f"page {redacted(reply.url)}")
    names = [f"{found.registry_name}/{found.name}" for found in page.repositories or ()]
    return Page(names, page.links.pages.next or None)


def _read_tags(reply: Reply) -> Page:
    page = typed_json(reply.body, _Tags, f"page {redacted(reply.url)}")
    details = [
        TagDetail(tag.tag, tag.manifest_digest, seconds_since_1970(tag.updated_at), tag.compressed_size_bytes)
        for tag in page.tags or ()
    ]
    return Page(details, page.links.pages.next or None)
