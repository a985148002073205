"""The archive reader against Python's own, in every dialect and cut anywhere; what it must refuse."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_tools import read_tar, tar_of

from towline.core import Limits, RemoteProtocolError
from towline.core.layer import normal

DIALECTS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}

names = st.lists(
    st.text("abcäß.-_ wh~", min_size=1, max_size=30).filter(lambda part: part not in (".", "..")),
    min_size=1,
    max_size=9,
).map("/".join)
entries = st.lists(
    st.one_of(
        st.tuples(st.just("file"), names, st.binary(max_size=1500)),
        st.tuples(st.just("folder"), names),
        st.tuples(st.just("symlink"), names, names),
        st.tuples(st.just("hardlink"), names, names),
        st.tuples(st.just("fifo"), names),
    ),
    max_size=12,
)
KINDS = {"file": "file", "folder": "folder", "symlink": "symlink", "hardlink": "hardlink", "fifo": "other"}


@settings(max_examples=120, deadline=None)
@given(
    entries=entries,
    dialect=st.sampled_from(["gnu", "pax"]),
    cuts=st.lists(st.integers(1, 3000), min_size=1, max_size=4),
)
def test_what_tarfile_writes_is_read(
    entries: list[tuple[str, str, bytes | str]], dialect: str, cuts: list[int]
) -> None:
    told = read_tar(tar_of(entries, DIALECTS[dialect]), cuts).told
    expected = [
        [
            normal(path),
            KINDS[kind],
            len(more[0]) if kind == "file" else 0,
            more[0] if "link" in kind else "",
            more[0] if kind == "file" else b"",
        ]
        for kind, path, *more in entries
    ]
    assert [[p, k, s, link.rstrip("/") if k == "x" else link, body] for p, k, s, link, body in told] == expected


@settings(max_examples=60, deadline=None)
@given(
    entries=entries, dialect=st.sampled_from(["gnu", "pax"]), cuts=st.lists(st.integers(1, 700), min_size=1, max_size=4)
)
def test_skipping_tells_the_same_members(
    entries: list[tuple[str, str, bytes | str]], dialect: str, cuts: list[int]
) -> None:
    archive = tar_of(entries, DIALECTS[dialect])
    whole, skipped = read_tar(archive).told, read_tar(archive, cuts, wants=False).told
    assert [told[:4] for told in whole] == [told[:4] for told in skipped]


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=2000), at=st.integers(0, 1500), cuts=st.lists(st.integers(1, 700), min_size=1, max_size=3)
)
def test_damage_is_taken_or_refused_wherever_it_is_cut(data: bytes, at: int, cuts: list[int]) -> None:
    archive = bytearray(tar_of([("file", "a" * 120, b"x" * 700), ("symlink", "b", "c" * 150), ("file", "d", b"y")]))
    archive[at : at + len(data)] = data

    def run(cuts: list[int]) -> object:
        try:
            return read_tar(bytes(archive), cuts).told
        except RemoteProtocolError as error:
            return error.kind, error.message

    assert run([1 << 20]) == run(cuts)


def header(name: bytes = b"a", **fields: bytes) -> bytes:
    """A header by hand: `at_124=b"..."` puts bytes at an offset; the checksum is made to hold."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[124:136] = b"00000000000\0"
    block[156:157] = b"0"
    block[257:265] = b"ustar\00000"
    for place, data in fields.items():
        at = int(place.removeprefix("at_"))
        block[at : at + len(data)] = data
    block[148:156] = b" " * 8
    if "at_148" in fields:
        block[148:156] = fields["at_148"]
    else:
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 512)


def record(key: bytes, value: bytes) -> bytes:
    size = len(key) + len(value) + 3
    while len(str(size)) + len(key) + len(value) + 3 != size:
        size = len(str(size)) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (size, key, value)


def pax(*records: tuple[bytes, bytes], flag: bytes = b"x") -> bytes:
    body = b"".join(record(*pair) for pair in records)
    return header(b"pax", at_124=b"%011o\0" % len(body), at_156=flag) + padded(body)


END = bytes(1024)

