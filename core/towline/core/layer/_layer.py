"""The streams a driver runs for blobs: prove one, or prove one while reading it as a layer.

The pipeline of a layer is digest → inflate → diff ID → tar → collect, one pass, nothing put on a disk.
"""

from __future__ import annotations

import hashlib
from typing import Any

from towline.core._contract import Data
from towline.core._errors import LocalProtocolError, RemoteProtocolError, TowlineError
from towline.core._limits import LIMITS, Limits
from towline.core._wire import Plan, Stream
from towline.core.layer._content import Collector, LayerContent, ProvedBlob
from towline.core.layer._digest import Proof, algorithm
from towline.core.layer._inflate import Inflater
from towline.core.layer._tar import TarReader
from towline.core.layer._wanted import Wanted


class StreamPlan(Plan, frozen=True):
    """A plan that makes its own stream: data all the same, equal by value, sent to whichever thread runs it."""

    def stream(self) -> Stream:
        raise NotImplementedError


class BlobPlan(StreamPlan, frozen=True):
    """Check a blob's size and digest; Proved with a ProvedBlob."""

    digest: str
    size: int

    def stream(self) -> Stream:
        return BlobStream(self)


class LayerPlan(StreamPlan, frozen=True):
    """Check a layer's size, digest and diff ID and take its content; Proved with a LayerContent."""

    digest: str
    size: int
    diff_id: str | None = None
    media_type: str = ""
    wanted: Wanted = Wanted()
    limits: Limits = LIMITS

    def stream(self) -> Stream:
        return LayerStream(self)


def build(plan: Plan) -> Stream:
    """Make the stream that a plan describes. The one function of this room that drivers call."""
    if isinstance(plan, StreamPlan):
        return plan.stream()
    raise LocalProtocolError(f"expected a plan that makes a stream, got {type(plan).__name__}")


class BlobStream:
    """Proves a blob."""

    def __init__(self, plan: BlobPlan) -> None:
        self._plan = plan
        self._proof = Proof(plan.digest, plan.size)

    def feed(self, data: Data) -> None:
        self._proof.feed(data)

    def end(self) -> Any:
        self._proof.end()
        return ProvedBlob(self._plan.digest, self._plan.size)


class LayerStream:
    """Proves a layer and reads it.

    What is wrong with the archive is held back until the digest is known: bytes damaged on the way are a
    "digest-mismatch", and only an archive that the registry promised as it stands is a "bad-archive". A "bomb" and a
    byte too many end the stream at once.
    """

    def __init__(self, plan: LayerPlan) -> None:
        limits = plan.limits
        if plan.size > limits.image_layer:
            raise RemoteProtocolError(
                "image-too-large", f"expected a layer of at most {limits.image_layer} bytes, got {plan.size}"
            )
        self._plan = plan
        self._proof = Proof(plan.digest, plan.size, "layer")
        self._diff = hashlib.new(algorithm(plan.diff_id or "sha256:" + 64 * "0"), usedforsecurity=False)
        self._collector = Collector(plan.wanted, limits)
        self._tar = TarReader(self._collector, limits)
        self._inflater = Inflater(self._plain, limits)
        self._wrong: TowlineError | None = None

    def feed(self, data: Data) -> None:
        self._proof.feed(data)
        if self._wrong is None:
            try:
                self._inflater.feed(data)
            except TowlineError as error:
                self._hold(error)

    def end(self) -> Any:
        if self._wrong is None:
            try:
                self._inflater.end()
            except TowlineError as error:
                self._hold(error)
        self._proof.end()
        if self._wrong is not None:
            raise self._wrong
        diff_id = f"{self._diff.name}:{self._diff.hexdigest()}"
        if self._plan.diff_id not in (None, diff_id):
            raise RemoteProtocolError(
                "digest-mismatch",
                f"expected layer {self._plan.digest} to unpack to {self._plan.diff_id}, got {diff_id}",
            )
        self._tar.end()
        return self._content(diff_id)

    def _plain(self, data: Data) -> None:
        self._diff.update(data)
        self._tar.feed(data)

    def _hold(self, error: TowlineError) -> None:
        if error.kind == "bomb":
            raise error
        self._wrong = error

    def _content(self, diff_id: str) -> LayerContent:
        return self._collector.content(
            digest=self._plan.digest,
            diff_id=diff_id,
            wanted=self._plan.wanted,
            size=self._plan.size,
            unpacked=self._inflater.bytes_out,
            entries=self._tar.entries,
            form=self._inflater.form,
        )
