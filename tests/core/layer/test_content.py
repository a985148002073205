"""What is kept of a layer's files where two wishes meet, a limit is passed, or an archive is odd."""

from __future__ import annotations

import hashlib
import io
import tarfile
from typing import Any

import msgspec
import pytest
from layer_tools import gzipped, read_layer, tar_of

from towline.core import LIMITS, RemoteProtocolError
from towline.core.layer import KeptFile, LayerContent, Wanted, merge


def test_patterns_are_kept_whatever_is_excluded() -> None:
    archive = tar_of([("file", "a/x", b"1"), ("file", "b/x", b"2"), ("file", "b/y", b"3")])
    wanted = Wanted(patterns=("/a/x",), include=("**/x", "**/y"), exclude=("/a/**", "**/y"))
    assert list(read_layer(archive, wanted).files) == ["a/x", "b/x"]
    assert Wanted(patterns=("/a",))
    assert not Wanted(exclude=("/a",))


def test_a_file_may_be_kept_and_hashed() -> None:
    archive = tar_of([("file", "bin/node", b"n" * 100)])
    wanted = Wanted(include=("**/node",), hashed=("node",))
    sha256 = hashlib.sha256(b"n" * 100).hexdigest()
    assert read_layer(archive, wanted, cuts=(7,)).files == {"bin/node": KeptFile(100, b"n" * 100, sha256)}
    tight = msgspec.structs.replace(LIMITS, scan_file=99)
    content = read_layer(archive, wanted, limits=tight)
    assert content.files == {"bin/node": KeptFile(100, None, sha256)}
    assert "larger than what is kept" in content.warnings[0]


@pytest.mark.parametrize("wanted", [Wanted(files=("l",)), Wanted(files=("other",))])
def test_a_hard_link_with_data_is_a_file(wanted: Wanted) -> None:
    out = io.BytesIO()
    info = tarfile.TarInfo("l")
    info.type, info.linkname, info.size = tarfile.LNKTYPE, "t", 3
    block = info.tobuf(tarfile.USTAR_FORMAT)
    out.write(block + b"abc".ljust(512, b"\0") + bytes(1024))
    content = read_layer(out.getvalue(), wanted)
    assert content.files == ({"l": KeptFile(3, b"abc")} if wanted.files == ("l",) else {})
    assert content.hard_links == {}


def marks(*names: str) -> LayerContent:
    return read_layer(tar_of([("file", name, b"") for name in names]))


def test_marks_of_another_storage_hide_nothing() -> None:
    content = marks("a/.wh..wh.plnk", "a/.wh..wh.aufs/b", "a/.wh..wh..opq", "a/.wh.gone", "c")
    assert (content.whiteouts, content.opaque, list(content.files)) == (("a/gone",), ("a",), ["c"])


def test_warnings_of_one_layer_are_bounded() -> None:
    content = marks(*(f"d{at}/.wh." for at in range(200)))
    assert len(content.warnings) == 100


def test_links_that_do_not_end_lead_nowhere() -> None:
    """An entry below a loop, and a hard link to what is below one, are nowhere; the rest stays."""
    lower = [("symlink", "loop", "loop"), ("file", "x", b"1")]
    upper = [
        ("file", "loop/a", b"2"),
        ("symlink", "loop/b", "x"),
        ("hardlink", "loop/c", "x"),
        ("hardlink", "h", "loop/a"),
        ("file", "y", b"3"),
    ]
    # Folders without an entry are walked through a lower layer's link, as an unpacker would.
    view = merge([read_layer(tar_of(lower)), read_layer(tar_of(upper))])
    assert [(file.path, file.data) for file in view.files()] == [("y", b"3"), ("x", b"1")]
    assert view.read("loop/a") is None
    assert view.versions("loop/a") == []
    assert view.missing(("loop/a",), ("loop/",)) == []


def test_a_symlink_found_where_a_file_was_looked_for_needs_no_second_pass() -> None:
    lower = [("symlink", "there", "nowhere")]
    upper = [("symlink", "here", "there"), ("folder", "there"), ("hardlink", "h", "there")]
    view = merge([read_layer(tar_of(lower), Wanted(files=("h",))), read_layer(tar_of(upper), Wanted(files=("h",)))])
    assert view.missing(("here",)) == []


def test_what_stands_below_a_file_through_a_link_goes_with_it() -> None:
    layers: list[list[tuple[Any, ...]]] = [
        [("file", "e", b"1"), ("symlink", "d", "e")],
        [("file", "d/x", b"2"), ("file", "y", b"3")],
        [("file", ".wh.e", b"")],
    ]
    contents = [read_layer(tar_of(entries)) for entries in layers]
    assert [file.path for file in merge(contents[:2]).files()] == ["e/x", "y", "e"]
    assert [file.path for file in merge(contents).files()] == ["y"]


def test_a_hard_link_of_another_layer_is_no_version_of_its_own() -> None:
    layers: list[list[tuple[Any, ...]]] = [[("file", "t", b"1"), ("hardlink", "l", "t")], [("file", "l", b"2")]]
    view = merge([read_layer(tar_of(entries)) for entries in layers])
    assert [(layer, kept.data) for layer, kept in view.versions("l")] == [(1, b"2")]


@pytest.mark.parametrize("most", [1, 512, 1024, 10_240])
def test_a_piece_that_ends_where_the_decoder_s_does(most: int) -> None:
    archive = tar_of([("file", "a", b"x" * 700)])
    limits = msgspec.structs.replace(LIMITS, unpack_piece=most)
    for cuts in ((1 << 16,), (1,)):
        content = read_layer(gzipped(archive), cuts=cuts, limits=limits)
        assert (content.unpacked_bytes, list(content.files)) == (len(archive), ["a"])


def test_bytes_behind_what_is_wrong_count_for_the_digest_only() -> None:
    archive = bytearray(tar_of([("file", "a", b"x" * 5_000)]))
    archive[124:136] = b"no number---"
    with pytest.raises(RemoteProtocolError) as caught:
        read_layer(bytes(archive), cuts=(512,))
    assert caught.value.kind == "bad-archive"


def test_a_size_of_blanks_is_none() -> None:
    block = bytearray(tarfile.TarInfo("a").tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = b" " * 11 + b"\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert read_layer(bytes(block) + bytes(1024)).files == {"a": KeptFile(0, b"")}
