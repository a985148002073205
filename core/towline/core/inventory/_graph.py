"""The dependency graph in the wire form that consumers of the reference read (scan.md §2).

A package's edges are written where a depth-first walk over the database first meets it; every later occurrence is a
leaf. So the graph is a tree with at most two nodes for each package, `name@version|1` and `|2` where they differ,
and cycles come out by themselves.

The reference hangs a package that is reached on more than a hundred paths under the root, as a leaf and without its
purl: libc6 is the usual one. We do not. The walk above already bounds the graph to two nodes a package, whatever the
number of paths; a package keeps its purl, and an edge to it stands wherever the database has one.

Source:  @snyk/dep-graph, schema 1.3.0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core.inventory._package import Package

SCHEMA: Final = "1.3.0"
ROOT: Final = "root-node"
_COMMON_PATHS: Final = 100


class PkgInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    version: str | None = None
    purl: str | None = None


class Pkg(msgspec.Struct, frozen=True):
    id: str
    info: PkgInfo


class NodeInfo(msgspec.Struct, frozen=True):
    labels: dict[str, str]


class NodeRef(msgspec.Struct, frozen=True, rename="camel"):
    node_id: str


class Node(msgspec.Struct, frozen=True, rename="camel"):
    node_id: str
    pkg_id: str
    deps: list[NodeRef]
    info: NodeInfo | msgspec.UnsetType = msgspec.UNSET


class Repository(msgspec.Struct, frozen=True):
    alias: str


class PkgManager(msgspec.Struct, frozen=True):
    name: str
    repositories: list[Repository]


class Graph(msgspec.Struct, frozen=True, rename="camel"):
    root_node_id: str
    nodes: list[Node]


class DepGraph(msgspec.Struct, frozen=True, rename="camel"):
    """A dependency graph; `pkgs` and `nodes` in the order in which the reference writes them."""

    schema_version: str
    pkg_manager: PkgManager
    pkgs: list[Pkg]
    graph: Graph


class Occurrence:
    """A place of a package in the tree. Its children are those of the first occurrence, or none."""

    __slots__ = ("children", "package")

    def __init__(self, package: Package) -> None:
        self.package = package
        self.children: list[Occurrence] = []


def build_tree(
    packages: Sequence[Package],
    *,
    is_direct: Callable[[Package], bool] | None = None,
    without_common: bool = False,
    limits: Limits = LIMITS,
) -> list[Occurrence]:
    """Return the root's children: packages not installed automatically, then those that nothing reached.

    `is_direct` keeps only some of the root's children (and what they depend on). `without_common` leaves out edges to
    and from packages that more than a hundred paths lead to.
    """
    edges = _edges(packages, limits)
    if without_common:
        common = _common(packages, edges)
        edges = {
            key: [] if key in common else [other for other in others if other.key not in common]
            for key, others in edges.items()
        }
    by_key = {package.key: package for package in reversed(packages)}
    visited: set[str] = set()
    roots = []
    for wants_auto in (False, True):
        for key, package in _in_order(packages, by_key):
            if package.auto_installed is not wants_auto or (wants_auto and key in visited):
                continue
            if is_direct is None or is_direct(package):
                roots.append(_walk(package, edges, visited))
    return roots


def build_graph(
    roots: Sequence[Occurrence],
    *,
    manager: str,
    alias: str,
    root_name: str,
    root_version: str | None,
    purls: Mapping[str, str],
    labels: Mapping[str, dict[str, str]],
) -> DepGraph:
    """Write a tree as a graph. `purls` and `labels` are by a package's key."""
    root_id = f"{root_name}@{root_version or ''}"
    pkgs = {root_id: Pkg(root_id, PkgInfo(root_name, root_version))}
    # By key: how many different nodes there are, and the number of each, in order of their completion.
    numbers: dict[str, dict[bool, int]] = {}
    differing: dict[str, list[Occurrence]] = {}
    for occurrence in _completed(roots):
        key = occurrence.package.key
        known = numbers.setdefault(key, {})
        full = bool(occurrence.children)
        if full not in known:
            known[full] = len(known) + 1
            differing.setdefault(key, []).append(occurrence)
        if key not in pkgs:
            package = occurrence.package
            pkgs[key] = Pkg(key, PkgInfo(package.graph_name, package.version, purls.get(key)))

    ids = _node_ids(numbers)

    def ref(occurrence: Occurrence) -> str:
        return ids[occurrence.package.key, bool(occurrence.children)]

    nodes = [Node(ROOT, root_id, [NodeRef(ref(child)) for child in _sorted(roots)])]
    for occurrence in (one for group in differing.values() for one in group):
        key = occurrence.package.key
        info = NodeInfo(labels[key]) if labels.get(key) else msgspec.UNSET
        nodes.append(Node(ref(occurrence), key, [NodeRef(ref(child)) for child in _sorted(occurrence.children)], info))
    repositories = PkgManager(manager, [Repository(alias)])
    return DepGraph(SCHEMA, repositories, list(pkgs.values()), Graph(ROOT, nodes))


