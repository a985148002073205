"""The inventory: what an image holds, found in its layers and written as results that consumers read.

`wanted(options)` says what must be kept of each layer; `take_inventory` reads the view that comes of it.
"""

from __future__ import annotations

from towline.core.inventory._apk import parse_apk
from towline.core.inventory._dpkg import parse_auto_installed, parse_dpkg
from towline.core.inventory._graph import DepGraph
from towline.core.inventory._options import ANALYSER_VERSION, OS_RELEASE, ScanOptions, wanted
from towline.core.inventory._os import parse_os_release
from towline.core.inventory._package import Inventory, OsRelease, Package, Runtime
from towline.core.inventory._provenance import PROVENANCE_TYPES, Provenance, parse_provenance
from towline.core.inventory._redact import looks_secret, strike_command, strike_value, strike_variable
from towline.core.inventory._result import Fact, Identity, Metric, ScanResult, Target, payload_metrics
from towline.core.inventory._runtimes import parse_java_release
from towline.core.inventory._take import ImageFacts, Taken, split_name, take_inventory

__all__ = [
    "ANALYSER_VERSION",
    "DepGraph",
    "Fact",
    "Identity",
    "ImageFacts",
    "Inventory",
    "Metric",
    "OS_RELEASE",
    "OsRelease",
    "PROVENANCE_TYPES",
    "Package",
    "Provenance",
    "Runtime",
    "ScanOptions",
    "ScanResult",
    "Taken",
    "Target",
    "looks_secret",
    "parse_apk",
    "parse_auto_installed",
    "parse_dpkg",
    "parse_java_release",
    "parse_os_release",
    "parse_provenance",
    "payload_metrics",
    "split_name",
    "strike_command",
    "strike_value",
    "strike_variable",
    "take_inventory",
    "wanted",
]
