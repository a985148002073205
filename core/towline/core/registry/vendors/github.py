"""GitHub's packages API: its registry has no catalogue.

Source:  GitHub REST documentation, "Packages"; registries-a.md §2
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from towline.core._errors import RemoteProtocolError
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
from towline.core.registry.vendors._api import Page, ReadPage, api_url, items_a_page, linked, namespaces_of, walk

_OWNERS = ("orgs", "users")


class _Owner(msgspec.Struct):
    login: str


class _Package(msgspec.Struct):
    name: str
    owner: _Owner


class _Container(msgspec.Struct):
    tags: list[str] = []


class _Metadata(msgspec.Struct):
    container: _Container = msgspec.field(default_factory=_Container)


class _Version(msgspec.Struct):
    name: str
    created_at: str | None = None
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


def list_repositories(registry: Registry, wanted: Wanted) -> Step[Listing]:
    """List the container packages of the configured organisations and users, or of the login's own user.

    Raises:  catalog-unsupported when no namespace is known
    """
    names = namespaces_of(registry)
    n = items_a_page(registry, wanted)
    query = f"package_type=container&per_page={n}"

    def walk_all(collected: Collected) -> Step[None]:
        for name in names:
            yield from _of_owner(registry, quote(name, safe=""), "packages", query, collected, _read_packages)
            if collected.full:
                return

    return (yield from gather(registry, "catalogue", is_repository, wanted, walk_all)).listing()


def list_details(registry: Registry, repository: str, wanted: Wanted) -> Step[Details]:
    """List the tags of a package by its versions, with the time each was published."""
    owner, _, package = repository.partition("/")
    path = f"packages/container/{quote(package, safe='')}/versions"
    n = items_a_page(registry, wanted)

    def walk_all(collected: Collected) -> Step[None]:
        yield from _of_owner(registry, quote(owner, safe=""), path, f"per_page={n}", collected, _read_versions)

    return (yield from gather(registry, "tags", is_tag_name, wanted, walk_all)).details()


def _of_owner(
    registry: Registry, owner: str, path: str, query: str, collected: Collected, read: ReadPage
) -> Step[None]:
    """Ask for an organisation, and for a user where there is none of that name."""
    for kind in _OWNERS:
        pages = collected.pages
        try:
            yield from walk(
                registry, api_url(registry, f"{kind}/{owner}/{path}", query), _headers(registry), read, collected
            )
        except RemoteProtocolError as error:
            if error.registry_status != 404 or kind == _OWNERS[-1] or collected.pages > pages:
                raise
        else:
            return


def _headers(registry: Registry) -> HeaderList:
    headers: HeaderList = (("accept", "application/vnd.github+json"), ("x-github-api-version", "2022-11-28"))
    if registry.credentials is None:
        return headers
    return (*headers, ("authorization", Secret("Bearer " + registry.credentials.secret.reveal())))


def _read_packages(reply: Reply) -> Page:
    packages = typed_json(reply.body, list[_Package], f"page {redacted(reply.url)}")
    # The API keeps the case of names, the registry has none but lower case.
    return Page([f"{found.owner.login}/{found.name}".lower() for found in packages], linked(reply))


def _read_versions(reply: Reply) -> Page:
    versions = typed_json(reply.body, list[_Version], f"page {redacted(reply.url)}")
    details = [
        TagDetail(tag, version.name, seconds_since_1970(version.created_at))
        for version in versions
        for tag in version.metadata.container.tags
    ]
    return Page(details, linked(reply))