def _node_ids(numbers: Mapping[str, dict[bool, int]]) -> dict[tuple[str, bool], str]:
    """Name each node: by its package, and by number where a package has several."""
    ids = {(key, full): key for key, known in numbers.items() if len(known) == 1 for full in known}
    used = set(ids.values())
    for key, known in numbers.items():
        if len(known) > 1:
            for full, number in known.items():
                name = f"{key}|{number}"
                while name in used:  # a version may itself end in `|1`
                    name += "|"
                used.add(name)
                ids[key, full] = name
    return ids


def below(occurrence: Occurrence) -> Iterator[Package]:
    """Every package in the tree below an occurrence: its children first, then what is below each in turn."""
    todo = [iter([occurrence])]
    while todo:
        current = next(todo[-1], None)
        if current is None:
            todo.pop()
            continue
        for child in current.children:
            yield child.package
        todo.append(iter(current.children))


def _in_order(packages: Sequence[Package], by_key: Mapping[str, Package]) -> Iterator[tuple[str, Package]]:
    """Each key once: two architectures of one version are one package to a graph, whose names have none."""
    for key in dict.fromkeys(package.key for package in packages):
        yield key, by_key[key]


def _edges(packages: Sequence[Package], limits: Limits) -> dict[str, list[Package]]:
    """Resolve each package's links: by name, else by a provided name; of several that provide one the last counts."""
    named: dict[str, Package] = {}
    for package in packages:
        for provided in package.provides:
            named[provided] = package
    named |= {package.name: package for package in packages}
    edges: dict[str, list[Package]] = {}
    count = 0
    for package in packages:
        found = {other.key: other for link in package.links if (other := named.get(link)) is not None}
        found.pop(package.key, None)
        known = edges.setdefault(package.key, [])
        known += [other for other in found.values() if other not in known] if known else found.values()
        count += len(found)
        if count > limits.scan_relations:
            raise RemoteProtocolError(
                "bomb", f"expected at most {limits.scan_relations} relations between packages, got more"
            )
    return edges


def _common(packages: Sequence[Package], edges: Mapping[str, list[Package]]) -> set[str]:
    """The packages that more than a hundred paths lead to, counting all paths from every package."""
    paths: dict[str, int] = {}
    for package in packages:
        todo = [iter(edges[package.key])]
        while todo:
            child = next(todo[-1], None)
            if child is None:
                todo.pop()
                continue
            count = paths.get(child.key, 0)
            if count <= _COMMON_PATHS:
                paths[child.key] = count + 1
                todo.append(iter(edges[child.key]))
    return {key for key, count in paths.items() if count > _COMMON_PATHS}


def _walk(package: Package, edges: Mapping[str, list[Package]], visited: set[str]) -> Occurrence:
    """Make the tree below a package: each package's edges once in the whole forest. Depth has no limit."""
    root = Occurrence(package)
    if package.key in visited:
        return root
    visited.add(package.key)
    todo = [(root, iter(edges[package.key]))]
    while todo:
        parent, left = todo[-1]
        child = next(left, None)
        if child is None:
            todo.pop()
            continue
        occurrence = Occurrence(child)
        parent.children.append(occurrence)
        if child.key not in visited:
            visited.add(child.key)
            todo.append((occurrence, iter(edges[child.key])))
    return root


def _completed(roots: Sequence[Occurrence]) -> Iterator[Occurrence]:
    """Every occurrence after all below it, children in the order of their names."""
    todo = [(None, iter(_sorted(roots)))]
    path: list[tuple[Occurrence | None, Iterator[Occurrence]]] = list(todo)
    while path:
        occurrence, left = path[-1]
        child = next(left, None)
        if child is None:
            path.pop()
            if occurrence is not None:
                yield occurrence
        else:
            path.append((child, iter(_sorted(child.children))))


def _sorted(occurrences: Sequence[Occurrence]) -> list[Occurrence]:
    return sorted(occurrences, key=lambda occurrence: (occurrence.package.graph_name, occurrence.package.version))
