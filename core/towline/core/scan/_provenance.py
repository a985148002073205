"""Reading what a builder attests of an image, from the manifests that stand beside it in its index (scan.md §1.5).

An index without such entries costs no request. What is broken or missing is told as a warning: the image itself is
whole without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._script import Step
from towline.core.inventory import PROVENANCE_TYPES, Provenance, parse_provenance
from towline.core.registry import Descriptor, ImageIndex, Registry, get_blob_document, get_manifest

_STATEMENT: Final = "application/vnd.in-toto+json"
_PREDICATE: Final = "in-toto.io/predicate-type"
_by_digest: Final = attrgetter("digest")


class Attested(Record, frozen=True):
    """What was attested, by attestation manifest and then layer; and what could not be read."""

    provenance: tuple[Provenance, ...] = ()
    warnings: tuple[str, ...] = ()


def find_provenance(
    registry: Registry, repository: str, manifest: str, entries: Sequence[Descriptor]
) -> Step[Attested]:
    """Read the statements of provenance about a manifest; `entries` are the index's with statements about it.

    Bounds:  LIMITS.provenance_entries manifests and statements, LIMITS.provenance_document each
    """
    most = registry.limits.provenance_entries
    warnings: list[str] = []
    unique = {entry.digest: entry for entry in entries}
    statements: list[tuple[Descriptor, Descriptor]] = []
    for entry in sorted(unique.values(), key=_by_digest)[:most]:
        try:
            layers = yield from _statements(registry, repository, entry)
        except RemoteProtocolError as error:
            warnings.append(_not_read(entry, error))
        else:
            statements += [(entry, layer) for layer in layers]
    if len(unique) > most or len(statements) > most:
        warnings.append(f"the image has more than {most} attestations of its provenance, of which some were not read")
    found: list[Provenance] = []
    for entry, layer in statements[:most]:
        try:
            _check_size(registry, layer)
            raw = yield from get_blob_document(registry, repository, layer)
            # What the index says of an entry counts for the statements in it.
            named = bool(entry.refers_to)
            one = parse_provenance(raw, manifest, entry.digest, named=named, limits=registry.limits)
        except RemoteProtocolError as error:
            warnings.append(_not_read(layer, error))
        else:
            found += [one] if one is not None else []
    return Attested(tuple(found), tuple(warnings))


def _statements(registry: Registry, repository: str, entry: Descriptor) -> Step[list[Descriptor]]:
    """Get an attestation manifest; return the layers that are statements of provenance, or do not say of what."""
    _check_size(registry, entry)
    manifest = yield from get_manifest(registry, repository, entry.digest, expected=entry)
    if isinstance(manifest.parsed, ImageIndex):
        raise RemoteProtocolError("invalid-manifest", "expected a manifest of statements, got an index")
    unique = {
        layer.digest: layer
        for layer in manifest.parsed.layers
        if layer.media_type == _STATEMENT
        and (_PREDICATE not in layer.annotations or layer.annotations[_PREDICATE] in PROVENANCE_TYPES)
    }
    return sorted(unique.values(), key=_by_digest)


def _check_size(registry: Registry, descriptor: Descriptor) -> None:
    most = registry.limits.provenance_document
    if descriptor.size > most:
        raise RemoteProtocolError("image-too-large", f"expected at most {most} bytes, got {descriptor.size}")


def _not_read(descriptor: Descriptor, error: RemoteProtocolError) -> str:
    return f"attestation {descriptor.digest} was not read: {error.message}"
