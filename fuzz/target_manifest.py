"""A manifest, index or config: the first byte chooses what it is said to be."""

from __future__ import annotations

from functools import partial

from fuzz.harness import Bytes, refused_or_taken
from towline.core import LIMITS
from towline.core.registry import Digest, ImageIndex, Platform, choose, parse_config, parse_manifest

TYPES = (
    None,
    "application/json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)


def run(data: bytes) -> None:
    script = Bytes(data)
    said = script.pick(TYPES)
    raw = script.rest()
    config = refused_or_taken(lambda: parse_config(raw, 1))
    if config is not None:
        Digest.parse(config.rootfs.diff_ids[0])
    taken = refused_or_taken(lambda: parse_manifest(raw, said))
    if taken is None:
        return
    media_type, parsed = taken
    index = isinstance(parsed, ImageIndex)
    assert index == ("index" in media_type or "list" in media_type)
    descriptors = parsed.manifests if isinstance(parsed, ImageIndex) else (parsed.config, *parsed.layers)
    for descriptor in descriptors:
        Digest.parse(descriptor.digest)
        assert descriptor.size >= 0
        assert descriptor.data is None or str(Digest.of(descriptor.data, descriptor.digest.partition(":")[0]))
    if isinstance(parsed, ImageIndex):
        assert len(parsed.manifests) <= LIMITS.index_entries
        for platform in (None, Platform("linux", "arm", "v7")):
            chosen = refused_or_taken(partial(choose, parsed, platform))
            assert chosen is None or not chosen.attestation
