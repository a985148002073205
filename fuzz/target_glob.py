"""A glob and a path, one a line: an answer, or a refusal of the glob."""

from __future__ import annotations

from fuzz.harness import refused_or_taken
from towline.core.layer import Globs, normal


def run(data: bytes) -> None:
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    pattern, path = lines[0], normal(lines[1] if len(lines) > 1 else "")
    globs = refused_or_taken(lambda: Globs([pattern], lines[2:3]))
    if globs is not None:
        globs.match(path)
    if pattern and not any(char in pattern for char in "*?[]{}\\"):
        plain = refused_or_taken(lambda: Globs([pattern]))
        assert plain is None or plain.match(path) == (pattern == "/" + path)
