"""The vendors' transcripts over real sockets, by the command as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vectors import registry_page, served

pytestmark = pytest.mark.timeout(300)

HERE = Path(__file__).parent
FILES = [*sorted((HERE / "registry").glob("transcript-*.json")), *sorted((HERE / "registry-b").glob("*.json"))]
# What is served of each type; the rest has no command, or moves the clock.
LEAST = 101


def test_every_transcript_that_has_a_command_passes_by_it() -> None:
    results = {f"{path.stem}: {name}": problem for path in FILES for name, problem in served.run_all(path)}
    assert {name: problem for name, problem in results.items() if problem} == {}
    assert len(results) >= LEAST


def doctored(change: dict[str, Any], folder: Path) -> str | None:
    vector = json.loads((HERE / "registry-b" / "nexus-cr.json").read_text())["vectors"][1]
    vector["steps"][2]["request"] |= change.get("request", {})
    vector["result"] |= change.get("result", {})
    return served.serve_vector(vector, folder)


@pytest.mark.parametrize(
    "change",
    [
        {"request": {"url": "https://nexus.example.com/repository/docker-hosted/v2/_catalog?n=2&last=doctored"}},
        {"request": {"headers": {"authorization": "Basic doctored"}}},
        {"result": {"value": ["doctored"]}},
        {"result": {"ok": False, "error": {"kind": "forbidden"}}},
    ],
)
def test_a_doctored_one_fails(change: dict[str, Any], tmp_path: Path) -> None:
    assert doctored(change, tmp_path) is not None


def test_and_undoctored_it_passes(tmp_path: Path) -> None:
    assert doctored({}, tmp_path) is None


def test_the_page_of_registries_claims_what_is_run() -> None:
    assert registry_page.PAGE.read_text() == registry_page.page()
    assert {"server", "command", "machine"} <= {how for row in registry_page.proofs().values() for how in row.values()}
