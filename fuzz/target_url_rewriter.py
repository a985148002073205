"""Addresses in an answer, replaced as it streams by: however it is cut, the same comes out, and no more changes."""

from __future__ import annotations

from fuzz.harness import BrokenPromise
from towline.core.broker.client._rewrite import UrlRewriter

ADDRESS, REPLACEMENT = "https://registry.test:5000/a", "http://elsewhere/b"


def rewritten(pieces: list[bytes]) -> bytes:
    rewriter = UrlRewriter(ADDRESS, REPLACEMENT)
    return b"".join([*(rewriter.feed(piece) for piece in pieces), rewriter.end()])


def run(data: bytes) -> None:
    whole = rewritten([data])
    for size in (1, 7, 31):
        if rewritten([data[at : at + size] for at in range(0, len(data), size)]) != whole:
            raise BrokenPromise(f"cut by {size} another text comes out")
    if ADDRESS.partition(":")[2].encode() not in data and whole != data:
        raise BrokenPromise("a text without the address was changed")
