"""Manifests, indexes and configs: what an image is made of, read from the exact bytes that were proven."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final, Literal

import msgspec

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._json import strict_json, typed
from towline.core._limits import LIMITS, Limits
from towline.core.registry._digest import Digest, shown
from towline.core.registry._platform import Platform

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
ACCEPT: Final = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST))
"""Always all of it, in one field: without it distribution answers as if the image were missing."""

_INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
_IMAGES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+"
_CONFIGS: Final = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
_ATTESTATION: Final = "vnd.docker.reference.type"
_REFERS_TO: Final = "vnd.docker.reference.digest"


class Descriptor(Record, frozen=True):
    """What a manifest says about another piece of content. `digest` and `size` were checked for their form."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    urls: tuple[str, ...] = ()
    data: bytes | None = None
    artifact_type: str | None = None

    @property
    def attestation(self) -> bool:
        """True for an entry that is a statement about an image, not an image (BuildKit)."""
        return _ATTESTATION in self.annotations or (self.platform is not None and self.platform.unknown)

    @property
    def refers_to(self) -> str | None:
        """The digest of the image that an entry is about, where it says so (BuildKit)."""
        return self.annotations.get(_REFERS_TO)

    def attests(self, digest: str) -> bool:
        """Tell whether this is a manifest of statements about an image; one that names no image is about any."""
        return self.annotations.get(_ATTESTATION) == "attestation-manifest" and self.refers_to in (None, digest)

    @property
    def foreign(self) -> bool:
        """True for a layer that is kept elsewhere, because it may not be distributed."""
        return bool(self.urls) or "nondistributable" in self.media_type or ".foreign." in self.media_type


class ImageManifest(Record, frozen=True):
    """One image: its config, and its layers with the base first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str]
    artifact_type: str | None = None

    @property
    def is_image(self) -> bool:
        """False for signatures, charts, SBOMs and other artefacts in an image's clothes."""
        return not self.artifact_type and self.config.media_type in _CONFIGS


class ImageIndex(Record, frozen=True):
    """Several images under one name, one for each platform."""

    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str]


class Manifest(Record, frozen=True):
    """A manifest or index as it came: its bytes, their proven digest, and what they say."""

    raw: bytes
    media_type: str
    digest: str
    parsed: ImageManifest | ImageIndex


