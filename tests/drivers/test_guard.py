"""The dial guard: what may be dialled, in every spelling (security.md §4.3)."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.core import TowlineError
from towline.drivers._guard import Guard, literal, meanings, origins, reach_of

NEVER = [
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fe80::1%eth0",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "240.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "::169.254.169.254",
    "[fd00:ec2::254]",
    "2852039166",
    "0xa9fea9fe",
    "0xA9.0xFE.0xA9.0xFE",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.254.169.254.",
]
PRIVATE = [
    "127.0.0.1",
    "127.0.0.3",
    "127.1",
    "2130706433",
    "017700000001",
    "0x7f.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "::1",
    "fc00::1",
    "fec0::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "2002:7f00:1::",
    "64:ff9b::7f00:1",
    "::127.0.0.1",
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "134744072"]


def refused(guard: Guard, purpose: Any, addresses: Any, host: str = "example.org", port: int = 443) -> str | None:
    """Return why the guard refuses, or None."""
    try:
        guard.judge(purpose, host, port, addresses)
    except TowlineError as error:
        return error.message if error.kind == "address-blocked" else None
    return None


@pytest.mark.parametrize("address", NEVER)
def test_some_are_never_dialled(address: Any) -> None:
    everything = Guard(origins([("example.org", 443)]), ("0.0.0.0/0", "::/0"))
    for purpose in ("configured", "untrusted"):
        message = refused(everything, purpose, [address])
        assert message
        assert "never dialled" in message


@pytest.mark.parametrize("address", PRIVATE)
def test_private_ones_only_when_they_are_meant(address: Any) -> None:
    assert refused(Guard(), "untrusted", [address])
    assert refused(Guard(), "configured", [address]) is None
    assert refused(Guard(origins([("Example.ORG.", 443)])), "untrusted", [address]) is None
    assert refused(Guard(origins([("example.org", 444)])), "untrusted", [address])
    assert refused(Guard(networks=("0.0.0.0/0", "::/0")), "untrusted", [address]) is None


@pytest.mark.parametrize("address", PUBLIC)
def test_public_ones_are_free(address: Any) -> None:
    assert refused(Guard(), "untrusted", [address]) is None


def test_a_listed_network_is_that_network() -> None:
    guard = Guard(networks=("127.0.0.1/32", "127.0.0.2/32", "fd00:1::/64"))
    assert refused(guard, "untrusted", ["127.0.0.1"]) is None
    assert refused(guard, "untrusted", ["::ffff:127.0.0.2"]) is None
    assert refused(guard, "untrusted", ["fd00:1::5"]) is None
    assert refused(guard, "untrusted", ["127.0.0.3"])
    assert refused(guard, "untrusted", ["::ffff:127.0.0.3"])
    assert refused(guard, "untrusted", ["fd00:2::5"])


def test_a_network_that_cannot_be_read_is_said_at_once() -> None:
    with pytest.raises(TowlineError, match=r"10\.0\.0\.0/8, got '10\.0\.0'"):
        Guard(networks=("10.0.0",))
    assert refused(Guard(networks=("10.0.0.7/8",)), "untrusted", ["10.9.9.9"]) is None


def test_one_bad_address_among_good_ones_is_enough() -> None:
    assert refused(Guard(), "untrusted", ["8.8.8.8", "10.0.0.1"])
    assert refused(Guard(), "untrusted", ["8.8.8.8", "169.254.169.254", "1.1.1.1"])
    assert refused(Guard(), "configured", ["10.0.0.1", "169.254.169.254"])


def test_what_is_no_address_is_refused() -> None:
    assert refused(Guard(), "configured", ["not an address"])


@given(st.text(alphabet="0123456789abcdefxX.", max_size=20))
def test_spellings_are_read_as_the_system_reads_them(text: str) -> None:
    try:
        theirs = ipaddress.IPv4Address(socket.inet_aton(text))
    except OSError:
        theirs = None
    # One dot at the end makes a name absolute, and an address stays an address; the system asks the DNS for it.
    assert literal(text) == theirs or text.endswith(".")


@given(st.ip_addresses())
def test_every_address_has_a_verdict_that_its_spelling_does_not_change(address: Any) -> None:
    verdict = refused(Guard(), "untrusted", [str(address)]) is None
    assert verdict == all(reach_of(face) == "public" for face in meanings(address))
    if address.version == 4:
        for spelling in (str(int(address)), hex(int(address)), f"::ffff:{address}", f"0{int(address):o}"):
            assert (refused(Guard(), "untrusted", [spelling]) is None) == verdict, spelling


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "127.0.0.1"]
)
def test_the_machines_own_identity_is_asked_where_a_cloud_serves_it(address: str) -> None:
    Guard().judge("metadata", "metadata.example", 80, [address])


@pytest.mark.parametrize(
    "address", ["169.254.1.1", "10.0.0.1", "93.184.216.34", "100.100.100.200", "::ffff:169.254.169.254"]
)
def test_and_nowhere_else(address: str) -> None:
    with pytest.raises(TowlineError) as caught:
        Guard(networks=("0.0.0.0/0", "::/0")).judge("metadata", "metadata.example", 80, ["169.254.169.254", address])
    assert caught.value.kind == "address-blocked"
