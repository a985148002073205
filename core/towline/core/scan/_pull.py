"""Pulling an image as it is: every blob proven and stored, down to the last platform.

The pull checks size and digest of each blob. Diff IDs are checked only on wish (`unpack`), since that costs what a
scan costs; a digest that holds already proves that the bytes are the ones the manifest names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from towline.core._errors import RemoteProtocolError, TowlineError
from towline.core._limits import Limits
from towline.core._script import Step, begin, end, feed, say, store, together
from towline.core._wire import Plan
from towline.core.layer import BlobPlan, LayerPlan
from towline.core.registry import (
    Descriptor,
    ImageIndex,
    Manifest,
    Platform,
    Registry,
    download_blob,
    get_blob_document,
    get_manifest,
    parse_config,
    resolve_manifest,
)
from towline.core.scan._outcome import ImagePulled, ImageResolved, PulledImage

_ELSEWHERE: Final = "unsupported-media-type"


def pull_image(
    registry: Registry, repository: str, reference: str, platform: Platform | None = None, *, unpack: bool = False
) -> Step[PulledImage]:
    """Store an image's blobs, manifests included, under their digests; all platforms' without `platform`.

    With one, the image for it is the root of what is pulled; else the manifest or index that the reference names.
    Manifests are stored last, so that a store never has one without what it names.

    Says:    ImageResolved, Progress for each blob, ImagePulled
    Raises:  image-too-large before a blob is fetched, and what `get_manifest` and `download_blob` raise
    """
    if platform is None:
        root = yield from get_manifest(registry, repository, reference)
    else:
        found = yield from resolve_manifest(registry, repository, reference, platform)
        root = found.manifest
    manifests = yield from _whole_tree(registry, repository, root)
    blobs = _blobs(manifests)
    total = _check_size(blobs, registry.limits)
    yield from say(ImageResolved(root.digest, None, platform, len(blobs), total))
    plans: dict[str, Plan] = {}
    if unpack:
        plans = yield from _layer_plans(registry, repository, manifests)
    kept = yield from together(
        [_keep(registry, repository, blob, plans.get(blob.digest)) for blob in blobs], registry.limits.layers_at_once
    )
    for manifest in reversed(manifests):
        yield from _keep_document(registry, manifest.digest, manifest.raw)
    stored = [blob for blob, warning in zip(blobs, kept) if warning is None]
    count = sum(blob.size for blob in stored) + sum(len(manifest.raw) for manifest in manifests)
    yield from say(ImagePulled(root.digest, count))
    warnings = tuple(warning for warning in kept if warning is not None)
    return PulledImage(root, len(stored) + len(manifests), count, warnings)


def _whole_tree(registry: Registry, repository: str, root: Manifest) -> Step[list[Manifest]]:
    """Get every manifest below a root, each once, parents before children; attestations too."""
    found = {root.digest: root}
    level = [root]
    for _ in range(registry.limits.index_depth + 1):
        entries = {
            entry.digest: entry
            for manifest in level
            if isinstance(manifest.parsed, ImageIndex)
            for entry in manifest.parsed.manifests
            if entry.digest not in found
        }
        if not entries:
            return list(found.values())
        if len(found) + len(entries) > registry.limits.index_entries:
            raise RemoteProtocolError(
                "invalid-manifest", f"expected at most {registry.limits.index_entries} manifests in an image, got more"
            )
        level = yield from together(
            [get_manifest(registry, repository, entry.digest, expected=entry) for entry in entries.values()],
            registry.limits.layers_at_once,
        )
        found |= {manifest.digest: manifest for manifest in level}
    raise RemoteProtocolError(
        "invalid-manifest", f"expected at most {registry.limits.index_depth} indexes in one another, got more"
    )


def _blobs(manifests: Sequence[Manifest]) -> list[Descriptor]:
    """Every config and layer, each once; two sizes for one digest cannot both be true."""
    found: dict[str, Descriptor] = {}
    for manifest in manifests:
        if isinstance(manifest.parsed, ImageIndex):
            continue
        for blob in (manifest.parsed.config, *manifest.parsed.layers):
            known = found.setdefault(blob.digest, blob)
            if known.size != blob.size:
                raise RemoteProtocolError(
                    "invalid-manifest", f"expected one size for {blob.digest}, got {known.size} and {blob.size}"
                )
    return list(found.values())


def _check_size(blobs: Sequence[Descriptor], limits: Limits) -> int:
    total = sum(blob.size for blob in blobs if not blob.foreign)
    if total > limits.image_total:
        raise RemoteProtocolError("image-too-large", f"expected at most {limits.image_total} bytes, got {total}")
    return total


def _layer_plans(registry: Registry, repository: str, manifests: Sequence[Manifest]) -> Step[dict[str, Plan]]:
    """Make plans that check diff IDs as well, for the layers of images."""
    plans: dict[str, Plan] = {}
    for manifest in manifests:
        if isinstance(manifest.parsed, ImageIndex) or not manifest.parsed.is_image:
            continue
        layers = manifest.parsed.layers
        if not all("tar" in layer.media_type or not layer.media_type for layer in layers):
            continue
        raw = yield from get_blob_document(registry, repository, manifest.parsed.config)
        config = parse_config(raw, len(layers), f"config {manifest.parsed.config.digest}", registry.limits)
        for layer, diff_id in zip(layers, config.rootfs.diff_ids):
            plans[layer.digest] = LayerPlan(layer.digest, layer.size, diff_id, layer.media_type, limits=registry.limits)
    return plans


def _keep(registry: Registry, repository: str, blob: Descriptor, plan: Plan | None) -> Step[str | None]:
    """Fetch and store one blob; return why not, for a layer that is kept on another host."""
    try:
        yield from download_blob(registry, repository, blob, plan or BlobPlan(blob.digest, blob.size), keep=True)
    except TowlineError as error:
        if error.kind != _ELSEWHERE or not blob.foreign:
            raise
        return f"{blob.digest} was not pulled: it is kept on another host, from which nothing is fetched"
    return None


def _keep_document(registry: Registry, digest: str, raw: bytes) -> Step[None]:
    """Store bytes that are here already, the way all blobs are stored."""
    stream = registry.streams.take()
    yield from begin(stream, BlobPlan(digest, len(raw)), len(raw))
    yield from feed(stream, raw)
    yield from store(stream, raw)
    yield from end(stream)
