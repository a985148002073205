"""Asking for manifests, and finding the one image that is meant."""

from __future__ import annotations

from collections.abc import Iterator

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._script import Step
from towline.core.http import redacted
from towline.core.registry._access import Ask, ask
from towline.core.registry._blob import get_blob_document
from towline.core.registry._config import ImageConfig, parse_config
from towline.core.registry._digest import Digest, is_digest, shown
from towline.core.registry._failure import failure
from towline.core.registry._manifest import (
    ACCEPT,
    Descriptor,
    ImageIndex,
    ImageManifest,
    Manifest,
    is_index_type,
    parse_manifest,
)
from towline.core.registry._platform import DEFAULT_PLATFORM, Platform, best, rank
from towline.core.registry._reference import check_reference
from towline.core.registry._send import Reply, Want
from towline.core.registry._session import Registry


class ManifestHead(Record, frozen=True):
    """What a HEAD tells of a manifest; the registry's word, not proven."""

    media_type: str
    digest: str | None
    size: int | None


class ResolvedManifest(Record, frozen=True):
    """One image's manifest, and the index it was chosen from, if any.

    `attestations` are the index's entries with statements about this image.
    """

    index_digest: str | None
    manifest: Manifest
    image: ImageManifest
    platform: Platform | None
    attestations: tuple[Descriptor, ...] = ()


class ResolvedImage(Record, frozen=True):
    """One image: manifest, config and layers, every digest and size of the documents proven."""

    index_digest: str | None
    manifest: Manifest
    config: ImageConfig
    config_raw: bytes
    config_digest: str
    layers: tuple[Descriptor, ...]
    platform: Platform
    warnings: tuple[str, ...] = ()
    attestations: tuple[Descriptor, ...] = ()


def head_manifest(registry: Registry, repository: str, reference: str) -> Step[ManifestHead]:
    """Ask for a manifest's digest and type only; Docker Hub does not count it as a pull."""
    reply = yield from _ask(registry, repository, reference, "HEAD", Want(0, may_leave=True))
    digest = reply.head.get("docker-content-digest")
    length = reply.head.get("content-length") or ""
    return ManifestHead(
        (reply.head.get("content-type") or "").partition(";")[0].strip().lower(),
        digest if digest is not None and is_digest(digest) else None,
        int(length) if length.isascii() and length.isdigit() and len(length) <= 19 else None,
    )


def get_manifest(
    registry: Registry, repository: str, reference: str, *, expected: Descriptor | None = None
) -> Step[Manifest]:
    """Get a manifest or index, its digest computed over the very bytes that came.

    Asked by digest, it must match; asked by tag, it must match what the registry says in Docker-Content-Digest.
    `expected` is the descriptor that led here, whose size must match as well.

    Raises:  digest-mismatch, size-mismatch, image-too-large, invalid-manifest, and what a request raises
    """
    limit = registry.limits.registry_document
    if expected is not None and expected.size > limit:
        raise RemoteProtocolError(
            "image-too-large", f"expected a manifest of at most {limit} bytes, got {expected.size}"
        )
    reply = yield from _ask(registry, repository, reference, "GET", Want(limit, "image-too-large", may_leave=True))
    where = redacted(reply.url)
    if (reply.head.get("content-encoding") or "identity").strip().lower() != "identity":
        raise RemoteProtocolError("protocol-error", f"expected the manifest's own bytes from {where}, got encoded ones")
    digest = _prove(reply, reference, where)
    if expected is not None and len(reply.body) != expected.size:
        raise RemoteProtocolError(
            "size-mismatch", f"expected {expected.size} bytes from {where}, got {len(reply.body)}"
        )
    media_type, parsed = parse_manifest(
        reply.body, reply.head.get("content-type"), f"manifest {where}", registry.limits
    )
    return Manifest(reply.body, media_type, str(digest), parsed)


def resolve_manifest(
    registry: Registry, repository: str, reference: str, platform: Platform | None = None
) -> Step[ResolvedManifest]:
    """Get the manifest of one image, through the indexes before it.

    `platform` is None for the only one there is, else linux/amd64.
    Raises:  platform-not-found, naming what there is; unsupported-artifact for what is no image
    """
    manifest = yield from get_manifest(registry, repository, reference)
    index_digest = manifest.digest if isinstance(manifest.parsed, ImageIndex) else None
    chosen: Descriptor | None = None
    entries: list[Descriptor] = []
    depth = 0
    while isinstance(manifest.parsed, ImageIndex):
        depth += 1
        if depth > registry.limits.index_depth:
            raise RemoteProtocolError(
                "invalid-manifest", f"expected at most {registry.limits.index_depth} indexes in one another, got more"
            )
        chosen = choose(manifest.parsed, platform, manifest.digest)
        entries += manifest.parsed.manifests
        manifest = yield from get_manifest(registry, repository, chosen.digest, expected=chosen)
    image = manifest.parsed
    if not image.is_image:
        what = image.artifact_type or image.config.media_type
        raise RemoteProtocolError("unsupported-artifact", f"expected a container image, got an artefact: {shown(what)}")
    attestations = tuple(entry for entry in entries if entry.attests(manifest.digest))
    return ResolvedManifest(index_digest, manifest, image, chosen.platform if chosen else None, attestations)


