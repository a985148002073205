"""GitLab's API: only administrators may see the catalogue of its registry.

Source:  GitLab documentation, "Container registry API"; registries-a.md §3
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from towline.core._errors import RemoteProtocolError
from towline.core._json import typed_json
from towline.core._script import HeaderList, Request, Step
from towline.core.http import Url, redacted
from towline.core.registry._challenge import parse_challenges, select
from towline.core.registry._pages import Collected, Listing, Wanted, gather
from towline.core.registry._realm import realm_allowed
from towline.core.registry._reference import is_repository
from towline.core.registry._send import Reply, Want, send
from towline.core.registry._session import Registry
from towline.core.registry.vendors._api import Page, get, items_a_page, linked, walk_each

# A repository that is being deleted is none.
_GOING = ("delete_scheduled", "delete_ongoing")
# `/v2/` answers a challenge and a short text.
_PING_BODY = 64 * 1024


class _Repository(msgspec.Struct):
    path: str
    status: str | None = None


class _Project(msgspec.Struct):
    id: int
    container_registry_access_level: str | None = None


def list_repositories(registry: Registry, wanted: Wanted) -> Step[Listing]:
    """List the repositories of the configured groups and their subgroups, or of all projects of the login.

    Raises:  registry-unauthorized, registry-forbidden; invalid-configuration where GitLab's own address is unknown
    """
    n = items_a_page(registry, wanted)

    def walk_all(collected: Collected) -> Step[None]:
        base = yield from _api(registry)
        paths = [f"groups/{quote(group, safe='')}" for group in registry.namespaces]
        if not paths:
            paths = [f"projects/{number}" for number in (yield from _projects(registry, base))]
        firsts = [_url(base, f"{path}/registry/repositories", f"per_page={n}") for path in paths]
        yield from walk_each(registry, firsts, _headers(registry), _read_repositories, collected)

    return (yield from gather(registry, "catalogue", is_repository, wanted, walk_all)).listing()


def _projects(registry: Registry, base: Url) -> Step[list[int]]:
    """Return the numbers of the projects that the login is a member of."""
    url: Url | None = _url(base, "projects", f"membership=true&simple=true&per_page={registry.dialect.page_most}")
    numbers: list[int] = []
    pages = 0
    while url is not None:
        reply = yield from get(registry, url, _headers(registry))
        numbers += [found.id for found in typed_json(reply.body, list[_Project], f"page {redacted(url)}")]
        pages += 1
        if pages >= registry.limits.list_pages:
            raise RemoteProtocolError("list-limit", f"expected at most {pages} pages of projects, got more")
        url = linked(reply) or _by_number(reply)
    return numbers


def _api(registry: Registry) -> Step[Url]:
    """Return where GitLab is: configured, or the host of the token server that the registry names."""
    if registry.has_api:
        return registry.api
    reply = yield from send(registry, Request("GET", str(registry.url(""))), Want(_PING_BODY))
    challenge = select(parse_challenges(reply.head.all("www-authenticate"), registry.limits))
    realm = challenge.get("realm") if challenge is not None else ""
    if realm and realm_allowed(registry.base, realm, registry.allowed_realm_hosts).send_credentials:
        url = Url.parse(realm)
        return Url(url.scheme, url.host, url.port, "")
    # Says what is missing, and that it can be set.
    return registry.api


def _headers(registry: Registry) -> HeaderList:
    if registry.credentials is None:
        return (("accept", "application/json"),)
    return (("accept", "application/json"), ("private-token", registry.credentials.secret))


def _url(base: Url, path: str, query: str) -> Url:
    return Url(base.scheme, base.host, base.port, f"{base.path.rstrip('/')}/api/v4/{path}", query)


def _read_repositories(reply: Reply) -> Page:
    found: list[Any] = typed_json(reply.body, list[_Repository], f"page {redacted(reply.url)}")
    return Page([it.path for it in found if it.status not in _GOING], linked(reply) or _by_number(reply))


def _by_number(reply: Reply) -> Url | None:
    """Return the next page by `X-Next-Page`, which comes where `Link` does not."""
    number = (reply.head.get("x-next-page") or "").strip()
    if not number:
        return None
    if not (number.isascii() and number.isdigit() and len(number) <= 9):
        raise RemoteProtocolError("protocol-error", f"expected a number in X-Next-Page of {redacted(reply.url)}")
    kept = [part for part in (reply.url.query or "").split("&") if part and not part.startswith("page=")]
    return Url(reply.url.scheme, reply.url.host, reply.url.port, reply.url.path, "&".join([*kept, f"page={number}"]))
