"""What a scan found, read from its results as a backend gets them, and what it should have found."""

from __future__ import annotations

import base64
from typing import Any

PACKAGES = ("deb-bookworm", "deb-distroless", "apk-alpine", "docker-schema2", "scratch-empty")
FILES = ("layers", "layers-opaque-last", "zstd-layers", "tars", "tars-odd", "tars-v7")
PLATFORMS = ("linux/amd64", "linux/arm64/v8", "linux/arm/v7")

Packages = list[tuple[str, str, str]]


def facts(results: Any) -> dict[str, Any]:
    """The facts of the first scan result, which is the operating system's, by type."""
    return {fact["type"]: fact["data"] for fact in results["scanResults"][0]["facts"]}


def packages(results: Any) -> Packages:
    """Name, version and source of every package in the graph."""
    graph = facts(results)["depGraph"]
    root = next(node["pkgId"] for node in graph["graph"]["nodes"] if node["nodeId"] == graph["graph"]["rootNodeId"])
    found = []
    for package in graph["pkgs"]:
        if package["id"] != root:
            source, _, name = package["info"]["name"].rpartition("/")
            found.append((name, package["info"]["version"], source or name))
    return sorted(found)


def expected_packages(truth: Any, platform: str = "linux/amd64") -> Packages:
    """The same from the expectation of an image."""
    if "packages" in truth:
        return sorted(
            (p["name"], p["version"], p.get("source") or p.get("origin") or p["name"]) for p in truth["packages"]
        )
    pairs = [line.split(" ") for line in truth["packages_by_platform"][platform]]
    return sorted((name, version, name) for name, version in pairs)


def files(results: Any) -> dict[str, str]:
    """Path and content of every file that was asked for; leading NULs of sparse files are cut, as in the corpus."""
    return {
        f"{one['path']}/{one['name']}": base64.b64decode(one["contents"]).decode().lstrip("\0")
        for one in facts(results)["imageManifestFiles"]
    }


def globs(expectation: Any) -> dict[str, list[str]]:
    """The globs to ask with."""
    asked = expectation["oracle"]["options"]["globsToFind"]
    # One file of the expectation for `layers` is not among those that its globs ask for.
    return {"include": [*asked["include"], "**/METADATA"], "exclude": asked["exclude"]}
