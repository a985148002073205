"""The dependency graph: what a reader checks holds for any database, and edges are where the walk meets them first."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oci_layout import check_invariants

from towline.core import Limits, RemoteProtocolError
from towline.core.inventory import Package
from towline.core.inventory._graph import below, build_graph, build_tree


def package(name: str, *links: str, auto: bool = False, provides: tuple[str, ...] = (), arch: str = "all") -> Package:
    return Package("deb", name, "1", arch, links=links, auto_installed=auto, provides=provides)


def graph_of(packages: list[Package], **options: Any) -> dict[str, Any]:
    tree = build_tree(packages, **options)
    graph = build_graph(tree, manager="deb", alias="debian:12", root_name="r", root_version=None, purls={}, labels={})
    made: dict[str, Any] = json.loads(msgspec.json.encode(graph))
    check_invariants(made)
    return made


def nodes_of(graph: dict[str, Any]) -> dict[str, list[str]]:
    return {node["nodeId"]: [dep["nodeId"] for dep in node["deps"]] for node in graph["graph"]["nodes"]}


def test_edges_stand_at_the_first_visit_and_later_ones_are_leaves() -> None:
    assert nodes_of(graph_of([package("a", "b"), package("b", "c"), package("c"), package("d", "b")])) == {
        "root-node": ["a@1", "b@1|2", "c@1", "d@1"],
        "a@1": ["b@1|1"],
        "b@1|1": ["c@1"],
        "b@1|2": [],
        "c@1": [],
        "d@1": ["b@1|2"],
    }


def test_a_circle_ends_in_a_leaf() -> None:
    assert nodes_of(graph_of([package("a", "b"), package("b", "a")])) == {
        "root-node": ["a@1|2", "b@1|2"],
        "a@1|1": [],
        "a@1|2": ["b@1|1"],
        "b@1|1": ["a@1|1"],
        "b@1|2": [],
    }
    assert nodes_of(graph_of([package("a", "a")])) == {"root-node": ["a@1"], "a@1": []}


def test_automatic_packages_hang_where_they_are_reached() -> None:
    graph = graph_of([package("auto", auto=True), package("lost", auto=True), package("a", "auto")])
    assert nodes_of(graph)["root-node"] == ["a@1", "lost@1"]


def test_names_come_before_provided_names_and_later_providers_win() -> None:
    packages = [
        package("x", provides=("virtual", "real")),
        package("y", provides=("virtual",)),
        package("real"),
        package("a", "virtual", "real", "nobody"),
    ]
    assert nodes_of(graph_of(packages))["a@1"] == ["real@1", "y@1"]


def test_two_architectures_of_a_version_are_one_package_to_a_graph() -> None:
    packages = [package("a", "b", arch="amd64"), package("a", "c", arch="i386"), package("b"), package("c")]
    assert nodes_of(graph_of(packages))["a@1"] == ["b@1", "c@1"]


def test_only_some_of_the_root_s_children() -> None:
    packages = [package("base", "x"), package("mine", "y"), package("x"), package("y")]
    assert set(nodes_of(graph_of(packages, is_direct=lambda one: one.name == "mine"))) == {"root-node", "mine@1", "y@1"}


def test_a_common_package_keeps_its_place() -> None:
    packages = [package(f"p{at}", "libc") for at in range(150)] + [package("libc", "deep"), package("deep")]
    graph = nodes_of(graph_of(packages))
    assert graph["libc@1|1"] == ["deep@1"] or graph["libc@1|2"] == ["deep@1"]
    assert all(graph[f"p{at}@1"] for at in range(150))
    without = build_tree(packages, without_common=True)
    assert all(not list(below(root)) for root in without)


def test_what_is_below_comes_by_levels_of_each() -> None:
    packages = [package("a", "b", "c"), package("b", "d"), package("c", "e"), package("d"), package("e")]
    assert [one.name for one in below(build_tree(packages)[0])] == ["b", "c", "d", "e"]


def test_a_chain_of_any_length_is_walked() -> None:
    count = 5_000
    packages = [package(f"p{at}", f"p{at + 1}") for at in range(count)] + [package(f"p{count}")]
    assert len(nodes_of(graph_of(packages))) > count
    assert len(list(below(build_tree(packages)[0]))) == count


def test_a_version_that_looks_like_a_number_of_a_node_clashes_with_none() -> None:
    odd = [Package("deb", name, "1|1") for name in "ab"]
    graph_of([package("a", "b"), package("b", "c"), package("c"), package("d", "b"), *odd])


def test_too_many_relations_are_refused() -> None:
    packages = [package(f"p{at}", *(f"p{to}" for to in range(10))) for at in range(10)]
    with pytest.raises(RemoteProtocolError) as raised:
        build_tree(packages, limits=Limits(scan_relations=50))
    assert raised.value.kind == "bomb"


names = st.sampled_from([f"p{at}" for at in range(8)])


@settings(max_examples=200, deadline=None)
@given(
    packages=st.lists(
        st.builds(
            lambda name, version, links, auto, provides: Package(
                "deb", name, version, links=tuple(links), auto_installed=auto, provides=tuple(provides)
            ),
            names,
            st.sampled_from(["1", "2"]),
            st.lists(names, max_size=4),
            st.booleans(),
            st.lists(names, max_size=1),
        ),
        max_size=14,
    )
)
def test_any_database_gives_a_graph_that_readers_take(packages: list[Package]) -> None:
    graph = graph_of(packages)
    assert {pkg["id"] for pkg in graph["pkgs"]} == {"r@", *(one.key for one in packages)}
    assert len(graph["graph"]["nodes"]) <= 1 + 2 * len(packages)
