"""Google's registries: a catalogue of a whole location, an API for one repository, tags that tell more.

Source:  Artifact Registry REST reference; google/go-containerregistry pkg/v1/google; registries-b.md §1–2
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec

from towline.core._errors import RemoteProtocolError
from towline.core._json import typed_json
from towline.core._script import HeaderList, Step
from towline.core._secret import Secret
from towline.core.http import Url, redacted
from towline.core.registry._access import obtain_with
from towline.core.registry._listing import collect_tags, walk_catalogue
from towline.core.registry._pages import Collected, Details, Listing, TagDetail, Wanted, gather
from towline.core.registry._reference import is_repository
from towline.core.registry._send import Reply
from towline.core.registry._session import Registry, TokenKey
from towline.core.registry._token import Credentials, TokenAnswer
from towline.core.registry.clouds.google import AccessToken, access_token, has_identity
from towline.core.registry.vendors._api import Page, api_url, get, walk_each

_API_PAGE: Final = 1000
_LOCATION: Final = re.compile(r"(?:([a-z0-9-]{1,40})-docker\.pkg\.dev|docker\.([a-z0-9-]{1,40})\.rep\.pkg\.dev)")


class _Named(msgspec.Struct, rename="camel"):
    name: str
    format: str = "DOCKER"


class _Packages(msgspec.Struct, rename="camel"):
    packages: list[_Named] | None = None
    next_page_token: str | None = None


class _Repositories(msgspec.Struct, rename="camel"):
    repositories: list[_Named] | None = None
    next_page_token: str | None = None


class _Manifest(msgspec.Struct, rename="camel"):
    tag: list[str] = []
    image_size_bytes: str | None = None
    media_type: str | None = None
    time_uploaded_ms: str | None = None


class _Tags(msgspec.Struct):
    tags: list[Any] | None = None
    manifest: dict[str, _Manifest] = {}


def exchange(registry: Registry, key: TokenKey) -> Step[TokenAnswer | None]:
    """Get a token with an identity of the surroundings; None where name and password do it as usual."""
    if registry.credentials is not None or not has_identity(registry):
        return None
    token = yield from access_token(registry)
    return (yield from obtain_with(registry, key, Credentials("oauth2accesstoken", token.value)))


def list_repositories(registry: Registry, wanted: Wanted) -> Step[Listing]:
    """List by the API, where the base names a project and there is an identity for it, else by the catalogue.

    The catalogue has every project of the location that the login may see, so what the base names narrows it.
    """
    names = registry.base.path.strip("/").split("/") if registry.base.path else []
    location = _LOCATION.fullmatch(registry.base.host)
    if wanted.via == "api" or (names and location and has_identity(registry)):
        return (yield from _by_api(registry, names, location, wanted))
    return (yield from walk_catalogue(registry, wanted))


def list_details(registry: Registry, repository: str, wanted: Wanted) -> Step[Details]:
    """List the tags with digest, size and time of the push, which Google adds to the protocol's list."""
    return (yield from collect_tags(registry, repository, wanted, _read_details)).details()


def _by_api(registry: Registry, names: list[str], location: re.Match[str] | None, wanted: Wanted) -> Step[Listing]:
    if location is None or not names:
        raise RemoteProtocolError(
            "catalog-unsupported",
            "expected a base such as LOCATION-docker.pkg.dev/PROJECT/REPOSITORY for the API, got another",
            hint=registry.dialect.catalogue_hint,
        )
    # A project of a domain is written with a colon there, and with one more segment here.
    domain = "." in names[0] and len(names) > 1
    project, rest = (f"{names[0]}:{names[1]}", names[2:]) if domain else (names[0], names[1:])
    parent = f"projects/{quote(project, safe=':')}/locations/{location[1] or location[2]}"
    n = registry.page_size(wanted.page_size) or _API_PAGE

    def walk_all(collected: Collected) -> Step[None]:
        token = yield from access_token(registry)
        repositories = rest[:1] or (yield from _repositories(registry, parent, token))
        paths = [f"v1/{parent}/repositories/{quote(name, safe='')}/packages" for name in repositories]
        firsts = [api_url(registry, path, f"pageSize={min(n, _API_PAGE)}") for path in paths]
        yield from walk_each(registry, firsts, _headers(token), _read_packages, collected)

    return (yield from gather(registry, "catalogue", is_repository, wanted, walk_all)).listing()


def _repositories(registry: Registry, parent: str, token: AccessToken) -> Step[list[str]]:
    url = api_url(registry, f"v1/{parent}/repositories", f"pageSize={_API_PAGE}")
    names: list[str] = []
    for _ in range(registry.limits.list_pages):
        reply = yield from get(registry, url, _headers(token))
        page = typed_json(reply.body, _Repositories, f"page {redacted(url)}")
        names += [it.name.rpartition("/")[2] for it in page.repositories or () if it.format == "DOCKER"]
        if not page.next_page_token:
            return names
        url = _with_token(url, page.next_page_token)
    raise RemoteProtocolError("list-limit", f"expected at most {registry.limits.list_pages} pages, got more")


def _headers(token: AccessToken) -> HeaderList:
    return (("accept", "application/json"), ("authorization", Secret("Bearer " + token.value.reveal())))


def _read_packages(reply: Reply) -> Page:
    page = typed_json(reply.body, _Packages, f"page {redacted(reply.url)}")
    names = [_image(found.name) for found in page.packages or ()]
    return Page(names, _with_token(reply.url, page.next_page_token) if page.next_page_token else None)


def _image(name: str) -> str:
    # projects/P/locations/L/repositories/R/packages/ID, where a slash in ID is escaped.
    parts = name.split("/")
    if len(parts) != 8:
        return name
    return f"{parts[1].replace(':', '/')}/{parts[5]}/{unquote(parts[7])}"


def _with_token(url: Url, token: str) -> Url:
    kept = [part for part in (url.query or "").split("&") if part and not part.startswith("pageToken=")]
    return Url(url.scheme, url.host, url.port, url.path, "&".join([*kept, f"pageToken={quote(token, safe='')}"]))


def _read_details(body: bytes, where: str) -> list[Any]:
    page = typed_json(body, _Tags, f"tags page {where}")
    known = {
        tag: TagDetail(
            tag,
            digest,
            None if (ms := _number(found.time_uploaded_ms)) is None else ms / 1000,
            _number(found.image_size_bytes),
            found.media_type,
        )
        for digest, found in page.manifest.items()
        for tag in found.tag
    }
    return [known.get(tag, tag) if isinstance(tag, str) else tag for tag in page.tags or ()]


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 19 else None
