"""A blob's size and digest hold, or its stream says which does not, at the first moment it can."""

from __future__ import annotations

import hashlib

import pytest
from layer_tools import sha256

from towline.core import LocalProtocolError, Plan, RemoteProtocolError
from towline.core.layer import BlobPlan, LayerPlan, ProvedBlob, build


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_a_good_blob_is_proven(algorithm: str) -> None:
    digest = f"{algorithm}:{hashlib.new(algorithm, b'abc').hexdigest()}"
    stream = build(BlobPlan(digest, 3))
    stream.feed(b"a")
    stream.feed(memoryview(b"bc"))
    assert stream.end() == ProvedBlob(digest, 3)


def test_a_byte_too_many_is_refused_when_it_comes() -> None:
    stream = build(BlobPlan(sha256(b"abc"), 3))
    stream.feed(b"abc")
    with pytest.raises(RemoteProtocolError) as raised:
        stream.feed(b"d")
    assert raised.value.kind == "size-mismatch"


@pytest.mark.parametrize(
    ("sent", "kind"), [(b"ab", "size-mismatch"), (b"abd", "digest-mismatch"), (b"", "size-mismatch")]
)
def test_a_wrong_end_is_refused(sent: bytes, kind: str) -> None:
    stream = build(BlobPlan(sha256(b"abc"), 3))
    stream.feed(sent)
    with pytest.raises(RemoteProtocolError) as raised:
        stream.end()
    assert raised.value.kind == kind


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + "A" * 64, "md5:" + "0" * 32, "sha512:" + "0" * 64])
def test_a_digest_of_another_form_is_refused(digest: str) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        build(BlobPlan(digest, 3))
    assert raised.value.kind == "invalid-manifest"
    with pytest.raises(RemoteProtocolError):
        build(LayerPlan(digest, 3))


def test_a_size_below_zero_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        build(BlobPlan(sha256(b""), -1))


def test_a_plan_of_another_room_is_our_callers_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        build(Plan())