GOOD = {
    "nothing": (b"", []),
    "two zero blocks": (END, []),
    "one zero block": (bytes(512), []),
    "no end blocks": (header(), ["a"]),
    "padding that is not zero": (header() + END + b"anything", ["a"]),
    "v7": (header(b"old", at_257=bytes(8), at_156=b"\0"), ["old"]),
    "v7 folder": (header(b"old/", at_257=bytes(8), at_156=b"\0"), ["old"]),
    "prefix": (header(b"name", at_345=b"some/where"), ["some/where/name"]),
    "star's prefix is shorter": (header(b"n", at_345=b"p", at_476=b"12345678901\0", at_508=b"tar\0"), ["p/n"]),
    "GNU has no prefix": (header(b"name", at_257=b"ustar  \0", at_345=b"12345670123\0"), ["name"]),
    "name of full length": (header(b"n" * 100), ["n" * 100]),
    "signed checksum": (
        header(
            b"\xe9\xe8", at_148=b"%06o\0 " % (sum(header(b"\xe9\xe8")) - sum(header(b"\xe9\xe8")[148:156]) + 256 - 512)
        ),
        ["\udce9\udce8"],
    ),
    "absolute": (header(b"/etc/x"), ["etc/x"]),
    "dotted": (header(b"./a/.//b/../c"), ["a/c"]),
    "climbing": (header(b"../../etc/passwd"), ["etc/passwd"]),
    "root": (header(b"./", at_156=b"5"), [""]),
    "pax path, raw bytes": (pax((b"path", b"\xff/x")) + header(), ["\udcff/x"]),
    "pax path of spaces and signs": (pax((b"path", b"a=b c\nd")) + header(), ["a=b c\nd"]),
    "global path until taken back": (
        pax((b"path", b"g"), flag=b"g") + header() + pax((b"path", b"")) + header() + header(),
        ["g", "a", "g"],
    ),
    "pax size of a file": (pax((b"size", b"3")) + header() + padded(b"abc") + header(b"b"), ["a", "b"]),
    "size of a folder means nothing": (header(b"d", at_156=b"5", at_124=b"00000001000\0") + header(b"b"), ["d", "b"]),
    "hard link with data": (
        header(b"h", at_156=b"1", at_157=b"t", at_124=b"00000000003\0") + padded(b"abc") + header(b"b"),
        ["h", "b"],
    ),
    "base-256": (header(at_124=b"\x80" + (3).to_bytes(11, "big")) + padded(b"abc") + header(b"b"), ["a", "b"]),
    "spaces around the size": (header(at_124=b"         3 \0") + padded(b"abc"), ["a"]),
    "GNU label is no member": (header(at_156=b"V") + header(b"b"), ["b"]),
    "a folder by its name, with data": (
        header(b"d/", at_124=b"00000000003\0") + padded(b"abc") + header(b"b"),
        ["d", "b"],
    ),
    "zeros after a sparse file's data": (
        pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"0,3"))
        + header(at_124=b"00000000007\0")
        + padded(b"abc")
        + header(b"b"),
        ["a", "b"],
    ),
    "GNU folder with a list": (
        header(b"d/", at_156=b"D", at_124=b"00000000003\0") + padded(b"abc") + header(b"b"),
        ["d", "b"],
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_odd_but_good(case: str) -> None:
    archive, names = GOOD[case]
    for cuts in ([1 << 20], [1], [511, 513]):
        assert [told[0] for told in read_tar(archive, cuts).told] == names


BAD = {
    "half a header": header()[:300],
    "data cut": header(at_124=b"00000001000\0") + bytes(100),
    "padding cut": header(at_124=b"00000000003\0") + b"abc",
    "checksum": header(at_148=b"000000\0 "),
    "checksum of letters": header(at_148=b"zzzzzz\0 "),
    "checksum of nines": header(at_148=b"999999\0 "),
    "size of letters": header(at_124=b"0000000zz00\0"),
    "size of nines": header(at_124=b"00000000099\0"),
    "size with an underscore": header(at_124=b"0000000_100\0"),
    "size with a sign": header(at_124=b"-0000000100\0"),
    "negative base-256": header(at_124=b"\xff" * 12),
    "pax size of letters": pax((b"size", b"abc")) + header(),
    "pax size of many digits": pax((b"size", b"9" * 30)) + header(),
    "one zero block, then more": header() + bytes(512) + header(b"b"),
    "a pax header, then the end": pax((b"path", b"p")) + END,
    "a long name, then the end": header(at_156=b"L", at_124=b"00000000002\0") + padded(b"x\0"),
    "pax record without a length": header(at_156=b"x", at_124=b"00000000003\0") + padded(b"a=b"),
    "pax record longer than its header": header(at_156=b"x", at_124=b"00000000006\0") + padded(b"99 a=b"),
    "pax record without an equals sign": header(at_156=b"x", at_124=b"00000000005\0") + padded(b"5 ab\n"),
    "pax record without a newline": header(at_156=b"x", at_124=b"00000000006\0") + padded(b"6 a=bc"),
    "pax name with a NUL": pax((b"path", b"a\0b")) + header(),
    "junk": b"junk" * 200,
}


@pytest.mark.parametrize("case", BAD)
def test_bad_archives_are_refused(case: str) -> None:
    for cuts in ([1 << 20], [1], [511, 513]):
        with pytest.raises(RemoteProtocolError) as raised:
            read_tar(BAD[case], cuts)
        assert raised.value.kind == "bad-archive"


@pytest.mark.parametrize(
    ("archive", "limits", "kind"),
    [
        (header() * 3, Limits(tar_entries=2), "bomb"),
        (tar_of([("file", "n" * 300, b"")]), Limits(tar_name=200), "bad-archive"),
        (tar_of([("file", "n" * 300, b"")], tarfile.GNU_FORMAT), Limits(tar_name=200), "bad-archive"),
        (tar_of([("symlink", "n", "l" * 300)]), Limits(tar_name=200), "bad-archive"),
        (header(b"a/" * 40), Limits(tar_depth=20), "bad-archive"),
        (pax((b"comment", b"c" * 400)) + header(), Limits(tar_pax=100), "bad-archive"),
        (pax(*[(b"k%d" % at, b"v") for at in range(30)]) + header(), Limits(tar_pax_records=20), "bad-archive"),
    ],
)
def test_limits(archive: bytes, limits: Limits, kind: str) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        read_tar(archive, limits=limits)
    assert raised.value.kind == kind


def test_an_unknown_type_is_skipped_and_told() -> None:
    recorder = read_tar(header(b"odd", at_156=b"Z", at_124=b"00000000003\0") + padded(b"abc") + header(b"b"))
    assert [told[0] for told in recorder.told] == ["b"]
    assert recorder.unknowns == [("odd", "Z")]


def old_sparse(stretches: list[tuple[int, bytes]], real_size: int) -> bytes:
    """A sparse file in GNU's old form, with as many extension blocks as it needs."""
    pairs = [b"%011o\0%011o\0" % (at, len(data)) for at, data in stretches]
    data = b"".join(data for _, data in stretches)
    more = pairs[4:]
    out = header(
        b"s",
        at_124=b"%011o\0" % len(data),
        at_156=b"S",
        at_257=b"ustar  \0",
        at_386=b"".join(pairs[:4]),
        at_482=b"\1" if more else b"\0",
        at_483=b"%011o\0" % real_size,
    )
    while more:
        block = b"".join(more[:21]).ljust(504, b"\0")
        more = more[21:]
        out += (block + (b"\1" if more else b"\0")).ljust(512, b"\0")
    return out + padded(data)


def pax_sparse(stretches: list[tuple[int, bytes]], real_size: int, version: str) -> bytes:
    data = b"".join(data for _, data in stretches)
    size = b"%d" % real_size
    name = (b"GNU.sparse.name", b"s")
    if version == "1.0":
        body = b"%d\n" % len(stretches) + b"".join(b"%d\n%d\n" % (at, len(data)) for at, data in stretches)
        data = padded(body) + data
        records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), name, (b"GNU.sparse.realsize", size)]
    elif version == "0.1":
        numbers = b",".join(b"%d,%d" % (at, len(data)) for at, data in stretches)
        records = [(b"GNU.sparse.map", numbers), name, (b"GNU.sparse.size", size)]
    else:
        records = [(b"GNU.sparse.size", size), name]
        for at, piece in stretches:
            records += [(b"GNU.sparse.offset", b"%d" % at), (b"GNU.sparse.numbytes", b"%d" % len(piece))]
    return pax(*records) + header(b"GNUSparseFile.0/s", at_124=b"%011o\0" % len(data)) + padded(data)


