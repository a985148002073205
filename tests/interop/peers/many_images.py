"""Pushes a great many repositories and tags: one small image, its blobs mounted from the first repository."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
SOURCE: Final = "many/tags"
PUSHERS: Final = 4

_LAYER = b"no archive at all, and nobody here unpacks it"
_CONFIG = json.dumps(
    {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(_LAYER).hexdigest()}"]},
    }
).encode()


def push_many(address: str, repositories: int, tags: int) -> tuple[list[str], list[str]]:
    """Push to an open registry; return the names of all repositories, and the tags of `many/tags`, one of them."""
    described = []
    for kind, data in (("config.v1+json", _CONFIG), ("layer.v1.tar", _LAYER)):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        described.append({"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest, "size": len(data)})
    config, layer = described
    manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}).encode()
    blobs = {str(config["digest"]): _CONFIG, str(layer["digest"]): _LAYER}
    push_image(address, SOURCE, "v0", manifest, blobs)
    wanted = [f"v{number}" for number in range(tags)]
    _side_by_side(address, wanted[1:], lambda on, tag: _put_manifest(on, SOURCE, tag, manifest))
    names = [f"many/repository-{number}" for number in range(repositories - 1)]

    def push(on: http.client.HTTPConnection, name: str) -> None:
        for digest in blobs:
            _send(on, "POST", f"/v2/{name}/blobs/uploads/?mount={digest}&from={SOURCE}", 201)
        _put_manifest(on, name, "latest", manifest)

    _side_by_side(address, names, push)
    return sorted([*names, SOURCE]), sorted(wanted)


def push_image(address: str, repository: str, tag: str, manifest: bytes, blobs: Mapping[str, bytes]) -> None:
    """Push one image to an open registry, its blobs by their digests."""
    connection = http.client.HTTPConnection(address, timeout=30)
    for digest, data in blobs.items():
        place = _send(connection, "POST", f"/v2/{repository}/blobs/uploads/", 202).getheader("location") or ""
        path = place.partition(address)[2]
        _send(connection, "PUT", f"{path}{'&' if '?' in path else '?'}digest={digest}", 201, data)
    _put_manifest(connection, repository, tag, manifest)
    connection.close()


def _side_by_side(address: str, items: list[str], push: Callable[[http.client.HTTPConnection, str], None]) -> None:
    def some(mine: Iterable[str]) -> None:
        connection = http.client.HTTPConnection(address, timeout=30)
        for item in mine:
            push(connection, item)
        connection.close()

    with ThreadPoolExecutor(PUSHERS) as pool:
        list(pool.map(some, [items[at::PUSHERS] for at in range(PUSHERS)]))


def _put_manifest(on: http.client.HTTPConnection, name: str, tag: str, manifest: bytes) -> None:
    _send(on, "PUT", f"/v2/{name}/manifests/{tag}", 201, manifest)


def _send(
    on: http.client.HTTPConnection, method: str, target: str, expected: int, body: bytes = b""
) -> http.client.HTTPResponse:
    on.request(method, target, body, {"Content-Type": MANIFEST} if "/manifests/" in target else {})
    answer = on.getresponse()
    said = answer.read()
    assert answer.status == expected, f"{method} {target}: {answer.status} {said[:200]!r}"
    return answer
