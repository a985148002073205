"""Scanning an image straight from its registry: nothing is kept but what the inventory needs.

Every digest on the way is proven, those of manifests and config by the registry room, size, digest and diff ID of
each layer by its stream; where one does not hold there is no result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from towline.core._errors import RemoteProtocolError, TowlineError
from towline.core._limits import Limits
from towline.core._script import Step, begin, clock, end, say, together
from towline.core._wire import Note
from towline.core.inventory import ImageFacts, Metric, ScanOptions, Taken, payload_metrics, wanted
from towline.core.layer import LayerContent, LayerPlan, Missing, Wanted
from towline.core.registry import (
    Descriptor,
    ImageReference,
    Platform,
    Registry,
    ResolvedImage,
    download_blob,
    resolve_image,
)
from towline.core.scan._outcome import ImagePulled, ImageResolved, ScanOutcome
from towline.core.scan._plan import Analysis, InventoryPlan
from towline.core.scan._provenance import Attested, find_provenance

DEFAULT_OPTIONS: Final = ScanOptions()

# What download_blob says of a layer that may not be distributed and is kept on another host.
_ELSEWHERE: Final = "unsupported-media-type"


def scan_image(
    registry: Registry,
    repository: str,
    reference: str,
    platform: Platform | None = None,
    options: ScanOptions = DEFAULT_OPTIONS,
    image_name: ImageReference | str | None = None,
) -> Step[ScanOutcome]:
    """Read an image from a registry and take its inventory.

    `image_name` is what the result calls the image; without it, the registry's domain and the repository.
    Layers come side by side, each once however often it is used. Attestations of how the image was built are
    read where its index has some; one that cannot be read is a warning.

    Says:    ImageResolved, Progress for each layer, ImagePulled
    Raises:  image-too-large before a layer is fetched; bad-archive, bomb, digest-mismatch, size-mismatch for a layer,
             and what `resolve_image` and `download_blob` raise
    """
    begun = yield from clock()
    image = yield from resolve_image(registry, repository, reference, platform)
    layers = [_Layer(descriptor, diff_id) for descriptor, diff_id in zip(image.layers, image.config.rootfs.diff_ids)]
    total = _check_size(layers, options, registry.limits)
    manifest = image.manifest.digest
    yield from say(ImageResolved(manifest, image.index_digest, image.platform, len(layers), total))
    budget = _Budget(registry.limits)
    yield from _fetch(registry, repository, layers, wanted(options), budget)
    attested = yield from find_provenance(registry, repository, image.manifest.digest, image.attestations)
    pulled = yield from clock()
    yield from say(ImagePulled(manifest, budget.downloaded))
    facts = _facts(registry, repository, reference, image, layers, image_name, attested)
    taken = yield from _analyse(registry, repository, layers, facts, options, budget)
    ended = yield from clock()
    timings = {"imageExtractionMs": pulled - begun, "osPackageAnalysisMs": ended - pulled, "totalMs": ended - begun}
    return ScanOutcome(
        registry=facts.registry_host or "",
        repository=facts.repository or repository,
        reference=reference,
        manifest_digest=manifest,
        index_digest=image.index_digest,
        platform=image.platform,
        scan_results=tuple(taken.results),
        os_results=taken.os_results,
        analytics=(
            payload_metrics(taken.results, taken.os_results),
            Metric("containerPluginTimings", {name: round(took * 1000, 3) for name, took in timings.items()}),
        ),
        inventory=taken.inventory,
        layers=sum(layer.content is not None for layer in layers),
        bytes_downloaded=budget.downloaded,
        bytes_unpacked=budget.unpacked,
        warnings=taken.inventory.warnings,
        complete=taken.inventory.complete,
    )


class _Layer:
    """One layer of the image, and what was read of it."""

    __slots__ = ("content", "descriptor", "diff_id", "missing")

    def __init__(self, descriptor: Descriptor, diff_id: str) -> None:
        self.descriptor = descriptor
        self.diff_id = diff_id
        self.content: LayerContent | None = None
        self.missing: str | None = None


class _Budget:
    """What all layers of an image together may unpack to and keep."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kept = 0
        self.downloaded = 0
        self.unpacked = 0

    def take(self, content: LayerContent) -> None:
        self.downloaded += content.size
        self.unpacked += content.unpacked_bytes
        self._kept += sum(len(kept.data) for kept in content.files.values() if kept.data is not None)
        if self.unpacked > self._limits.unpack_image:
            raise RemoteProtocolError(
                "bomb", f"expected an image of at most {self._limits.unpack_image} bytes unpacked, got more"
            )
        if self._kept > self._limits.scan_kept:
            raise RemoteProtocolError(
                "image-too-large",
                f"expected at most {self._limits.scan_kept} bytes of files to look at, got more",
                hint="ask for fewer files with globs",
            )


def _check_size(layers: Sequence[_Layer], options: ScanOptions, limits: Limits) -> int:
    """Refuse an image that is too large, before anything of it is fetched; return its size on the wire."""
    most = limits.image_scan if options.max_image_bytes is None else options.max_image_bytes
    unique = {layer.descriptor.digest: layer.descriptor for layer in layers if not layer.descriptor.foreign}
    total = sum(descriptor.size for descriptor in unique.values())
    if total > most:
        raise RemoteProtocolError(
            "image-too-large",
            f"expected layers of at most {most} bytes, got {total}",
            hint="raise the limit of the image size",
        )
    for layer in layers:
        kind = layer.descriptor.media_type
        if kind and ("tar" not in kind or kind.endswith("+encrypted")):
            raise RemoteProtocolError("unsupported-media-type", f"expected layers of tar archives, got {kind[:100]!r}")
        if layer.descriptor.foreign and total + layer.descriptor.size > most:
            layer.missing = _not_read(layer, "it may be kept on another host, and is too large to be asked for")
    return total


