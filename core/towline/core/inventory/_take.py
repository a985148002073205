"""The inventory of an image: what its view holds, written as results (scan.md §1.1, §1.2)."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET

from towline.core._contract import Record
from towline.core._limits import LIMITS, Limits
from towline.core.inventory._config import Cutter, RawImage, read_config, strike_config
from towline.core.inventory._databases import Found, find_apk, find_dpkg, find_os, find_unread
from towline.core.inventory._graph import DepGraph, build_graph, build_tree
from towline.core.inventory._instructions import Instructions, find_instructions, layer_label, with_dependencies
from towline.core.inventory._options import ANALYSER_VERSION, KEY_BINARIES, ScanOptions, globs
from towline.core.inventory._package import MANAGERS, Inventory, Manager, OsRelease, Package
from towline.core.inventory._provenance import Provenance, strike_provenance
from towline.core.inventory._purl import purl
from towline.core.inventory._result import (
    DistributionMetadata,
    Fact,
    FactData,
    Identity,
    ImageNames,
    ManifestFile,
    ScanResult,
    Target,
    Warnings,
)
from towline.core.inventory._runtimes import find_runtimes
from towline.core.layer import Globs, ImageView

_SHA256: Final = re.compile(r"sha256:[0-9a-f]{64}")
_TAG: Final = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_FINDERS: Final = {"deb": find_dpkg, "apk": find_apk}


class ImageFacts(Record, frozen=True):
    """What is known of an image beside its files.

    `name` is the reference it was asked by, with registry and repository as people write them. `missing` tells, for
    each layer that was not there, why. `warnings` are those of the pull. `registry_host` and `repository` are written
    out in full; without them they are taken from `name`.
    """

    name: str
    config: bytes
    config_digest: str
    layers: tuple[str, ...]
    diff_ids: tuple[str, ...]
    platform: str | None = None
    manifest_digest: str | None = None
    index_digest: str | None = None
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    registry_host: str | None = None
    repository: str | None = None
    provenance: tuple[Provenance, ...] = ()


class Taken(Record, frozen=True):
    """An inventory: as results to send, and as the core's own. The first `os_results` are the system's."""

    results: list[ScanResult]
    os_results: int
    inventory: Inventory


def take_inventory(view: ImageView, image: ImageFacts, options: ScanOptions, limits: Limits = LIMITS) -> Taken:
    """Take the inventory of an image. A pure function: the same image and options give the same bytes.

    The first result is the system's, always. An image with the databases of two managers has one for each, in
    `MANAGERS`' order, and each says so; a consumer judges versions by the manager, so that one graph of both would
    be judged wrongly.
    """
    system, warnings = find_os(view)
    found = {manager: _FINDERS[manager](view, limits) for manager in MANAGERS}
    warnings += [text for manager in MANAGERS for text in found[manager].warnings]
    runtimes, more = find_runtimes(view, limits)
    warnings += more
    unread = find_unread(view)
    warnings += unread
    named = [manager for manager in MANAGERS if found[manager].packages]
    if len(named) > 1:
        warnings.append(f"packages of {' and '.join(named)} were found; each has a result of its own")
    warnings += [text for layer in view.layers for text in layer.warnings]
    warnings += [*image.missing, *image.warnings]
    inventory = Inventory(
        os=system,
        packages=tuple(
            msgspec.structs.replace(package, purl=purl(package, system, with_arch=True))
            for manager in named
            for package in found[manager].packages
        ),
        not_installed=tuple(package for manager in MANAGERS for package in found[manager].not_installed),
        key_binaries=_key_binaries(view),
        runtimes=runtimes,
        complete=not image.missing and not unread and all(one.complete for one in found.values()),
        warnings=tuple(dict.fromkeys(warnings)),
    )
    config = read_config(image.config)
    if options.redact:
        config = strike_config(config)
    results = [
        _result(view, image, options, config, inventory, manager, found[manager] if manager else Found(), limits)
        for manager in (*named, *(() if named else (None,)))
    ]
    return Taken(results, len(results), inventory)


def _result(
    view: ImageView,
    image: ImageFacts,
    options: ScanOptions,
    config: RawImage,
    inventory: Inventory,
    manager: Manager | None,
    found: Found,
    limits: Limits,
) -> ScanResult:
    name, tag = split_name(image.name)
    instructions = find_instructions(config.history or [])
    graph, instructions = _graph(found.packages, inventory.os, manager, (name, tag), instructions, options, limits)
    cutter = Cutter()
    parts: list[tuple[str, FactData | None]] = [
        ("depGraph", graph),
        ("keyBinariesHashes", list(dict.fromkeys(inventory.key_binaries.values()))),
        ("baseRuntimes", list(inventory.runtimes)),
        ("imageId", image.config_digest),
        ("imageLayers", list(image.layers)),
        ("imageLabels", config.config.labels if config.config else None),
        ("containerConfig", cutter.container_config(config.config) if config.config else None),
        ("history", cutter.history(config.history or [])),
        ("imageCreationTime", config.created),
        ("rootFs", list(image.diff_ids)),
        ("imageOsReleasePrettyName", inventory.os.pretty_name),
        ("imageManifestFiles", _manifest_files(view, options)),
        (
            "autoDetectedUserInstructions",
            instructions if instructions.dockerfile_layers and instructions.dockerfile_packages else None,
        ),
        ("imageNames", _image_names(name, tag, image)),
        ("ociDistributionMetadata", _distribution(name, tag, image)),
        ("provenanceMetadata", _provenance(image, options)),
        ("platform", _short_platform(image.platform)),
        ("pluginVersion", ANALYSER_VERSION),
        ("pluginWarnings", _warnings(cutter, config, image, inventory, options)),
    ]
    # A fact without data is absent, never null; an empty config is data, an empty list is not.
    facts = [Fact(type, data) for type, data in parts if data is not None and data != [] and data != ""]
    platform = _short_platform(image.platform)
    return ScanResult(
        facts,
        Target(f"docker-image|{name}"),
        Identity(manager or "linux", {"platform": platform} if platform else UNSET),
        options.target_reference if options.target_reference is not None else UNSET,
    )


def split_name(reference: str) -> tuple[str, str | None]:
    """Split a reference into its name and tag: `latest` without one, None with a digest or for an archive."""
    name, at, _ = reference.partition("@")
    tag: str | None = None
    if ":" in name.rsplit("/", 1)[-1]:
        name, _, tag = name.rpartition(":")
    if tag is None and not name.endswith(".tar"):
        tag = "latest"
    return name, None if at else tag


def _graph(
    packages: Sequence[Package],
    system: OsRelease,
    manager: Manager | None,
    root: tuple[str, str | None],
    instructions: Instructions,
    options: ScanOptions,
    limits: Limits,
) -> tuple[DepGraph, Instructions]:
    if instructions.dockerfile_packages:
        instructions = with_dependencies(instructions, build_tree(packages, without_common=True, limits=limits))
    labels: dict[str, dict[str, str]] = {}
    for package in packages:
        of_package = {}
        layer = layer_label(instructions, package)
        if layer is not None:
            of_package["dockerLayerId"] = layer
        if options.layer_attribution and package.layer is not None:
            of_package["dockerLayerDiffId"] = package.layer
        if of_package:
            labels.setdefault(package.key, of_package)
    is_direct = (
        (lambda package: layer_label(instructions, package) is not None) if options.exclude_base_image_vulns else None
    )
    roots = build_tree(packages, is_direct=is_direct, limits=limits)
    graph = build_graph(
        roots,
        manager=manager or "linux",
        alias=system.alias,
        root_name=f"docker-image|{root[0]}",
        root_version=root[1],
        purls={package.key: purl(package, system, with_arch=False) for package in packages},
        labels=labels,
    )
    return graph, instructions


def _key_binaries(view: ImageView) -> dict[str, str]:
    return {
        _text(f"/{file.path}"): file.kept.sha256
        for file in view.files()
        if file.kept.sha256 is not None and file.path.endswith(KEY_BINARIES)
    }


def _manifest_files(view: ImageView, options: ScanOptions) -> list[ManifestFile]:
    """The files that globs ask for. A symlink to a file is one, under its own name; contents need not be text."""
    matching = Globs(*globs(options))
    if not matching:
        return []
    paths = [file.path for file in view.files()] + view.symlinks()
    found = []
    for path in paths:
        file = view.read(path) if matching.match(path) else None
        if file is not None and file.data is not None:
            folder, _, name = path.rpartition("/")
            contents = base64.b64encode(file.data).decode("ascii")
            found.append(ManifestFile(_text(name), _text(f"/{folder}"), contents))
    return found


def _text(name: str) -> str:
    """Return a name that JSON can carry: bytes that are no UTF-8 become U+FFFD."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _image_names(name: str, tag: str | None, image: ImageFacts) -> ImageNames | None:
    asked_by = image.name.partition("@")[2]
    names = [f"{name}:{tag}"] if tag else []
    names += [f"{name}@{digest}" for digest in (image.manifest_digest, image.index_digest, asked_by) if digest]
    return ImageNames(list(dict.fromkeys(names))) if names else None


