"""Dotted paths into JSON documents: `a.b`, `commits.*.added.*`, `list[0].name`, `map["x.y"]`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from towline.core._errors import RemoteProtocolError
from towline.core.broker.filter._json import Json

_STEP: Final = re.compile(r"""\.?([^.\[\]]+)|\[(?:"([^"]*)"|'([^']*)'|([^\]"']*))\]""")


def parse_dotted(path: str) -> tuple[str, ...]:
    """Return a path's steps; `*` stands for any key or index.

    Raises:  RemoteProtocolError of kind invalid-configuration
    """
    steps: list[str] = []
    at = 0
    while at < len(path):
        found = _STEP.match(path, at)
        # A plain step has a dot before it unless it is the first; a bracket never has one.
        dotted = path.startswith(".", at)
        if found is None or dotted != (found[1] is not None and at > 0):
            raise RemoteProtocolError("invalid-configuration", f"expected a dotted path, got {path[:200]!r}")
        steps.append(next(group for group in found.groups() if group is not None))
        at = found.end()
    return tuple(steps)


def values_at(document: Json, steps: tuple[str, ...]) -> Iterator[Json]:
    """Yield every value the path leads to: one at most without a `*`."""
    if not steps:
        yield document
        return
    step, rest = steps[0], steps[1:]
    if isinstance(document, dict):
        inner = list(document.values()) if step == "*" else [document[step]] if step in document else []
    elif isinstance(document, list):
        index = int(step) if step.isascii() and step.isdigit() and len(step) < 10 else -1
        inner = document if step == "*" else document[index : index + 1] if index >= 0 else []
    else:
        return
    for value in inner:
        yield from values_at(value, rest)
