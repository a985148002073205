"""The dial guard: every spelling of an address is read as the system reads it, and none changes the verdict."""

from __future__ import annotations

import socket

from fuzz.harness import refused_or_taken
from towline.drivers._guard import Guard, literal

NOTHING_LISTED = Guard()


def run(data: bytes) -> None:
    host = data[:256].decode("latin-1")
    refused_or_taken(lambda: NOTHING_LISTED.judge("untrusted", host, 443, [host]))
    address = literal(host)
    if address is None:
        return
    # What we take for an address is one to the system, too: the socket goes where the guard looked.
    bare = host.removeprefix("[").removesuffix("]") if ":" in host else host.removesuffix(".")
    if address.version == 4:
        assert socket.inet_aton(bare) == address.packed, host
    else:
        assert socket.inet_pton(socket.AF_INET6, bare.partition("%")[0]) == address.packed, host
    assert verdict(host) == verdict(str(address)), host


def verdict(address: str) -> bool:
    def judged() -> bool:
        NOTHING_LISTED.judge("untrusted", "host.test", 443, [address])
        return True

    return refused_or_taken(judged) is True
