"""The vector runner: every vector file of ours passes, and a wrong vector makes it fail."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
FOLDER = HERE / "registry"


def _load_runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vector_runner", HERE / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


runner = _load_runner()
ALL = sorted(FOLDER.glob("*.json"))
FILES = [path for path in ALL if "vectors" in json.loads(path.read_text())]
PART_B = sorted((HERE / "registry-b").glob("*.json"))
TRANSCRIPTS = [path for path in ALL if path not in FILES]


def test_there_is_a_file_of_every_kind_the_runner_knows() -> None:
    assert {json.loads(path.read_text())["kind"] for path in FILES} == set(runner.RUNNERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_vectors(path: Path) -> None:
    document = json.loads(path.read_text())
    assert document["vectors"]
    wrong = {vector["id"]: runner.check(document["kind"], vector) for vector in document["vectors"]}
    assert {name: problem for name, problem in wrong.items() if problem} == {}


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcripts(path: Path) -> None:
    document = json.loads(path.read_text())
    assert runner.transcripts.playable(document)
    wrong = {it["name"]: runner.transcripts.play_scenario(document, it) for it in document["scenarios"]}
    assert {name: problem for name, problem in wrong.items() if problem} == {}


def test_a_doctored_transcript_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads((FOLDER / "transcript-docker-hub.json").read_text())
    document["scenarios"][0]["steps"][1]["expect"]["authorization"] = "Basic doctored"
    document["scenarios"][2]["result"]["tags"].append("doctored")
    document["scenarios"][9]["steps"].pop()
    (tmp_path / "t.json").write_text(json.dumps(document))
    assert runner.main(["--machine-only", str(tmp_path)]) == 1
    assert "t.json: 7 passed, 3 failed" in capsys.readouterr().out


def test_the_whole_folder_ends_with_0_and_a_count_for_each_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["--machine-only", str(FOLDER)]) == 0
    out = capsys.readouterr().out
    assert "image-reference.json: 95 passed, 0 failed" in out
    assert "313 passed, 0 failed" in out


@pytest.mark.parametrize("path", PART_B, ids=lambda path: path.stem)
def test_vectors_of_part_b(path: Path) -> None:
    vectors = [vector for vector in json.loads(path.read_text())["vectors"] if vector["operation"] != "recording"]
    wrong = {vector["name"]: runner.registry_b.play(vector) for vector in vectors}
    assert {name: problem for name, problem in wrong.items() if problem} == {}


@pytest.mark.parametrize(
    ("name", "vector", "doctor"),
    [
        ("ecr", 0, lambda v: v["steps"][1]["request"]["headers"]["authorization"]["sigv4"].update(region="eu-west-4")),
        ("ecr", 1, lambda v: v["result"]["value"].append("doctored")),
        ("acr-exchange", 0, lambda v: v["steps"][1]["request"]["body"]["form"].update(client_secret="doctored")),
        ("nexus-cr", 3, lambda v: v["steps"].pop()),
        ("nexus-cr", 10, lambda v: v["result"]["error"].update(status=403)),
        ("google-artifact-cr", 2, lambda v: v["steps"][0].update(clock="2026-01-15T12:00:01Z")),
        ("aws-sigv4", 1, lambda v: v["config"].update(region="us-east-2")),
        ("gcp-jwt", 1, lambda v: v["config"].update(scope="doctored")),
    ],
)
def test_a_doctored_vector_of_part_b_fails(name: str, vector: int, doctor: Callable[[dict[str, Any]], Any]) -> None:
    doctored = json.loads((HERE / "registry-b" / f"{name}.json").read_text())["vectors"][vector]
    assert runner.registry_b.play(doctored) is None
    doctor(doctored)
    assert runner.registry_b.play(doctored) is not None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_doctored_vector_fails(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(path.read_text())
    expect = document["vectors"][0]["expect"]
    member = next(name for name in expect if name not in ("lenient", "malformed"))
    expect[member] = not expect[member] if isinstance(expect[member], bool) else "doctored"
    (tmp_path / path.name).write_text(json.dumps(document))
    assert runner.main(["--machine-only", str(tmp_path)]) == 1
    assert "1 failed" in capsys.readouterr().out


def test_what_cannot_be_run_is_named_and_nothing_to_run_is_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"format": "registry-vectors/1", "kind": "novel", "vectors": []}))
    (tmp_path / "b.json").write_text("{")
    assert runner.main(["--machine-only", str(tmp_path)]) == 2
    out = capsys.readouterr().out
    assert "t.json: not run: kind novel" in out
    assert "b.json: not JSON" in out


def test_a_usage_that_is_none_is_2() -> None:
    assert runner.main([]) == 2
    assert runner.main(["--machine-only"]) == 2
