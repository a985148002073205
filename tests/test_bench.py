"""The benches run, small: every way is measured and proven, and a way that cannot run says so."""

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


# ── lists of registries ───────────────────────────────────────────────────────
def registries(*arguments: str) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, str(BENCH / "registries.py"), "-o", "json", "--repositories", "130", "--tags", "40"]
    told = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=100)
    return told.returncode, json.loads(told.stdout) if told.stdout else {}, told.stderr


@pytest.mark.interop
def test_lists_take_no_more_requests_than_others_need(peer: Callable[[str], str]) -> None:
    for program in ("docker-registry", "nginx", "skopeo", "npm", "node"):
        peer(program)
    code, told, errors = registries()
    assert (code, told.get("wrong")) == (0, []), errors
    counted = {(row["list"], row["way"]): row for row in told["rows"]}
    assert {key[1] for key in counted} == {"towline", "stock", "skopeo"}
    ours = counted["repositories", "towline"]
    # Two pages, one refusal, one token for both.
    assert (ours["requests"], ours["refused"], ours["tokens"]) == (4, 1, 1)
    assert counted["repositories", "stock"]["requests"] > ours["requests"]
    assert counted["tags", "towline"]["requests"] == counted["tags", "skopeo"]["requests"]


def test_more_requests_than_another_are_said() -> None:
    code = """
import json
from registries import more_than_others
rows = [{"list": "tags", "way": way, "requests": count} for way, count in (("towline", 4), ("stock", 5), ("skopeo", 3))]
print(json.dumps(more_than_others(rows)))
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=BENCH, capture_output=True, text=True, timeout=30)
    assert json.loads(told.stdout) == ["towline: tags: 4 requests, skopeo has 3"]


# ── the broker ────────────────────────────────────────────────────────────────
def broker(*arguments: str) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, str(BENCH / "broker.py"), "--tiny", "--json", "-", *arguments]
    told = subprocess.run(command, capture_output=True, text=True, timeout=100)
    return told.returncode, json.loads(told.stdout) if told.stdout else {}, told.stderr


def test_every_row_of_the_broker_is_measured() -> None:
    _, told, errors = broker()
    assert told, errors
    assert set(told["missing"]) <= {"nginx", "idle-tls"}
    samples = {row: ways["ours"] for row, ways in told["samples"].items()}
    for row in ("small.2.rps", "cpu.2.both", "stream.mib_s", "rss.stream.client", "start.connected", "idle.p99_ms"):
        assert [value > 0 for value in samples[row]] == [True], row
    assert samples["rss.idle.server"][0] > 10
    # A tenth of a second at each level says little, but a request that costs a hundredth of one is broken.
    assert samples["small.2.p50_ms"][0] < 100


@pytest.mark.interop
def test_the_stock_pair_is_measured_beside_ours(peer: Callable[[str], str]) -> None:
    peer("snyk-broker-server")
    peer("nginx")
    code, told, errors = broker("--only", "small,stream", "--ways", "stock,our server,our client")
    assert (code, told["missing"]) == (0, {}), errors
    assert set(told["samples"]["small.2.rps"]) == {"stock", "our server", "our client"}
    assert set(told["samples"]["stream.mib_s"]) == {"stock", "our server", "our client", "nginx"}


def test_a_pair_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, told, errors = broker("--only", "start", "--ways", "stock")
    assert code == 1, errors
    assert "stock" in told["missing"]
    assert told["samples"] == {}


def test_a_row_that_is_none_is_refused() -> None:
    command = [sys.executable, str(BENCH / "broker.py"), "--only", "smal"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert told.returncode == 2
    assert "expected --only of" in told.stderr


def test_goals_are_of_medians_of_one_run() -> None:
    code = """
import json, sys
from broker_table import lines, unmet
kept = json.loads(sys.argv[1])
print(json.dumps([[(line["ratio"], line["met"]) for line in lines(kept)], unmet(kept)]))
"""
    kept = {
        "small.1.rps": {"stock": [100, 90, 500], "ours": [290, 310, 10]},
        "small.16.rps": {"stock": [100, 100], "ours": [510, 510]},
        "cpu.16.server": {"stock": [1.0], "ours": [0.1], "our server": [0.6]},
        "idle.kib": {"ours": [25.0]},
        "start.connected": {"ours": [0.3]},
    }
    told = subprocess.run(
        [sys.executable, "-c", code, json.dumps(kept)], cwd=BENCH, capture_output=True, text=True, timeout=30
    )
    found, missed = json.loads(told.stdout)
    assert found == [[2.9, False], [5.1, True], [0.6, False], [None, None], [None, False]]
    assert len(missed) == 3


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
