"""Inventories of the corpus' images against what must be found, and against what the reference says."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from layer_tools import read_layer, tar_of
from oci_layout import Layout, check_invariants, facts_of, inventory_of, name_of, shape

from towline.core import LIMITS
from towline.core.inventory import (
    ImageFacts,
    ScanOptions,
    Taken,
    parse_provenance,
    payload_metrics,
    split_name,
    take_inventory,
    wanted,
)
from towline.core.layer import merge

Expected = Callable[[str], dict[str, Any]]


def options_of(expectation: dict[str, Any], *, redact: bool = False) -> ScanOptions:
    """The options with which the reference made its answer."""
    asked = expectation["oracle"]["options"]
    globs = asked.get("globsToFind", {})
    return ScanOptions(
        layer_attribution=asked.get("layer-attribution", False),
        include=tuple(globs.get("include", ())),
        exclude=tuple(globs.get("exclude", ())),
        redact=redact,
    )


def take(corpus: Path, expectation: dict[str, Any], platform: str | None = None, **options: Any) -> Taken:
    name = expectation["name"]
    digests = expectation["oracle"]["options"].get("digests", {})
    return inventory_of(
        Layout(corpus / f"{name}.oci"), name, options_of(expectation, **options), platform, digests.get("manifest")
    )


def wire_of(taken: Taken) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(taken.results[0].json())
    return made


def graph_packages(graph: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Name, version and source of a graph's packages, as a consumer reads them."""
    root = next(node["pkgId"] for node in graph["graph"]["nodes"] if node["nodeId"] == graph["graph"]["rootNodeId"])
    found = set()
    for pkg in graph["pkgs"]:
        if pkg["id"] != root:
            source, _, name = pkg["info"]["name"].rpartition("/")
            found.add((name, pkg["info"]["version"], source or name))
    return found


@pytest.mark.parametrize("name", ["deb-bookworm", "deb-distroless", "apk-alpine"])
def test_every_package_is_found(name: str, corpus: Path, expected: Expected) -> None:
    expectation = expected(name)
    truth = expectation["truth"]
    taken = take(corpus, expectation)
    own = {
        (one.name, one.version, one.arch, one.origin, one.origin_version, one.licence, one.layer)
        for one in taken.inventory.packages
    }
    if name == "apk-alpine":
        should = {
            (
                one["name"],
                one["version"],
                one["arch"],
                one["origin"] or one["name"],
                one["version"],
                one["license"],
                one["layer"],
            )
            for one in truth["packages"]
        }
    else:
        should = {
            (one["name"], one["version"], one["arch"], one["source"], one["sourceVersion"], None, one["layer"])
            for one in truth["packages"]
        }
    assert own == should
    assert len(taken.inventory.packages) == len(truth["packages"])
    assert graph_packages(facts_of(wire_of(taken))["depGraph"]) == {(one[0], one[1], one[3]) for one in should}
    assert (taken.inventory.os.id, taken.inventory.os.version_id) == (truth["os"]["id"], truth["os"]["version_id"])
    assert taken.inventory.complete


def test_what_dpkg_does_not_count_is_told_apart(corpus: Path, expected: Expected) -> None:
    expectation = expected("deb-bookworm")
    inventory = take(corpus, expectation).inventory
    told = sorted(f"{one.name} {one.version} ({one.state})" for one in inventory.not_installed)
    assert told == expectation["truth"]["not_installed"]
    auto = sorted(one.name for one in inventory.packages if one.auto_installed)
    assert auto == expectation["truth"]["auto_installed"]


@pytest.mark.parametrize("name", ["docker-schema2", "scratch-empty", "multiarch"])
def test_packages_by_platform(name: str, corpus: Path, expected: Expected) -> None:
    expectation = expected(name)
    for platform, packages in expectation["truth"].get("packages_by_platform", {"linux/amd64": []}).items():
        taken = take(corpus, expectation, platform)
        found = graph_packages(facts_of(wire_of(taken))["depGraph"])
        assert sorted(f"{package} {version}" for package, version, _ in found) == packages


