"""Scanning and pulling: the operations that go through registry, layers and inventory.

outcome = yield from scan_image(registry, "team/app", "1.0", platform, ScanOptions(), name)
pulled = yield from pull_image(registry, "team/app", "1.0")
"""

from __future__ import annotations

from towline.core.inventory import ScanOptions
from towline.core.scan._outcome import ImagePulled, ImageResolved, PulledImage, ScanOutcome
from towline.core.scan._plan import InventoryPlan
from towline.core.scan._pull import pull_image
from towline.core.scan._scan import scan_image

__all__ = [
    "ImagePulled",
    "ImageResolved",
    "InventoryPlan",
    "PulledImage",
    "ScanOptions",
    "ScanOutcome",
    "pull_image",
    "scan_image",
]
