"""dpkg's database from any bytes: packages, a graph that readers take, and package URLs."""

from __future__ import annotations

import json

import msgspec
from oci_layout import check_invariants

from fuzz.harness import refused_or_taken
from towline.core import Limits
from towline.core.inventory import OsRelease, parse_auto_installed, parse_dpkg
from towline.core.inventory._graph import build_graph, build_tree
from towline.core.inventory._purl import purl

TIGHT = Limits(scan_packages=500, scan_relations=5_000)
SYSTEM = OsRelease("debian", "12")


def run(data: bytes) -> None:
    parse_auto_installed(data)
    packages = refused_or_taken(lambda: parse_dpkg(data, TIGHT))
    if packages is None:
        return
    assert all(package.name and package.version for package in packages)
    tree = refused_or_taken(lambda: build_tree(packages, limits=TIGHT))
    if tree is not None:
        purls = {package.key: purl(package, SYSTEM, with_arch=True) for package in packages}
        graph = build_graph(
            tree, manager="deb", alias=SYSTEM.alias, root_name="r", root_version="1", purls=purls, labels={}
        )
        if all(package.key != "r@1" for package in packages):
            check_invariants(json.loads(msgspec.json.encode(graph)))
