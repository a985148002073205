"""Harbor's API: its catalogue is for administrators, and only with Basic.

Source:  Harbor's API description, v2.0; registries-a.md §5
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from towline.core._json import typed_json
from towline.core._script import HeaderList, Step
from towline.core.http import Url, redacted
from towline.core.registry._listing import is_tag_name
from towline.core.registry._moment import seconds_since_1970
from towline.core.registry._pages import Collected, Details, Listing, TagDetail, Wanted, gather
from towline.core.registry._reference import is_repository
from towline.core.registry._send import Reply
from towline.core.registry._session import Registry
from towline.core.registry.vendors._api import Page, items_a_page, linked, walk, walk_each


class _Repository(msgspec.Struct):
    name: str


class _Tag(msgspec.Struct):
    name: str
    push_time: str | None = None


class _Artifact(msgspec.Struct):
    digest: str
    size: int | None = None
    push_time: str | None = None
    manifest_media_type: str | None = None
    tags: list[_Tag] | None = None


def list_repositories(registry: Registry, wanted: Wanted) -> Step[Listing]:
    """List what the login may see, or the repositories of the configured projects."""
    paths = [f"projects/{quote(project, safe='')}/repositories" for project in registry.namespaces] or ["repositories"]
    query = _first_page(registry, wanted)

    def walk_all(collected: Collected) -> Step[None]:
        firsts = [_url(registry, path, query) for path in paths]
        yield from walk_each(registry, firsts, _headers(registry), _read_repositories, collected)

    return (yield from gather(registry, "catalogue", is_repository, wanted, walk_all)).listing()


def list_details(registry: Registry, repository: str, wanted: Wanted) -> Step[Details]:
    """List the tags by the repository's artifacts, with size and time of the push."""
    project, _, name = repository.partition("/")
    # A slash in a repository's name is encoded twice here, because the server decodes before it routes.
    path = f"projects/{project}/repositories/{quote(quote(name, safe=''), safe='')}/artifacts"
    first = _url(registry, path, f"{_first_page(registry, wanted)}&with_tag=true")

    def walk_all(collected: Collected) -> Step[None]:
        yield from walk(registry, first, _headers(registry), _read_artifacts, collected)

    return (yield from gather(registry, "tags", is_tag_name, wanted, walk_all)).details()


def _first_page(registry: Registry, wanted: Wanted) -> str:
    return f"page=1&page_size={items_a_page(registry, wanted)}"


def _headers(registry: Registry) -> HeaderList:
    # An anonymous call is answered, with what is public: so the login goes along at once.
    headers: HeaderList = (("accept", "application/json"),)
    return headers if registry.credentials is None else (*headers, ("authorization", registry.credentials.basic()))


def _url(registry: Registry, path: str, query: str) -> Url:
    base = registry.base
    return Url(base.scheme, base.host, base.port, f"{base.path}/api/v2.0/{path}", query)


def _read_repositories(reply: Reply) -> Page:
    found = typed_json(reply.body, list[_Repository], f"page {redacted(reply.url)}")
    return Page([repository.name for repository in found], linked(reply))


def _read_artifacts(reply: Reply) -> Page:
    details = [
        TagDetail(
            tag.name,
            artifact.digest,
            seconds_since_1970(tag.push_time or artifact.push_time),
            artifact.size,
            artifact.manifest_media_type,
        )
        for artifact in typed_json(reply.body, list[_Artifact], f"page {redacted(reply.url)}")
        for tag in artifact.tags or ()
    ]
    return Page(details, linked(reply))
