"""May our credentials go to this token realm? A registry chooses it, so a hostile one could choose its own.

Rule: registries-common.md §5, which follows @snyk/docker-registry-v2-client; the class of CVE-2020-15157.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final, Literal

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core.http import Url
from towline.core.registry._suffixes import common_owner, is_shared

Rule = Literal[
    "same-host",
    "configured",
    "built-in",
    "subdomain",
    "parent-domain",
    "same-registrable-domain",
    "unrelated-host",
    "private-address",
    "scheme",
    "not-absolute",
    "userinfo",
    "malformed",
]

_SCHEME: Final = frozenset("+-.0123456789abcdefghijklmnopqrstuvwxyz")


class RealmVerdict(Record, frozen=True):
    """Whether credentials may be sent, and the rule that decided."""

    send_credentials: bool
    rule: Rule


def realm_allowed(
    registry_base: Url | str, realm: str, allowed_hosts: Iterable[str] = (), built_in: Iterable[str] = ()
) -> RealmVerdict:
    """Judge a realm against the registry that named it.

    `allowed_hosts` are what the operator listed (`host` or `host:port`), `built_in` what the registry's type brings.
    """
    base = registry_base if isinstance(registry_base, Url) else Url.parse(registry_base)
    scheme, colon, rest = realm.partition(":")
    if not colon or not scheme[:1].isalpha() or not _SCHEME.issuperset(scheme.lower()):
        return RealmVerdict(False, "not-absolute")
    if scheme.lower() not in ("http", "https") or (scheme.lower() == "http" and base.scheme == "https"):
        return RealmVerdict(False, "scheme")
    if "\\" in realm or not rest.startswith("//"):
        return RealmVerdict(False, "malformed")
    authority = rest[2:].partition("/")[0].partition("?")[0].partition("#")[0]
    if "@" in authority:
        return RealmVerdict(False, "userinfo")
    try:
        url = Url.parse(realm)
    except RemoteProtocolError:
        return RealmVerdict(False, "malformed")
    return _judge_host(base, url, allowed_hosts, built_in)


def _judge_host(base: Url, realm: Url, allowed_hosts: Iterable[str], built_in: Iterable[str]) -> RealmVerdict:
    ours, theirs = base.host.rstrip("."), realm.host.rstrip(".")
    if ours == theirs:
        return RealmVerdict(True, "same-host")
    if any(_listed(entry, realm) for entry in allowed_hosts):
        return RealmVerdict(True, "configured")
    address = _address(theirs)
    if address is not None:
        return RealmVerdict(False, "unrelated-host" if address.is_global else "private-address")
    if _odd_address(theirs):
        return RealmVerdict(False, "malformed")
    if any(_listed(entry, realm) for entry in built_in):
        return RealmVerdict(True, "built-in")
    if _address(ours) is None:
        if theirs.endswith("." + ours) and not is_shared(ours):
            return RealmVerdict(True, "subdomain")
        if ours.endswith("." + theirs) and not is_shared(theirs):
            return RealmVerdict(True, "parent-domain")
        if common_owner(ours, theirs):
            return RealmVerdict(True, "same-registrable-domain")
    return RealmVerdict(False, "unrelated-host")


def _listed(entry: str, realm: Url) -> bool:
    wanted = entry.strip().lower().rstrip(".")
    return wanted in (
        realm.host.rstrip("."),
        f"{realm.host}:{realm.port}",
        f"[{realm.host}]:{realm.port}",
        f"[{realm.host}]",
    )


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _odd_address(host: str) -> bool:
    # `127.1`, `0x7f000001` and `2130706433` are addresses to some resolvers and names to others.
    last = host.rpartition(".")[2]
    return last.isdigit() or last.startswith("0x")
