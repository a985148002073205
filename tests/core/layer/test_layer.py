"""A layer's stream: what it proves, what it keeps, and which error wins."""

from __future__ import annotations

import hashlib
import tarfile

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_tools import EVERYTHING, gzipped, read_layer, sha256, tar_of

from towline.core import LIMITS, Limits, RemoteProtocolError
from towline.core.layer import LayerPlan, Wanted, build

ENTRIES = [
    ("folder", "etc"),
    ("file", "etc/os-release", b"ID=debian\n"),
    ("file", "bin/node", b"\x7fELF" * 500),
    ("file", "bin/other", b"o" * 3000),
    ("symlink", "lib", "usr/lib"),
    ("hardlink", "etc/copy", "./etc/os-release"),
    ("file", "a/.wh.gone", b""),
    ("file", "b/.wh..wh..opq", b""),
    ("file", ".wh..wh.plnk/1.2", b""),
    ("file", "c/x.wh.y/z", b"not a whiteout"),
    ("fifo", "pipe"),
]
ARCHIVE = tar_of(ENTRIES, tarfile.PAX_FORMAT)


def test_only_what_is_wanted_is_kept() -> None:
    wanted = Wanted(databases=("etc/os-release",), files=("etc/copy",), hashed=("node",), include=("**/z",))
    content = read_layer(gzipped(ARCHIVE), wanted, diff_id=sha256(ARCHIVE))
    assert content.diff_id == sha256(ARCHIVE)
    assert content.unpacked_bytes == len(ARCHIVE)
    assert content.form == "gzip"
    assert {path: kept.data for path, kept in content.files.items()} == {
        "etc/os-release": b"ID=debian\n",
        "bin/node": None,
        "c/x.wh.y/z": b"not a whiteout",
    }
    assert content.files["bin/node"].sha256 == hashlib.sha256(b"\x7fELF" * 500).hexdigest()
    assert content.hard_links == {"etc/copy": "etc/os-release"}
    assert content.symlinks == {"lib": "usr/lib"}
    assert content.whiteouts == ("a/gone",)
    assert content.opaque == ("b",)


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.integers(1, 4000), min_size=1, max_size=4), packed=st.booleans())
def test_cut_anywhere(cuts: list[int], packed: bool) -> None:
    blob = gzipped(ARCHIVE) if packed else ARCHIVE
    assert read_layer(blob, cuts=cuts) == read_layer(blob)


@pytest.mark.parametrize("blob", [b"", bytes(1024), gzipped(b""), gzipped(bytes(1024))])
def test_an_empty_layer_is_no_error(blob: bytes) -> None:
    assert read_layer(blob).entries == 0


def refusal(blob: bytes, sent: bytes, diff_id: str | None = None, limits: Limits = LIMITS) -> str:
    stream = build(LayerPlan(sha256(blob), len(blob), diff_id, wanted=EVERYTHING, limits=limits))
    try:
        stream.feed(sent)
        stream.end()
    except RemoteProtocolError as error:
        return error.kind
    return "taken"


def test_damage_on_the_way_is_a_mismatch_and_not_a_bad_archive() -> None:
    blob = gzipped(ARCHIVE)
    broken = blob[:200] + bytes([blob[200] ^ 0xFF]) + blob[201:]
    assert refusal(blob, broken) == "digest-mismatch"
    assert refusal(blob, blob[:-5]) == "size-mismatch"
    assert refusal(blob, blob + b"x") == "size-mismatch"


def test_a_promised_archive_that_cannot_be_read() -> None:
    junk = gzipped(b"junk" * 1000)
    assert refusal(junk, junk) == "bad-archive"
    cut = gzipped(ARCHIVE)[:-4]
    assert refusal(cut, cut) == "bad-archive"
    assert refusal(ARCHIVE[:700], ARCHIVE[:700]) == "bad-archive"


