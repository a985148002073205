"""What tests share: the images of the corpus, and the real peers.

A missing peer is a failure in CI and a named skip elsewhere.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ports
import pytest
from needed import SNYK_BROKER_CACHE, TESTS, need_peer

# A shell that starts its jobs in the background without job control lets them ignore SIGINT, and they hand that on;
# the programs under test must hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def peer() -> Callable[[str], str]:
    """`peer("skopeo")` is the path of the program, or the end of the test."""
    return need_peer


@pytest.fixture(scope="session")
def snyk_broker_environment() -> dict[str, str]:
    """The environment in which `peer("snyk-broker-server")` and `-client` start."""
    return {**os.environ, "SNYK_BROKER_CACHE": str(SNYK_BROKER_CACHE)}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with every image of the corpus: `NAME.oci`, `NAME.oci.tar`, `NAME.docker.tar`, `NAME.json`."""
    need_peer("zstd")
    out = tmp_path_factory.mktemp("corpus")
    made = subprocess.run(
        [sys.executable, TESTS / "corpus" / "make-corpus", out], capture_output=True, text=True, timeout=100
    )
    assert made.returncode == 0, made.stderr
    return out


@pytest.fixture(scope="session")
def expected() -> Callable[[str], dict[str, Any]]:
    """`expected("deb-bookworm")` is what a scan of that image must find, and from whom we know."""

    def load(name: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((TESTS / "corpus" / "expected" / f"{name}.json").read_text())
        return told

    return load


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Return what returns a loopback port that nobody has, for a peer that cannot choose its own."""
    return ports.free_port
