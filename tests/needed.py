"""The real peers that tests speak to. A missing one is a failure in CI and a named skip elsewhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
CLONE = TESTS.parent
STOCK = TESTS / "interop" / "stock"
SNYK_BROKER_CACHE = CLONE / ".peers-cache" / "snyk-broker"


def find_peer(name: str) -> str | None:
    """Return the path of a peer's program, or None."""
    if name in ("snyk-broker-server", "snyk-broker-client"):
        there = (SNYK_BROKER_CACHE / "node_modules" / "snyk-broker").is_dir() and shutil.which("node")
        return str(STOCK / name) if there else None
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin")


def need_peer(name: str) -> str:
    """Return the path of a peer's program; without it fail where CI=true, skip elsewhere."""
    found = find_peer(name)
    if found is None:
        said = f"missing peer: {name} (tests/peers.sh installs it)"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(said)
        pytest.skip(said)
    return found