@pytest.mark.parametrize(
    "name", ["layers", "layers-opaque-last", "zstd-layers", "tars", "tars-odd", "tars-v7", "foreign"]
)
def test_visible_files(name: str, corpus: Path, expected: Expected) -> None:
    expectation = expected(name)
    if name == "layers":
        # The expectation has one file that its globs do not ask for.
        expectation["oracle"]["options"]["globsToFind"]["include"].append("**/METADATA")
    files = facts_of(wire_of(take(corpus, expectation)))["imageManifestFiles"]
    found = {f"{one['path']}/{one['name']}": base64.b64decode(one["contents"]).decode() for one in files}
    # The expectation has the sparse file without the hole at its start.
    assert {path: text.lstrip("\0") for path, text in found.items()} == expectation["truth"]["visible_files"]
    if name == "tars-odd":
        assert found["/s/old/package.json"].startswith("\0" * 4096)


@pytest.mark.parametrize("name", ["apk-alpine", "docker-schema2", "scratch-empty"])
def test_the_graph_says_what_the_reference_s_says(name: str, corpus: Path, expected: Expected) -> None:
    expectation = expected(name)
    ours = facts_of(wire_of(take(corpus, expectation)))["depGraph"]
    theirs = facts_of(expectation["oracle"]["scanResults"][0])["depGraph"]
    check_invariants(ours)
    # Theirs has no purl for apk; that is one of the faults not to repeat.
    assert shape(ours, purls=False) == shape(theirs, purls=False)
    assert ours["graph"] == theirs["graph"]
    assert all("purl" in pkg["info"] for pkg in ours["pkgs"][1:])


def test_the_graph_for_each_platform(corpus: Path, expected: Expected) -> None:
    expectation = expected("multiarch")
    layout = Layout(corpus / "multiarch.oci")
    for platform, told in expectation["oracle"]["by_platform"].items():
        entries = layout.json(layout.top["digest"])["manifests"]
        ours_of = next(
            name_of(one["platform"])
            for one in entries
            if name_of(one["platform"]).split("/")[:2] == platform.split("/")
        )
        ours, theirs = wire_of(take(corpus, expectation, ours_of)), told["scanResults"][0]
        assert shape(facts_of(ours)["depGraph"], purls=False) == shape(facts_of(theirs)["depGraph"], purls=False)
        assert ours["identity"] == theirs["identity"]


def test_distroless_differs_by_its_labels_only(corpus: Path, expected: Expected) -> None:
    expectation = expected("deb-distroless")
    ours = facts_of(wire_of(take(corpus, expectation)))["depGraph"]
    assert all(node["info"]["labels"]["dockerLayerDiffId"] for node in ours["graph"]["nodes"][1:])
    for node in ours["graph"]["nodes"]:
        node.pop("info", None)
    assert ours == facts_of(expectation["oracle"]["scanResults"][0])["depGraph"]


def edges_of(graph: dict[str, Any]) -> dict[str, set[str]]:
    nodes = {node["nodeId"]: node["pkgId"] for node in graph["graph"]["nodes"]}
    edges: dict[str, set[str]] = {}
    for node in graph["graph"]["nodes"]:
        edges.setdefault(node["pkgId"], set()).update(nodes[dep["nodeId"]] for dep in node["deps"])
    return edges


def test_bookworm_differs_where_the_reference_errs(corpus: Path, expected: Expected) -> None:
    """Packages that are not installed are gone, and the common ones have their edges and purls."""
    expectation = expected("deb-bookworm")
    ours = facts_of(wire_of(take(corpus, expectation)))["depGraph"]
    theirs = facts_of(expectation["oracle"]["scanResults"][0])["depGraph"]
    check_invariants(ours)
    root = theirs["pkgs"][0]["id"]
    gone = {"removed-cfg@1.0-1", "half-done@2.0-1"}
    common = {pkg["id"] for pkg in theirs["pkgs"] if "purl" not in pkg["info"]} - {root}
    purls = {pkg["id"]: pkg["info"].get("purl") for pkg in ours["pkgs"]}
    assert len(common) == 6
    assert set(purls) == {pkg["id"] for pkg in theirs["pkgs"]} - gone
    assert all(purls[key] for key in common)
    for pkg in theirs["pkgs"]:
        if pkg["id"] not in gone | common | {root}:
            assert purls[pkg["id"]] == pkg["info"]["purl"]
    our_edges, their_edges = edges_of(ours), edges_of(theirs)
    for key in set(their_edges) - gone - common - {root}:
        assert our_edges[key] - common == their_edges[key]
    assert our_edges["glibc/libc6@2.36-9+deb12u14"]
    labels = {node["pkgId"]: node.get("info") for node in ours["graph"]["nodes"]}
    for node in theirs["graph"]["nodes"]:
        if node["pkgId"] not in gone:
            assert labels[node["pkgId"]] == node.get("info")


