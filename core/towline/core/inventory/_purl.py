"""Package URLs, in the reference's spelling: `:` stays in a version and is escaped in a qualifier.

Source:  purl-spec, PURL-SPECIFICATION.rst; scan.md §2.1
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from towline.core.inventory._package import OsRelease, Package

_CODENAMES: Final = {
    "8": "jessie",
    "9": "stretch",
    "10": "buster",
    "11": "bullseye",
    "12": "bookworm",
    "13": "trixie",
    "unstable": "sid",
}


def purl(package: Package, system: OsRelease, *, with_arch: bool) -> str:
    """Return a package's URL. The wire form's has no architecture, since the reference's has none.

    The reference has none at all for apk packages, which leaves a reader nothing to go by (scan.md §5.7).
    """
    release = system.version_id
    if system.id == "debian":
        release = _CODENAMES.get(system.version_id.split(".", 1)[0], system.version_id)
    qualifiers = {"distro": f"{system.id}-{release}"}
    if with_arch and package.arch:
        qualifiers["arch"] = package.arch
    if package.source:
        stated = f"@{package.source_version}" if package.source_version else ""
        qualifiers["upstream"] = f"{package.source}{stated}"
    ends = "&".join(f"{key}={quote(value, safe='')}" for key, value in sorted(qualifiers.items()))
    name, version = quote(package.name, safe=""), quote(package.version, safe=":")
    return f"pkg:{package.manager}/{quote(system.id, safe='')}/{name}@{version}?{ends}"
