"""apk's database of installed packages: stanzas of one-letter fields, whose case counts.

Source:  apk-tools' installed database, "apk package info"; scan.md §4.5
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Final

from towline.core._limits import LIMITS, Limits
from towline.core.inventory._package import Package, check_count, unique

_LETTERS: Final = frozenset(b"PVALoDpr")
_OPERATORS: Final = "<>=~"


def parse_apk(data: bytes, limits: Limits = LIMITS) -> list[Package]:
    """Read an `installed` file. A stanza without a name or a version is passed over; the last of a name counts."""
    found: dict[str, Package] = {}
    for stanza in _stanzas(data):
        package = _package(stanza)
        if package is not None:
            found[package.name] = package
            check_count(len(found), limits)
    return list(found.values())


def _package(stanza: dict[str, str]) -> Package | None:
    name, version = stanza.get("P", ""), stanza.get("V", "")
    if not name or not version:
        return None
    depends = stanza.get("D", "").split()
    # The reference looks for what stands before `=` and nothing else, in what a package replaces as well. Edges in
    # the wire form are found the same way, so that both give one graph; `depends` has the names themselves.
    links = [text.split("=", 1)[0] for text in [*depends, *stanza.get("r", "").split()] if not text.startswith("!")]
    return Package(
        manager="apk",
        name=name,
        version=version,
        arch=stanza.get("A") or None,
        source=stanza.get("o") or None,
        licence=stanza.get("L"),
        depends=unique([_name(text) for text in depends if not text.startswith("!")]),
        provides=unique([text.split("=", 1)[0] for text in stanza.get("p", "").split()]),
        links=unique(links),
    )


def _name(relation: str) -> str:
    """Return the name in `name`, `name>=1`, `name~1.2`, `so:lib.so.1`, `name@repository`."""
    for at, char in enumerate(relation):
        if char in _OPERATORS or (char == "@" and at):
            return relation[:at]
    return relation


def _stanzas(data: bytes) -> Iterator[dict[str, str]]:
    stanza: dict[str, str] = {}
    for line in io.BytesIO(data):
        text = line.rstrip(b"\r\n")
        if not text.strip():
            if stanza:
                yield stanza
            stanza = {}
        elif text[1:2] == b":" and text[0] in _LETTERS:
            stanza[chr(text[0])] = text[2:].decode("utf-8", "replace").strip()
    if stanza:
        yield stanza
