"""Java runtimes, told by the files that a JDK's build puts beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from layer_tools import read_layer, tar_of
from oci_layout import Layout, facts_of, inventory_of

from towline.core import LIMITS, Limits
from towline.core.inventory import ImageFacts, Runtime, ScanOptions, Taken, parse_java_release, take_inventory, wanted
from towline.core.layer import merge

RELEASE = b'IMPLEMENTOR="N"\nJAVA_VERSION="17.0.9"\nJAVA_VERSION_DATE="2023-10-17"\nOS_ARCH="x86_64"\n'


@pytest.mark.parametrize(
    ("data", "version"),
    [
        (RELEASE, "17.0.9"),
        (b'JAVA_VERSION="1.8.0_392"\r\nX="1"\r\n', "1.8.0_392"),
        (b"JAVA_VERSION=21\n", "21"),
        (b"  JAVA_VERSION = '11.0.21+9-LTS' ", "11.0.21+9-LTS"),
        (b'JAVA_RUNTIME_VERSION="17.0.9+9"\n', None),
        (b'JAVA_VERSION="17"\nJAVA_VERSION="17"\n', None),
        (b'JAVA_VERSION=""\n', None),
        (b'JAVA_VERSION="\n', None),
        (b"JAVA_VERSION=\n", None),
        (b"JAVA_VERSION\n", None),
        (b'JAVA_VERSION="17 or so"\n', None),
        (b'JAVA_VERSION="17\x00"\n', None),
        (b'JAVA_VERSION="\xff"\n', None),
        (b'JAVA_VERSION="' + b"1" * 128 + b'"', "1" * 128),
        (b'JAVA_VERSION="' + b"1" * 129 + b'"', None),
        (b"JAVA_VERSION=1" + b"\n" * (1 << 16), None),
        (b"", None),
    ],
)
def test_exactly_one_line_tells_the_version(data: bytes, version: str | None) -> None:
    assert parse_java_release(data) == version


def taken_of(layers: list[list[tuple[Any, ...]]], options: ScanOptions | None = None, limits: Limits = LIMITS) -> Taken:
    options = options or ScanOptions()
    view = merge([read_layer(tar_of(entries), wanted(options), limits=limits) for entries in layers])
    return take_inventory(view, ImageFacts("h/r:t", b"{}", "sha256:0", (), ()), options, limits)


def runtimes_of(taken: Taken) -> Any:
    return facts_of(json.loads(taken.results[0].json())).get("baseRuntimes")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("opt/java/openjdk/release", True),
        ("opt/java/openjdk/lib/release", False),
        ("usr/local/openjdk-17/release", True),
        ("usr/local/openjdk-17/jre/release", False),
        ("usr/local/release", False),
        ("usr/lib/jvm/release", True),
        ("usr/lib/jvm/java-17/jre/release", True),
        ("usr/java/jdk-17/release", True),
        ("usr/java/jdk-17/release.txt", False),
        ("srv/usr/java/jdk-17/release", False),
    ],
)
def test_where_a_runtime_is_looked_for(path: str, found: bool) -> None:
    assert runtimes_of(taken_of([[("file", path, RELEASE)]])) == (
        [{"type": "java", "version": "17.0.9"}] if found else None
    )


def test_a_user_s_globs_do_not_take_it_away() -> None:
    entries = [("file", "usr/lib/jvm/a/release", RELEASE)]
    options = ScanOptions(include=("**/x", "**/release"), exclude=("**/jvm/**", "/**"))
    taken = taken_of([entries], options)
    assert taken.inventory.runtimes == (Runtime("java", "17.0.9"),)
    assert "imageManifestFiles" not in facts_of(json.loads(taken.results[0].json()))


def test_each_version_once_and_none_that_is_gone() -> None:
    def release(path: str, version: str) -> tuple[Any, ...]:
        return ("file", path, f'JAVA_VERSION="{version}"'.encode())

    taken = taken_of(
        [
            [release("usr/lib/jvm/a/release", "8"), release("usr/lib/jvm/b/release", "11")],
            [
                ("file", "usr/lib/jvm/.wh.a", b""),
                ("symlink", "usr/lib/jvm/current", "b"),
                release("usr/java/c/release", "17"),
                release("usr/java/d/release", "11"),
            ],
        ]
    )
    assert [runtime.version for runtime in taken.inventory.runtimes] == ["17", "11"]
    assert taken.inventory.warnings == ()


def test_more_than_any_image_has_are_cut_and_told() -> None:
    entries = [("file", f"usr/java/{at}/release", f"JAVA_VERSION={at}".encode()) for at in range(5)]
    taken = taken_of([entries], limits=msgspec.structs.replace(LIMITS, scan_runtimes=3))
    assert [runtime.version for runtime in taken.inventory.runtimes] == ["0", "1", "2"]
    assert taken.inventory.warnings == ("5 Java runtimes were found; the first 3 are told",)


def test_the_corpus_image_has_what_the_reference_says(corpus: Path, expected: Callable[[str], dict[str, Any]]) -> None:
    expectation = expected("apps")
    taken = inventory_of(Layout(corpus / "apps.oci"), "apps")
    theirs = facts_of(expectation["oracle"]["scanResults"][0])["baseRuntimes"]
    assert runtimes_of(taken) == theirs
    assert theirs == [{"type": "java", "version": expectation["truth"]["java_runtime"]}]
    order = [fact["type"] for fact in json.loads(taken.results[0].json())["facts"]]
    assert order[order.index("baseRuntimes") - 1 :][:3] == ["keyBinariesHashes", "baseRuntimes", "imageId"]