SAME = ["deb-bookworm", "deb-distroless", "apk-alpine", "docker-schema2", "scratch-empty"]


@pytest.mark.parametrize("name", [*SAME, "layers", "layers-opaque-last", "zstd-layers", "tars", "tars-odd"])
def test_facts_are_the_reference_s(name: str, corpus: Path, expected: Expected) -> None:
    expectation = expected(name)
    ours, theirs = wire_of(take(corpus, expectation)), expectation["oracle"]["scanResults"][0]
    digests = json.loads((corpus / f"{name}.json").read_text())["layer_digests"]
    found, told = facts_of(ours), facts_of(theirs)
    apart = {"depGraph", "imageManifestFiles", "pluginVersion", "pluginWarnings", "imageLayers"}
    if name == "tars":
        apart.add("imageOsReleasePrettyName")
        assert found["imageOsReleasePrettyName"] == 'Tar "quoted" 12'
        assert found["depGraph"]["pkgManager"]["repositories"] == [{"alias": "debian:12"}]
    assert {type: data for type, data in found.items() if type not in apart} == {
        type: data for type, data in told.items() if type not in apart
    }
    # Compressed digests follow the compressor's release.
    assert found["imageLayers"] == digests
    order = [fact["type"] for fact in ours["facts"] if fact["type"] != "pluginWarnings"]
    assert order == [fact["type"] for fact in theirs["facts"] if fact["type"] != "pluginWarnings"]
    assert {**ours, "facts": None} == {**theirs, "facts": None}


def test_a_secret_does_not_leave(corpus: Path, expected: Expected) -> None:
    taken = take(corpus, expected("deb-bookworm"), redact=True)
    assert b"not-a-real-secret" not in taken.results[0].json()
    assert "TOKEN=***" in facts_of(wire_of(taken))["containerConfig"]["env"]


def test_no_file_leaves_by_default(corpus: Path, expected: Expected) -> None:
    layout = Layout(corpus / "extras.oci")
    taken = inventory_of(layout, "extras")
    assert "imageManifestFiles" not in facts_of(wire_of(taken))
    for secret in expected("extras")["truth"]["must_not_leave"]:
        assert secret.encode() not in taken.results[0].json()
    assert taken.inventory.os.alias == "photon:5.0"


def test_key_binaries_are_hashed(corpus: Path, expected: Expected) -> None:
    taken = inventory_of(Layout(corpus / "apps.oci"), "apps")
    theirs = facts_of(expected("apps")["oracle"]["scanResults"][0])["keyBinariesHashes"]
    assert sorted(facts_of(wire_of(taken))["keyBinariesHashes"]) == sorted(theirs)


def test_the_same_image_gives_the_same_bytes(corpus: Path, expected: Expected) -> None:
    one, other = (take(corpus, expected("deb-bookworm")).results[0].json() for _ in range(2))
    assert one == other


def facts(**more: Any) -> ImageFacts:
    base: dict[str, Any] = {"name": "h/r:t", "config": b"{}", "config_digest": "sha256:0", "layers": (), "diff_ids": ()}
    return ImageFacts(**{**base, **more})


def taken_of(entries: list[tuple[Any, ...]], image: ImageFacts | None = None, **options: Any) -> Taken:
    asked = ScanOptions(**options)
    return take_inventory(merge([read_layer(tar_of(entries), wanted(asked))]), image or facts(), asked)


STATUS = ("file", "var/lib/dpkg/status", b"Package: a\nStatus: install ok installed\nVersion: 1\n")
APK = ("file", "lib/apk/db/installed", b"P:m\nV:1\n\n")


