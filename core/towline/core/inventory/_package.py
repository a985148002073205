"""Packages and what else is found in an image: the core's own result, with all that the wire form cannot say."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._limits import Limits

Manager: TypeAlias = Literal["deb", "apk"]

MANAGERS: Final[tuple[Manager, ...]] = ("apk", "deb")
"""In the reference's order of choice: the first that has packages gives the image's first result."""


class Package(Record, frozen=True):
    """One installed package.

    `source` and `source_version` are as its database states them, None where it does not. `depends` and `provides`
    are names. `links` are the names by which the wire form's graph finds its edges. `state` is dpkg's, where it is
    not plainly installed. `layer` is the diff ID of the layer that brought this version.
    """

    manager: Manager
    name: str
    version: str
    arch: str | None = None
    source: str | None = None
    source_version: str | None = None
    licence: str | None = None
    layer: str | None = None
    purl: str | None = None
    depends: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    auto_installed: bool = False
    state: str = "installed"

    @property
    def origin(self) -> str:
        """The source package; one that is not stated has the package's own name."""
        return self.source or self.name

    @property
    def origin_version(self) -> str:
        return self.source_version or self.version

    @property
    def graph_name(self) -> str:
        """The name in a graph: `source/name` where a source is stated."""
        return f"{self.source}/{self.name}" if self.source else self.name

    @property
    def key(self) -> str:
        """`name@version`, by which graphs and layer attribution know a package."""
        return f"{self.graph_name}@{self.version}"


class OsRelease(Record, frozen=True):
    """The system an image is of."""

    id: str
    version_id: str
    pretty_name: str = ""
    found_in: str | None = None

    @property
    def alias(self) -> str:
        return f"{self.id}:{self.version_id}"


UNKNOWN_OS: Final = OsRelease("unknown", "0.0")


class Runtime(Record, frozen=True):
    """A language runtime that an image has."""

    type: Literal["java"]
    version: str


class Inventory(Record, frozen=True):
    """What was found, in one place: system, packages, those known and not installed, runtimes, digests of key binaries.

    `complete` is False when a layer was not there or a database could not be read; `warnings` say which.
    """

    os: OsRelease
    packages: tuple[Package, ...]
    not_installed: tuple[Package, ...] = ()
    key_binaries: dict[str, str] = msgspec.field(default_factory=dict)
    runtimes: tuple[Runtime, ...] = ()
    complete: bool = True
    warnings: tuple[str, ...] = ()


def check_count(count: int, limits: Limits) -> None:
    """Refuse a database of more packages than any system has."""
    if count > limits.scan_packages:
        raise RemoteProtocolError("bomb", f"expected at most {limits.scan_packages} packages in an image, got more")


def unique(names: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name))
