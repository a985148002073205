"""The dial guard: which addresses a link may be opened to (security.md §4.3).

A pure function of the wish, the addresses its host resolved to and the operator's lists. The driver asks it
with every resolved address before it connects, and again with the address the socket is connected to, so that
a name that resolves to something else the second time gains nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias

from towline.core import Purpose, Record, RemoteProtocolError

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# Services that hand credentials to whoever asks from inside; those of IPv4 link-local (AWS, GCP, Azure,
# OpenStack at 169.254.169.254, ECS at 169.254.170.2) are refused with their range.
METADATA: Final[frozenset[Address]] = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure's wire server
        "192.0.0.192",  # Oracle Cloud
        "fd00:ec2::254",  # AWS over IPv6
        "fd00:ec2::23",  # EKS pod identity over IPv6
        "fd20:ce::254",  # GCP over IPv6
    )
)

# Those of them that say who this machine is, and are asked by the code of cloud identities alone. A container's
# credentials may also come from an agent on its own loopback.
IDENTITY: Final[frozenset[Address]] = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254")
)

# "This network" reaches the host itself on Linux, and class E is nobody's.
NOWHERE: Final[tuple[Network, ...]] = (
    ipaddress.ip_network("0.0.0.0/8"),
    ipaddress.ip_network("240.0.0.0/4"),
)

UNICAST: Final = ipaddress.IPv6Network("2000::/3")

# IPv6 ranges that carry an IPv4 address, and where in the 128 bits it stands (bits to its right).
# RFC 4291 §2.5.5 (mapped, compatible), RFC 2765 §2.1 (translated), RFC 6052 (NAT64), RFC 3056 (6to4).
CARRIERS: Final[tuple[tuple[ipaddress.IPv6Network, int], ...]] = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), 0),
    (ipaddress.IPv6Network("::/96"), 0),
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
)


class Guard(Record, frozen=True):
    """The operator's lists: origins whose addresses may be private, and networks anyone may name.

    `origins` are (host, port) pairs, host in lower case; `networks` are CIDR texts.
    """

    origins: frozenset[tuple[str, int]] = frozenset()
    networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in self.networks:
            network_of(text)

    def judge(
        self,
        purpose: Purpose,
        host: str,
        port: int,
        addresses: Sequence[str],
    ) -> None:
        """Raise an `address-blocked` error unless every address may be connected to.

        All are judged, not only the first: a name that stands for a public and a private address at once is
        how a peer would try twice. `configured` is a machine's word that the operator named the target, `metadata`
        its word that nobody did: that it asks for the machine's own identity, at an address in the table below.
        """
        if purpose == "metadata":
            self._judge_metadata(host, port, addresses)
            return
        known = purpose == "configured" or (host.lower().rstrip("."), port) in self.origins
        for text in addresses:
            address = literal(text)
            if address is None:
                raise RemoteProtocolError("address-blocked", f"expected an IP address for {host!r}, got {text!r}")
            why = self._refusal(address, known)
            if why is not None:
                raise RemoteProtocolError(
                    "address-blocked",
                    f"{host}:{port} leads to {address}, {why}",
                    hint="list the network if links to it are meant" if "never" not in why else None,
                )

    def _judge_metadata(self, host: str, port: int, addresses: Sequence[str]) -> None:
        for text in addresses:
            address = literal(text)
            if address is None or (address not in IDENTITY and not address.is_loopback):
                raise RemoteProtocolError(
                    "address-blocked", f"{host}:{port} leads to {text}, which is no service of the machine's identity"
                )

    def _refusal(self, address: Address, known: bool) -> str | None:
        faces = meanings(address)
        for face in faces:
            reach = reach_of(face)
            if reach == "never":
                return "which is never dialled (link-local, multicast, unspecified or a metadata service)"
        if known or all(reach_of(face) == "public" for face in faces):
            return None
        listed = [network_of(text) for text in self.networks]
        # The address it stands for in the end (an IPv4 address inside an IPv6 one) is the one to be listed.
        last = faces[-1]
        if any(last.version == network.version and last in network for network in listed):
            return None
        return "which is a loopback or private address and neither configured nor in a listed network"


def reach_of(address: Address) -> Literal["public", "private", "never"]:
    """Say how far an address reaches: anyone's, this site's, or one that is never dialled."""
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return "never"
    plain = ipaddress.IPv6Address(int(address)) if address.version == 6 else address
    if plain in METADATA or any(plain in network for network in NOWHERE if network.version == plain.version):
        return "never"
    # Global unicast is 2000::/3; what lies outside it (site-local, unassigned) some Pythons still call global.
    wide = plain.is_global and (plain.version == 4 or plain in UNICAST)
    return "public" if wide else "private"


def network_of(text: str) -> Network:
    """Read a network in CIDR form; host bits may be set, as in the address of an interface."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise RemoteProtocolError(
            "invalid-configuration", f"expected a network like 10.0.0.0/8, got {text!r}"
        ) from None


def meanings(address: Address) -> list[Address]:
    """Return the address, and after it the IPv4 address that an IPv6 form of it carries, if it does."""
    out = [address]
    if isinstance(address, ipaddress.IPv6Address):
        for network, shift in CARRIERS:
            if address in network and int(address) not in (0, 1):
                carried = ipaddress.IPv4Address((int(address) >> shift) & 0xFFFFFFFF)
                # A carrier is as private or public as what it carries; the wrapping alone decides nothing.
                return [carried]
    return out


def literal(host: str) -> Address | None:
    """Read a host that is an address in any spelling; return None for one that is a name.

    Shape:   IPv6 with or without brackets and zone; IPv4 as 1 to 4 parts, each decimal, octal or hex, the last
             filling the bytes that are left (`127.1`, `0x7f000001`, `2130706433`), as inet_aton reads them
    Source:  RFC 3986 §3.2.2 and §7.4; WHATWG URL, "IPv4 parser"
    """
    if ":" in host:
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        try:
            return ipaddress.IPv6Address(host)
        except ValueError:
            return None
    parts = host.removesuffix(".").split(".")
    if len(parts) > 4:
        return None
    numbers = [_number(part) for part in parts]
    value = 0
    for place, number in enumerate(numbers):
        last = place == len(numbers) - 1
        room = 256 ** (5 - len(numbers)) if last else 256
        if number is None or number >= room:
            return None
        value = value * room + number
    return ipaddress.IPv4Address(value)


def _number(text: str) -> int | None:
    """Read one part of an IPv4 address: 0x… is hex, 0… is octal, else decimal. Bounded, ASCII only."""
    # Eleven octal digits hold 32 bits; leading zeros may make it longer, and no honest address has thirty.
    if len(text) > 32:
        return None
    lower = text.lower()
    if lower.startswith("0x"):
        digits, base = lower[2:], 16
    elif lower.startswith("0") and len(lower) > 1:
        digits, base = lower[1:], 8
    else:
        digits, base = lower, 10
    # Looked at one by one: `int` also takes signs, underscores, spaces, a second prefix and foreign digits.
    legal = "0123456789abcdef"[:base]
    if not digits or any(digit not in legal for digit in digits):
        return None
    return int(digits, base)


def origins(pairs: Iterable[tuple[str, int]]) -> frozenset[tuple[str, int]]:
    """Return (host, port) pairs in the form a Guard compares."""
    return frozenset((host.lower().rstrip("."), port) for host, port in pairs)
