"""Heads by the own reader, against h11 as the only one: the same opening or the same fault, wherever they are cut.

The first byte chooses the role and the limits, the second where the bytes are cut; the rest is the peer.
"""

from __future__ import annotations

from head_tools import RequestsByH11, ResponsesByH11, read_with
from machines.oracle import BrokenPromise

from fuzz.harness import Bytes
from towline.core import Limits
from towline.core.http._heads import RequestReader, ResponseReader

SMALL = Limits(http_head=160, http_line=60, http_headers=4)


def run(data: bytes) -> None:
    script = Bytes(data)
    choice, cut = script.byte(), script.byte()
    wire = script.rest()
    limits = SMALL if choice & 2 else Limits()
    own, by_h11 = (ResponseReader, ResponsesByH11) if choice & 1 else (RequestReader, RequestsByH11)
    expected = read_with(by_h11(limits), wire, [len(wire) or 1])
    for cuts in ([len(wire) or 1], [cut + 1, len(wire) + 1], [cut % 16 + 1]):
        told = read_with(own(limits), wire, cuts)
        if told != expected:
            raise BrokenPromise(f"cut by {cuts}, h11 reads {expected}, and this {told}")
