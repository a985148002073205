"""Asking a vendor's own API, beside the registry: one request, and lists page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._script import HeaderList, Request, Step
from towline.core.http import Url
from towline.core.registry._failure import failure
from towline.core.registry._link import follow_link, next_page
from towline.core.registry._pages import Collected, Wanted
from towline.core.registry._send import Reply, Want, send
from towline.core.registry._session import Registry


class Page(Record, frozen=True):
    """What one page has, and where the next one is: None after the last, or a text as the page gives it."""

    items: list[Any]
    next: str | Url | None = None


ReadPage = Callable[[Reply], Page]


def get(registry: Registry, url: Url, headers: HeaderList) -> Step[Reply]:
    """GET from the vendor's API; a redirect to another origin is refused.

    Raises:  what `failure` makes of any status but 200, and what a request raises
    """
    reply = yield from send(registry, Request("GET", str(url), headers), Want(registry.limits.list_page, "list-limit"))
    if reply.status != 200:
        raise failure(registry, "api", "GET", reply.head, reply.url, reply.body)
    return reply


def walk_each(
    registry: Registry, firsts: Iterable[Url], headers: HeaderList, read: ReadPage, collected: Collected
) -> Step[None]:
    """Read several lists to their ends, or until there is as much as was wanted."""
    for first in firsts:
        yield from walk(registry, first, headers, read, collected)
        if collected.full:
            return


def walk(registry: Registry, first: Url, headers: HeaderList, read: ReadPage, collected: Collected) -> Step[None]:
    """Read a list to its end. The next page is on the same origin, whatever the page says.

    Raises:  BadLink, list-loop, list-limit, and what `get` raises
    """
    url: Url | None = first
    while url is not None:
        reply = yield from get(registry, url, headers)
        page = read(reply)
        collected.add(page.items, url)
        url = follow_link(url, page.next) if isinstance(page.next, str) else page.next
        collected.check_next(url)
        if collected.full:
            return


def items_a_page(registry: Registry, wanted: Wanted) -> int:
    """Return how many items to ask for, of an API that gives few where none are named."""
    return registry.page_size(wanted.page_size) or registry.dialect.page_most


def linked(reply: Reply) -> Url | None:
    """Return the next page by the answer's Link."""
    return next_page(reply.url, reply.head.all("link"))


def namespaces_of(registry: Registry) -> tuple[str, ...]:
    """Return the namespaces to list: the configured ones, or the user's own.

    Raises:  catalog-unsupported when none is known
    """
    if registry.namespaces:
        return registry.namespaces
    if registry.username:
        return (registry.username,)
    raise RemoteProtocolError(
        "catalog-unsupported",
        f"expected a namespace to list, got none: {registry.dialect.title} has no catalogue",
        hint=registry.dialect.catalogue_hint,
    )


def api_url(registry: Registry, path: str, query: str | None = None) -> Url:
    """Return an address of the vendor's API. Every part of `path` and `query` must have been checked or quoted."""
    base = registry.api
    return Url(base.scheme, base.host, base.port, f"{base.path.rstrip('/')}/{path}", query)
