"""Azure's own list of tags, with what is known of each.

Source:  Azure Container Registry REST API; registries-b.md §4
"""

from __future__ import annotations

import msgspec

from towline.core._json import typed_json
from towline.core._script import Step
from towline.core.registry._listing import collect
from towline.core.registry._moment import seconds_since_1970
from towline.core.registry._pages import Details, TagDetail, Wanted
from towline.core.registry._session import Registry


class _Tag(msgspec.Struct):
    name: str
    digest: str | None = None
    last_update: str | None = msgspec.field(name="lastUpdateTime", default=None)


class _Tags(msgspec.Struct):
    tags: list[_Tag] | None = None


def list_details(registry: Registry, repository: str, wanted: Wanted) -> Step[Details]:
    """List the tags with digest and time of the push."""
    need = f"repository:{repository}:metadata_read"
    return (yield from collect(registry, f"acr/v1/{repository}/_tags", need, wanted, _read)).details()


def _read(body: bytes, where: str) -> list[TagDetail]:
    tags = typed_json(body, _Tags, f"tags page {where}").tags or []
    return [TagDetail(tag.name, tag.digest, seconds_since_1970(tag.last_update)) for tag in tags]