def test_two_databases_of_one_manager_are_merged() -> None:
    taken = taken_of(
        [
            STATUS,
            ("file", "var/lib/dpkg/status.d/b", b"Package: b\nVersion: 2\n"),
            ("file", "var/lib/dpkg/status.d/b.md5sums", b"Package: c\nVersion: 3\n"),
            ("file", "var/lib/dpkg/status.d/a", b"Package: a\nVersion: 0\n"),
        ]
    )
    assert [(one.name, one.version) for one in taken.inventory.packages] == [("a", "1"), ("b", "2")]
    assert "merged" in taken.inventory.warnings[0]
    assert facts_of(wire_of(taken))["pluginWarnings"]["scan"] == list(taken.inventory.warnings)


def test_two_managers_have_a_result_each() -> None:
    taken = taken_of([STATUS, APK])
    assert [result.identity.type for result in taken.results] == ["apk", "deb"]
    assert taken.os_results == 2
    assert [one.name for one in taken.inventory.packages] == ["m", "a"]


def test_both_results_are_whole_and_say_what_they_are() -> None:
    image = facts(config=b'{"created": "2020-01-01T00:00:00Z"}', platform="linux/arm/v7")
    taken = taken_of([STATUS, APK], image, target_reference="main")
    apk, deb = (json.loads(result.json()) for result in taken.results)
    for result, kind, package in ((apk, "apk", "pkg:apk"), (deb, "deb", "pkg:deb")):
        assert list(result) == ["facts", "target", "identity", "targetReference"]
        assert result["identity"] == {"type": kind, "args": {"platform": "linux/arm"}}
        graph = facts_of(result)["depGraph"]
        check_invariants(graph)
        assert graph["pkgManager"]["name"] == kind
        assert [pkg["info"]["purl"].partition("/")[0] for pkg in graph["pkgs"][1:]] == [package]
        assert "apk and deb" in facts_of(result)["pluginWarnings"]["scan"][0]
    apart = {"identity": None, "facts": None}
    assert {**apk, **apart} == {**deb, **apart}
    assert apk["facts"][1:] == deb["facts"][1:]
    metric = json.loads(msgspec.json.encode(payload_metrics(taken.results, taken.os_results)))["data"]
    sizes = [len(result.json()) for result in taken.results]
    assert list(metric.items()) == [
        ("scanResultCount", 2),
        ("applicationScanResultCount", 0),
        ("scanResultPayloadBytes", sizes),
        ("totalScanResultsPayloadBytes", sum(sizes)),
    ]


ORDER = [
    "depGraph",
    "keyBinariesHashes",
    "baseRuntimes",
    "imageId",
    "imageLayers",
    "imageLabels",
    "containerConfig",
    "history",
    "imageCreationTime",
    "rootFs",
    "imageOsReleasePrettyName",
    "imageManifestFiles",
    "autoDetectedUserInstructions",
    "imageNames",
    "ociDistributionMetadata",
    "provenanceMetadata",
    "platform",
    "pluginVersion",
    "pluginWarnings",
]
ATTESTED = b'{"predicateType": "https://slsa.dev/provenance/v1", "predicate": {}}'


def test_facts_stand_in_their_order_and_none_without_data() -> None:
    config = {
        "config": {"Labels": {"a": "b"}, "Env": None},
        "created": "2020-01-01T00:00:00Z",
        "history": [
            {"created": "2019-01-01T00:00:00Z", "created_by": "base", "author": None, "comment": ""},
            {"created": "2020-01-01T00:00:00Z", "created_by": "RUN apt-get install a"},
        ],
    }
    digest = "sha256:" + "1" * 64
    entry = parse_provenance(ATTESTED, digest, digest)
    assert entry is not None
    image = facts(
        config=json.dumps(config).encode(),
        layers=(digest,),
        diff_ids=(digest,),
        platform="linux/amd64",
        manifest_digest=digest,
        warnings=("something",),
        provenance=(entry,),
    )
    entries = [STATUS, ("file", "bin/node", b"n"), ("file", "x", b"x"), ("file", "etc/os-release", b"PRETTY_NAME=p")]
    entries.append(("file", "usr/java/a/release", b"JAVA_VERSION=17"))
    told = wire_of(taken_of(entries, image, include=("**/x",)))
    assert [fact["type"] for fact in told["facts"]] == ORDER
    assert all(list(fact) == ["type", "data"] and fact["data"] not in (None, [], "") for fact in told["facts"])
    assert facts_of(told)["history"][0] == {"created": "2019-01-01T00:00:00Z", "createdBy": "base", "comment": ""}
    assert facts_of(told)["containerConfig"] == {"env": None}
    bare = wire_of(taken_of([], facts(name="h/r@sha256:0")))
    assert [fact["type"] for fact in bare["facts"]] == ["depGraph", "imageId", "imageNames", "pluginVersion"]
    assert bare["identity"] == {"type": "linux"}


