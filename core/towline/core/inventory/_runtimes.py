"""Which language runtimes an image was made around, from the files that their own builds put beside them.

Source:  scan.md §1.2, §3 ("Java runtime")
"""

from __future__ import annotations

from typing import Final

from towline.core._limits import Limits
from towline.core.inventory._options import JAVA_RELEASE
from towline.core.inventory._package import Runtime
from towline.core.layer import Globs, ImageView

_LONGEST: Final = 64 * 1024
_VERSION_LONGEST: Final = 128


def parse_java_release(data: bytes) -> str | None:
    """Return the version in a JDK's `release` file; None unless exactly one line has one.

    The file is one of Java properties, some KiB long, its values in quotes; one that is much longer is something else.
    """
    if len(data) > _LONGEST:
        return None
    found = []
    for line in data.decode("utf-8", "replace").split("\n"):
        key, equals, value = line.partition("=")
        if equals and key.strip() == "JAVA_VERSION":
            found.append(value.strip())
    if len(found) != 1:
        return None
    version = found[0]
    if len(version) >= 2 and version[0] == version[-1] and version[0] in "\"'":
        version = version[1:-1]
    plain = version.isascii() and version.isprintable() and not any(char in version for char in " \"'")
    return version if plain and 0 < len(version) <= _VERSION_LONGEST else None


def find_runtimes(view: ImageView, limits: Limits) -> tuple[tuple[Runtime, ...], list[str]]:
    """Return each runtime once, in the order of `view.files()`, and what to warn of."""
    places = Globs(JAVA_RELEASE)
    versions = (
        parse_java_release(file.data) for file in view.files() if file.data is not None and places.match(file.path)
    )
    found = tuple(Runtime("java", version) for version in dict.fromkeys(versions) if version is not None)
    most = limits.scan_runtimes
    if len(found) <= most:
        return found, []
    return found[:most], [f"{len(found)} Java runtimes were found; the first {most} are told"]
