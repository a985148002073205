"""Compression is undone in bounded pieces, whatever its form, its members and the cuts; a bomb is refused."""

from __future__ import annotations

import struct
import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_tools import cut, gzipped

from towline.core import LIMITS, Limits, RemoteProtocolError
from towline.core.layer import Inflater, _inflate

zstd = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")

TEXT = bytes(range(256)) * 40 + b"towline" * 3000


def skippable(data: bytes, number: int = 0) -> bytes:
    return struct.pack("<II", 0x184D2A50 + number, len(data)) + data


FORMS = {
    "plain": TEXT,
    "gzip": gzipped(TEXT),
    "gzip members": b"".join(gzipped(TEXT[at : at + 700]) for at in range(0, len(TEXT), 700)),
    "empty members": gzipped(b"") * 500 + gzipped(TEXT) + gzipped(b"") * 500,
    "zstd": zstd.compress(TEXT),
    "zstd frames": b"".join(zstd.compress(TEXT[at : at + 7000]) for at in range(0, len(TEXT), 7000)),
    "skippable first": skippable(b"hello", 3) + zstd.compress(TEXT) + skippable(b"\0" * 64) + skippable(b""),
}


def inflate(data: bytes, cuts: list[int], limits: Limits = LIMITS) -> bytes:
    pieces: list[bytes] = []

    def sink(piece: bytes | bytearray | memoryview) -> None:
        assert len(piece) <= max(limits.unpack_piece, len(data))
        pieces.append(bytes(piece))

    inflater = Inflater(sink, limits)
    for piece in cut(data, cuts):
        inflater.feed(piece)
    inflater.end()
    return b"".join(pieces)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cuts", [[1], [3, 1, 500], [1 << 20]])
def test_every_form_gives_the_same_bytes(form: str, cuts: list[int]) -> None:
    assert inflate(FORMS[form], cuts) == TEXT


@pytest.mark.parametrize("form", [form for form in FORMS if "zstd" not in form and "skip" not in form])
def test_the_standard_library_alone_reads_gzip(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_inflate, "igzip_lib", None)
    for cuts in ([1], [100, 3], [1 << 20]):
        assert inflate(FORMS[form], cuts) == TEXT
        assert inflate(FORMS[form], cuts, Limits(unpack_piece=512)) == TEXT


def test_without_a_zstd_decoder_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_inflate, "zstd", None)
    with pytest.raises(RemoteProtocolError) as raised:
        inflate(FORMS["zstd"], [100])
    assert raised.value.kind == "unsupported-media-type"
    assert "towline[agent]" in (raised.value.hint or "")


@settings(max_examples=60, deadline=None)
@given(form=st.sampled_from(sorted(FORMS)), cuts=st.lists(st.integers(1, 5000), min_size=1, max_size=5))
def test_cut_anywhere(form: str, cuts: list[int]) -> None:
    assert inflate(FORMS[form], cuts, Limits(unpack_piece=4096)) == TEXT


@pytest.mark.parametrize("data", [b"", b"\0", b"abc", b"\x28\xb5\x2f", bytes(1024)])
def test_short_plain_input_passes_as_it_is(data: bytes) -> None:
    assert inflate(data, [1]) == data


def damage() -> dict[str, bytes]:
    good, frames = FORMS["gzip"], FORMS["zstd"]
    return {
        "gzip cut": good[:-1],
        "gzip cut in its head": good[:5],
        "gzip: two bytes": good[:2],
        "gzip, then junk": good + b"junk and more junk",
        "gzip, then one byte": good + b"\0",
        "gzip with a wrong checksum": good[:-8] + b"\0\0\0\0" + good[-4:],
        "gzip with a wrong length": good[:-4] + b"\0\0\0\0",
        "zstd cut": frames[:-1],
        "zstd, then junk": frames + b"junk",
        "skippable frame cut": skippable(b"hello")[:-2],
    }


@pytest.mark.parametrize("case", damage())
@pytest.mark.parametrize("cuts", [[1], [1 << 20]])
def test_damage_is_refused(case: str, cuts: list[int]) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        inflate(damage()[case], cuts)
    assert raised.value.kind == "bad-archive"


@pytest.mark.parametrize("codec", [gzipped, zstd.compress])
def test_a_bomb_is_refused_by_its_ratio(codec: object) -> None:
    assert callable(codec)
    data = codec(bytes(4 << 20))
    tight = msgspec.structs.replace(LIMITS, unpack_ratio_from=1 << 20)
    with pytest.raises(RemoteProtocolError) as raised:
        inflate(data, [1 << 16], tight)
    assert raised.value.kind == "bomb"
    assert inflate(data, [1 << 16]) == bytes(4 << 20)


def test_a_bomb_is_refused_by_its_total() -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        inflate(FORMS["gzip"], [100], Limits(unpack_layer=1000))
    assert raised.value.kind == "bomb"
    with pytest.raises(RemoteProtocolError) as raised:
        inflate(FORMS["plain"], [100], Limits(unpack_layer=1000))
    assert raised.value.kind == "bomb"


def test_a_bomb_is_refused_by_its_members() -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        inflate(FORMS["empty members"], [1000], Limits(unpack_members=400))
    assert raised.value.kind == "bomb"


@pytest.mark.parametrize("window", [0x70, 0xF8])
def test_a_zstd_window_too_large_is_refused(window: int) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        inflate(b"\x28\xb5\x2f\xfd\x00" + bytes([window]) + b"\x01\0\0", [3])
    assert raised.value.kind == "bomb"