@pytest.mark.parametrize(
    ("more", "should"),
    [
        ({}, True),
        ({"manifest_digest": None}, False),
        ({"manifest_digest": "sha256:" + "A" * 64}, False),
        ({"manifest_digest": "sha512:" + "1" * 128}, False),
        ({"registry_host": "h" * 255}, True),
        ({"registry_host": "h" * 256}, False),
        ({"repository": "r" * 2048}, True),
        ({"repository": "r" * 2049}, False),
        ({"repository": "\u00fc" * 1025}, False),
        ({"name": "r"}, False),
    ],
)
def test_where_an_image_comes_from_is_told_if_it_is_valid(more: dict[str, Any], should: bool) -> None:
    image = facts(**{"manifest_digest": "sha256:" + "1" * 64, **more})
    assert ("ociDistributionMetadata" in facts_of(wire_of(taken_of([], image)))) is should


@pytest.mark.parametrize(("tag", "kept"), [("t" * 128, True), ("t" * 129, False), ("-t", False)])
def test_only_a_tag_is_told_as_one(tag: str, kept: bool) -> None:
    image = facts(name=f"h/r:{tag}", manifest_digest="sha256:" + "1" * 64, index_digest="sha256:short")
    told = facts_of(wire_of(taken_of([], image)))["ociDistributionMetadata"]
    assert told.get("imageTag") == (tag if kept else None)
    assert "indexDigest" not in told


def test_a_database_behind_links_is_read_once() -> None:
    taken = taken_of([("symlink", "lib", "usr/lib"), ("file", "usr/lib/apk/db/installed", b"P:m\nV:1\n\n")])
    assert [one.name for one in taken.inventory.packages] == ["m"]
    assert taken.inventory.warnings == ()


def test_two_apk_databases_are_merged() -> None:
    taken = taken_of([APK, ("file", "usr/lib/apk/db/installed", b"P:n\nV:1\n\nP:m\nV:0\n")])
    assert [(one.name, one.version) for one in taken.inventory.packages] == [("m", "1"), ("n", "1")]
    assert "merged" in taken.inventory.warnings[0]


def test_a_database_too_large_is_told() -> None:
    asked = ScanOptions()
    tight = msgspec.structs.replace(LIMITS, scan_database=10)
    view = merge([read_layer(tar_of([STATUS]), wanted(asked), limits=tight)])
    inventory = take_inventory(view, facts(), asked).inventory
    assert not inventory.complete
    assert any("packages may be missing" in warning for warning in inventory.warnings)


@pytest.mark.parametrize(
    "name", ["rpm-bdb", "rpm-bdb-real", "rpm-ndb", "rpm-ndb-real", "rpm-sqlite", "rpm-sqlite-real", "deb-chisel"]
)
def test_an_image_with_another_database_is_not_without_packages(name: str, corpus: Path) -> None:
    taken = inventory_of(Layout(corpus / f"{name}.oci"), name)
    assert not taken.inventory.complete
    assert "not read: packages may be missing" in taken.inventory.warnings[0]
    assert facts_of(wire_of(taken))["pluginWarnings"]["scan"] == list(taken.inventory.warnings)
    assert taken.inventory.key_binaries == {}


