"""Whole scans against a registry made of the corpus: what is found, what is refused, and when."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from layer_tools import gzipped, sha256, tar_of
from layout_registry import LayoutRegistry, registry
from oci_layout import facts_of

from towline.core import LIMITS, Entropy, Note, TowlineError
from towline.core.registry import ImageReference, Platform, Progress, Registry, find_dialect
from towline.core.scan import ImagePulled, ImageResolved, ScanOptions, ScanOutcome, scan_image

Expected = Callable[[str], dict[str, Any]]


def scan(
    folder: Path, name: str, options: ScanOptions | None = None, platform: str | None = None, **more: Any
) -> tuple[ScanOutcome, LayoutRegistry]:
    server = more.pop("server", None) or LayoutRegistry(folder)
    steps = scan_image(
        registry(**more),
        f"corpus/{name}",
        "latest",
        Platform.parse(platform) if platform else None,
        options or ScanOptions(),
        ImageReference.parse(f"registry.example:5000/corpus/{name}:latest"),
    )
    return server.run(steps), server


def facts(outcome: ScanOutcome) -> dict[str, Any]:
    return facts_of(json.loads(msgspec.json.encode(outcome.scan_results[0])))


@pytest.mark.parametrize("name", ["deb-bookworm", "deb-distroless", "apk-alpine", "docker-schema2"])
def test_a_scan_finds_every_package(name: str, corpus: Path, expected: Expected) -> None:
    truth = expected(name)["truth"]
    outcome, server = scan(corpus, name)
    told = json.loads((corpus / f"{name}.json").read_text())
    should = (
        [(one["name"], one["version"]) for one in truth["packages"]]
        if "packages" in truth
        else [tuple(one.split()) for one in truth["packages_by_platform"]["linux/amd64"]]
    )
    assert sorted((one.name, one.version) for one in outcome.inventory.packages) == sorted(should)
    assert outcome.state_identifier == outcome.manifest_digest == told["manifest_digest"]
    assert outcome.layers == len(told["layer_digests"])
    assert outcome.bytes_downloaded == sum(told["layer_sizes"])
    assert outcome.complete
    assert [type(event) for event in server.said if not isinstance(event, Progress)] == [ImageResolved, ImagePulled]
    assert outcome.image == {
        "registry": "registry.example:5000",
        "repository": f"corpus/{name}",
        "reference": "latest",
        "manifestDigest": told["manifest_digest"],
        "indexDigest": None,
        "platform": "linux/amd64",
    }
    found = facts(outcome)
    assert found["imageId"] == told["config_digest"]
    assert found["ociDistributionMetadata"] == {
        "registryHost": "registry.example:5000",
        "repository": f"corpus/{name}",
        "manifestDigest": told["manifest_digest"],
        "imageTag": "latest",
    }


def test_each_platform_has_its_own(corpus: Path, expected: Expected) -> None:
    told = json.loads((corpus / "multiarch.json").read_text())
    for platform, packages in expected("multiarch")["truth"]["packages_by_platform"].items():
        outcome, _ = scan(corpus, "multiarch", platform=platform)
        assert sorted(f"{one.name} {one.version}" for one in outcome.inventory.packages) == packages
        assert outcome.manifest_digest == told["platforms"][platform]["manifest_digest"]
        assert outcome.index_digest == told["image_index_digest"]
        assert str(outcome.platform) == platform
        assert facts(outcome)["platform"] == "/".join(platform.split("/")[:2])


@pytest.mark.parametrize("name", ["deb-bookworm", "deb-distroless", "apk-alpine", "apps", "multiarch", "zstd-layers"])
def test_the_same_image_gives_the_same_bytes(name: str, corpus: Path) -> None:
    """However fast it comes; only the timings tell one scan from another."""
    asked = ScanOptions(include=("**/package.json",))
    outcomes = []
    for tick in (0.001, 0.5):
        steps = scan_image(registry(), f"corpus/{name}", "latest", options=asked)
        outcomes.append(LayoutRegistry(corpus).run(steps, tick=tick))
    one, other = outcomes
    assert [result.json() for result in one.scan_results] == [result.json() for result in other.scan_results]
    assert one.analytics[0] == other.analytics[0]
    assert one.analytics[1] != other.analytics[1]
    apart = {"analytics": ()}
    assert msgspec.structs.replace(one, **apart) == msgspec.structs.replace(other, **apart)


def test_analytics(corpus: Path) -> None:
    outcome, _ = scan(corpus, "apk-alpine")
    sizes, timings = json.loads(msgspec.json.encode(outcome.analytics))
    length = len(msgspec.json.encode(outcome.scan_results[0]))
    assert sizes == {
        "name": "containerScanPayloadMetrics",
        "data": {
            "scanResultCount": 1,
            "applicationScanResultCount": 0,
            "scanResultPayloadBytes": [length],
            "totalScanResultsPayloadBytes": length,
        },
    }
    assert timings["name"] == "containerPluginTimings"
    assert timings["data"]["totalMs"] >= timings["data"]["imageExtractionMs"] > 0


def test_an_image_without_a_name_is_called_by_its_place(corpus: Path) -> None:
    outcome = LayoutRegistry(corpus).run(scan_image(registry(), "corpus/scratch-empty", "latest"))
    assert outcome.scan_results[0].target.image == "docker-image|registry.example:5000/corpus/scratch-empty"
    named = LayoutRegistry(corpus).run(scan_image(registry(), "corpus/scratch-empty", "latest", image_name="h/other:1"))
    assert facts(named)["ociDistributionMetadata"]["repository"] == "other"
    hub = Registry(dialect=find_dialect("docker-hub"), entropy=Entropy(b"a seed of 16 bytes"))
    from_hub = LayoutRegistry(corpus).run(scan_image(hub, "corpus/scratch-empty", "latest"))
    assert from_hub.scan_results[0].target.image == "docker-image|docker.io/corpus/scratch-empty"
    assert facts(from_hub)["ociDistributionMetadata"]["registryHost"] == "docker.io"
    digest = named.manifest_digest
    by_digest = LayoutRegistry(corpus).run(scan_image(registry(), "corpus/scratch-empty", digest))
    assert facts(by_digest)["imageNames"] == {"names": [f"registry.example:5000/corpus/scratch-empty@{digest}"]}


# ── what is refused ─────────────────────────────────────────────────────────────
def refusal(server: LayoutRegistry, name: str, options: ScanOptions | None = None, **more: Any) -> TowlineError:
    with pytest.raises(TowlineError) as raised:
        scan(server.folder, name, options, server=server, **more)
    return raised.value


def test_an_image_too_large_is_refused_before_a_layer_is_fetched(corpus: Path) -> None:
    server = LayoutRegistry(corpus)
    layers = json.loads((corpus / "deb-bookworm.json").read_text())
    error = refusal(server, "deb-bookworm", ScanOptions(max_image_bytes=1000))
    assert error.kind == "image-too-large"
    assert f"1000 bytes, got {sum(layers['layer_sizes'])}" in error.message
    assert not any(digest in path for path in server.asked for digest in layers["layer_digests"])


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "digest-mismatch"),
        (lambda data: data[:-1], "size-mismatch"),
        (lambda data: data + b"x", "size-mismatch"),
    ],
)
def test_damaged_layers_give_no_result(damage: Callable[[bytes], bytes], kind: str, corpus: Path) -> None:
    last = json.loads((corpus / "deb-bookworm.json").read_text())["layer_digests"][-1]
    server = LayoutRegistry(corpus, lambda digest, data: damage(data) if digest == last else data)
    assert refusal(server, "deb-bookworm").kind == kind


def test_a_layer_that_is_gone_is_no_foreign_one(corpus: Path) -> None:
    last = json.loads((corpus / "deb-bookworm.json").read_text())["layer_digests"][-1]
    server = LayoutRegistry(corpus, lambda digest, data: None if digest == last else data)
    assert refusal(server, "deb-bookworm").kind not in ("internal", "unsupported-media-type")


def write_image(
    folder: Path, layers: list[bytes], *, diff_ids: list[str] | None = None, media_type: str = "", config: Any = None
) -> None:
    """Write `corpus/made`, an image of these uncompressed layers."""
    made = folder / "made.oci"
    shutil.rmtree(made, ignore_errors=True)
    (made / "blobs" / "sha256").mkdir(parents=True)

    def put(data: bytes) -> dict[str, Any]:
        digest = sha256(data)
        (made / "blobs" / "sha256" / digest[7:]).write_bytes(data)
        return {"digest": digest, "size": len(data)}

    document = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": diff_ids or [sha256(layer) for layer in layers]},
        **(config or {}),
    }
    kind = media_type or "application/vnd.oci.image.layer.v1.tar+gzip"
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **put(json.dumps(document).encode())},
        "layers": [{"mediaType": kind, **put(gzipped(layer))} for layer in layers],
    }
    entry = {"mediaType": manifest["mediaType"], **put(json.dumps(manifest).encode())}
    (made / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


STATUS = b"Package: a\nStatus: install ok installed\nVersion: 1\n"


def test_a_wrong_diff_id_gives_no_result(tmp_path: Path) -> None:
    layer = tar_of([("file", "var/lib/dpkg/status", STATUS)])
    write_image(tmp_path, [layer], diff_ids=[sha256(b"other")])
    assert refusal(LayoutRegistry(tmp_path), "made").kind == "digest-mismatch"


def test_one_layer_twice_is_fetched_once(tmp_path: Path) -> None:
    layer = tar_of([("file", "var/lib/dpkg/status", STATUS)])
    write_image(tmp_path, [layer, layer])
    outcome, server = scan(tmp_path, "made")
    assert len([path for path in server.asked if sha256(gzipped(layer)) in path]) == 1
    assert outcome.layers == 2
    write_image(tmp_path, [layer, layer], diff_ids=[sha256(layer), sha256(b"other")])
    assert refusal(LayoutRegistry(tmp_path), "made").kind == "digest-mismatch"


@pytest.mark.parametrize(
    "media_type", ["application/vnd.in-toto+json", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"]
)
def test_layers_of_other_types_are_refused(media_type: str, tmp_path: Path) -> None:
    write_image(tmp_path, [tar_of([])], media_type=media_type)
    assert refusal(LayoutRegistry(tmp_path), "made").kind == "unsupported-media-type"


def test_all_layers_together_are_bounded(tmp_path: Path) -> None:
    layers = [tar_of([("file", f"{name}/x", name.encode() * 3000)]) for name in "ab"]
    write_image(tmp_path, layers)
    options = ScanOptions(include=("**/x",))
    tight = msgspec.structs.replace(LIMITS, scan_kept=5000)
    assert refusal(LayoutRegistry(tmp_path), "made", options, limits=tight).kind == "image-too-large"
    tight = msgspec.structs.replace(LIMITS, unpack_image=len(layers[0]) + 100)
    assert refusal(LayoutRegistry(tmp_path), "made", options, limits=tight).kind == "bomb"


# ── what is not there, and what only a link leads to ────────────────────────────
def test_a_foreign_layer_is_told(corpus: Path, expected: Expected) -> None:
    outcome, _ = scan(corpus, "foreign", ScanOptions(include=("**/package.json",)))
    assert not outcome.complete
    assert "another host" in outcome.warnings[0]
    assert outcome.layers == 1
    found = facts(outcome)
    assert found["pluginWarnings"]["scan"] == list(outcome.warnings)
    assert len(found["imageManifestFiles"]) == len(expected("foreign")["truth"]["visible_files"])
    tight, server = scan(corpus, "foreign", ScanOptions(max_image_bytes=10_000))
    assert "too large" in tight.warnings[0]
    assert not any("abab" in path for path in server.asked)


def linked(target: str, kind: str = "hardlink") -> list[bytes]:
    return [
        tar_of([("file", "opt/real", STATUS), ("folder", "opt/d"), ("file", "opt/d/one", STATUS)]),
        tar_of([(kind, "var/lib/dpkg/status", target)]),
    ]


@pytest.mark.parametrize("layers", [linked("opt/real"), linked("/opt/real", "symlink")])
def test_a_database_behind_a_link_is_read_in_a_second_pass(layers: list[bytes], tmp_path: Path) -> None:
    write_image(tmp_path, layers)
    outcome, server = scan(tmp_path, "made")
    assert [(one.name, one.version) for one in outcome.inventory.packages] == [("a", "1")]
    assert outcome.complete
    assert len([path for path in server.asked if sha256(gzipped(layers[0])) in path]) == 2
    assert [event.event for event in server.said if isinstance(event, Note)] == ["layers-read-again"]


def test_a_folder_of_databases_behind_a_link(tmp_path: Path) -> None:
    write_image(tmp_path, [linked("x")[0], tar_of([("symlink", "var/lib/dpkg/status.d", "/opt/d")])])
    outcome, _ = scan(tmp_path, "made")
    assert [one.name for one in outcome.inventory.packages] == ["a"]
    assert outcome.inventory.packages[0].layer == sha256(linked("x")[0])


def test_a_file_that_a_glob_finds_behind_a_link(tmp_path: Path) -> None:
    write_image(tmp_path, [tar_of([("file", "real", b"r"), ("symlink", "a/package.json", "../real")])])
    outcome, _ = scan(tmp_path, "made", ScanOptions(include=("**/package.json",)))
    assert [(one["path"], one["contents"]) for one in facts(outcome)["imageManifestFiles"]] == [("/a", "cg==")]


def test_links_behind_links_end(tmp_path: Path) -> None:
    """Each pass brings one more link of a chain across layers; past the last pass it is told."""
    layers = [tar_of([("file", "l9", STATUS)])]
    layers += [tar_of([("hardlink", f"l{at}", f"l{at + 1}")]) for at in range(8, 0, -1)]
    layers += [tar_of([("hardlink", "var/lib/dpkg/status", "l1")])]
    write_image(tmp_path, layers)
    outcome, server = scan(tmp_path, "made")
    assert not outcome.complete
    assert "too many links" in outcome.warnings[0]
    assert len([event for event in server.said if isinstance(event, Note)]) == LIMITS.scan_passes
