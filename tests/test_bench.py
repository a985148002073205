"""The bench runs, small: every way is measured and proven, and a way that cannot run says so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"


def bench(*arguments: str) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, str(BENCH / "pull.py"), "-o", "json", "--rounds", "1", *arguments]
    told = subprocess.run(command, capture_output=True, text=True, timeout=100)
    return told.returncode, json.loads(told.stdout) if told.stdout else {}, told.stderr


@pytest.mark.interop
def test_every_way_is_measured(peer: Callable[[str], str], tmp_path: Path) -> None:
    for program in ("nginx", "curl", "openssl", "skopeo"):
        peer(program)
    code, told, errors = bench("--size", "16M", "--work", str(tmp_path))
    assert code == 0, errors
    assert [row["way"] for row in told["rows"]] == ["floor", "curl", "skopeo", "towline"]
    for row in told["rows"]:
        assert 0 < row["wall"][0] <= row["wall"][1] <= row["wall"][2]
        assert row["cpu"][1] > 0
        assert row["rss"] > 1 << 20
        assert row["wall_to_curl"] > 0
    assert told["layer_bytes"] > 16 << 20
    assert "not here" not in told["machine"].values()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.interop
def test_a_way_that_cannot_run_says_so(
    peer: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer("nginx")
    monkeypatch.setenv("PATH", str(tmp_path))
    code, told, errors = bench("--size", "1M", "--ways", "floor,skopeo", "--work", str(tmp_path))
    assert code == 1
    assert [row["way"] for row in told["rows"]] == ["floor"]
    assert "skopeo" in told["absent"]
    assert "bench: skopeo: " in errors


@pytest.mark.parametrize("size", ["", "M", "1T", "-1", "1.5G"])
def test_a_size_that_is_none_is_refused(size: str) -> None:
    command = [sys.executable, str(BENCH / "pull.py"), f"--size={size}"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert told.returncode == 2
    assert "expected a size" in told.stderr


def test_the_image_is_the_same_everywhere(tmp_path: Path) -> None:
    code = "import image, pathlib, sys; print(image.make_image(pathlib.Path(sys.argv[1]), 1 << 20).layer)"
    told = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "image"], cwd=BENCH, capture_output=True, text=True, timeout=30
    )
    assert told.stdout.strip() == "sha256:e64c02ab7eb7408d0a7968c72c888cee155070931b263e44f369dbf42128debc"
