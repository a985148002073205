"""dpkg's and apk's databases, and package URLs."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.core import Limits, RemoteProtocolError
from towline.core.inventory import OsRelease, Package, parse_apk, parse_auto_installed, parse_dpkg
from towline.core.inventory._dpkg import PRESENT, is_auto_installed
from towline.core.inventory._purl import purl

STATUS = b"""Package: libc6
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Source: glibc
Version: 2.36-9
Depends: libgcc-s1, libcrypt1 (>= 1:4.4.10~) [amd64] <!nocheck> | libcrypt0 , perl:any
Pre-Depends: base-files(>= 1)
Provides: libc6-x (= 1), libc

Package: libc6
STATUS: install ok unpacked
architecture: i386
source: glibc (2.36-8)
Version: 2.36-9
Description: folded
 Package: not-a-package
\tVersion: 0

Package: gone
Status: deinstall ok config-files
Version: 1

Package: held
Status: hold ok installed
Version: 2
Depends: a,
 b,
\tc (>= 1)

Version: 3
Description: without a name

Package: without-a-version
"""


def test_dpkg_stanzas() -> None:
    found = parse_dpkg(STATUS)
    assert [(one.name, one.arch, one.state) for one in found] == [
        ("libc6", "amd64", "installed"),
        ("libc6", "i386", "unpacked"),
        ("gone", None, "config-files"),
        ("held", None, "installed"),
    ]
    one, other, gone, held = found
    assert one.depends == ("libgcc-s1", "libcrypt1", "libcrypt0", "perl", "base-files")
    assert one.links == ("libgcc-s1", "libcrypt1", "libcrypt0", "perl:any", "base-files")
    assert one.provides == ("libc6-x", "libc")
    assert (one.origin, one.origin_version, one.graph_name) == ("glibc", "2.36-9", "glibc/libc6")
    assert (other.origin, other.origin_version) == ("glibc", "2.36-8")
    assert (held.origin, held.origin_version, held.graph_name) == ("held", "2", "held")
    assert held.depends == ("a", "b", "c")
    assert {one.state, other.state, held.state} <= PRESENT
    assert gone.state not in PRESENT


def test_a_status_d_file_has_no_status() -> None:
    assert parse_dpkg(b"Package: x\r\nVersion: 1\r\n")[0].state == "installed"


def test_what_apt_lists() -> None:
    states = parse_auto_installed(
        b"Package: a\nArchitecture: amd64\nAuto-Installed: 1\n\nPackage: b\nArchitecture: amd64\nAuto-Installed: 0\n"
    )
    assert states == {("a", "amd64")}
    for arch, auto in (("amd64", True), ("all", True), (None, True), ("i386", False)):
        assert is_auto_installed(Package("deb", "a", "1", arch), states, {"a"}) is auto


def test_apk_stanzas() -> None:
    found = parse_apk(
        b"C:Q1x=\nP:nginx\nV:1.2-r1\nA:x86_64\nL:BSD\no:nginx-src\n"
        b"D:/bin/sh so:libc.so.1 zlib>=1.2 a=1 !bad b~2 c@edge\n"
        b"p:cmd:nginx=1.2-r1 www\nr:old\nF:usr\nR:P:x\n\nP:.virtual\nV:0\nL:\n\nP:no-version\n\nV:1\n"
    )
    assert [(one.name, one.version) for one in found] == [("nginx", "1.2-r1"), (".virtual", "0")]
    assert found[0].depends == ("/bin/sh", "so:libc.so.1", "zlib", "a", "b", "c")
    assert found[0].links == ("/bin/sh", "so:libc.so.1", "zlib>", "a", "b~2", "c@edge", "old")
    assert found[0].provides == ("cmd:nginx", "www")
    assert (found[0].licence, found[0].source, found[0].arch) == ("BSD", "nginx-src", "x86_64")
    assert (found[1].licence, found[1].source) == ("", None)


@pytest.mark.parametrize(
    ("parse", "stanza"), [(parse_dpkg, b"Package: %d\nVersion: 1\n\n"), (parse_apk, b"P:%d\nV:1\n\n")]
)
def test_too_many_packages_are_refused(parse: object, stanza: bytes) -> None:
    assert callable(parse)
    with pytest.raises(RemoteProtocolError) as raised:
        parse(b"".join(stanza % at for at in range(20)), Limits(scan_packages=10))
    assert raised.value.kind == "bomb"


@given(data=st.binary(max_size=300))
def test_any_bytes_are_read(data: bytes) -> None:
    for package in [*parse_dpkg(b"Package: a\nVersion: 1\n" + data), *parse_apk(b"P:a\nV:1\n" + data)]:
        assert package.name
        msgspec.json.encode(package)
    parse_auto_installed(data)


DEBIAN = OsRelease("debian", "12")


@pytest.mark.parametrize(
    ("package", "system", "url"),
    [
        (
            Package("deb", "libstdc++6", "12.2.0-14", source="gcc-12"),
            DEBIAN,
            "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14?distro=debian-bookworm&upstream=gcc-12",
        ),
        (
            Package("deb", "libcap2", "1:2.66-4+deb12u3+b1", source="libcap2", source_version="1:2.66-4+deb12u3"),
            DEBIAN,
            "pkg:deb/debian/libcap2@1:2.66-4%2Bdeb12u3%2Bb1?distro=debian-bookworm&upstream=libcap2%401%3A2.66-4%2Bdeb12u3",
        ),
        (Package("deb", "x", "1~2"), OsRelease("ubuntu", "24.04"), "pkg:deb/ubuntu/x@1~2?distro=ubuntu-24.04"),
        (Package("deb", "x", "1"), OsRelease("debian", "unstable"), "pkg:deb/debian/x@1?distro=debian-sid"),
        (
            Package("apk", "musl", "1-r0", source="musl"),
            OsRelease("alpine", "3.1"),
            "pkg:apk/alpine/musl@1-r0?distro=alpine-3.1&upstream=musl",
        ),
    ],
)
def test_package_urls(package: Package, system: OsRelease, url: str) -> None:
    assert purl(package, system, with_arch=False) == url


def test_the_core_s_own_url_has_the_architecture() -> None:
    assert (
        purl(Package("deb", "x", "1", "amd64"), DEBIAN, with_arch=True)
        == "pkg:deb/debian/x@1?arch=amd64&distro=debian-bookworm"
    )
