"""What scans and pulls come to, and the events on the way."""

from __future__ import annotations

from typing import Any

from towline.core._contract import Record
from towline.core.inventory import Inventory, Metric, ScanResult
from towline.core.registry import Manifest, Platform


class ImageResolved(Record, frozen=True):
    """Event: which image is meant is known, and no layer was fetched yet."""

    manifest_digest: str
    index_digest: str | None
    platform: Platform | None
    layers: int
    total_bytes: int


class ImagePulled(Record, frozen=True):
    """Event: every layer is proven and read; the inventory is being taken."""

    manifest_digest: str
    bytes_downloaded: int


class ScanOutcome(Record, frozen=True):
    """What a scan found.

    `scan_results` are encoded with `msgspec.json.encode`; the first `os_results` are the system's. `layers` are those
    that were read, `bytes_downloaded` all their bytes on the wire, those of second passes too. `complete` is False
    when something of the image was not read; `warnings` say what. `state_identifier` changes when the image does.
    """

    registry: str
    repository: str
    reference: str
    manifest_digest: str
    index_digest: str | None
    platform: Platform
    scan_results: tuple[ScanResult, ...]
    os_results: int
    analytics: tuple[Metric, ...]
    inventory: Inventory
    layers: int
    bytes_downloaded: int
    bytes_unpacked: int
    warnings: tuple[str, ...]
    complete: bool

    @property
    def state_identifier(self) -> str:
        return self.manifest_digest

    @property
    def image(self) -> dict[str, str | None]:
        """The image as messages name it (agent.md §6.2)."""
        return {
            "registry": self.registry,
            "repository": self.repository,
            "reference": self.reference,
            "manifestDigest": self.manifest_digest,
            "indexDigest": self.index_digest,
            "platform": str(self.platform),
        }


class PulledImage(Record, frozen=True):
    """What a pull kept: `root` is the manifest or index that was asked for, `blobs` counts everything stored."""

    root: Manifest
    blobs: int
    bytes: int
    warnings: tuple[str, ...] = ()

    def index_entry(self, tag: str | None = None) -> dict[str, Any]:
        """Return the descriptor that an OCI layout's index.json has of it (image-layout.md, annotations.md)."""
        entry: dict[str, Any] = {
            "mediaType": self.root.media_type,
            "digest": self.root.digest,
            "size": len(self.root.raw),
        }
        if tag:
            entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
        return entry
