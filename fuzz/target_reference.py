"""An image reference: what is taken reads back as itself, and may stand in a URL."""

from __future__ import annotations

from fuzz.harness import refused_or_taken
from towline.core.registry import ImageReference, Platform, check_reference, check_repository


def run(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    found = refused_or_taken(lambda: ImageReference.from_user(text))
    if found is not None:
        assert ImageReference.parse(str(found)) == found
        assert check_repository(found.path) == found.path
        assert check_reference(found.reference) == found.reference
        assert not {"..", "//", "?", "#", "%"} & {found.path[at : at + size] for at in range(255) for size in (1, 2)}
    refused_or_taken(lambda: check_repository(text))
    refused_or_taken(lambda: check_reference(text))
    platform = refused_or_taken(lambda: Platform.parse(text))
    assert platform is None or Platform.parse(str(platform)) == platform