def test_the_diff_id_must_hold() -> None:
    assert refusal(gzipped(ARCHIVE), gzipped(ARCHIVE), sha256(b"other")) == "digest-mismatch"
    good = "sha512:" + hashlib.sha512(ARCHIVE).hexdigest()
    assert read_layer(gzipped(ARCHIVE), diff_id=good).diff_id == good


def test_a_bomb_ends_the_stream_at_once() -> None:
    blob = gzipped(bytes(4 << 20))
    stream = build(LayerPlan(sha256(blob), len(blob), limits=Limits(unpack_layer=1 << 20)))
    with pytest.raises(RemoteProtocolError) as raised:
        stream.feed(blob)
    assert raised.value.kind == "bomb"


def test_a_layer_over_the_limit_is_not_begun() -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        build(LayerPlan(sha256(b""), LIMITS.image_layer + 1))
    assert raised.value.kind == "image-too-large"


def test_a_file_too_large_is_told() -> None:
    tight = msgspec.structs.replace(LIMITS, scan_file=100, scan_database=5000)
    content = read_layer(ARCHIVE, Wanted(databases=("bin/other",), include=("**/node", "**/os-release")), limits=tight)
    assert content.files["bin/other"].data == b"o" * 3000
    assert content.files["bin/node"].too_large
    assert content.files["etc/os-release"].data == b"ID=debian\n"
    assert len(content.warnings) == 1


def test_all_kept_files_together_are_bounded() -> None:
    tight = msgspec.structs.replace(LIMITS, scan_kept=3500)
    content = read_layer(ARCHIVE, limits=tight)
    assert sum(len(kept.data or b"") for kept in content.files.values()) <= 3500
    assert any(kept.too_large for kept in content.files.values())


def test_names_are_bounded() -> None:
    archive = tar_of([("file", f"{at}{'n' * 90}", b"") for at in range(800)])
    with pytest.raises(RemoteProtocolError) as raised:
        read_layer(archive, Wanted(), limits=Limits(tar_names=70_000))
    assert raised.value.kind == "bomb"


@pytest.mark.parametrize(
    ("entries", "left"),
    [
        ([("file", "a", b"1"), ("file", "a", b"2")], {"a": b"2"}),
        ([("file", "a", b"1"), ("folder", "a")], {}),
        ([("file", "a", b"1"), ("file", "a/b", b"2")], {"a/b": b"2"}),
        ([("file", "a/b/c", b"1"), ("file", "a", b"2")], {"a": b"2"}),
        ([("file", "a/b", b"1"), ("symlink", "a", "c"), ("folder", "a"), ("file", "a/d", b"3")], {"a/d": b"3"}),
        ([("file", "a", b"1"), ("symlink", "a", "b")], {}),
        ([("symlink", "a", "b"), ("file", "a", b"1")], {"a": b"1"}),
        ([("file", "a", b"1"), ("fifo", "a")], {}),
        ([("file", "a", b"1"), ("file", ".wh.a", b"")], {"a": b"1"}),
    ],
)
def test_in_one_layer_the_last_entry_counts(entries: list[tuple[str, ...]], left: dict[str, bytes]) -> None:
    content = read_layer(tar_of(entries))
    assert {path: kept.data for path, kept in content.files.items()} == left


def test_odd_whiteouts() -> None:
    content = read_layer(tar_of([("file", name, b"") for name in (".wh.", "a/.wh..", "a/.wh...", ".wh...wh..opq")]))
    assert content.whiteouts == (".wh..opq",) or content.whiteouts == ("..wh..opq",)
    assert len(content.warnings) == 3


def test_an_unknown_entry_is_told() -> None:
    archive = bytearray(tar_of([("file", "a", b"")], tarfile.USTAR_FORMAT))
    archive[156:157] = b"Z"
    archive[148:156] = b" " * 8
    archive[148:156] = b"%06o\0 " % sum(archive[:512])
    assert "unknown type 'Z'" in read_layer(bytes(archive)).warnings[0]
