"""One deterministic image with one large layer, as an OCI layout: same size, same bytes, same digests everywhere.

The layer is a plain tar with one file of incompressible bytes, so that neither side can save work by repetition.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

MIB = 1 << 20
BLOCK = 8 * MIB
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


class Image(NamedTuple):
    """What was made: the layout's folder, and its one layer."""

    folder: Path
    layer: str
    size: int
    manifest: str

    @property
    def layer_file(self) -> Path:
        return self.folder / "blobs" / "sha256" / self.layer.removeprefix("sha256:")


def incompressible(total: int, seed: int = 1) -> Iterator[bytes]:
    """Yield `total` bytes in blocks: one block of chance, turned by another amount each time, behind its own nonce.

    No window of gzip or zstd sees a repetition, and a gibibyte takes a second to make.
    """
    base = random.Random(seed).randbytes(BLOCK)
    number = 0
    while total > 0:
        nonce = hashlib.sha256(b"%d" % number).digest()
        turn = int.from_bytes(nonce[:3], "big") % len(base)
        number += 1
        block = (nonce + base[turn:] + base[:turn])[: min(BLOCK, total)]
        yield block
        total -= len(block)


def make_image(folder: Path, size: int) -> Image:
    """Write the layout with a layer whose file has `size` bytes."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    entry = tarfile.TarInfo("data.bin")
    entry.size = size
    part = blobs / "part"
    digest = hashlib.sha256()
    written = 0
    with part.open("wb") as out:
        padding = -size % 512 + 1024
        for piece in (entry.tobuf(tarfile.USTAR_FORMAT), *incompressible(size), bytes(padding)):
            out.write(piece)
            digest.update(piece)
            written += len(piece)
    layer = "sha256:" + digest.hexdigest()
    os.rename(part, blobs / digest.hexdigest())
    config = _keep(blobs, {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer]}})
    manifest = _keep(
        blobs,
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, **config},
            "layers": [{"mediaType": LAYER_TYPE, "digest": layer, "size": written}],
        },
    )
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "manifests": [{"mediaType": MANIFEST_TYPE, **manifest}]})
    )
    return Image(folder, layer, written, manifest["digest"])


def _keep(blobs: Path, document: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(document, separators=(",", ":")).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}
