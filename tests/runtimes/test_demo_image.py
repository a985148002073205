"""The demo's image is this machine's own packages, and the same files make the same image."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from towline.runtimes.demo.image import LocalImage, from_layout, local_image

RELEASE = b'ID=debian\nVERSION_ID="12"\n'
STATUS = b"Package: one\nStatus: install ok installed\nVersion: 1\n\n"


def root_of(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(image: LocalImage) -> dict[str, bytes | str]:
    """Check every digest on the way, and return the files of all layers; links as text."""
    repository = image.repository
    manifest = json.loads(repository.manifests[image.digest].data)
    for digest, blob in repository.blobs.items():
        assert digest == "sha256:" + hashlib.sha256(blob).hexdigest()
    config = json.loads(repository.blobs[manifest["config"]["digest"]])
    assert len(config["history"]) == len(config["rootfs"]["diff_ids"]) == len(manifest["layers"])
    files: dict[str, bytes | str] = {}
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        archive = gzip.decompress(repository.blobs[layer["digest"]])
        assert layer["size"] == len(repository.blobs[layer["digest"]])
        assert diff_id == "sha256:" + hashlib.sha256(archive).hexdigest()
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            for member in opened:
                if member.issym():
                    files[member.name] = member.linkname
                elif member.isfile() and (content := opened.extractfile(member)):
                    files[member.name] = content.read()
    return files


@pytest.mark.parametrize(
    ("files", "database", "kept"),
    [
        ({"var/lib/dpkg/status": STATUS}, "dpkg", {"var/lib/dpkg/status": STATUS}),
        ({"var/lib/dpkg/status.d/one": STATUS}, "dpkg", {"var/lib/dpkg/status.d/one": STATUS}),
        ({"lib/apk/db/installed": b"P:one\nV:1\n\n"}, "apk", {"lib/apk/db/installed": b"P:one\nV:1\n\n"}),
        ({"usr/lib/apk/db/installed": b"P:one\nV:1\n\n"}, "apk", {"lib/apk/db/installed": b"P:one\nV:1\n\n"}),
        ({"var/lib/rpm/rpmdb.sqlite": b"x"}, None, {}),
    ],
    ids=["dpkg", "dpkg-parts", "apk", "apk-usr", "none"],
)
def test_from_each_kind_of_machine(
    files: dict[str, bytes], database: str | None, kept: dict[str, bytes], tmp_path: Path
) -> None:
    image = local_image(root_of(tmp_path, {"etc/os-release": RELEASE, **files}))
    assert image.database == database
    assert (image.note is None) == (database is not None)
    expected = {"usr/lib/os-release": RELEASE, "etc/os-release": "../usr/lib/os-release", **kept}
    assert contents(image) == expected


def test_an_empty_root_is_an_image_without_layers(tmp_path: Path) -> None:
    image = local_image(tmp_path)
    assert contents(image) == {}
    assert image.note is not None


def test_the_same_files_make_the_same_image(tmp_path: Path) -> None:
    root = root_of(tmp_path, {"etc/os-release": RELEASE, "var/lib/dpkg/status": STATUS})
    assert local_image(root, machine="x86_64") == local_image(root, machine="x86_64")
    other = local_image(root, machine="aarch64")
    assert other.digest != local_image(root, machine="x86_64").digest
    config = next(json.loads(blob) for blob in other.repository.blobs.values() if blob.startswith(b"{"))
    assert config["architecture"] == "arm64"


def test_this_machine() -> None:
    image = local_image()
    assert image.repository.tags == {"latest": image.digest}
    assert "etc/os-release" in contents(image)


def test_layouts_are_read_whole(corpus: Path) -> None:
    for name in ("multiarch", "deb-bookworm", "scratch-empty"):
        repository = from_layout(corpus / f"{name}.oci")
        assert repository.tags["latest"] in repository.manifests
        for manifest in repository.manifests.values():
            told = json.loads(manifest.data)
            for child in told.get("manifests", []):
                assert child["digest"] in repository.manifests
            for layer in told.get("layers", []):
                assert layer["digest"] in repository.blobs
