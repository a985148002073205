"""Whole pulls against a registry made of the corpus: everything is stored under its digest, manifests last."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from layout_registry import LayoutRegistry, registry, sha256
from oci_layout import Layout

from towline.core import LIMITS, TowlineError
from towline.core.registry import Platform
from towline.core.scan import ImagePulled, ImageResolved, pull_image


def pull(folder: Path, name: str, platform: str | None = None, **more: Any) -> tuple[Any, LayoutRegistry]:
    server = LayoutRegistry(folder)
    wanted = Platform.parse(platform) if platform else None
    return server.run(pull_image(registry(), f"corpus/{name}", "latest", wanted, **more)), server


def everything(layout: Layout, digest: str) -> set[str]:
    """Every digest below a manifest or index, itself among them."""
    document = layout.json(digest)
    found = {digest}
    for entry in document.get("manifests", ()):
        found |= everything(layout, entry["digest"])
    if "config" in document:
        found |= {document["config"]["digest"], *(layer["digest"] for layer in document["layers"])}
    return found


@pytest.mark.parametrize("unpack", [False, True])
@pytest.mark.parametrize("name", ["deb-bookworm", "zstd-layers", "docker-schema2", "multiarch", "scratch-empty"])
def test_all_of_it_is_stored(name: str, unpack: bool, corpus: Path) -> None:
    pulled, server = pull(corpus, name, unpack=unpack)
    layout = Layout(corpus / f"{name}.oci")
    assert set(server.stored) == everything(layout, layout.top["digest"])
    assert all(sha256(data) == digest for digest, data in server.stored.items())
    assert server.order[-1] == pulled.root.digest == layout.top["digest"]
    assert (pulled.blobs, pulled.bytes) == (len(server.stored), sum(map(len, server.stored.values())))
    assert pulled.warnings == ()
    events = [event for event in server.said if isinstance(event, ImageResolved | ImagePulled)]
    assert [type(event) for event in events] == [ImageResolved, ImagePulled]


def test_one_platform_only(corpus: Path) -> None:
    told = json.loads((corpus / "multiarch.json").read_text())["platforms"]["linux/arm64/v8"]
    pulled, server = pull(corpus, "multiarch", "linux/arm64")
    assert pulled.root.digest == told["manifest_digest"]
    assert set(server.stored) == everything(Layout(corpus / "multiarch.oci"), told["manifest_digest"])


def test_a_foreign_layer_is_told(corpus: Path) -> None:
    pulled, server = pull(corpus, "foreign")
    assert len(pulled.warnings) == 1
    assert "sha256:" + "ab" * 32 not in server.stored
    assert pulled.blobs == len(server.stored)


@pytest.mark.interop
@pytest.mark.parametrize("name", ["apk-alpine", "multiarch", "docker-schema2"])
def test_skopeo_takes_the_layout(name: str, corpus: Path, tmp_path: Path, peer: Callable[[str], str]) -> None:
    skopeo = peer("skopeo")
    pulled, server = pull(corpus, name)
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    for digest, data in server.stored.items():
        (tmp_path / "blobs" / "sha256" / digest[7:]).write_bytes(data)
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (tmp_path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [pulled.index_entry("latest")]}))
    told = subprocess.run(
        # By tag it looks among OCI's media types only; a Docker manifest is found as the only one there is.
        [skopeo, "inspect", f"oci:{tmp_path}" + ("" if name == "docker-schema2" else ":latest")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["Os"] == "linux"


def test_a_tag_stands_in_the_index_and_a_digest_does_not(corpus: Path) -> None:
    pulled, _ = pull(corpus, "scratch-empty")
    entry = pulled.index_entry("1.0")
    assert entry.pop("annotations") == {"org.opencontainers.image.ref.name": "1.0"}
    assert entry == pulled.index_entry()
    assert entry["size"] == len(pulled.root.raw)


def test_a_damaged_blob_is_not_stored(corpus: Path) -> None:
    bad = json.loads((corpus / "deb-bookworm.json").read_text())["layer_digests"][0]
    server = LayoutRegistry(corpus, lambda digest, data: data[:-1] + b"x" if digest == bad else data)
    with pytest.raises(TowlineError) as raised:
        server.run(pull_image(registry(), "corpus/deb-bookworm", "latest"))
    assert raised.value.kind == "digest-mismatch"
    assert bad not in server.stored


def test_a_whole_tree_is_bounded(corpus: Path) -> None:
    for limits, kind in (
        ({"index_entries": 3}, "invalid-manifest"),
        ({"index_depth": 0}, "invalid-manifest"),
        ({"image_total": 10}, "image-too-large"),
    ):
        server = LayoutRegistry(corpus)
        with pytest.raises(TowlineError) as raised:
            server.run(
                pull_image(registry(limits=msgspec.structs.replace(LIMITS, **limits)), "corpus/multiarch", "latest")
            )
        assert raised.value.kind == kind
        assert server.stored == {}
