"""Platforms, and which entry of an index is meant by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core.registry._digest import shown

_PART: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")

# Other names people and builders write (containerd's normalisation).
_ARCHITECTURES: Final = {
    "x86_64": ("amd64", None),
    "x86-64": ("amd64", None),
    "i386": ("386", None),
    "aarch64": ("arm64", None),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}

# A machine of this variant also runs what is built for those, best first.
_FALLBACKS: Final[dict[tuple[str, str | None], tuple[str | None, ...]]] = {
    ("arm64", None): ("v8",),
    ("arm64", "v8"): (None,),
    ("arm", "v8"): ("v7", "v6", "v5"),
    ("arm", "v7"): (None, "v6", "v5"),
    ("arm", "v6"): ("v5", None),
    ("arm", None): ("v7", "v6", "v5"),
    ("amd64", None): ("v1",),
    ("amd64", "v1"): (None,),
    ("amd64", "v2"): (None, "v1"),
    ("amd64", "v3"): ("v2", None, "v1"),
    ("amd64", "v4"): ("v3", "v2", None, "v1"),
}


class Platform(Record, frozen=True):
    """An operating system, an architecture, and sometimes a variant of it."""

    os: str
    architecture: str
    variant: str | None = None
    os_version: str | None = None

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read `os/architecture[/variant]`; raise `bad-request` if it is none."""
        parts = text.strip().lower().split("/")
        if len(parts) not in (2, 3) or not all(part and len(part) <= 64 and _PART.issuperset(part) for part in parts):
            raise RemoteProtocolError("bad-request", f"expected a platform like linux/amd64, got {shown(text)}")
        architecture, variant = _ARCHITECTURES.get(parts[1], (parts[1], None))
        return cls(parts[0], architecture, parts[2] if len(parts) == 3 else variant)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @property
    def unknown(self) -> bool:
        """True for the `unknown/unknown` of attestations."""
        return self.os == "unknown" or self.architecture == "unknown"


DEFAULT_PLATFORM: Final = Platform("linux", "amd64")


def rank(wanted: Platform, offered: Platform) -> int | None:
    """Tell how well an offer fits: 0 is best, None is not at all."""
    if (wanted.os, wanted.architecture) != (offered.os, offered.architecture):
        return None
    if wanted.os_version and offered.os_version != wanted.os_version:
        return None
    if wanted.variant == offered.variant:
        return 0
    fallbacks = _FALLBACKS.get((wanted.architecture, wanted.variant), ())
    return 1 + fallbacks.index(offered.variant) if offered.variant in fallbacks else None


def best(wanted: Platform, offers: Sequence[Platform | None]) -> int | None:
    """Return the position of the offer that fits best, the earliest of equals, or None."""
    ranked = [(fit, at) for at, offer in enumerate(offers) if offer and (fit := rank(wanted, offer)) is not None]
    return min(ranked)[1] if ranked else None
