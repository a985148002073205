"""Pulls of what a registry may not say; and an inventory's stream, which takes no bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from layout_registry import LayoutRegistry, registry

from towline.core import LIMITS, LocalProtocolError, RemoteProtocolError
from towline.core.inventory import ImageFacts, ScanOptions
from towline.core.layer import build
from towline.core.scan import pull_image
from towline.core.scan._plan import InventoryPlan

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


class Written:
    """An OCI layout written by a test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "image.oci"
        (self._folder / "blobs" / "sha256").mkdir(parents=True)

    def blob(self, document: Any, media_type: str) -> dict[str, Any]:
        data = json.dumps(document).encode()
        digest = hashlib.sha256(data).hexdigest()
        (self._folder / "blobs" / "sha256" / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def manifest(self, *layers: dict[str, Any], note: str = "") -> dict[str, Any]:
        config = self.blob({"rootfs": {"type": "layers", "diff_ids": []}, "note": note}, CONFIG)
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": list(layers)}
        return self.blob(document, MANIFEST)

    def index(self, *entries: dict[str, Any]) -> dict[str, Any]:
        return self.blob({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)}, INDEX)

    def top(self, entry: dict[str, Any]) -> None:
        (self._folder / "index.json").write_text(json.dumps({"manifests": [entry]}))


def refused(folder: Path, **limits: Any) -> str:
    session = registry(limits=msgspec.structs.replace(LIMITS, **limits))
    steps = pull_image(session, "corpus/image", "latest", None)
    with pytest.raises(RemoteProtocolError) as caught:
        LayoutRegistry(folder).run(steps)
    assert caught.value.kind == "invalid-manifest"
    return caught.value.message


def test_indexes_of_too_many_manifests(tmp_path: Path) -> None:
    written = Written(tmp_path)
    inner = [written.index(*(written.manifest(note=f"{at}.{more}") for more in range(3))) for at in range(3)]
    written.top(written.index(*inner))
    assert "at most 6 manifests" in refused(tmp_path, index_entries=6)


def test_one_digest_of_two_sizes(tmp_path: Path) -> None:
    written = Written(tmp_path)
    layer = written.blob("x", LAYER)
    written.top(written.index(written.manifest(layer), written.manifest({**layer, "size": layer["size"] + 1})))
    assert "expected one size" in refused(tmp_path)


def test_an_inventory_takes_no_bytes() -> None:
    stream = build(InventoryPlan((), ImageFacts("h/r:t", b"{}", "sha256:0", (), ()), ScanOptions(), True, LIMITS))
    with pytest.raises(LocalProtocolError):
        stream.feed(b"x")
    assert stream.end().taken is not None
