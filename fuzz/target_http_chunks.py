"""Chunked bodies by the own reader, against h11 as the only one: the same bytes and the same end, however cut.

The first byte chooses where the bytes are cut; the rest is the body and what follows it.
"""

from __future__ import annotations

from head_tools import chunked_by_h11, read_body
from machines.oracle import BrokenPromise

from fuzz.harness import Bytes
from towline.core import Limits
from towline.core.http._framing import ChunkedBody


def run(data: bytes) -> None:
    script = Bytes(data)
    cut = script.byte() + 1
    wire = script.rest()
    for cuts in ([len(wire) or 1], [cut, len(wire) or 1]):
        expected = read_body(chunked_by_h11(Limits()), wire, cuts)
        told = read_body(ChunkedBody(None, Limits()), wire, cuts)
        if told != expected:
            raise BrokenPromise(f"cut by {cuts}, h11 reads {expected}, and this {told}")
