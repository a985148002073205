"""The demo's image: what this machine has installed, as an OCI image, so that the first inventory seen is a true one.

Nothing but the package database and os-release is read. The same files give the same bytes and digests.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from towline.core import Record

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar+gzip"

# A time that is the same everywhere: the image is made of files, not of a moment.
CREATED: Final = "1970-01-01T00:00:00Z"
# Go's names of machines, which image platforms use (OCI image-spec, image-index.md).
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}

OS_RELEASE: Final = ("etc/os-release", "usr/lib/os-release")
DPKG: Final = "var/lib/dpkg/status"
DPKG_PARTS: Final = "var/lib/dpkg/status.d"
APK: Final = ("lib/apk/db/installed", "usr/lib/apk/db/installed")


class StoredManifest(Record, frozen=True):
    """A manifest or index, byte for byte."""

    media_type: str
    data: bytes


class Repository(Record, frozen=True):
    """What a registry keeps under one name."""

    tags: dict[str, str]
    manifests: dict[str, StoredManifest]
    blobs: dict[str, bytes]


class LocalImage(Record, frozen=True):
    """The image of this machine; `note` says what could not be put in, if anything."""

    repository: Repository
    digest: str
    database: str | None
    note: str | None


def local_image(root: Path = Path("/"), *, tag: str = "latest", machine: str | None = None) -> LocalImage:
    """Build the image from the files below `root`. `machine` is what `uname -m` says there."""
    os_release = _first(root, OS_RELEASE)
    files, database = _database(root)
    layers = []
    if os_release is not None:
        release: dict[str, bytes | str] = {OS_RELEASE[1]: os_release, OS_RELEASE[0]: "../usr/lib/os-release"}
        layers.append((_tar(release), "os-release of the machine that runs the demo"))
    if files:
        layers.append((_tar(files), f"package database of that machine ({database})"))
    note = None
    if database is None:
        note = "this machine keeps no dpkg or apk database; the image has its os-release only"
    return _image(layers, tag, ARCHITECTURES.get(machine or platform.machine(), machine or "unknown"), database, note)


def from_layout(folder: Path, *, tag: str = "latest") -> Repository:
    """Read an OCI layout: every manifest its index names, under `tag` or the tag the index gives.

    Source:  OCI image-spec, image-layout.md
    """
    index = json.loads((folder / "index.json").read_bytes())
    blobs = {f"sha256:{path.name}": path.read_bytes() for path in sorted((folder / "blobs" / "sha256").iterdir())}
    tags: dict[str, str] = {}
    manifests: dict[str, StoredManifest] = {}
    waiting: list[dict[str, Any]] = list(index["manifests"])
    for descriptor in index["manifests"]:
        name = descriptor.get("annotations", {}).get("org.opencontainers.image.ref.name", tag)
        tags[name.rpartition(":")[2]] = descriptor["digest"]
    for descriptor in waiting:
        data = blobs.get(descriptor["digest"])
        if data is None or descriptor["digest"] in manifests:
            continue
        manifests[descriptor["digest"]] = StoredManifest(descriptor["mediaType"], data)
        waiting += json.loads(data).get("manifests", [])
    return Repository(tags, manifests, {digest: data for digest, data in blobs.items() if digest not in manifests})


def _first(root: Path, names: tuple[str, ...]) -> bytes | None:
    for name in names:
        try:
            return (root / name).read_bytes()
        except OSError:
            continue
    return None


def _database(root: Path) -> tuple[dict[str, bytes | str], str | None]:
    """Return the package database's files, and the kind of package manager."""
    status = _first(root, (DPKG,))
    parts = sorted(path for path in (root / DPKG_PARTS).glob("*") if path.is_file()) if status is None else []
    if status is not None:
        return {DPKG: status}, "dpkg"
    if parts:
        return {f"{DPKG_PARTS}/{path.name}": path.read_bytes() for path in parts}, "dpkg"
    installed = _first(root, APK)
    if installed is not None:
        return {APK[0]: installed}, "apk"
    return {}, None


def _tar(files: Mapping[str, bytes | str]) -> bytes:
    """Return an archive of files (bytes) and symbolic links (text), with their folders, in order of their names."""
    out = io.BytesIO()
    folders = {os.path.dirname(name) for name in files}
    for name in list(folders):
        while name := os.path.dirname(name):
            folders.add(name)
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted({*folders, *files}):
            entry = tarfile.TarInfo(name)
            content = files.get(name)
            if content is None:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            elif isinstance(content, str):
                entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, content, 0o777
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _image(
    layers: list[tuple[bytes, str]], tag: str, architecture: str, database: str | None, note: str | None
) -> LocalImage:
    packed = [gzip.compress(archive, compresslevel=6, mtime=0) for archive, _ in layers]
    config = _json(
        {
            "created": CREATED,
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(archive) for archive, _ in layers]},
            "history": [{"created": CREATED, "created_by": f"towline demo: {what}"} for _, what in layers],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _descriptor(CONFIG_TYPE, config),
            "layers": [_descriptor(LAYER_TYPE, layer) for layer in packed],
        }
    )
    blobs = {_digest(data): data for data in [config, *packed]}
    digest = _digest(manifest)
    repository = Repository({tag: digest}, {digest: StoredManifest(MANIFEST_TYPE, manifest)}, blobs)
    return LocalImage(repository, digest, database, note)


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
