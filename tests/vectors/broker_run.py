"""A folder's recorded broker sessions and matcher verdicts: what was compared, and what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vectors import broker_filters
from vectors.broker_player.play import is_session, play


def run_sessions(folder: Path) -> tuple[int, int]:
    """Play each recording of a folder in both roles; print what came of it, return what was compared and differs."""
    ran = failures = 0
    for path in sorted(folder.glob("*.jsonl")):
        if not is_session(path):
            print(f"{path.name}: not run: no recorded session")
            continue
        came = play(path)
        if not came:
            print(f"{path.name}: not run: neither peer is a stock one")
        for played in came:
            print(f"{path.name}: {played}")
            for problem in played.problems:
                print(f"  {problem}")
            ran += played.compared + len(played.problems)
            failures += len(played.problems)
    return ran, failures


def run_filters(name: str, document: dict[str, Any]) -> tuple[int, int]:
    """Decide the cases of a file of the matcher's verdicts; print and return the same."""
    came = broker_filters.run(document)
    print(f"{name}: {came}")
    for problem in came.problems:
        print(f"  {problem}")
    return came.cases, len(came.problems)
