"""Images of the corpus as a pull would see them, read from OCI layouts; and graphs compared by what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from layer_tools import cut

from towline.core import LIMITS, Limits
from towline.core.inventory import ImageFacts, ScanOptions, Taken, take_inventory, wanted
from towline.core.layer import LayerContent, LayerPlan, build, merge

ONES = "sha256:" + "1" * 64
DEFAULT = ScanOptions()


class Layout:
    """An OCI layout folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def blob(self, digest: str) -> bytes | None:
        algorithm, _, encoded = digest.partition(":")
        path = self.folder / "blobs" / algorithm / encoded
        return path.read_bytes() if path.is_file() else None

    def json(self, digest: str) -> Any:
        data = self.blob(digest)
        assert data is not None
        return json.loads(data)

    @property
    def top(self) -> dict[str, Any]:
        """The descriptor of the first entry of index.json."""
        entry: dict[str, Any] = json.loads((self.folder / "index.json").read_text())["manifests"][0]
        return entry

    def manifest(self, platform: str | None = None) -> tuple[str, dict[str, Any]]:
        """The digest and the document of the image for a platform, or of the first image there is."""
        entry = self.top
        while True:
            document: dict[str, Any] = self.json(entry["digest"])
            if "manifests" not in document:
                return entry["digest"], document
            entry = next(
                one
                for one in document["manifests"]
                if platform is None or "platform" not in one or name_of(one["platform"]) == platform
            )


def name_of(platform: dict[str, str]) -> str:
    return "/".join(platform[part] for part in ("os", "architecture", "variant") if part in platform)


def contents_of(
    layout: Layout, options: ScanOptions, platform: str | None = None, *, piece: int = 1 << 16, limits: Limits = LIMITS
) -> list[LayerContent]:
    """Run the stream of every layer of an image."""
    _, manifest = layout.manifest(platform)
    diff_ids = layout.json(manifest["config"]["digest"])["rootfs"]["diff_ids"]
    contents = []
    for layer, diff_id in zip(manifest["layers"], diff_ids):
        blob = layout.blob(layer["digest"])
        if blob is None:
            continue
        plan = LayerPlan(layer["digest"], layer["size"], diff_id, layer["mediaType"], wanted(options), limits)
        stream = build(plan)
        for part in cut(blob, [piece]):
            stream.feed(part)
        contents.append(stream.end())
    return contents


def inventory_of(
    layout: Layout,
    name: str,
    options: ScanOptions = DEFAULT,
    platform: str | None = None,
    manifest_digest: str | None = ONES,
) -> Taken:
    """Take the inventory of an image, named as the corpus' expectations name it."""
    _, manifest = layout.manifest(platform)
    config_digest = manifest["config"]["digest"]
    config = layout.blob(config_digest)
    assert config is not None
    document = json.loads(config)
    image = ImageFacts(
        name=f"registry.example:5000/corpus/{name}:latest",
        config=config,
        config_digest=config_digest,
        layers=tuple(layer["digest"] for layer in manifest["layers"]),
        diff_ids=tuple(document["rootfs"]["diff_ids"]),
        platform=name_of(document),
        manifest_digest=manifest_digest,
    )
    return take_inventory(merge(contents_of(layout, options, platform)), image, options)


def facts_of(result: dict[str, Any]) -> dict[str, Any]:
    return {fact["type"]: fact["data"] for fact in result["facts"]}


def shape(graph: dict[str, Any], *, purls: bool = True) -> dict[str, Any]:
    """What a graph says, apart from node ids and order: a node is its package, its labels and what is below it."""
    nodes = {node["nodeId"]: node for node in graph["graph"]["nodes"]}
    pkgs = {pkg["id"]: pkg["info"] for pkg in graph["pkgs"]}

    def edges(node: dict[str, Any]) -> tuple[str, ...]:
        return tuple(sorted(nodes[dep["nodeId"]]["pkgId"] for dep in node["deps"]))

    return {
        "manager": graph["pkgManager"],
        "root": nodes[graph["graph"]["rootNodeId"]]["pkgId"],
        "pkgs": {key: {name: info[name] for name in info if purls or name != "purl"} for key, info in pkgs.items()},
        "nodes": sorted(
            (node["pkgId"], edges(node), sorted(node.get("info", {}).get("labels", {}).items()))
            for node in nodes.values()
        ),
    }


def check_invariants(graph: dict[str, Any]) -> None:
    """What a reader of graphs checks before it takes one (scan.md §2)."""
    assert graph["schemaVersion"] == "1.3.0"
    ids = [pkg["id"] for pkg in graph["pkgs"]]
    assert len(ids) == len(set(ids))
    for pkg in graph["pkgs"]:
        assert pkg["id"] == f"{pkg['info']['name']}@{pkg['info'].get('version', '')}"
    nodes = {node["nodeId"]: node for node in graph["graph"]["nodes"]}
    assert len(nodes) == len(graph["graph"]["nodes"])
    assert {node["pkgId"] for node in nodes.values()} == set(ids)
    root = graph["graph"]["rootNodeId"]
    children = [dep["nodeId"] for node in nodes.values() for dep in node["deps"]]
    assert root not in children
    reached, todo = {root}, [root]
    while todo:
        for dep in nodes[todo.pop()]["deps"]:
            if dep["nodeId"] not in reached:
                reached.add(dep["nodeId"])
                todo.append(dep["nodeId"])
    assert reached == set(nodes)
