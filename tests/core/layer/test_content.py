"""What is kept of a layer's files where two wishes meet, a limit is passed, or an archive is odd."""

from __future__ import annotations

import hashlib
import io
import tarfile

import msgspec
import pytest
from layer_tools import read_layer, tar_of

from towline.core import LIMITS
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
