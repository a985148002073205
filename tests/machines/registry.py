"""The registry's conversations as machines: a Courier runs each of them over one link."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from machines.case import MachineCase, wire_facts

from towline.core import (
    WAKE,
    End,
    Entropy,
    Failed,
    Finished,
    Limits,
    Open,
    Opened,
    Proved,
    Received,
    Refused,
    RemoteProtocolError,
    Secret,
    Step,
    Transmit,
)
from towline.core.http import Courier
from towline.core.layer import BlobPlan, ProvedBlob
from towline.core.registry import (
    Credentials,
    Descriptor,
    Progress,
    Registry,
    check,
    download_blob,
    list_tags,
    resolve_image,
)

SEED = b"the seed of a registry's machine"
BLOB = b"0123456789abcdef" * 1024
LIMITS = Limits(retries=1, resumes=2, list_pages=4, registry_document=64 * 1024, list_page=64 * 1024)


def _sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


CONFIG = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [_sha256(b"tar")]}}).encode()
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": _sha256(CONFIG),
            "size": len(CONFIG),
        },
        "layers": [{"mediaType": "application/x", "digest": _sha256(BLOB), "size": len(BLOB)}],
    }
).encode()
INDEX = json.dumps(
    {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": _sha256(MANIFEST),
                "size": len(MANIFEST),
                "platform": {"os": "linux", "architecture": "amd64"},
            }
        ],
    }
).encode()


def registry() -> Registry:
    who = Credentials("user", Secret("word"))
    return Registry("registry.example:5000", plain_http=True, credentials=who, entropy=Entropy(SEED), limits=LIMITS)


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def challenge(scope: str) -> bytes:
    realm = "http://registry.example:5000/token"
    return answer(401, b"{}", f'WWW-Authenticate: Bearer realm="{realm}",service="s",scope="{scope}"')


PULL = "repository:a/b:pull"
LOGIN = [challenge(PULL), answer(200, b'{"token":"t1","expires_in":300}')]


def converse(make: Callable[[], Courier[Any]], answers: list[bytes]) -> Callable[[], list[tuple[float, Any]]]:
    """Return what is told to a machine by a peer that gives these answers, on whichever link it asks."""

    def told() -> list[tuple[float, Any]]:
        machine = make()
        left = list(answers)
        now = 0.0
        coming: deque[Any] = deque([WAKE])
        facts: list[tuple[float, Any]] = []
        while coming:
            fact = coming.popleft()
            facts.append((now, fact))
            machine.handle(fact, now)
            now += 0.1
            while (wish := machine.poll()) is not None:
                match wish:
                    case Open(link):
                        coming.append(Opened(link))
                    case Transmit(link):
                        coming.append(Received(link, left.pop(0)))
                    case End(stream):
                        coming.append(Proved(stream, ProvedBlob(_sha256(BLOB), len(BLOB))))
                    case Finished():
                        assert left == []
                    case Failed(error):
                        raise AssertionError(f"expected a good conversation, got {error!r}")
        return facts

    return told


def _courier(steps: Step[Any]) -> Courier[Any]:
    return Courier(steps, entropy=Entropy(SEED), limits=LIMITS)


def make_check() -> Courier[Any]:
    return _courier(check(registry(), listing=True, image=("a/b", "1")))


def make_tags() -> Courier[Any]:
    return _courier(list_tags(registry(), "a/b", partial=True))


def make_image() -> Courier[Any]:
    return _courier(resolve_image(registry(), "a/b", "1"))


def make_blob() -> Courier[Any]:
    plan = BlobPlan(_sha256(BLOB), len(BLOB))
    return _courier(download_blob(registry(), "a/b", Descriptor("", plan.digest, plan.size), plan, keep=True))


CHECK = [
    challenge(""),
    answer(200, b'{"token":"t1"}'),
    answer(200, b"{}"),
    answer(401, b"", 'WWW-Authenticate: Basic realm="r"'),
    answer(200, b'{"repositories":["a/b"]}'),
    # An answer to HEAD announces a body and brings none.
    b"HTTP/1.1 200 X\r\nContent-Length: 500\r\nDocker-Content-Digest: " + _sha256(MANIFEST).encode() + b"\r\n\r\n",
]
TAGS = [
    *LOGIN,
    answer(200, b'{"name":"a/b","tags":["1","2"]}', 'Link: </v2/a/b/tags/list?last=2>; rel="next"'),
    answer(503, b"", "Retry-After: 0"),
    answer(200, b'{"name":"a/b","tags":["3"]}'),
]
IMAGE = [
    *LOGIN,
    answer(200, INDEX, "Content-Type: application/vnd.oci.image.index.v1+json"),
    answer(200, MANIFEST, "Content-Type: application/vnd.oci.image.manifest.v1+json"),
    answer(200, CONFIG),
]
DOWNLOAD = [*LOGIN, answer(200, BLOB)]

ANSWERS = st.sampled_from(
    [
        *CHECK,
        *TAGS,
        *IMAGE,
        b"HTTP/1.1 503 X\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n",
        b"HTTP/1.1 429 X\r\nContent-Length: 0\r\nRetry-After: 99999\r\n\r\n",
        b"HTTP/1.1 307 X\r\nContent-Length: 0\r\nLocation: http://other.example/x\r\n\r\n",
        b"HTTP/1.1 206 X\r\nContent-Length: 3\r\nContent-Range: bytes 0-2/16384\r\n\r\nabc",
        b"HTTP/1.1 200 X\r\nContent-Length: 16384\r\n\r\nhalf",
        b"HTTP/1.1 200 X\r\nContent-Length: 9999999999\r\n\r\n",
    ]
)
VERDICTS = st.sampled_from(
    [
        Proved(1, ProvedBlob(_sha256(BLOB), len(BLOB))),
        Refused(1, RemoteProtocolError("digest-mismatch", "expected another digest")),
        Refused(1, RemoteProtocolError("bomb", "expected less")),
    ]
)
FACTS = wire_facts((1, 3), ANSWERS, VERDICTS)

CASES = [
    MachineCase("registry-check", make_check, converse(make_check, CHECK), FACTS),
    MachineCase("registry-tags", make_tags, converse(make_tags, TAGS), FACTS),
    MachineCase("registry-image", make_image, converse(make_image, IMAGE), FACTS),
    MachineCase("registry-blob", make_blob, converse(make_blob, DOWNLOAD), FACTS, volatile=(Progress,)),
]
