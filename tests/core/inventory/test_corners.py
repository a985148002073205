"""Databases, builders' words and graphs as they seldom are."""

from __future__ import annotations

import json
from typing import Any

from layer_tools import read_layer, tar_of
from oci_layout import check_invariants, facts_of

from towline.core.inventory import ImageFacts, ScanOptions, parse_apk, parse_provenance, strike_command, take_inventory
from towline.core.inventory import wanted as wanted_of
from towline.core.layer import merge


def test_blank_lines_between_apk_s_stanzas() -> None:
    packages = parse_apk(b"\n\nP:a\nV:1\n\n\n \nP:b\nV:2\n")
    assert [(one.name, one.version) for one in packages] == [("a", "1"), ("b", "2")]


def test_a_secret_s_name_without_a_value() -> None:
    assert strike_command("RUN TOKEN= make") == "RUN TOKEN= make"
    assert strike_command("RUN login --password") == "RUN login --password"


def test_a_builder_s_source_without_a_name() -> None:
    vcs = {
        "https://mobyproject.org/buildkit@v1#metadata": {"source": {"infos": [{}, {"filename": "F", "data": "eA=="}]}}
    }
    statement = {
        "predicateType": "https://slsa.dev/provenance/v0.2",
        "predicate": {"invocation": {"configSource": {}}, "metadata": vcs},
    }
    digest = "sha256:" + "1" * 64
    entry = parse_provenance(json.dumps(statement).encode(), digest, digest)
    assert entry is not None
    assert entry.dockerfile_metadata.name == "F"


def graph_of(status: str) -> Any:
    options = ScanOptions()
    layer = read_layer(tar_of([("file", "var/lib/dpkg/status", status.encode())]), wanted_of(options))
    image = ImageFacts("h/r:t", b"{}", "sha256:0", (), ())
    result = take_inventory(merge([layer]), image, options).results[0]
    return facts_of(json.loads(result.json()))["depGraph"]


def test_a_version_that_looks_like_another_node_s_number() -> None:
    stanzas = [
        ("x", "1", "amd64", "a"),
        ("y", "1", "amd64", "a"),
        ("a", "1|1", "arm64", ""),
        ("a", "1", "amd64", "c"),
        ("c", "1", "amd64", ""),
    ]
    status = "\n\n".join(
        f"Package: {name}\nStatus: install ok installed\nVersion: {version}\nArchitecture: {arch}\nDepends: {depends}"
        for name, version, arch, depends in stanzas
    )
    graph = graph_of(status)
    check_invariants(graph)
    ids = [node["nodeId"] for node in graph["graph"]["nodes"]]
    assert len(ids) == len(set(ids))
    # The package of that name keeps it, and the numbered node gives way.
    assert [node["pkgId"] for node in graph["graph"]["nodes"] if node["nodeId"] == "a@1|1"] == ["a@1|1"]
    assert {"a@1|1|", "a@1|2"} <= set(ids)
