"""Which system an image is of."""

from __future__ import annotations

import pytest
from layer_tools import read_layer, tar_of

from towline.core.inventory import ScanOptions, parse_os_release, wanted
from towline.core.inventory._databases import find_os
from towline.core.layer import merge

FILES = [
    ("etc/os-release", b'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian 12"\n', ("debian", "12", "Debian 12")),
    ("etc/os-release", b"ID=arch\nPRETTY_NAME='Arch Linux'\r\n", ("arch", "unstable", "Arch Linux")),
    ("etc/os-release", b'# c\n\nID="ol"\nVERSION_ID="8.8"\n', ("oracle", "8", "")),
    ("etc/os-release", b'ID="sles"\nVERSION_ID="15"\n', ("sles", "15.0", "")),
    ("etc/os-release", b'ID="sles"\nVERSION_ID="15.3"\n', ("sles", "15.3", "")),
    ("etc/os-release", b"VERSION_ID=1\n", ("linux", "1", "")),
    (
        "etc/os-release",
        b'ID=debian\nVERSION_ID=\'12\'\nPRETTY_NAME="a \\"b\\" \\$c \\\\ \\`d"\n',
        ("debian", "12", 'a "b" $c \\ `d'),
    ),
    ("usr/lib/os-release", b"ID=x\nVERSION_ID=2", ("x", "2", "")),
    (
        "etc/lsb-release",
        b'DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=14.04\nDISTRIB_DESCRIPTION="U 14"\n',
        ("ubuntu", "14.04", "U 14"),
    ),
    ("etc/debian_version", b"12.4\n", ("debian", "12", "")),
    ("etc/debian_version", b"trixie/sid\n", ("debian", "unstable", "")),
    ("etc/alpine-release", b"3.18.4\n", ("alpine", "3.18.4", "")),
    ("etc/oracle-release", b"Oracle Linux Server release 8.8\n", ("oracle", "8", "")),
    ("etc/redhat-release", b"Red Hat Enterprise Linux release 9.3 (Plow)\n", ("rhel", "9", "")),
    ("etc/redhat-release", b"Fedora release 39 (Thirty Nine)\n", ("fedora", "39", "")),
    ("etc/centos-release", b"CentOS Linux release 7.9.2009 (Core)\n", ("centos", "7", "")),
]


@pytest.mark.parametrize(("path", "data", "found"), FILES)
def test_each_file(path: str, data: bytes, found: tuple[str, str, str]) -> None:
    system = parse_os_release(path, data)
    assert system is not None
    assert (system.id, system.version_id, system.pretty_name) == found
    assert system.found_in == path


@pytest.mark.parametrize(
    ("path", "data"),
    [(path, data) for path, _, _ in FILES for data in (b"", b"\n\n", b"\xff\xfe")]
    + [("etc/lsb-release", b"DISTRIB_ID=x")],
)
def test_a_file_that_says_nothing(path: str, data: bytes) -> None:
    system = parse_os_release(path, data)
    assert system is None or path in ("etc/debian_version", "etc/alpine-release")


def test_the_first_that_can_be_read_counts() -> None:
    def system_of(files: dict[str, bytes]) -> tuple[str, list[str]]:
        archive = tar_of([("file", path, data) for path, data in files.items()])
        system, warnings = find_os(merge([read_layer(archive, wanted(ScanOptions()))]))
        return system.alias, warnings

    assert system_of({"etc/os-release": b"", "etc/alpine-release": b"3.1\n"}) == ("alpine:3.1", [])
    assert system_of({"etc/debian_version": b"9.1", "usr/lib/os-release": b"ID=a\nVERSION_ID=1"}) == ("a:1", [])
    assert system_of({}) == ("unknown:0.0", [])
    alias, warnings = system_of({"etc/os-release": b"nothing here"})
    assert alias == "unknown:0.0"
    assert "/etc/os-release" in warnings[0].replace("etc/os-release", "/etc/os-release")
