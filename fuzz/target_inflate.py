"""The compressed form of a layer: any bytes, whole and cut, give the same output or the same refusal."""

from __future__ import annotations

from fuzz.harness import Bytes
from towline.core import Data, Limits, TowlineError
from towline.core.layer import Inflater

TIGHT = Limits(unpack_ratio=50, unpack_ratio_from=1 << 16, unpack_layer=1 << 20, unpack_members=500, unpack_piece=4096)


def inflate(data: bytes, cut: int) -> tuple[str, bytes]:
    out: list[bytes] = []

    def sink(piece: Data) -> None:
        out.append(bytes(piece))

    inflater = Inflater(sink, TIGHT)
    try:
        for at in range(0, len(data), cut):
            inflater.feed(data[at : at + cut])
        inflater.end()
    except TowlineError as error:
        return error.kind, b""
    return inflater.form, b"".join(out)


def run(data: bytes) -> None:
    script = Bytes(data)
    cut = 1 + script.byte()
    rest = script.rest()
    whole, pieces = inflate(rest, len(rest) or 1), inflate(rest, cut)
    assert len(whole[1]) <= 1 << 20
    # Which limit a bomb meets first may depend on the cut; that it meets one, or none, may not.
    assert whole == pieces or {whole[0], pieces[0]} == {"bomb", "bad-archive"}, (whole[0], pieces[0])