def _fetch(registry: Registry, repository: str, layers: Sequence[_Layer], asked: Wanted, budget: _Budget) -> Step[None]:
    first: dict[str, _Layer] = {}
    for layer in layers:
        if layer.missing is None:
            first.setdefault(layer.descriptor.digest, layer)
    steps = [_fetch_one(registry, repository, layer, asked, budget) for layer in first.values()]
    yield from together(steps, registry.limits.layers_at_once)
    for layer in layers:
        same = first.get(layer.descriptor.digest)
        if same is not None and same is not layer:
            layer.content, layer.missing = same.content, same.missing
            if layer.content is not None and layer.content.diff_id != layer.diff_id:
                raise RemoteProtocolError(
                    "digest-mismatch",
                    f"expected layer {layer.descriptor.digest} to unpack to {layer.diff_id}, "
                    f"got {layer.content.diff_id}",
                )


def _fetch_one(registry: Registry, repository: str, layer: _Layer, asked: Wanted, budget: _Budget) -> Step[None]:
    descriptor = layer.descriptor
    plan = LayerPlan(descriptor.digest, descriptor.size, layer.diff_id, descriptor.media_type, asked, registry.limits)
    try:
        content: LayerContent = yield from download_blob(registry, repository, descriptor, plan)
    except TowlineError as error:
        if error.kind != _ELSEWHERE or not descriptor.foreign:
            raise
        layer.missing = _not_read(layer, "it is kept on another host, from which nothing is fetched")
        return
    budget.take(content)
    layer.content = content if layer.content is None else layer.content.with_more(content)


def _analyse(
    registry: Registry,
    repository: str,
    layers: Sequence[_Layer],
    facts: ImageFacts,
    options: ScanOptions,
    budget: _Budget,
) -> Step[Taken]:
    """Take the inventory; where links lead to files that no layer kept, read those layers again first."""
    for passes_left in range(registry.limits.scan_passes, -1, -1):
        there = [layer for layer in layers if layer.content is not None]
        contents = tuple(layer.content for layer in there if layer.content is not None)
        plan = InventoryPlan(contents, facts, options, passes_left == 0, registry.limits)
        stream = registry.streams.take()
        yield from begin(stream, plan)
        analysis: Analysis = yield from end(stream)
        if analysis.taken is not None:
            return analysis.taken
        yield from _read_again(registry, repository, there, analysis.missing, budget)
    raise AssertionError("the last analysis is final")


def _read_again(
    registry: Registry, repository: str, there: Sequence[_Layer], missing: Sequence[Missing], budget: _Budget
) -> Step[None]:
    """Read layers once more for files that a link elsewhere made interesting, each once for all its files."""
    by_digest: dict[str, tuple[_Layer, list[str]]] = {}
    for one in missing:
        layer = there[one.layer]
        by_digest.setdefault(layer.descriptor.digest, (layer, []))[1].append(one.path)
    names = [path for _, paths in by_digest.values() for path in paths]
    yield from say(Note("info", "layers-read-again", {"layers": len(by_digest), "files": len(names)}))
    steps = []
    for layer, paths in by_digest.values():
        asked = Wanted(
            databases=tuple(dict.fromkeys(path for path in paths if not path.endswith("/"))),
            folders=tuple(dict.fromkeys(path for path in paths if path.endswith("/"))),
        )
        steps.append(_fetch_one(registry, repository, layer, asked, budget))
    yield from together(steps, registry.limits.layers_at_once)
    for layer in there:
        layer.content = by_digest.get(layer.descriptor.digest, (layer, []))[0].content


def _not_read(layer: _Layer, why: str) -> str:
    return f"layer {layer.descriptor.digest} was not read: {why}"


def _facts(
    registry: Registry,
    repository: str,
    reference: str,
    image: ResolvedImage,
    layers: Sequence[_Layer],
    image_name: ImageReference | str | None,
    attested: Attested,
) -> ImageFacts:
    separator = "@" if ":" in reference else ":"
    if isinstance(image_name, ImageReference):
        host, path = image_name.domain, image_name.path
        name = f"{image_name.familiar}{separator}{reference}"
    else:
        host, path = registry.domain, registry.repository(repository)
        name = image_name or f"{host}/{path}{separator}{reference}"
        if image_name is not None:
            host, path = "", ""
    missing = tuple(dict.fromkeys(layer.missing for layer in layers if layer.missing is not None))
    # What may be kept elsewhere is of no interest once it was here.
    warnings = () if any(layer.descriptor.foreign for layer in layers) else image.warnings
    return ImageFacts(
        name=name,
        config=image.config_raw,
        config_digest=image.config_digest,
        layers=tuple(layer.descriptor.digest for layer in layers),
        diff_ids=tuple(layer.diff_id for layer in layers),
        platform=str(image.platform),
        manifest_digest=image.manifest.digest,
        index_digest=image.index_digest,
        missing=missing,
        warnings=warnings + attested.warnings,
        registry_host=host or None,
        repository=path or None,
        provenance=attested.provenance,
    )