def _distribution(name: str, tag: str | None, image: ImageFacts) -> DistributionMetadata | None:
    host, _, repository = name.partition("/")
    host, repository = image.registry_host or host, image.repository or repository
    if not repository or len(host.encode()) > 255 or len(repository.encode()) > 2048:
        return None
    if image.manifest_digest is None or not _SHA256.fullmatch(image.manifest_digest):
        return None
    index = image.index_digest if image.index_digest and _SHA256.fullmatch(image.index_digest) else None
    return DistributionMetadata(
        host, repository, image.manifest_digest, index or UNSET, tag if tag and _TAG.fullmatch(tag) else UNSET
    )


def _provenance(image: ImageFacts, options: ScanOptions) -> list[Provenance]:
    return [strike_provenance(entry) if options.redact else entry for entry in image.provenance]


def _short_platform(platform: str | None) -> str | None:
    """The wire form has no variant."""
    return "/".join(platform.split("/")[:2]) if platform else None


def _warnings(
    cutter: Cutter, config: RawImage, image: ImageFacts, inventory: Inventory, options: ScanOptions
) -> Warnings | None:
    attribution = []
    entries = [entry for entry in config.history or [] if entry.empty_layer is not True]
    if options.layer_attribution and len(entries) != len(image.diff_ids):
        attribution.append(
            f"the history has {len(entries)} entries with a layer and the image {len(image.diff_ids)} layers: "
            "instructions cannot be told from layers"
        )
    told = Warnings(attribution or UNSET, cutter.truncated or UNSET, list(inventory.warnings) or UNSET)
    return None if told == Warnings() else told
