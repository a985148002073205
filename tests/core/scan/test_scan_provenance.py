"""Attestations beside an image: which are read, in what order, and that none of them can fail a scan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from layer_tools import gzipped, sha256, tar_of
from layout_registry import LayoutRegistry, registry
from oci_layout import Layout, facts_of

from towline.core import LIMITS, TowlineError
from towline.core.registry import ImageReference, Platform
from towline.core.scan import ScanOptions, ScanOutcome, scan_image

Expected = Callable[[str], dict[str, Any]]

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
IN_TOTO = "application/vnd.in-toto+json"
V02 = "https://slsa.dev/provenance/v0.2"
V1 = "https://slsa.dev/provenance/v1"


def scan(server: LayoutRegistry, name: str = "made", platform: str | None = None, **more: Any) -> ScanOutcome:
    wanted = Platform.parse(platform) if platform else None
    named = ImageReference.parse(f"registry.example:5000/corpus/{name}:latest")
    return server.run(scan_image(registry(**more), f"corpus/{name}", "latest", wanted, ScanOptions(), named))


def provenance(outcome: ScanOutcome) -> Any:
    return facts_of(json.loads(outcome.scan_results[0].json())).get("provenanceMetadata")


def test_the_corpus_image_has_the_reference_s_entry(corpus: Path, expected: Expected) -> None:
    theirs = expected("multiarch")["oracle"]["by_platform"]
    for platform in ("linux/amd64", "linux/arm64", "linux/arm/v7"):
        told = theirs["/".join(platform.split("/")[:2])]["scanResults"][0]
        server = LayoutRegistry(corpus)
        outcome = scan(server, "multiarch", platform)
        result = json.loads(outcome.scan_results[0].json())
        should = facts_of(told).get("provenanceMetadata")
        for entry in should or ():
            # Digests of manifests follow the layers' and so the compressor's release.
            entry["attestedManifestDigest"] = outcome.manifest_digest
            entry["attestationManifestDigest"] = json.loads((corpus / "multiarch.json").read_text())[
                "attestation_manifest"
            ]
        assert facts_of(result).get("provenanceMetadata") == should
        order = [fact["type"] for fact in result["facts"]]
        # No digest of a manifest was given to the reference; without it, it tells no place.
        assert [one for one in order if one != "ociDistributionMetadata"] == [one["type"] for one in told["facts"]]
        attested = 2 if should else 0
        assert len(server.asked) == 2 + 1 + outcome.layers + attested
        assert outcome.warnings == ()


class Made:
    """`corpus/made`: one image in an index, with the attestations that a test puts beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "made.oci"
        (self.folder / "blobs" / "sha256").mkdir(parents=True)
        layer = tar_of([("file", "lib/apk/db/installed", b"P:m\nV:1\n\n")])
        config = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [sha256(layer)]}}
        self.image = self.manifest(config, [("application/vnd.oci.image.layer.v1.tar+gzip", gzipped(layer), {})])
        self.entries = [{**self.image, "platform": {"os": "linux", "architecture": "amd64"}}]

    def put(self, data: bytes) -> dict[str, Any]:
        (self.folder / "blobs" / "sha256" / sha256(data)[7:]).write_bytes(data)
        return {"digest": sha256(data), "size": len(data)}

    def manifest(self, config: Any, layers: list[tuple[str, bytes, dict[str, str]]]) -> dict[str, Any]:
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                **self.put(json.dumps(config).encode()),
            },
            "layers": [{"mediaType": kind, "annotations": told, **self.put(data)} for kind, data, told in layers],
        }
        return {"mediaType": MANIFEST, **self.put(json.dumps(document).encode())}

    def attest(self, *layers: tuple[str, bytes, dict[str, str]], about: str | None = "the image", **more: Any) -> str:
        """Put an attestation manifest into the index; return its digest."""
        annotations = {"vnd.docker.reference.type": "attestation-manifest"}
        if about:
            annotations["vnd.docker.reference.digest"] = self.image["digest"] if about == "the image" else about
        unknown = {"os": "unknown", "architecture": "unknown"}
        entry = {**self.manifest({}, list(layers)), "platform": unknown, "annotations": annotations, **more}
        self.entries.append(entry)
        return str(entry["digest"])

    def write(self) -> None:
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": self.entries}
        top = {"mediaType": INDEX, **self.put(json.dumps(index).encode())}
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))

    def scanned(self, **more: Any) -> tuple[ScanOutcome, LayoutRegistry]:
        self.write()
        server = LayoutRegistry(self.folder.parent)
        return scan(server, **more), server


def statement(builder: str, kind: str = V02, **more: Any) -> bytes:
    predicate = {"builder": {"id": builder}} if kind == V02 else {"runDetails": {"builder": {"id": builder}}}
    return json.dumps({"predicateType": kind, "predicate": predicate, **more}).encode()


def layer(data: bytes, predicate: str | None = V02, media_type: str = IN_TOTO) -> tuple[str, bytes, dict[str, str]]:
    return media_type, data, {"in-toto.io/predicate-type": predicate} if predicate else {}


