"""Every case of the hostile tunnel kit, and of our own file, against the programs as an operator starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hostile.tunnel import KIT, Kit, Verdict, attack, serve

pytestmark = [pytest.mark.interop, pytest.mark.timeout(400)]

CASES = KIT.parent / "cases" / "tunnel_cases_more.py"
RUNNER = KIT.parent / "tunnel.py"


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Verdict]]:
    """What came of each case, by side. Most of them wait, so both sides run at once."""

    def run(side: str, cases: Callable[..., Iterator[Verdict]]) -> list[Verdict]:
        folder = tmp_path_factory.mktemp(side)
        return list(cases(folder, kit=Kit(folder / "kit", more=(CASES,))))

    with ThreadPoolExecutor() as both:
        serving, attacking = both.submit(run, "serve", serve), both.submit(run, "attack", attack)
        return {"serve": serving.result(), "attack": attacking.result()}


@pytest.mark.parametrize(("side", "least"), [("serve", 60), ("attack", 80)])
def test_every_case_is_as_expected(verdicts: dict[str, list[Verdict]], side: str, least: int) -> None:
    assert [str(verdict) for verdict in verdicts[side] if verdict.wrong] == []
    assert len(verdicts[side]) >= least


def by_hand(*arguments: str) -> Any:
    command = [sys.executable, str(RUNNER), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env=dict(os.environ))


def test_the_runner_takes_other_cases_and_can_say_no(tmp_path: Path) -> None:
    """A case that asks for what does not happen is not as expected, and the runner ends with 1."""
    cases = tmp_path / "further.py"
    cases.write_text(
        "from tunnelkit import tcase\n"
        "@tcase('further-closed', 'client', 'open', 'closed', 'an honest client is not closed')\n"
        "async def _(a):\n"
        "    await a.connect()\n"
        "    return {'end': await a.ending(secs=2)}\n"
        "@tcase('further-open', 'client', 'open', 'alive', 'but goes on')\n"
        "async def _(a):\n"
        "    await a.connect()\n"
        "    return {'end': await a.ending(secs=2)}\n"
    )
    told = by_hand("attack", "--cases", str(cases), "--case", "further-closed", "--case", "further-open")
    assert told.returncode == 1, told.stderr
    lines = told.stdout.splitlines()
    assert lines[0].startswith("BAD  further-closed")
    assert any(line.startswith("ok   further-open") for line in lines)
    assert lines[-1].startswith("3 cases, 1 not as expected")


def test_a_case_that_there_is_not() -> None:
    told = by_hand("serve", "--case", "srv-nowhere")
    assert told.returncode == 1
    assert "no such case: srv-nowhere; there are srv-" in told.stderr
