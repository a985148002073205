"""The units in `deploy/`: systemd reads them without a word, and finds little exposed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from needed import TESTS, need_peer

UNITS = sorted((TESTS.parent / "deploy" / "systemd").glob("*.service"))
MOST_EXPOSED = 2.0


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([need_peer("systemd-analyze"), *arguments], capture_output=True, text=True, timeout=60)


def test_there_is_a_unit_for_each_program() -> None:
    assert [unit.stem for unit in UNITS] == ["towline-agent", "towline-client", "towline-server"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_unit_is_read_without_a_word(unit: Path) -> None:
    # An unknown key is only said on stderr; the exit code is 0 all the same.
    said = analyze("verify", str(unit))
    assert (said.returncode, said.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_little_is_exposed(unit: Path) -> None:
    said = analyze("security", "--offline=true", str(unit))
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said.stdout)
    assert level is not None, said.stdout + said.stderr
    assert float(level[1]) <= MOST_EXPOSED
