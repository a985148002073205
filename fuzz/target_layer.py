"""Up to three layers from any bytes: each is proven or refused, whole or cut; what was read is put together."""

from __future__ import annotations

import hashlib
from functools import partial

from fuzz.harness import Bytes, refused_or_taken
from towline.core import Limits
from towline.core.layer import LayerContent, LayerPlan, Wanted, build, merge

TIGHT = Limits(
    unpack_ratio=50,
    unpack_ratio_from=1 << 16,
    unpack_layer=1 << 20,
    unpack_members=500,
    tar_entries=200,
    scan_kept=1 << 18,
    tar_names=1 << 18,
)
WANTED = Wanted(
    databases=("etc/os-release", "var/lib/dpkg/status"),
    folders=("var/lib/dpkg/status.d/",),
    include=("**/[a-m]*",),
    exclude=("**/b/**",),
    hashed=("node",),
)


def read(blob: bytes, cut: int) -> LayerContent:
    stream = build(LayerPlan("sha256:" + hashlib.sha256(blob).hexdigest(), len(blob), wanted=WANTED, limits=TIGHT))
    for at in range(0, len(blob), cut):
        stream.feed(blob[at : at + cut])
    content = stream.end()
    assert isinstance(content, LayerContent)
    return content


def run(data: bytes) -> None:
    script = Bytes(data)
    cut = 1 + script.byte() * 7
    layers: list[LayerContent] = []
    while script and len(layers) < 3:
        size = script.byte() << 8 | script.byte()
        blob = script.take(size) if size else script.rest()
        whole = refused_or_taken(partial(read, blob, len(blob) or 1))
        assert whole == refused_or_taken(partial(read, blob, cut))
        if whole is not None:
            layers.append(whole)
    view = merge(layers, TIGHT)
    missing = view.missing([*WANTED.databases, *(link for link in view.symlinks())], WANTED.folders)
    assert all(0 <= one.layer < len(layers) for one in missing)
    for file in view.files():
        found = view.read(file.path)
        assert found is not None
        assert found.path == file.path
    for path in view.symlinks():
        found = view.read(path)
        assert found is None or ".." not in found.path.split("/")