class _Platform(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str | None = None
    os_version: str | None = msgspec.field(default=None, name="os.version")


class _Descriptor(msgspec.Struct, rename="camel"):
    digest: str
    size: int
    media_type: str = ""
    platform: _Platform | None = None
    annotations: dict[str, str] | None = None
    urls: list[str] | None = None
    data: str | None = None
    artifact_type: str | None = None


class _Image(msgspec.Struct, rename="camel"):
    config: _Descriptor
    layers: list[_Descriptor]
    annotations: dict[str, str] | None = None
    artifact_type: str | None = None


class _Index(msgspec.Struct):
    manifests: list[_Descriptor]
    annotations: dict[str, str] | None = None


def is_index_type(media_type: str) -> bool:
    """Tell whether a media type is that of an index."""
    return media_type in _INDEXES


def parse_manifest(
    raw: bytes, content_type: str | None, where: str = "manifest", limits: Limits = LIMITS
) -> tuple[str, ImageManifest | ImageIndex]:
    """Read a manifest or index; return its media type and what it says.

    Raises:  invalid-manifest; unsupported-artifact for the old schema 1
    Source:  OCI image-spec, manifest.md and image-index.md; CVE-2021-41190 for the two-faced document
    """
    said = (content_type or "").partition(";")[0].strip().lower()
    if said.startswith(_SCHEMA1):
        raise _schema1(where)
    document = strict_json(raw, where, kind="invalid-manifest", limits=limits)
    if not isinstance(document, dict):
        raise RemoteProtocolError("invalid-manifest", f"{where}: expected an object")
    if document.get("schemaVersion") == 1 or "fsLayers" in document:
        raise _schema1(where)
    media_type = _media_type(document, said, where)
    if media_type in _INDEXES:
        index = typed(document, _Index, where, kind="invalid-manifest")
        if len(index.manifests) > limits.index_entries:
            raise _too_many(where, "entries", limits.index_entries, len(index.manifests))
        manifests = tuple(_descriptor(entry, where) for entry in index.manifests)
        return media_type, ImageIndex(manifests, index.annotations or {})
    image = typed(document, _Image, where, kind="invalid-manifest")
    if len(image.layers) > limits.image_layers:
        raise _too_many(where, "layers", limits.image_layers, len(image.layers))
    layers = tuple(_descriptor(layer, where) for layer in image.layers)
    config = _descriptor(image.config, where)
    return media_type, ImageManifest(config, layers, image.annotations or {}, image.artifact_type)


def _media_type(document: dict[str, Any], said: str, where: str) -> str:
    inner = document.get("mediaType")
    if inner is not None and not isinstance(inner, str):
        raise RemoteProtocolError("invalid-manifest", f"{where}: expected a text as mediaType")
    known = _INDEXES | _IMAGES
    if said in known and inner and inner != said:
        raise RemoteProtocolError(
            "invalid-manifest", f"{where}: expected mediaType {said} as in Content-Type, got {shown(inner)}"
        )
    # A type that is set and not known must not be read as something else because it looks like it.
    if inner and inner not in known:
        raise RemoteProtocolError("unsupported-media-type", f"{where}: expected an image, got mediaType {shown(inner)}")
    shape = _shape(document, where)
    media_type = said if said in known else inner or (OCI_INDEX if shape == "index" else OCI_MANIFEST)
    if (media_type in _INDEXES) != (shape == "index"):
        raise RemoteProtocolError("invalid-manifest", f"{where}: expected the members of {media_type}, got an {shape}")
    return media_type


def _shape(document: dict[str, Any], where: str) -> Literal["index", "image"]:
    index = "manifests" in document
    image = "layers" in document or "config" in document
    if index and image:
        raise RemoteProtocolError("invalid-manifest", f"{where}: expected layers or manifests, got both")
    if not index and not image:
        raise RemoteProtocolError("invalid-manifest", f"{where}: expected layers or manifests, got neither")
    return "index" if index else "image"


def _descriptor(wire: _Descriptor, where: str) -> Descriptor:
    Digest.parse(wire.digest, kind="invalid-manifest")
    if not 0 <= wire.size < 1 << 63:
        raise RemoteProtocolError("invalid-manifest", f"{where}: expected a size from 0 on, got {wire.size}")
    platform = None
    if wire.platform is not None and wire.platform.os and wire.platform.architecture:
        at = wire.platform
        platform = Platform(at.os, at.architecture, at.variant or None, at.os_version or None)
    return Descriptor(
        wire.media_type,
        wire.digest,
        wire.size,
        platform,
        wire.annotations or {},
        tuple(wire.urls or ()),
        _embedded(wire),
        wire.artifact_type,
    )


def _embedded(wire: _Descriptor) -> bytes | None:
    # Embedded content is an offer to save a request; one that is not what it should be is no offer.
    if not wire.data:
        return None
    try:
        data = base64.b64decode(wire.data, validate=True)
    except (binascii.Error, ValueError):
        return None
    digest = Digest.parse(wire.digest)
    return data if len(data) == wire.size and Digest.of(data, digest.algorithm) == digest else None


def _schema1(where: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        "unsupported-artifact",
        f"{where}: expected an image of schema 2 or OCI, got one of schema 1",
        hint="push the image again with a current client; schema 1 has no sizes to verify",
    )


def _too_many(where: str, what: str, most: int, came: int) -> RemoteProtocolError:
    return RemoteProtocolError("invalid-manifest", f"{where}: expected at most {most} {what}, got {came}")
