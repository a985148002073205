"""Which packages the image's builder asked for, read from the history (scan.md §1.4)."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec import UnsetType

from towline.core.inventory._config import RawHistory
from towline.core.inventory._graph import Occurrence, below
from towline.core.inventory._package import Package

_BASE_AGE_SECONDS: Final = 5 * 60 * 60
_PREFIXES: Final = ("RUN ", "/bin/sh ", "-c ")
_PARTS: Final = re.compile(r";|&&")
_VERBS: Final = {
    "apt-get": "install",
    "apt": "install",
    "aptitude": "install",
    "apk": "add",
    "yum": "install",
    "dnf": "install",
    "microdnf": "install",
}
# Instructions longer than that hold whole scripts; what is behind it is not looked at.
_LONGEST: Final = 64 * 1024


class LayerInstruction(msgspec.Struct, frozen=True):
    instruction: str


class PackageInstruction(msgspec.Struct, frozen=True, rename="camel"):
    instruction: str
    install_command: str


class Instructions(msgspec.Struct, frozen=True, rename="camel"):
    """Instructions that install packages, and the packages, by name, that each brought."""

    dockerfile_layers: dict[str, LayerInstruction]
    dockerfile_packages: dict[str, PackageInstruction]


def find_instructions(history: Sequence[RawHistory]) -> Instructions:
    """Find what the user's own instructions install; the base image's are older by hours."""
    layers: dict[str, LayerInstruction] = {}
    packages: dict[str, PackageInstruction] = {}
    for text in _of_the_user(history):
        for command, names in _installs(text):
            for name in names:
                packages[name] = PackageInstruction(text, command)
                layers[layer_id(text)] = LayerInstruction(text)
    return Instructions(layers, packages)


def with_dependencies(found: Instructions, roots: Sequence[Occurrence]) -> Instructions:
    """Add what the packages brought with them, one direct dependency after the other; a later one wins.

    `roots` is the tree without common packages: what everything depends on was not brought by an instruction.
    """
    packages = dict(found.dockerfile_packages)
    if packages:
        for root in roots:
            entry = _entry(packages, root.package)
            if entry is not None:
                for package in below(root):
                    packages[package.origin] = entry
    return msgspec.structs.replace(found, dockerfile_packages=packages)


def layer_label(found: Instructions, package: Package) -> str | None:
    """Return the id of the instruction that brought a package, or None."""
    entry = _entry(found.dockerfile_packages, package)
    return layer_id(entry.instruction) if entry is not None else None


def layer_id(instruction: str) -> str:
    return base64.b64encode(instruction.encode("utf-8", "replace")).decode("ascii")


def _entry(packages: dict[str, PackageInstruction], package: Package) -> PackageInstruction | None:
    """By the name that the graph has for a package, or its source: `gnupg` is not found as `gnupg2/gnupg`."""
    return packages.get(package.graph_name) or packages.get(package.origin)


def _of_the_user(history: Sequence[RawHistory]) -> list[str]:
    """The instructions written within five hours of the last; none, if those are all there are."""
    times = [_seconds(entry.created) for entry in history]
    if not times or times[-1] is None:
        return []
    last = times[-1]
    recent = [entry for entry, time in zip(history, times) if time is not None and last - time <= _BASE_AGE_SECONDS]
    if len(recent) == len(history):
        return []
    return [
        entry.created_by.replace("# buildkit", "")[:_LONGEST]
        for entry in recent
        if entry.empty_layer is not True and isinstance(entry.created_by, str) and entry.created_by
    ]


def _installs(text: str) -> list[tuple[str, list[str]]]:
    """Return each install command of an instruction with the names it installs."""
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    found = []
    for part in _PARTS.split(text):
        words = part.split()
        start, verb = _command(words)
        if verb:
            names = [word.split("=", 1)[0].removeprefix("$") for word in words[verb + 1 :] if not word.startswith("-")]
            found.append((" ".join(words[start:]), [name for name in names if name]))
    return found


def _command(words: list[str]) -> tuple[int, int]:
    """Return where an install command begins and where its verb is; (0, 0) if there is none."""
    for start, word in enumerate(words):
        if word == "rpm" and start + 1 < len(words) and words[start + 1].startswith(("-i", "--install")):
            return start, start + 1
        verb = _VERBS.get(word)
        if verb is None:
            continue
        at = start + 1
        while at < len(words) and words[at].startswith("-"):
            at += 1
        if at < len(words) and words[at] == verb:
            return start, at
    return 0, 0


def _seconds(created: str | UnsetType | None) -> float | None:
    """Read an RFC 3339 time as seconds; None if it is none."""
    if not isinstance(created, str):
        return None
    try:
        time = datetime.fromisoformat(created[:64])
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
