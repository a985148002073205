"""Pushes a great many repositories and tags: one small image, its blobs mounted from the first repository."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
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


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Give a folder for a registry of many small files: in shared memory where there is some, for no disk is tested."""
    memory = Path("/dev/shm")
    there = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 29
    with tempfile.TemporaryDirectory(prefix="towline-registry-", dir=memory if there else None) as name:
        yield Path(name)


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
    names = [f"many/repository-{number}" for number in range(repositories - 1)]
    tagged = [[_put(address, SOURCE, tag, manifest)] for tag in wanted[1:]]
    named = [
        [*(_mount(address, name, digest) for digest in blobs), _put(address, name, "latest", manifest)]
        for name in names
    ]
    pushes = [*tagged, *named]
    with ThreadPoolExecutor(PUSHERS) as pool:
        list(pool.map(lambda at: _pipeline(address, pushes[at::PUSHERS]), range(PUSHERS)))
    return sorted([*names, SOURCE]), sorted(wanted)


def _put(address: str, name: str, tag: str, manifest: bytes) -> bytes:
    head = f"PUT /v2/{name}/manifests/{tag} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {MANIFEST}\r\n"
    return f"{head}Content-Length: {len(manifest)}\r\n\r\n".encode() + manifest


def _mount(address: str, name: str, digest: str) -> bytes:
    target = f"/v2/{name}/blobs/uploads/?mount={digest}&from={SOURCE}"
    return f"POST {target} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n".encode()


def _pipeline(address: str, pushes: list[list[bytes]]) -> None:
    """Send what makes each push, twenty pushes at a time, and see every request answered by 201 and no body."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        for at in range(0, len(pushes), 20):
            requests = [request for push in pushes[at : at + 20] for request in push]
            connection.sendall(b"".join(requests))
            answers = b""
            while answers.count(b"\r\n\r\n") < len(requests):
                piece = connection.recv(65536)
                assert piece, f"the registry closed the connection: {answers[-300:]!r}"
                answers += piece
            assert answers.count(b"HTTP/1.1 201 Created\r\n") == len(requests), answers[-300:]


def push_image(address: str, repository: str, tag: str, manifest: bytes, blobs: Mapping[str, bytes]) -> None:
    """Push one image to an open registry, its blobs by their digests."""
    connection = http.client.HTTPConnection(address, timeout=30)
    for digest, data in blobs.items():
        place = _send(connection, "POST", f"/v2/{repository}/blobs/uploads/", 202).getheader("location") or ""
        path = place.partition(address)[2]
        _send(connection, "PUT", f"{path}{'&' if '?' in path else '?'}digest={digest}", 201, data)
    _put_manifest(connection, repository, tag, manifest)
    connection.close()


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
