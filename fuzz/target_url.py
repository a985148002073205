"""Addresses and references: what is read is written back the same, and a log shows nothing of a query."""

from __future__ import annotations

from machines.oracle import BrokenPromise

from fuzz.harness import refused_or_taken
from towline.core.http import Url, redacted


def run(data: bytes) -> None:
    base, _, reference = data.decode("latin-1").partition("\n")
    url = refused_or_taken(lambda: Url.parse(base))
    if url is None:
        return
    joined = refused_or_taken(lambda: url.join(reference))
    for made in (url, joined):
        if made is None:
            continue
        if refused_or_taken(lambda made=made: Url.parse(str(made))) != made:  # type: ignore[misc]
            raise BrokenPromise(f"{made!r} is not read back as it was")
        if any(char in made.host for char in "@/\\%#?[] ") or not made.path.startswith("/"):
            raise BrokenPromise(f"{made!r} means something else elsewhere")
        if "=" in (made.query or "") and redacted(made).count("***") < 1:
            raise BrokenPromise(f"{redacted(made)} shows a value")
