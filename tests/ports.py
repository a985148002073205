"""Ports for peers that cannot choose their own."""

from __future__ import annotations

import random
import socket

# Below what systems give to links that dial out, so that no such link takes a port before its peer listens.
_FROM, _TO = 10_000, 32_000
_given: set[int] = set()


def free_port() -> int:
    """Return a loopback port that nobody has, and that was not returned before."""
    while True:
        port = random.randrange(_FROM, _TO)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        _given.add(port)
        return port
