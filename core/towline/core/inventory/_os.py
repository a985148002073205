"""Which system an image is of, from the files that tell.

Source:  os-release(5); scan.md §4.4
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from towline.core.inventory._options import OS_RELEASE
from towline.core.inventory._package import OsRelease

_LONGEST: Final = 64 * 1024
_ESCAPED: Final = re.compile(r"\\([\"$\\`'])")
_FIRST_NUMBER: Final = re.compile(r"\d{1,20}")
_ROLLING: Final = "unstable"


def parse_os_release(path: str, data: bytes) -> OsRelease | None:
    """Read one of the files of `OS_RELEASE`; None if it says nothing."""
    text = data[:_LONGEST].decode("utf-8", "replace")
    name = path.rsplit("/", 1)[-1]
    found = _PARSERS[name](text)
    return None if found is None else OsRelease(found.id, found.version_id, found.pretty_name, path)


def shell_values(text: str) -> dict[str, str]:
    """Read `KEY=value` lines as a shell would: quotes and escapes undone, comments left out."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if not equals or key.startswith("#") or not key.replace("_", "a").isalnum():
            continue
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] == "'":
            value = value[1:-1]
        elif len(value) >= 2 and value[0] == value[-1] == '"':
            value = _ESCAPED.sub(r"\1", value[1:-1])
        else:
            value = _ESCAPED.sub(r"\1", value)
        values[key] = value
    return values


def _os_release(text: str) -> OsRelease | None:
    values = shell_values(text)
    if not values:
        return None
    os_id = values.get("ID", "").lower() or "linux"
    version = values.get("VERSION_ID", "") or _ROLLING
    if os_id == "ol":
        os_id, version = "oracle", version.split(".", 1)[0]
    elif os_id == "sles" and "." not in version:
        version += ".0"
    return OsRelease(os_id, version, values.get("PRETTY_NAME", ""))


def _lsb_release(text: str) -> OsRelease | None:
    values = shell_values(text)
    os_id, version = values.get("DISTRIB_ID", "").lower(), values.get("DISTRIB_RELEASE", "")
    return OsRelease(os_id, version, values.get("DISTRIB_DESCRIPTION", "")) if os_id and version else None


def _debian_version(text: str) -> OsRelease | None:
    word = text.strip().split("\n", 1)[0].strip()
    if not word:
        return None
    # Before a release this file has names instead of a number: "trixie/sid".
    return OsRelease("debian", word.split(".", 1)[0] if word[0].isdigit() else _ROLLING)


def _alpine_release(text: str) -> OsRelease | None:
    word = text.strip().split("\n", 1)[0].strip()
    return OsRelease("alpine", word) if word else None


def _oracle_release(text: str) -> OsRelease | None:
    number = _FIRST_NUMBER.search(text)
    return OsRelease("oracle", number[0]) if number else None


def _redhat_release(text: str) -> OsRelease | None:
    """`redhat-release` and `centos-release`: words, then a number."""
    words = text.split()
    number = _FIRST_NUMBER.search(text)
    if not words or number is None:
        return None
    os_id = "rhel" if "red hat" in text.lower() else words[0].lower()
    return OsRelease(os_id, number[0])


_PARSERS: Final[dict[str, Callable[[str], OsRelease | None]]] = {
    "os-release": _os_release,
    "lsb-release": _lsb_release,
    "debian_version": _debian_version,
    "alpine-release": _alpine_release,
    "oracle-release": _oracle_release,
    "redhat-release": _redhat_release,
    "centos-release": _redhat_release,
}
assert {path.rsplit("/", 1)[-1] for path in OS_RELEASE} == set(_PARSERS)
