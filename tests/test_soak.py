"""The soak in small: its checks hold over a few hundred requests, and it says so when one does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).resolve().parents[1] / "bench" / "soak.py"


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    small = ("--cycles", "60", "--requests", "1200", "--connections", "3", "--rest", "1")
    command = [sys.executable, str(SOAK), *small, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_tunnels_come_back_and_requests_are_answered() -> None:
    """A second of rest leaves kept links open, and ten rounds are no time for memory to settle: the rest must hold."""
    told = soak("--drift", "50")
    assert "Traceback" not in told.stdout + told.stderr, told.stderr
    faults = [line for line in told.stdout.splitlines() if line.startswith("soak: ")]
    assert [line for line in faults[:-1] if "descriptors, tasks, threads" not in line] == []
    assert "60 cycles, 1200 requests" in told.stdout


def test_memory_that_moves_is_told() -> None:
    told = soak("--drift", "0")
    assert told.returncode == 1
    assert "memory moved by" in told.stdout
    assert told.stdout.splitlines()[-1] == "soak: failed"
