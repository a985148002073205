"""What a scan looks for: the options that change its result, and the files of an image that it needs for them."""

from __future__ import annotations

from typing import Final

from towline.core._contract import Record
from towline.core.layer import Wanted

ANALYSER_VERSION: Final = "0.1.0"
"""Changes when the same image gives another result; said in `pluginVersion`, and part of every cache key."""

OS_RELEASE: Final = (
    "etc/os-release",
    "usr/lib/os-release",
    "etc/lsb-release",
    "etc/debian_version",
    "etc/alpine-release",
    "etc/oracle-release",
    "etc/redhat-release",
    "etc/centos-release",
)
"""In this order the first that can be read tells the system (scan.md §3)."""

DPKG_STATUS: Final = "var/lib/dpkg/status"
DPKG_STATUS_FOLDER: Final = "var/lib/dpkg/status.d/"
APT_STATES: Final = "var/lib/apt/extended_states"
APK_INSTALLED: Final = ("lib/apk/db/installed", "usr/lib/apk/db/installed")
JAVA_RELEASE: Final = (
    "/opt/java/openjdk/release",
    "/usr/local/openjdk-*/release",
    "/usr/lib/jvm/**/release",
    "/usr/java/**/release",
)
"""Globs of the file in which a JDK names its version."""

KEY_BINARIES: Final = ("node", "java")
UNREAD: Final = (
    *(
        f"{at}/{name}"
        for at in ("var/lib/rpm", "usr/lib/sysimage/rpm")
        for name in ("Packages", "Packages.db", "rpmdb.sqlite")
    ),
    "var/lib/chisel/manifest.wall",
)
"""Package databases that no parser reads: an image that has one is not without packages."""


class ScanOptions(Record, frozen=True):
    """The options of a scan; their names are those of agent.md §5.2.

    `include` and `exclude` are globs of files that the result shall carry (`imageManifestFiles`); by default none is.
    `exclude_app_vulns` asks for the system's part only, which is all that is read here.
    `redact` strikes out what looks like a secret in environment, labels and history.
    """

    layer_attribution: bool = True
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    exclude_app_vulns: bool = False
    exclude_base_image_vulns: bool = False
    target_reference: str | None = None
    max_image_bytes: int | None = None
    redact: bool = True


def globs(options: ScanOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the globs to include and exclude; those with "composer" in them are dropped, as the reference does."""
    include = tuple(glob for glob in options.include if "composer" not in glob)
    return include, options.exclude if include else ()


def wanted(options: ScanOptions) -> Wanted:
    """Return what must be kept of each layer to take an inventory with these options."""
    include, exclude = globs(options)
    return Wanted(
        databases=(DPKG_STATUS, APT_STATES, *APK_INSTALLED),
        files=OS_RELEASE,
        folders=(DPKG_STATUS_FOLDER,),
        include=include,
        exclude=exclude,
        # A digest is little to keep, and shows that the file is there.
        hashed=(*KEY_BINARIES, *UNREAD),
        patterns=JAVA_RELEASE,
    )
