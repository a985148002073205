"""A layout folder has whole blobs under their names, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from towline.core import Plan, TowlineError
from towline.drivers.blob_folder import OciLayoutStore


class Named(Plan, frozen=True):
    digest: str


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def files(path: Any) -> Any:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def test_a_blob_has_its_name_only_when_committed(tmp_path: Path) -> None:
    store = OciLayoutStore(tmp_path / "image")
    name = digest(b"layer")
    sink = store.open(Named(name))
    sink.write(b"lay")
    sink.write(memoryview(b"er"))
    assert not store.has(name, 5)
    sink.commit()
    sink.abort()
    assert store.has(name, 5)
    assert not store.has(name, 6)
    assert store.blob(name).read_bytes() == b"layer"
    assert files(tmp_path) == [f"image/blobs/sha256/{name[7:]}"]


def test_an_aborted_blob_leaves_nothing(tmp_path: Path) -> None:
    store = OciLayoutStore(tmp_path)
    sink = store.open(Named(digest(b"x")))
    sink.write(b"wrong")
    sink.abort()
    sink.abort()
    assert files(tmp_path) == []


def test_a_blob_that_is_there_is_replaced(tmp_path: Path) -> None:
    store = OciLayoutStore(tmp_path)
    store.keep(digest(b"x"), b"x")
    store.keep(digest(b"x"), b"x")
    assert store.blob(digest(b"x")).read_bytes() == b"x"


def test_files_are_as_open_as_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        store = OciLayoutStore(tmp_path)
        sink = store.open(Named(digest(b"x")))
        (part,) = (tmp_path / "blobs" / "sha256").iterdir()
        assert stat.S_IMODE(part.stat().st_mode) == 0o600
        sink.write(b"x")
        sink.commit()
        assert stat.S_IMODE(store.blob(digest(b"x")).stat().st_mode) == 0o640
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "sha256:",
        "sha256:abc",
        "sha256:" + "A" * 64,
        "md5:" + "a" * 32,
        "sha256:../" + "a" * 61,
        "sha256:" + "a" * 65,
        "sha256:" + "a" * 64 + "\n",
        "sha512:" + "a" * 64,
        "/etc/passwd",
    ],
)
def test_only_a_digest_becomes_a_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(TowlineError) as caught:
        OciLayoutStore(tmp_path).open(Named(name))
    assert caught.value.kind == "invalid-reference"
    assert files(tmp_path) == []


def test_documents_are_proved(tmp_path: Path) -> None:
    with pytest.raises(TowlineError) as caught:
        OciLayoutStore(tmp_path).keep(digest(b"a"), b"b")
    assert caught.value.kind == "digest-mismatch"
    assert files(tmp_path) == []


def test_the_layout_documents(tmp_path: Path) -> None:
    store = OciLayoutStore(tmp_path)
    manifest = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(b"m"), "size": 1}
    store.finish([manifest], {"org.opencontainers.image.ref.name": "latest"})
    assert json.loads((tmp_path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((tmp_path / "index.json").read_bytes())
    assert index["schemaVersion"] == 2
    assert index["manifests"] == [manifest]
    assert index["annotations"] == {"org.opencontainers.image.ref.name": "latest"}
    store.finish([])
    assert json.loads((tmp_path / "index.json").read_bytes())["manifests"] == []
    assert files(tmp_path) == ["index.json", "oci-layout"]
