"""Every case of the hostile registry, by the kit's own judge, against the real command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile.probe import KINDS

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
KIT = HERE / "kit"
# Judges side by side, each with a server of its own. Most of their time is a peer's silence.
JUDGES = 6

# Cases whose error is of another kind than the kit says, and why.
OTHERWISE = {
    "range-resume-other-content": (
        "REGISTRY_UNREACHABLE",
        "the first blob asked for is the config, a small document: it is asked for whole again and not resumed",
    ),
}


def cases() -> dict[str, Any]:
    sys.path.insert(0, str(KIT))
    try:
        import hostile_registry  # type: ignore[import-not-found]

        return dict(hostile_registry.CASES)
    finally:
        sys.path.remove(str(KIT))


def judge(names: list[str], out: Path) -> subprocess.Popen[bytes]:
    probe = f"{sys.executable} {HERE / 'probe.py'} --op {{op}} --registry {{host}}:{{port}}"
    command = [sys.executable, str(KIT / "judge.py"), "--out", str(out)]
    command += ["--cmd", f"{probe} --repo {{repo}} --ref {{ref}} --user {{user}}"]
    for name in names:
        command += ["--case", name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_every_case_ends_as_it_should(tmp_path: Path) -> None:
    known = cases()
    assert len(known) >= 92
    # The slow ones first, dealt out evenly.
    names = sorted(known, key=lambda name: (-known[name].seconds, name))
    outs = [tmp_path / f"{at}.jsonl" for at in range(JUDGES)]
    judges = [judge(names[at::JUDGES], out) for at, out in enumerate(outs)]
    try:
        said = [each.communicate()[0].decode() for each in judges]
    finally:
        for each in judges:
            each.kill()
    results = [json.loads(line) for out in outs for line in out.read_text().splitlines()]
    assert sorted(result["case"] for result in results) == sorted(known), said
    assert {result["case"]: result["miss"] for result in results if result["miss"]} == {}
    wrong = {result["case"]: why for result in results if (why := wrong_kind(known[result["case"]], result))}
    assert wrong == {}


def wrong_kind(case: Any, result: dict[str, Any]) -> str | None:
    """Compare an error's kind with the kit's; None where it agrees, or is said to be another."""
    if result["rc"] == 0 or case.expect != "error" or case.err == "-":
        return None
    found = re.search(r"^kind: .* \(([A-Z_]+)\)$", result["last"], re.MULTILINE)
    code = found[1] if found else "NONE"
    if case.err in KINDS.get(code, ()):
        return None
    if result["case"] in OTHERWISE and code == OTHERWISE[result["case"]][0]:
        return None
    return f"expected {case.err}, got {code}: {result['last']}"


def test_a_kind_that_is_wrong_is_seen() -> None:
    known = cases()["blob-wrong-digest"]
    assert wrong_kind(known, {"case": "blob-wrong-digest", "rc": 1, "last": "kind: auth (REALM_BLOCKED)\n"})
    assert not wrong_kind(known, {"case": "blob-wrong-digest", "rc": 1, "last": "kind: digest (DIGEST_MISMATCH)\n"})
