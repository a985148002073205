"""Catalogue and tags: pages that are followed to their end, and lists that know whether they are complete.

A list that was cut short must never look like a whole one. By default anything that stops the walk is an
error; with `partial=True` a walk that has at least one good page ends with what it has, `complete=False`
and the reason among the warnings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec

from towline.core._contract import Record
from towline.core._errors import TowlineError
from towline.core._json import typed_json
from towline.core._script import Step
from towline.core.http import Url, redacted
from towline.core.registry._access import Ask, ask
from towline.core.registry._digest import is_digest
from towline.core.registry._failure import What, failure
from towline.core.registry._hub import list_hub_repositories
from towline.core.registry._link import next_page
from towline.core.registry._pages import Collected, Listing
from towline.core.registry._reference import LONGEST_PATH, is_path, is_tag
from towline.core.registry._send import Reply, Want
from towline.core.registry._session import Registry


class _CataloguePage(msgspec.Struct):
    repositories: list[Any] | None = None


class _TagsPage(msgspec.Struct):
    tags: list[Any] | None = None


class _Walk(Record, frozen=True):
    """What one listing is: where it begins, what it takes, how its pages read."""

    what: What
    path: str
    need: str
    items: Callable[[bytes, str], list[Any]]
    is_item: Callable[[object], bool]


def list_repositories(
    registry: Registry, *, page_size: int | None = None, limit: int | None = None, partial: bool = False
) -> Step[Listing]:
    """List the repositories, by the catalogue or by the vendor's own listing.

    `page_size` is None for the dialect's own, 0 to send none. `limit` stops the walk at so many items.
    Raises:  catalog-unsupported, and what a request raises; with `partial`, only before the first good page
    """
    if registry.dialect.catalogue == "docker-hub":
        return (yield from list_hub_repositories(registry, page_size=page_size, limit=limit, partial=partial))
    return (yield from list_catalogue(registry, page_size=page_size, limit=limit, partial=partial))


def list_catalogue(
    registry: Registry, *, page_size: int | None = None, limit: int | None = None, partial: bool = False
) -> Step[Listing]:
    """List the repositories by `/v2/_catalog`, which is no part of the OCI specification."""
    walk = _Walk("catalogue", "_catalog", "registry:catalog:*", _repositories, _is_repository)
    return (yield from _pages(registry, walk, page_size, limit, partial))


def list_tags(
    registry: Registry,
    repository: str,
    *,
    page_size: int | None = None,
    limit: int | None = None,
    partial: bool = False,
) -> Step[Listing]:
    """List the tags of a repository. The order is the registry's and means nothing."""
    name = registry.repository(repository)
    walk = _Walk("tags", f"{name}/tags/list", f"repository:{name}:pull", _tags, _is_tag)
    return (yield from _pages(registry, walk, page_size, limit, partial))


def _pages(registry: Registry, walk: _Walk, page_size: int | None, limit: int | None, partial: bool) -> Step[Listing]:
    n = registry.dialect.page_size if page_size is None else page_size
    n = min(n, registry.limits.list_page_items)
    collected = Collected(walk.what, walk.is_item, limit, registry.limits)
    url: Url | None = registry.url(walk.path, f"n={n}" if n else None)
    links = False
    try:
        while url is not None:
            reply = yield from ask(
                registry, Ask(walk.what, url, walk.need, Want(registry.limits.list_page, "list-limit"))
            )
            if _page_too_large(registry, reply) and n > 1 and not collected.pages:
                n //= 2
                url = registry.url(walk.path, f"n={n}")
                continue
            if reply.status != 200:
                raise failure(registry, walk.what, "GET", reply.head, reply.url, reply.body)
            page = walk.items(reply.body, redacted(url))
            fresh = collected.add(page, url)
            linked = next_page(url, reply.head.all("link"), registry.limits)
            links |= linked is not None
            # A server that links its pages ends the list by not linking; others are asked by the last item.
            url = linked if links else _after_last(registry, walk, page, fresh, n)
            collected.check_next(url)
            if collected.full:
                break
    except TowlineError as error:
        if not partial or not collected.pages:
            raise
        return collected.cut_short(error)
    return collected.listing()


def _after_last(registry: Registry, walk: _Walk, page: list[Any], fresh: int, n: int) -> Url | None:
    # A full page may have a successor; one that brings nothing new has none.
    last = page[-1] if page else None
    if not n or len(page) != n or not fresh or not isinstance(last, str) or not walk.is_item(last):
        return None
    return registry.url(walk.path, f"n={n}&last={quote(last, safe='')}")


def _page_too_large(registry: Registry, reply: Reply) -> bool:
    if reply.status != 400:
        return False
    report = failure(registry, "api", "GET", reply.head, reply.url, reply.body)
    return report.registry_code == "PAGINATION_NUMBER_INVALID"


def _repositories(body: bytes, where: str) -> list[Any]:
    return typed_json(body, _CataloguePage, f"catalogue page {where}").repositories or []


def _tags(body: bytes, where: str) -> list[Any]:
    return typed_json(body, _TagsPage, f"tags page {where}").tags or []


def _is_repository(item: object) -> bool:
    return isinstance(item, str) and 0 < len(item) <= LONGEST_PATH and is_path(item)


def _is_tag(item: object) -> bool:
    # A digest is no tag even where its colon would not betray it; Nexus lists some.
    return isinstance(item, str) and is_tag(item) and not is_digest(item)
