"""Finding packages in an image: its databases read, merged, and traced back to the layers that brought them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from towline.core._contract import Record
from towline.core._limits import LIMITS, Limits
from towline.core.inventory._apk import parse_apk
from towline.core.inventory._dpkg import PRESENT, is_auto_installed, parse_auto_installed, parse_dpkg
from towline.core.inventory._options import (
    APK_INSTALLED,
    APT_STATES,
    DPKG_STATUS,
    DPKG_STATUS_FOLDER,
    OS_RELEASE,
    UNREAD,
)
from towline.core.inventory._os import parse_os_release
from towline.core.inventory._package import UNKNOWN_OS, OsRelease, Package
from towline.core.layer import ImageView, ViewFile

Parser = Callable[[bytes, Limits], list[Package]]


class Found(Record, frozen=True):
    """What the databases of one kind of manager say; `complete` is False if one could not be read."""

    packages: tuple[Package, ...] = ()
    not_installed: tuple[Package, ...] = ()
    complete: bool = True
    warnings: tuple[str, ...] = ()


def find_os(view: ImageView) -> tuple[OsRelease, list[str]]:
    """Return the system, and what to warn of."""
    present = []
    for path in OS_RELEASE:
        file = view.read(path)
        if file is not None and file.data is not None:
            present.append(path)
            system = parse_os_release(path, file.data)
            if system is not None:
                return system, []
    if present:
        return UNKNOWN_OS, [f"the system is unknown: nothing could be read from {', '.join(present)}"]
    return UNKNOWN_OS, []


def find_dpkg(view: ImageView, limits: Limits = LIMITS) -> Found:
    """Read `status` and `status.d`, which some images have both of; a package in both is `status`'s."""
    merged: dict[tuple[str, str | None], Package] = {}
    warnings: list[str] = []
    complete = True
    status = view.read(DPKG_STATUS)
    sources = 0
    if status is not None:
        packages, complete = _read(status, parse_dpkg, limits, warnings)
        traced = _traced(view, [DPKG_STATUS], parse_dpkg, limits)
        merged = {(package.name, package.arch): _placed(package, traced, view) for package in packages}
        sources += bool(merged)
    before = len(merged)
    for file in view.folder(DPKG_STATUS_FOLDER):
        # One stanza a file, and a list of checksums beside it.
        if file.path.endswith(".md5sums"):
            continue
        packages, whole = _read(file, parse_dpkg, limits, warnings)
        complete = complete and whole
        for package in packages:
            placed = msgspec.structs.replace(package, layer=view.layers[file.layer].diff_id)
            merged.setdefault((package.name, package.arch), placed)
    sources += len(merged) > before
    if sources > 1:
        warnings.append(f"/{DPKG_STATUS} and /{DPKG_STATUS_FOLDER} both have packages; they were merged")
    merged = _with_apt_states(view, merged)
    present = tuple(package for package in merged.values() if package.state in PRESENT)
    absent = tuple(package for package in merged.values() if package.state not in PRESENT)
    return Found(present, absent, complete, tuple(warnings))


def find_apk(view: ImageView, limits: Limits = LIMITS) -> Found:
    """Read apk's database at either of its places; one that is reached by both is read once."""
    merged: dict[str, Package] = {}
    warnings: list[str] = []
    complete = True
    files = {file.path: file for path in APK_INSTALLED if (file := view.read(path)) is not None}
    for file in files.values():
        packages, whole = _read(file, parse_apk, limits, warnings)
        complete = complete and whole
        for package in packages:
            merged.setdefault(package.name, package)
    if len(files) > 1:
        warnings.append(f"{' and '.join('/' + path for path in files)} both exist; their packages were merged")
    traced = _traced(view, APK_INSTALLED, parse_apk, limits) if merged else {}
    return Found(tuple(_placed(package, traced, view) for package in merged.values()), (), complete, tuple(warnings))


def find_unread(view: ImageView) -> list[str]:
    """Return what to warn of: databases that are there and of a kind that is not read."""
    found = dict.fromkeys(file.path for path in UNREAD if (file := view.read(path)) is not None)
    return [f"/{path} is a database of a kind that is not read: packages may be missing" for path in found]


def _read(file: ViewFile, parse: Parser, limits: Limits, warnings: list[str]) -> tuple[list[Package], bool]:
    if file.data is None:
        warnings.append(
            f"{ascii('/' + file.path)[1:-1]} has {file.kept.size} bytes and was not read: packages may be missing"
        )
        return [], False
    return parse(file.data, limits), True


def _traced(view: ImageView, paths: Iterable[str], parse: Parser, limits: Limits) -> dict[str, int]:
    """Find the layer that brought each package: the last whose database has it where the one before had not."""
    by_layer: dict[int, set[str]] = {}
    seen: set[tuple[int, bytes]] = set()
    for path in paths:
        for layer, kept in view.versions(path):
            if kept.data is not None and (layer, kept.data) not in seen:
                seen.add((layer, kept.data))
                keys = (_key(package) for package in parse(kept.data, limits))
                by_layer.setdefault(layer, set()).update(keys)
    brought: dict[str, int] = {}
    before: set[str] = set()
    for layer in sorted(by_layer):
        brought |= dict.fromkeys(by_layer[layer] - before, layer)
        before = by_layer[layer]
    return brought


def _placed(package: Package, traced: dict[str, int], view: ImageView) -> Package:
    layer = traced.get(_key(package))
    return package if layer is None else msgspec.structs.replace(package, layer=view.layers[layer].diff_id)


def _key(package: Package) -> str:
    """A package and its architecture, in a state that counts: a purged configuration is not an install."""
    there = package.state in PRESENT
    return f"{package.name}:{package.arch}@{package.version}:{there}"


def _with_apt_states(
    view: ImageView, packages: dict[tuple[str, str | None], Package]
) -> dict[tuple[str, str | None], Package]:
    file = view.read(APT_STATES)
    if file is None or file.data is None:
        return packages
    states = parse_auto_installed(file.data)
    names = {name for name, _ in states}
    return {
        key: msgspec.structs.replace(package, auto_installed=is_auto_installed(package, states, names))
        for key, package in packages.items()
    }
