"""Scanning and pulling as machines: a Courier runs them, layers side by side, streams in the middle."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from layer_tools import gzipped, tar_of
from machines.case import MachineCase, wire_facts

from towline.core import (
    WAKE,
    Begin,
    End,
    Entropy,
    Failed,
    Feed,
    Finished,
    Limits,
    Note,
    Open,
    Opened,
    Proved,
    Read,
    Received,
    Refused,
    RemoteProtocolError,
    Transmit,
)
from towline.core.http import Courier
from towline.core.layer import build
from towline.core.registry import Progress, Registry
from towline.core.scan import pull_image, scan_image

SEED = b"the seed of a scanning machine.."
LIMITS = Limits(retries=1, resumes=2, registry_document=64 * 1024)
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"

TARS = [
    tar_of([("file", "var/lib/dpkg/status", b"Package: a\nVersion: 1\n"), ("file", "far", b"ID=x\n")]),
    tar_of([("hardlink", "etc/os-release", "far")]),
]
LAYERS = [gzipped(tar) for tar in TARS]


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def described(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}


CONFIG = json.dumps(
    {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [sha256(tar) for tar in TARS]}}
).encode()
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": described(CONFIG, "application/vnd.oci.image.config.v1+json"),
        "layers": [described(layer, LAYER_TYPE) for layer in LAYERS],
    }
).encode()
BLOBS = {sha256(data): data for data in (CONFIG, *LAYERS)}

STATEMENT = (
    b'{"predicateType": "https://slsa.dev/provenance/v1", "predicate": {"runDetails": {"builder": {"id": "b"}}}}'
)
ATTESTATION = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": described(CONFIG, "application/vnd.oci.image.config.v1+json"),
        "layers": [described(STATEMENT, "application/vnd.in-toto+json")],
    }
).encode()
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
INDEX = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": INDEX_TYPE,
        "manifests": [
            described(MANIFEST, MANIFEST_TYPE),
            {
                **described(ATTESTATION, MANIFEST_TYPE),
                "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
            },
        ],
    }
).encode()


def answer(body: bytes, *headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 X", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body


def reply(request: bytes) -> bytes:
    path = request.split(b" ", 2)[1].decode()
    digest = path.rpartition("/")[2]
    if digest == "attested":
        return answer(INDEX, f"Content-Type: {INDEX_TYPE}")
    if digest == sha256(ATTESTATION):
        return answer(ATTESTATION, f"Content-Type: {MANIFEST_TYPE}")
    if digest == sha256(STATEMENT):
        return answer(STATEMENT)
    return answer(BLOBS[digest]) if digest in BLOBS else answer(MANIFEST, f"Content-Type: {MANIFEST_TYPE}")


def converse(make: Callable[[], Courier[Any]]) -> Callable[[], list[tuple[float, Any]]]:
    """Return what is told to a machine by a registry that has the image, and by streams that do their work."""

    def told() -> list[tuple[float, Any]]:
        machine = make()
        now = 0.0
        coming: deque[Any] = deque([WAKE])
        facts: list[tuple[float, Any]] = []
        streams: dict[int, Any] = {}
        while coming:
            fact = coming.popleft()
            facts.append((now, fact))
            machine.handle(fact, now)
            now += 0.1
            while (wish := machine.poll()) is not None:
                match wish:
                    case Open(link):
                        coming.append(Opened(link))
                    case Transmit(link, data):
                        coming.append(Received(link, reply(bytes(data))))
                    case Begin(stream, plan):
                        streams[stream] = build(plan)
                    case Feed(stream, data):
                        streams[stream].feed(data)
                    case End(stream):
                        coming.append(Proved(stream, streams[stream].end()))
                    case Failed(error):
                        raise AssertionError(f"expected a good conversation, got {error!r}")
                    case Finished():
                        assert not coming
        return facts

    return told


def registry() -> Registry:
    return Registry("registry.example:5000", plain_http=True, entropy=Entropy(SEED), limits=LIMITS)


def make_scan() -> Courier[Any]:
    return Courier(scan_image(registry(), "a/b", "1"), entropy=Entropy(SEED), limits=LIMITS)


def make_attested() -> Courier[Any]:
    return Courier(scan_image(registry(), "a/b", "attested"), entropy=Entropy(SEED), limits=LIMITS)


def make_pull() -> Courier[Any]:
    return Courier(pull_image(registry(), "a/b", "1"), entropy=Entropy(SEED), limits=LIMITS)


ANSWERS = st.sampled_from(
    [
        answer(MANIFEST, f"Content-Type: {MANIFEST_TYPE}"),
        answer(INDEX, f"Content-Type: {INDEX_TYPE}"),
        answer(ATTESTATION, f"Content-Type: {MANIFEST_TYPE}"),
        *(answer(data) for data in (*BLOBS.values(), STATEMENT)),
        answer(LAYERS[0])[:-3],
        b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 X\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n",
    ]
)
VERDICTS = st.sampled_from(
    [
        Refused(1, RemoteProtocolError("digest-mismatch", "expected another digest")),
        Refused(2, RemoteProtocolError("bomb", "expected less")),
        Refused(3, RemoteProtocolError("bad-archive", "expected a header")),
    ]
)
FACTS = wire_facts((1, 3, 5), ANSWERS, VERDICTS, at_most=20)

CASES = [
    MachineCase("scan-image", make_scan, converse(make_scan), FACTS, volatile=(Read, Note, Progress)),
    MachineCase("scan-attested", make_attested, converse(make_attested), FACTS, volatile=(Read, Note, Progress)),
    MachineCase("scan-pull", make_pull, converse(make_pull), FACTS, volatile=(Read, Note, Progress)),
]