def test_entries_are_in_order_of_digests(tmp_path: Path) -> None:
    made = Made(tmp_path)
    manifests = {
        made.attest(layer(statement(f"{at}a")), layer(statement(f"{at}b", V1), V1)): f"{at}" for at in range(3)
    }
    made.entries.append(made.entries[1])  # twice in the index, once in the result
    outcome, _ = made.scanned()
    found = provenance(outcome)
    assert len(found) == 6
    assert [one["attestationManifestDigest"] for one in found] == sorted([*manifests] * 2)
    assert {one["attestedManifestDigest"] for one in found} == {outcome.manifest_digest}
    for digest, at in manifests.items():
        both = {sha256(statement(f"{at}a")): f"{at}a", sha256(statement(f"{at}b", V1)): f"{at}b"}
        of_one = [one["builderId"] for one in found if one["attestationManifestDigest"] == digest]
        assert of_one == [both[key] for key in sorted(both)]
    assert outcome.warnings == ()


def test_only_what_is_about_the_image_is_asked_for(tmp_path: Path) -> None:
    made = Made(tmp_path)
    mine = made.attest(
        layer(b"{}", "https://spdx.dev/Document"),
        layer(statement("of another type"), media_type="application/octet-stream"),
        layer(statement("untold"), None),
        layer(b'{"predicateType": "https://spdx.dev/Document"}', None),
    )
    others = made.attest(layer(statement("another image's")), about="sha256:" + "9" * 64)
    free = made.attest(layer(statement("of all")), about=None)
    theirs = made.attest(layer(statement("x", subject=[{"digest": {"sha256": "8" * 64}}])), about=None)
    outcome, server = made.scanned()
    assert {one["builderId"] for one in provenance(outcome)} == {"untold", "of all"}
    asked = {path.rpartition("/")[2] for path in server.asked}
    assert {mine, free, theirs} < asked
    assert not asked & {others, sha256(b"{}"), sha256(statement("of another type"))}
    assert outcome.warnings == ()


def test_an_index_without_attestations_costs_no_request(tmp_path: Path) -> None:
    outcome, server = Made(tmp_path).scanned()
    assert len(server.asked) == 4
    assert provenance(outcome) is None


def test_at_most_so_many(tmp_path: Path) -> None:
    made = Made(tmp_path)
    for at in range(12):
        made.attest(layer(statement(f"{at}")))
    outcome, server = made.scanned()
    assert len(provenance(outcome)) == LIMITS.provenance_entries == 10
    assert len(server.asked) == 4 + 20
    (warning,) = outcome.warnings
    assert "more than 10" in warning
    assert facts_of(json.loads(outcome.scan_results[0].json()))["pluginWarnings"]["scan"] == [warning]


def test_documents_too_large_are_not_asked_for(tmp_path: Path) -> None:
    made = Made(tmp_path)
    large = statement("large", pad="x" * 2000)
    made.attest(layer(large), layer(statement("small")))
    outcome, server = made.scanned(limits=msgspec.structs.replace(LIMITS, provenance_document=2000))
    assert [one["builderId"] for one in provenance(outcome)] == ["small"]
    assert not any(sha256(large) in path for path in server.asked)
    (warning,) = outcome.warnings
    assert sha256(large) in warning
    assert "2000" in warning
    assert LIMITS.provenance_document == 2 * 1024 * 1024


@pytest.mark.parametrize("what", ["manifest", "statement"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.replace(b'": ', b'" :', 1),
        lambda data: data + b" ",
        lambda data: data.replace(b'": ', b'":', 1),
        lambda data: None,
    ],
)
def test_what_cannot_be_proven_is_a_warning(what: str, damage: Callable[[bytes], bytes | None], tmp_path: Path) -> None:
    made = Made(tmp_path)
    spoiled = statement("spoiled")
    digests = {"manifest": made.attest(layer(spoiled)), "statement": sha256(spoiled)}
    made.attest(layer(statement("whole")))
    made.write()
    server = LayoutRegistry(tmp_path, lambda digest, data: damage(data) if digest == digests[what] else data)
    outcome = scan(server)
    assert [one["builderId"] for one in provenance(outcome)] == ["whole"]
    (warning,) = outcome.warnings
    assert digests[what] in warning
    assert outcome.complete
    assert [one.name for one in outcome.inventory.packages] == ["m"]


@pytest.mark.parametrize("data", [b"", b"not JSON", b"[]", json.dumps({"predicateType": V02}).encode()])
def test_what_cannot_be_read_is_a_warning(data: bytes, tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.attest(layer(data))
    outcome, _ = made.scanned()
    assert provenance(outcome) is None
    (warning,) = outcome.warnings
    assert sha256(data) in warning


def test_an_index_is_no_attestation(tmp_path: Path) -> None:
    made = Made(tmp_path)
    index = made.put(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode())
    made.attest(mediaType=INDEX, **index)
    outcome, _ = made.scanned()
    assert "got an index" in outcome.warnings[0]


def test_a_broken_image_is_still_refused(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.attest(layer(statement("a")))
    made.write()
    document = Layout(made.folder).json(made.image["digest"])
    broken = document["layers"][0]["digest"]
    with pytest.raises(TowlineError):
        scan(LayoutRegistry(tmp_path, lambda digest, data: data[:-1] if digest == broken else data))
