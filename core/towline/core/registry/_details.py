"""Tags with what is known of each: by the vendor's own list where it has one, else by asking for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from towline.core._errors import TowlineError
from towline.core._script import Step, together
from towline.core.registry._image import head_manifest
from towline.core.registry._listing import tags_as_wanted
from towline.core.registry._pages import Details, TagDetail, Wanted
from towline.core.registry._session import Registry

# Heads that are asked for side by side.
_AT_ONCE: Final = 8


def list_details(
    registry: Registry,
    repository: str,
    *,
    page_size: int | None = None,
    limit: int | None = None,
    partial: bool = False,
    via: Literal["", "registry", "api"] = "",
) -> Step[Details]:
    """List the tags of a repository with digest, time of the push and size, as far as the registry tells them.

    Raises:  what `list_tags` raises; a tag whose manifest cannot be had stays in the list without details
    """
    wanted = Wanted(page_size, limit, partial, via)
    own = registry.dialect.details
    if own is not None and via != "registry":
        return (yield from own(registry, registry.repository(repository), wanted))
    return (yield from look_into_each(registry, repository, wanted))


def look_into_each(registry: Registry, repository: str, wanted: Wanted) -> Step[Details]:
    """List the tags, and ask for each one's digest; when it was pushed the protocol does not tell."""
    tags = yield from tags_as_wanted(registry, repository, wanted)
    items = yield from look_into(registry, repository, tags.items)
    unknown = sum(item.digest is None for item in items)
    warnings = (f"{unknown} tags could not be looked into",) if unknown else ()
    return Details(tuple(items), tags.complete, (*tags.warnings, *warnings))


def look_into(registry: Registry, repository: str, tags: Sequence[str]) -> Step[list[TagDetail]]:
    """Ask for each tag's digest, several side by side; one whose manifest cannot be had comes without."""
    return (yield from together([_head(registry, repository, tag) for tag in tags], _AT_ONCE))


def _head(registry: Registry, repository: str, tag: str) -> Step[TagDetail]:
    try:
        head = yield from head_manifest(registry, repository, tag)
    except TowlineError as error:
        if error.kind not in ("image-not-found", "registry-forbidden", "protocol-error", "registry-error"):
            raise
        return TagDetail(tag)
    # A HEAD's length is the manifest's, not the image's, so there is no size here.
    return TagDetail(tag, head.digest, None, None, head.media_type or None)
