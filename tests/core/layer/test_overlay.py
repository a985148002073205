"""Layers put together, against a model that unpacks everything."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_tools import EVERYTHING, read_layer, tar_of

from towline.core import LIMITS
from towline.core.layer import ImageView, Missing, Wanted, merge

Entries = list[tuple[Any, ...]]


def view_of(*layers: Entries, wanted: Wanted = EVERYTHING) -> ImageView:
    return merge([read_layer(tar_of(entries), wanted) for entries in layers])


def seen(view: ImageView) -> dict[str, bytes | None]:
    return {file.path: file.data for file in view.files()}


class Unpacked:
    """The model: a tree of every name, changed entry by entry as an unpacker would."""

    def __init__(self) -> None:
        self.tree: dict[str, bytes | None] = {}  # None is a folder

    def remove(self, path: str, itself: bool = True) -> None:
        for name in [name for name in self.tree if name.startswith(path + "/" if path else "")]:
            del self.tree[name]
        if itself:
            self.tree.pop(path, None)

    def apply(self, entries: Entries) -> None:
        for _, path, *_ in entries:
            folder, _, name = path.rpartition("/")
            if name == ".wh..wh..opq":
                self.remove(folder, itself=False)
            elif name.startswith(".wh."):
                self.remove(f"{folder}/{name[4:]}" if folder else name[4:])
        for kind, path, *more in entries:
            above = path.split("/")[:-1]
            for depth in range(1, len(above) + 1):
                folder = "/".join(above[:depth])
                if self.tree.get(folder, b"") is not None:
                    self.tree[folder] = None
            if ".wh." in path:
                continue
            if kind == "folder":
                if self.tree.get(path, b"") is not None:
                    self.tree[path] = None
            else:
                self.remove(path)
                self.tree[path] = more[0]

    def files(self) -> dict[str, bytes]:
        return {path: data for path, data in self.tree.items() if data is not None}


parts = st.sampled_from("abc")
paths = st.lists(parts, min_size=1, max_size=4).map("/".join)
entries = st.lists(
    st.one_of(
        st.tuples(st.just("file"), paths, st.binary(max_size=3)),
        st.tuples(st.just("file"), paths, st.binary(max_size=3)),
        st.tuples(st.just("folder"), paths),
        paths.map(lambda path: ("file", "/".join([*path.split("/")[:-1], ".wh." + path.split("/")[-1]]), b"")),
        paths.map(lambda path: ("file", path + "/.wh..wh..opq", b"")),
    ),
    max_size=6,
)


@settings(max_examples=400, deadline=None)
@given(layers=st.lists(entries, max_size=4))
def test_the_view_is_what_unpacking_gives(layers: list[Entries]) -> None:
    model = Unpacked()
    for layer in layers:
        model.apply(layer)
    assert seen(view_of(*layers)) == model.files()


@settings(max_examples=100, deadline=None)
@given(layers=st.lists(entries, max_size=4), suffix=st.sampled_from("abc"))
def test_what_is_not_kept_hides_all_the_same(layers: list[Entries], suffix: str) -> None:
    model = Unpacked()
    for layer in layers:
        model.apply(layer)
    some = {path: data for path, data in model.files().items() if path.endswith("/" + suffix) or path == suffix}
    assert seen(view_of(*layers, wanted=Wanted(include=(f"**/{suffix}",)))) == some


def test_an_opaque_mark_hides_lower_layers_only_wherever_it_stands() -> None:
    base: Entries = [("file", "d/old", b"1"), ("file", "d/sub/old", b"1"), ("file", "e", b"1")]
    mark: Entries = [("file", "d/.wh..wh..opq", b"")]
    new: Entries = [("file", "d/new", b"2")]
    for top in (mark + new, new + mark):
        assert seen(view_of(base, top)) == {"d/new": b"2", "e": b"1"}
    assert seen(view_of(base, [("file", ".wh..wh..opq", b""), ("file", "x", b"3")])) == {"x": b"3"}


def test_links_are_followed_inside_the_image() -> None:
    view = view_of(
        [
            ("file", "usr/lib/os-release", b"ID=x"),
            ("symlink", "etc/os-release", "../usr/lib/os-release"),
            ("symlink", "lib", "usr/lib"),
            ("symlink", "abs", "/lib/os-release"),
            ("symlink", "up", "../../../../lib/os-release"),
            ("symlink", "loop", "loop"),
            ("symlink", "ping", "pong"),
            ("symlink", "pong", "ping/x"),
            ("symlink", "dangling", "nowhere"),
        ]
    )
    for path in ("usr/lib/os-release", "etc/os-release", "lib/os-release", "abs", "up"):
        found = view.read(path)
        assert found is not None
        assert found.path == "usr/lib/os-release"
    for path in ("loop", "ping", "pong/y", "dangling", "none"):
        assert view.read(path) is None
    assert [file.path for file in view.folder("lib")] == ["usr/lib/os-release"]
    assert view.folder("loop") == []


def test_a_parent_step_behind_a_link_starts_where_the_link_leads() -> None:
    view = view_of([("file", "far/x", b"1"), ("symlink", "near", "far/sub"), ("file", "far/sub/y", b"2")])
    found = view.read("near/../x")
    assert found is not None
    assert found.data == b"1"


def test_many_hops_end() -> None:
    chain: Entries = [("symlink", f"l{at}", f"l{at + 1}") for at in range(60)]
    view = view_of([*chain, ("file", "l60", b"end")])
    assert view.read("l0") is None
    assert view.read("l30") is not None


def test_entries_below_a_link_go_where_it_leads() -> None:
    view = view_of(
        [("file", "usr/lib/x", b"1"), ("symlink", "lib", "usr/lib")],
        [("file", "lib/x", b"2"), ("file", "lib/y", b"3")],
    )
    assert seen(view) == {"usr/lib/x": b"2", "usr/lib/y": b"3"}
    replaced = view_of(
        [("file", "usr/lib/x", b"1"), ("symlink", "lib", "usr/lib")], [("folder", "lib"), ("file", "lib/x", b"2")]
    )
    assert seen(replaced) == {"usr/lib/x": b"1", "lib/x": b"2"}
    gone = view_of([("file", "usr/lib/x", b"1"), ("symlink", "lib", "usr/lib")], [("file", "lib/.wh.x", b"")])
    assert seen(gone) == {}


def test_hard_links_find_their_file_in_the_layer_or_below() -> None:
    base: Entries = [
        ("file", "a/x", b"1"),
        ("hardlink", "b/x", "a/x"),
        ("hardlink", "first", "later"),
        ("file", "later", b"2"),
    ]
    view = view_of(base, [("hardlink", "c/x", "a/x"), ("hardlink", "d/x", "c/x"), ("file", "a/.wh.x", b"")])
    assert seen(view) == {"b/x": b"1", "first": b"2", "later": b"2"} | {}
    view = view_of(base, [("hardlink", "c/x", "b/x"), ("hardlink", "d/x", "c/x")], [("file", "b/.wh.x", b"")])
    assert seen(view)["c/x"] == seen(view)["d/x"] == b"1"
    assert [file.layer for file in view.files() if file.path in ("a/x", "c/x")] == [1, 0]
    assert view.read("b/x") is None


def test_hard_links_in_a_circle_lead_nowhere() -> None:
    view = view_of([("hardlink", "a", "b"), ("hardlink", "b", "a"), ("hardlink", "c", "c")])
    assert seen(view) == {}


def test_a_hard_link_to_a_symlink_is_one() -> None:
    view = view_of([("file", "x", b"1"), ("symlink", "l", "x"), ("hardlink", "h", "l")])
    found = view.read("h")
    assert found is not None
    assert found.path == "x"


def second_pass(view: ImageView, layers: list[Entries], missing: list[Missing]) -> ImageView:
    contents = list(view.layers)
    for index in {one.layer for one in missing}:
        wanted = Wanted(
            databases=tuple(one.path for one in missing if one.layer == index and not one.path.endswith("/")),
            folders=tuple(one.path for one in missing if one.layer == index and one.path.endswith("/")),
        )
        contents[index] = contents[index].with_more(read_layer(tar_of(layers[index]), wanted))
    return merge(contents)


def test_what_only_a_link_makes_interesting_is_told_and_fetched() -> None:
    layers: list[Entries] = [
        [("file", "opt/real", b"ID=x"), ("file", "opt/db/one", b"1"), ("file", "other", b"o")],
        [
            ("symlink", "etc/os-release", "../opt/real"),
            ("hardlink", "etc/copy", "opt/real"),
            ("symlink", "var/db", "/opt/db"),
        ],
        [("file", "opt/db/two", b"2"), ("symlink", "etc/none", "nowhere")],
    ]
    wanted = Wanted(files=("etc/os-release", "etc/copy", "etc/none"), folders=("var/db/",))
    view = view_of(*layers, wanted=wanted)
    assert view.read("etc/os-release") is None
    missing = view.missing(wanted.files, wanted.folders)
    assert sorted((one.layer, one.path) for one in missing) == [(0, "opt/db/"), (0, "opt/real"), (2, "opt/db/")]
    view = second_pass(view, layers, missing)
    for path in ("etc/os-release", "etc/copy"):
        found = view.read(path)
        assert found is not None
        assert found.data == b"ID=x"
    assert [file.path for file in view.folder("var/db")] == ["opt/db/one", "opt/db/two"]
    assert view.missing(wanted.files, wanted.folders) == []


def test_a_hard_link_wants_its_own_time_s_file() -> None:
    layers: list[Entries] = [[("file", "t", b"old")], [("hardlink", "l", "t")], [("file", "t", b"new")]]
    wanted = Wanted(files=("l",))
    view = view_of(*layers, wanted=wanted)
    missing = view.missing(wanted.files)
    assert missing == [Missing(0, "t")]
    found = second_pass(view, layers, missing).read("l")
    assert found is not None
    assert found.data == b"old"


def test_versions_tell_who_brought_what() -> None:
    view = view_of(
        [("file", "var/lib/dpkg/status", b"1")],
        [("file", "x", b"")],
        [("symlink", "l", "var/lib/dpkg"), ("file", "var/lib/dpkg/status", b"2")],
    )
    assert [(layer, kept.data) for layer, kept in view.versions("l/status")] == [(0, b"1"), (2, b"2")]
    assert view.symlinks() == ["l"]


def test_the_same_layers_give_the_same_bytes() -> None:
    layers: list[Entries] = [
        [("file", f"d{at}/x", b"1") for at in range(50)],
        [("file", f"d{at}/x", b"2") for at in range(9)],
    ]
    one = msgspec.json.encode([read_layer(tar_of(layer)) for layer in layers])
    assert one == msgspec.json.encode([read_layer(tar_of(layer), limits=LIMITS) for layer in layers])


def test_a_path_of_very_many_names_ends() -> None:
    view = view_of([("symlink", "l", "d/../" * 400 + "x"), ("file", "x", b"1"), ("file", "d/y", b"2")])
    assert view.read("l") is None


def test_a_long_chain_of_hard_links_ends() -> None:
    chain: Entries = [("hardlink", f"h{at}", f"h{at + 1}") for at in range(100)]
    assert len(seen(view_of([*chain, ("file", "h100", b"1")]))) < 100
    assert len(seen(view_of([("file", "h100", b"1"), *reversed(chain)]))) == 101


def test_a_merge_of_many_layers_costs_little() -> None:
    base = read_layer(tar_of([("file", f"app/p{at}/x", b"") for at in range(5000)]))
    marks = [read_layer(tar_of([("file", f"app/.wh.p{at}", b"")])) for at in range(200)]
    begun = time.perf_counter()
    assert len(merge([base, *marks]).files()) == 4800
    assert time.perf_counter() - begun < 3
