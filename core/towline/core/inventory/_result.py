"""Scan results in the wire form: facts, target, identity (scan.md §1)."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from towline.core.inventory._config import ContainerConfigFact, HistoryFact, Truncated
from towline.core.inventory._graph import DepGraph
from towline.core.inventory._instructions import Instructions
from towline.core.inventory._package import Runtime
from towline.core.inventory._provenance import Provenance


class ManifestFile(msgspec.Struct, frozen=True):
    """A file that was asked for by a glob; `contents` in base64."""

    name: str
    path: str
    contents: str


class ImageNames(msgspec.Struct, frozen=True):
    names: list[str]


class DistributionMetadata(msgspec.Struct, frozen=True, rename="camel"):
    registry_host: str
    repository: str
    manifest_digest: str
    index_digest: str | UnsetType = UNSET
    image_tag: str | UnsetType = UNSET


class Warnings(msgspec.Struct, frozen=True, rename="camel"):
    """What a reader of the result must know; `scan` is ours: what is incomplete, and what was merged."""

    layer_attribution: list[str] | UnsetType = UNSET
    truncated_facts: dict[str, Truncated] | UnsetType = UNSET
    scan: list[str] | UnsetType = UNSET


FactData: TypeAlias = (
    DepGraph
    | ContainerConfigFact
    | Instructions
    | ImageNames
    | DistributionMetadata
    | Warnings
    | list[HistoryFact]
    | list[ManifestFile]
    | list[Provenance]
    | list[Runtime]
    | list[str]
    | dict[str, str]
    | str
)


class Fact(msgspec.Struct, frozen=True):
    type: str
    data: FactData


class Target(msgspec.Struct, frozen=True):
    image: str


class Identity(msgspec.Struct, frozen=True):
    type: str
    args: dict[str, str] | UnsetType = UNSET


class ScanResult(msgspec.Struct, frozen=True, rename="camel"):
    """One result, ready to be encoded: the operating system's, or one project's."""

    facts: list[Fact]
    target: Target
    identity: Identity
    target_reference: str | UnsetType = UNSET

    def json(self) -> bytes:
        """Return the result as compact JSON: the same bytes for the same image, always."""
        return msgspec.json.encode(self)

    def fact(self, type: str) -> Any:
        """Return the data of a fact, or None."""
        return next((fact.data for fact in self.facts if fact.type == type), None)


class PayloadMetrics(msgspec.Struct, frozen=True, rename="camel"):
    scan_result_count: int
    application_scan_result_count: int
    scan_result_payload_bytes: list[int]
    total_scan_results_payload_bytes: int


class Metric(msgspec.Struct, frozen=True):
    """One entry of `analytics`."""

    name: Literal["containerScanPayloadMetrics", "containerPluginTimings"]
    data: PayloadMetrics | dict[str, float]


def payload_metrics(results: list[ScanResult], os_results: int) -> Metric:
    """Measure results as they will be sent."""
    sizes = [len(result.json()) for result in results]
    return Metric(
        "containerScanPayloadMetrics", PayloadMetrics(len(results), len(results) - os_results, sizes, sum(sizes))
    )