def resolve_image(
    registry: Registry, repository: str, reference: str, platform: Platform | None = None
) -> Step[ResolvedImage]:
    """Get one image's manifest and config: all that is to be known before a layer is fetched.

    Raises:  image-too-large when the layers together pass LIMITS.image_total, and what `resolve_manifest` raises
    """
    found = yield from resolve_manifest(registry, repository, reference, platform)
    total = sum(layer.size for layer in found.image.layers)
    if total > registry.limits.image_total:
        raise RemoteProtocolError(
            "image-too-large", f"expected layers of at most {registry.limits.image_total} bytes, got {total}"
        )
    raw = yield from get_blob_document(registry, repository, found.image.config)
    where = f"config {found.image.config.digest}"
    config = parse_config(raw, len(found.image.layers), where, registry.limits)
    built_for = config.platform or found.platform or DEFAULT_PLATFORM
    if platform is not None and found.index_digest is None and rank(platform, built_for) is None:
        raise _no_platform(platform, [str(built_for)], found.manifest.digest)
    foreign = sum(layer.foreign for layer in found.image.layers)
    warnings = (f"{foreign} layers may be kept on another host, from which nothing is fetched",) if foreign else ()
    return ResolvedImage(
        found.index_digest,
        found.manifest,
        config,
        raw,
        found.image.config.digest,
        found.image.layers,
        built_for,
        warnings,
        found.attestations,
    )


def state_identifier(
    registry: Registry, repository: str, reference: str, platform: Platform | None = None
) -> Step[str]:
    """Return the digest of the image that is meant, which changes exactly when the image does.

    The manifest's and not the index's, so that one more platform is no change. One HEAD where that suffices.
    """
    head = yield from head_manifest(registry, repository, reference)
    if head.digest is not None and head.media_type and not is_index_type(head.media_type):
        return head.digest
    manifest = yield from get_manifest(registry, repository, reference)
    if not isinstance(manifest.parsed, ImageIndex):
        return manifest.digest
    chosen = choose(manifest.parsed, platform, manifest.digest)
    if is_index_type(chosen.media_type):
        found = yield from resolve_manifest(registry, repository, chosen.digest, platform)
        return found.manifest.digest
    return chosen.digest


def choose(index: ImageIndex, platform: Platform | None, digest: str = "") -> Descriptor:
    """Choose the entry of an index: attestations left out, by platform, or the only one if it names none.

    Raises:  platform-not-found, invalid-manifest for an index without images
    """
    entries = [entry for entry in index.manifests if not entry.attestation]
    if not entries:
        raise RemoteProtocolError("invalid-manifest", f"expected images in the index {digest}, got none")
    if len(entries) == 1 and (entries[0].platform is None or platform is None):
        return entries[0]
    wanted = platform or DEFAULT_PLATFORM
    at = best(wanted, [entry.platform for entry in entries])
    if at is not None:
        return entries[at]
    # An index that names no platform may hold it further down.
    inner = [entry for entry in entries if entry.platform is None and is_index_type(entry.media_type)]
    if len(inner) != 1:
        raise _no_platform(wanted, list(_offers(entries)), digest)
    return inner[0]


def _offers(entries: list[Descriptor]) -> Iterator[str]:
    for entry in entries:
        yield str(entry.platform) if entry.platform else "(none named)"


def _no_platform(wanted: Platform, offers: list[str], digest: str) -> RemoteProtocolError:
    there = ", ".join(dict.fromkeys(shown(offer)[1:-1] for offer in offers[:50]))
    return RemoteProtocolError(
        "platform-not-found", f"expected an image for {wanted} in {digest}, got {there}", hint=f"choose one of: {there}"
    )


def _ask(registry: Registry, repository: str, reference: str, method: str, want: Want) -> Step[Reply]:
    name = registry.repository(repository)
    url = registry.url(f"{name}/manifests/{check_reference(reference)}")
    headers = (("accept", ACCEPT), ("accept-encoding", "identity"))
    reply = yield from ask(registry, Ask("manifest", url, f"repository:{name}:pull", want, method, headers))
    if reply.status != 200:
        raise failure(registry, "manifest", method, reply.head, reply.url, reply.body)
    return reply


def _prove(reply: Reply, reference: str, where: str) -> Digest:
    claimed = reply.head.get("docker-content-digest") or ""
    text = reference if is_digest(reference) else claimed if is_digest(claimed) else None
    if text is None:
        return Digest.of(reply.body)
    promised = Digest.parse(text)
    computed = Digest.of(reply.body, promised.algorithm)
    if computed != promised:
        raise RemoteProtocolError("digest-mismatch", f"expected {promised} from {where}, got {computed}")
    return computed