FORMS: dict[str, Callable[[list[tuple[int, bytes]], int], bytes]] = {
    "old": old_sparse,
    **{form: partial(pax_sparse, version=form) for form in ("0.0", "0.1", "1.0")},
}


@settings(max_examples=40, deadline=None)
@given(
    pieces=st.lists(st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=400)), max_size=60),
    form=st.sampled_from(sorted(FORMS)),
    tail=st.integers(0, 5000),
    cuts=st.lists(st.integers(1, 900), min_size=1, max_size=3),
)
def test_sparse_files_are_whole_again(pieces: list[tuple[int, bytes]], form: str, tail: int, cuts: list[int]) -> None:
    whole = b""
    stretches = []
    for gap, data in pieces:
        whole += bytes(gap)
        stretches.append((len(whole), data))
        whole += data
    whole += bytes(tail)
    archive = FORMS[form](stretches, len(whole)) + header(b"after")
    for wants in (True, False):
        told = read_tar(archive, cuts, wants=wants).told
        assert [entry[0] for entry in told] == ["s", "after"]
        assert told[0][2] == len(whole)
        assert told[0][4] == (whole if wants else b"")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wants", [True, False])
def test_sparse_maps_of_many_blocks(form: str, wants: bool) -> None:
    stretches = [(at * 10, b"%04d" % at) for at in range(200)]
    whole = b"".join(b"%04d" % at + bytes(6) for at in range(200))
    for cuts in ([1 << 20], [100]):
        told = read_tar(FORMS[form](stretches, 2000) + header(b"after"), cuts, wants=wants).told
        assert [entry[0] for entry in told] == ["s", "after"]
        assert told[0][4] == (whole if wants else b"")


