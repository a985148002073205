"""Artifactory: one host with many registries, each under a key.

Source:  JFrog documentation, "Docker Repository URL Formats", "List Docker Repositories"; registries-b.md §5
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from towline.core._errors import RemoteProtocolError
from towline.core._json import typed_json
from towline.core._script import HeaderList, Step
from towline.core.http import Url, redacted
from towline.core.registry._link import next_page
from towline.core.registry._listing import walk_catalogue
from towline.core.registry._pages import Collected, Listing, Wanted, gather
from towline.core.registry._reference import is_repository
from towline.core.registry._send import Reply
from towline.core.registry._session import Registry
from towline.core.registry.vendors._api import Page, ReadPage, get, walk

_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class _Key(msgspec.Struct):
    key: str
    type: str = ""


class _Catalogue(msgspec.Struct):
    repositories: list[str] | None = None


def list_repositories(registry: Registry, wanted: Wanted) -> Step[Listing]:
    """List by the catalogue, and where the host has none of its own, key by key."""
    try:
        return (yield from walk_catalogue(registry, wanted))
    except RemoteProtocolError as error:
        if error.kind != "catalog-unsupported" or registry.base.path:
            raise
    n = registry.page_size(wanted.page_size)

    def walk_all(collected: Collected) -> Step[None]:
        reply = yield from get(registry, _url(registry, "api/repositories", "packageType=docker"), _headers(registry))
        keys = [
            it for it in typed_json(reply.body, list[_Key], f"page {redacted(reply.url)}") if _KEY.fullmatch(it.key)
        ]
        for found in keys:
            first = _url(registry, f"api/docker/{found.key}/v2/_catalog", f"n={n}" if n else None)
            before = len(collected.items)
            yield from walk(registry, first, _headers(registry), _under(found.key), collected)
            if found.type.lower() == "remote" and len(collected.items) == before:
                # Many remote registries have no catalogue, and Artifactory then answers with an empty one.
                collected.complete = False
                collected.warnings.append(f"incomplete: the remote repository {found.key} lists nothing")
            if collected.full:
                return

    return (yield from gather(registry, "catalogue", is_repository, wanted, walk_all)).listing()


def _under(key: str) -> ReadPage:
    def read(reply: Reply) -> Page:
        names = typed_json(reply.body, _Catalogue, f"page {redacted(reply.url)}").repositories or []
        return Page([f"{key}/{name}" for name in names], next_page(reply.url, reply.head.all("link"), query_only=True))

    return read


def _headers(registry: Registry) -> HeaderList:
    headers: HeaderList = (("accept", "application/json"),)
    return headers if registry.credentials is None else (*headers, ("authorization", registry.credentials.basic()))


def _url(registry: Registry, path: str, query: str | None) -> Url:
    base = registry.base
    return Url(base.scheme, base.host, base.port, f"/artifactory/{path}", query)
