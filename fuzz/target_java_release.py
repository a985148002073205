"""A JDK's `release` file, from any bytes: a version that can be told, or none."""

from __future__ import annotations

from towline.core.inventory import parse_java_release


def run(data: bytes) -> None:
    version = parse_java_release(data)
    assert version is None or (0 < len(version) <= 128 and version.isascii() and version.isprintable())
