"""dpkg's database: `status`, `status.d` of images without dpkg, and apt's list of what came by itself.

Source:  deb-control(5), dpkg-query(1) "Package states"; scan.md §4.5
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Final

from towline.core._limits import LIMITS, Limits
from towline.core.inventory._package import Package, check_count, unique

# The files are there, though not all of them may be set up; dpkg counts neither removed nor half-installed ones.
PRESENT: Final = frozenset(("installed", "triggers-awaited", "triggers-pending", "unpacked", "half-configured"))

_FIELDS: Final = frozenset(
    (b"package", b"status", b"version", b"architecture", b"source", b"depends", b"pre-depends", b"provides")
)
_STATES_FIELDS: Final = frozenset((b"package", b"architecture", b"auto-installed"))


def parse_dpkg(data: bytes, limits: Limits = LIMITS) -> list[Package]:
    """Read the stanzas of a `status` file, or the one of a `status.d` file; a package of two architectures is two.

    A stanza without a name or a version describes nothing that could be there and is passed over. Packages of every
    state are returned; `PRESENT` tells which are there. The last stanza of a name and architecture counts.
    """
    found: dict[tuple[str, str | None], Package] = {}
    for stanza in _stanzas(data, _FIELDS):
        package = _package(stanza)
        if package is not None:
            found[package.name, package.arch] = package
            check_count(len(found), limits)
    return list(found.values())


def parse_auto_installed(data: bytes) -> set[tuple[str, str]]:
    """Read apt's `extended_states`: the names and architectures of packages that came as dependencies only."""
    return {
        (stanza.get("package", ""), stanza.get("architecture", ""))
        for stanza in _stanzas(data, _STATES_FIELDS)
        if stanza.get("auto-installed") == "1"
    }


def is_auto_installed(package: Package, states: set[tuple[str, str]], names: set[str]) -> bool:
    """Whether apt lists a package; it files those of architecture `all` under the system's own."""
    return (package.name, package.arch or "") in states or (package.arch in (None, "all") and package.name in names)


def _package(stanza: dict[str, str]) -> Package | None:
    name, version = stanza.get("package", ""), stanza.get("version", "")
    if not name or not version:
        return None
    source, _, source_version = stanza.get("source", "").partition("(")
    relations = [stanza.get("depends", ""), stanza.get("pre-depends", "")]
    return Package(
        manager="deb",
        name=name,
        version=version,
        arch=stanza.get("architecture") or None,
        source=source.strip() or None,
        source_version=source_version.rstrip(") ") or None,
        depends=unique([word.split(":", 1)[0] for word in _words(relations)]),
        provides=unique([word.split(":", 1)[0] for word in _words([stanza.get("provides", "")])]),
        # The reference takes `perl:any` for a name, which it does not find. Edges in the wire form are found the same
        # way, so that both give one graph; `depends` has the names themselves.
        links=unique(_words(relations)),
        state=(stanza.get("status", "").split() or ["installed"])[-1],
    )


def _words(lists: Iterable[str]) -> list[str]:
    """Return `name[:arch]` of relations `name[:arch] [(op version)] [[arch list]] [<profile>]`, every alternative."""
    found = []
    for relations in lists:
        for relation in relations.replace("|", ",").split(","):
            words = relation.split(None, 1)
            if words:
                found.append(words[0].split("(", 1)[0])
    return found


def _stanzas(data: bytes, fields: frozenset[bytes]) -> Iterator[dict[str, str]]:
    """Split RFC 822-like text at blank lines; return the fields asked for, names in lower case, lines unfolded."""
    stanza: dict[bytes, list[bytes]] = {}
    value: list[bytes] | None = None
    for line in io.BytesIO(data):
        text = line.strip()
        if not text:
            if stanza:
                yield _joined(stanza)
            stanza, value = {}, None
        elif line[:1] in b" \t":
            if value is not None:
                value.append(text)
        else:
            name, colon, rest = text.partition(b":")
            name = name.lower()
            value = None
            if colon and name in fields:
                value = stanza[name] = [rest.strip()]
    if stanza:
        yield _joined(stanza)


def _joined(stanza: dict[bytes, list[bytes]]) -> dict[str, str]:
    return {name.decode(): b" ".join(lines).decode("utf-8", "replace") for name, lines in stanza.items()}