SPARSE = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9")]


@pytest.mark.parametrize(
    "archive",
    [
        pax((b"GNU.sparse.major", b"2"), (b"GNU.sparse.realsize", b"9")) + header(),
        pax((b"GNU.sparse.major", b"1")) + header(),
        pax(*SPARSE) + header(at_124=b"00000000003\0") + padded(b"1\n0"),
        pax(*SPARSE) + header(at_124=b"00000001000\0") + padded(b"99999\n"),
        pax(*SPARSE) + header(at_124=b"00000001000\0") + padded(b"x\n"),
        pax(*SPARSE) + header(at_124=b"00000001000\0") + padded(b"1\n0\n3\n"),
        pax(*SPARSE) + header(at_124=b"00000001004\0") + padded(b"1\n0\n3\n") + padded(b"abcd"),
        pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"1,2,3")) + header(),
        old_sparse([(at, b"") for at in range(5000)], 5000),
    ],
)
def test_sparse_files_that_make_no_sense_are_refused(archive: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        read_tar(archive)
    assert raised.value.kind == "bad-archive"


@pytest.mark.parametrize("form", FORMS)
def test_sparse_files_that_lie_are_refused(form: str) -> None:
    lies = [
        ([(0, b"abc"), (2, b"abc")], 100),  # overlapping
        ([(50, b"abc")], 10),  # outside
        ([(1 << 40, b"abc")], (1 << 40) + 3),  # a terabyte of zeros
    ]
    for stretches, size in lies:
        if form == "old" and size > 8**11:
            continue
        with pytest.raises(RemoteProtocolError) as raised:
            read_tar(FORMS[form](stretches, size))
        assert raised.value.kind in ("bad-archive", "bomb")


def test_gnu_tar_and_tarfile_agree_on_the_names_we_make_normal() -> None:
    archive = tar_of(
        [
            ("file", "./a//b/./c", b"1"),
            ("file", "/x", b"2"),
            (
                "folder",
                "d/",
            ),
        ]
    )
    with tarfile.open(fileobj=io.BytesIO(archive)) as other:
        assert [normal(name) for name in other.getnames()] == [told[0] for told in read_tar(archive).told]
