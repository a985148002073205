"""Catalogue and tags: pages that are followed to their end, and lists that know whether they are complete.

A list that was cut short must never look like a whole one. By default anything that stops the walk is an
error; with `partial=True` a walk that has at least one good page ends with what it has, `complete=False`
and the reason among the warnings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from towline.core._contract import Record
from towline.core._json import typed_json
from towline.core._script import Step
from towline.core.http import Url, redacted
from towline.core.registry._access import Ask, ask
from towline.core.registry._digest import is_digest
from towline.core.registry._failure import What, failure
from towline.core.registry._link import next_page
from towline.core.registry._pages import Collected, Listing, Wanted, gather
from towline.core.registry._reference import is_repository, is_tag
from towline.core.registry._send import Reply, Want
from towline.core.registry._session import Registry


class _CataloguePage(msgspec.Struct):
    repositories: list[Any] | None = None


class _TagsPage(msgspec.Struct):
    tags: list[Any] | None = None


class _Walk(Record, frozen=True):
    """What one list of the protocol is: where it begins, what it takes, how its pages read."""

    what: What
    path: str
    need: str | None
    items: Callable[[bytes, str], list[Any]]
    is_item: Callable[[object], bool]


def list_repositories(
    registry: Registry,
    *,
    page_size: int | None = None,
    limit: int | None = None,
    partial: bool = False,
    via: Literal["", "registry", "api"] = "",
) -> Step[Listing]:
    """List the repositories, by the catalogue or by the vendor's own listing; the arguments are `Wanted`'s.

    Raises:  catalog-unsupported, and what a request raises; with `partial`, only before the first good page
    """
    wanted = Wanted(page_size, limit, partial, via)
    own = registry.dialect.repositories
    if own is None or via == "registry":
        return (yield from walk_catalogue(registry, wanted))
    return (yield from own(registry, wanted))


def list_tags(
    registry: Registry,
    repository: str,
    *,
    page_size: int | None = None,
    limit: int | None = None,
    partial: bool = False,
    via: Literal["", "registry", "api"] = "",
) -> Step[Listing]:
    """List the tags of a repository. The order is the registry's and means nothing."""
    return (yield from tags_as_wanted(registry, repository, Wanted(page_size, limit, partial, via)))


def tags_as_wanted(registry: Registry, repository: str, wanted: Wanted) -> Step[Listing]:
    """List the tags by the protocol, or by the type's own way."""
    own = registry.dialect.tags
    if own is None or wanted.via == "registry":
        return (yield from walk_tags(registry, repository, wanted))
    return (yield from own(registry, registry.repository(repository), wanted))


def walk_catalogue(registry: Registry, wanted: Wanted, need: str | None = "registry:catalog:*") -> Step[Listing]:
    """List the repositories by `/v2/_catalog`, which is no part of the OCI specification.

    Where the base's path is a namespace, what is not below it is left out.
    """
    within = registry.base.path.strip("/") if registry.dialect.base_path == "namespace" else ""

    def items(body: bytes, where: str) -> list[Any]:
        names = typed_json(body, _CataloguePage, f"catalogue page {where}").repositories or []
        return [name for name in names if not within or str(name).startswith(f"{within}/")]

    walk = _Walk("catalogue", registry.dialect.catalogue, need, items, is_repository)
    return (yield from _pages(registry, walk, wanted)).listing()


def walk_tags(registry: Registry, repository: str, wanted: Wanted) -> Step[Listing]:
    """List the tags of a repository by the protocol."""
    return (yield from collect_tags(registry, repository, wanted, _tags)).listing()


def collect_tags(
    registry: Registry, repository: str, wanted: Wanted, items: Callable[[bytes, str], list[Any]]
) -> Step[Collected]:
    """Walk over the protocol's pages of tags; `items` reads a page's body and where it came from."""
    name = registry.repository(repository)
    return (yield from collect(registry, f"v2/{name}/tags/list", f"repository:{name}:pull", wanted, items))


def collect(
    registry: Registry, path: str, need: str, wanted: Wanted, items: Callable[[bytes, str], list[Any]]
) -> Step[Collected]:
    """Walk over pages of tags at a path of the registry's own."""
    return (yield from _pages(registry, _Walk("tags", path, need, items, is_tag_name), wanted))


def _pages(registry: Registry, walk: _Walk, wanted: Wanted) -> Step[Collected]:
    return (yield from gather(registry, walk.what, walk.is_item, wanted, lambda to: _walk(registry, walk, wanted, to)))


def _walk(registry: Registry, walk: _Walk, wanted: Wanted, collected: Collected) -> Step[None]:
    n = registry.page_size(wanted.page_size)
    url: Url | None = registry.at(walk.path, f"n={n}" if n else None)
    links = False
    while url is not None:
        reply = yield from ask(registry, Ask(walk.what, url, walk.need, Want(registry.limits.list_page, "list-limit")))
        if _page_too_large(registry, reply) and n > 1 and not collected.pages:
            n //= 2
            url = registry.at(walk.path, f"n={n}")
            continue
        if reply.status != 200:
            raise failure(registry, walk.what, "GET", reply.head, reply.url, reply.body)
        page = walk.items(reply.body, redacted(url))
        fresh = collected.add(page, url)
        linked = next_page(url, reply.head.all("link"), registry.limits, query_only=registry.dialect.link == "query")
        if linked is not None and linked.path != url.path == registry.base.path + linked.path:
            # A proxy took the base's path off the request, so the registry's link is without it.
            linked = Url(linked.scheme, linked.host, linked.port, url.path, linked.query)
        links |= linked is not None
        # A server that links its pages ends the list by not linking; others are asked by the last item.
        url = linked if links else _after_last(registry, walk, page, fresh, n)
        collected.check_next(url)
        if collected.full:
            return


def _after_last(registry: Registry, walk: _Walk, page: list[Any], fresh: int, n: int) -> Url | None:
    # A full page may have a successor; one that brings nothing new has none.
    last = page[-1] if page else None
    if not n or len(page) != n or not fresh or not isinstance(last, str) or not walk.is_item(last):
        return None
    return registry.at(walk.path, f"n={n}&last={quote(last, safe='')}")


def _page_too_large(registry: Registry, reply: Reply) -> bool:
    if reply.status != 400:
        return False
    report = failure(registry, "api", "GET", reply.head, reply.url, reply.body)
    return report.registry_code == "PAGINATION_NUMBER_INVALID"


def _tags(body: bytes, where: str) -> list[Any]:
    return typed_json(body, _TagsPage, f"tags page {where}").tags or []


def is_tag_name(item: object) -> bool:
    """Tell whether an item of a list is a tag: a digest is none even where its colon would not betray it."""
    return isinstance(item, str) and is_tag(item) and not is_digest(item)