def test_another_database_reached_twice_or_hidden() -> None:
    linked = [("symlink", "var/lib/rpm", "../../usr/lib/sysimage/rpm"), ("file", "usr/lib/sysimage/rpm/Packages", b"p")]
    assert len(taken_of(linked).inventory.warnings) == 1
    layers = [[("file", "var/lib/rpm/Packages", b"p")], [("file", "var/lib/rpm/.wh.Packages", b"")]]
    view = merge([read_layer(tar_of(entries), wanted(ScanOptions())) for entries in layers])
    assert take_inventory(view, facts(), ScanOptions()).inventory.complete


def test_what_is_missing_is_told() -> None:
    taken = taken_of([STATUS], facts(missing=("a layer was not there",)))
    assert not taken.inventory.complete
    assert facts_of(wire_of(taken))["pluginWarnings"]["scan"] == ["a layer was not there"]


def test_the_history_and_the_layers_must_agree() -> None:
    image = facts(config=b'{"history": [{"created_by": "x"}]}')
    assert "layerAttribution" in facts_of(wire_of(taken_of([STATUS], image)))["pluginWarnings"]
    assert "pluginWarnings" not in facts_of(wire_of(taken_of([STATUS], image, layer_attribution=False)))


def test_only_what_the_user_installed() -> None:
    image = facts(
        config=b'{"history": [{"created": "2020-01-01T00:00:00Z"}, '
        b'{"created": "2023-01-01T00:00:00Z", "created_by": "RUN apt install mine"}]}'
    )
    status = (
        "file",
        "var/lib/dpkg/status",
        b"Package: base\nVersion: 1\n\nPackage: mine\nVersion: 1\nDepends: dep\n\nPackage: dep\nVersion: 1\n",
    )
    graph = facts_of(wire_of(taken_of([status], image, exclude_base_image_vulns=True, target_reference="main")))[
        "depGraph"
    ]
    assert [pkg["info"]["name"] for pkg in graph["pkgs"]] == ["docker-image|h/r", "dep", "mine"]


@pytest.mark.parametrize(
    ("reference", "name", "tag"),
    [
        ("r", "r", "latest"),
        ("h:5000/r", "h:5000/r", "latest"),
        ("h:5000/r:1", "h:5000/r", "1"),
        ("h/r@sha256:0", "h/r", None),
        ("h/r:1@sha256:0", "h/r", None),
        ("image.tar", "image.tar", None),
        ("h/image.tar:1", "h/image.tar", "1"),
    ],
)
def test_names(reference: str, name: str, tag: str | None) -> None:
    assert split_name(reference) == (name, tag)


def test_an_image_asked_for_by_digest_has_no_version() -> None:
    digest = "sha256:" + "2" * 64
    image = facts(
        name=f"h/r@{digest}", manifest_digest=digest, index_digest="sha256:" + "3" * 64, platform="linux/arm64/v8"
    )
    told = wire_of(taken_of([APK], image, target_reference="main"))
    found = facts_of(told)
    assert found["depGraph"]["pkgs"][0] == {"id": "docker-image|h/r@", "info": {"name": "docker-image|h/r"}}
    assert found["imageNames"] == {"names": [f"h/r@{digest}", "h/r@sha256:" + "3" * 64]}
    assert found["ociDistributionMetadata"] == {
        "registryHost": "h",
        "repository": "r",
        "manifestDigest": digest,
        "indexDigest": "sha256:" + "3" * 64,
    }
    assert found["platform"] == "linux/arm64"
    assert told["targetReference"] == "main"
    assert told["target"] == {"image": "docker-image|h/r"}


def test_names_that_are_no_text_can_be_sent() -> None:
    entries = [
        STATUS,
        ("file", "\udcff/node", b"n"),
        ("file", "\udcff/x", b"x"),
        ("file", "var/lib/dpkg/status.d/\udcff", b""),
    ]
    taken = taken_of(entries, include=("**/x",))
    assert facts_of(wire_of(taken))["imageManifestFiles"] == [{"name": "x", "path": "/\ufffd", "contents": "eA=="}]
    assert list(taken.inventory.key_binaries) == ["/\ufffd/node"]


def test_globs_with_composer_are_dropped() -> None:
    asked = ScanOptions(include=("**/composer.lock", "**/x"), exclude=("**/y",))
    assert wanted(asked).include == ("**/x",)
    assert wanted(ScanOptions(include=("**/composer.lock",), exclude=("**/y",))).exclude == ()
