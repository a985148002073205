"""Every committed fuzz input is replayed; every target has some; and the runner finds a planted fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import run as runner
from towline.core import RemoteProtocolError

INPUTS = [(name, path) for name in runner.target_names() for path in runner.seeds(name)]


@pytest.mark.parametrize(("name", "path"), INPUTS, ids=[f"{name}-{path.name}" for name, path in INPUTS])
def test_replay(name: str, path: Path) -> None:
    runner.load(name)(path.read_bytes())


@pytest.mark.parametrize("name", runner.target_names())
def test_every_target_has_inputs(name: str) -> None:
    assert len(runner.seeds(name)) >= 3


def test_no_input_without_a_target() -> None:
    folders = {path.name for path in runner.CORPUS.iterdir() if path.is_dir()}
    assert folders <= set(runner.target_names())


def planted(data: bytes) -> None:
    from fuzz.harness import refused_or_taken

    def parse() -> None:
        if b"\xff" in data:
            raise RemoteProtocolError("bad-request", "expected text")
        if b"%" in data:
            raise KeyError("a fault")

    refused_or_taken(parse)


def test_explore_finds_shrinks_and_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "seed").write_bytes(b"an honest line")
    monkeypatch.setattr(runner, "CORPUS", tmp_path)
    monkeypatch.setattr(runner, "load", lambda name: planted)
    assert runner.explore("planted", 20.0, seed=7) == 1
    (crash,) = (tmp_path / "planted").glob("crash-*")
    assert crash.read_bytes() == b"%"
    said = capsys.readouterr()
    assert "KeyError: 'a fault'" in said.err
    assert crash.name in said.out
    assert runner.replay("planted") == 1


def test_explore_ends_in_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(runner, "load", lambda name: lambda data: None)
    assert runner.explore("script", 0.2, seed=1) == 0
    assert "nothing found" in capsys.readouterr().out
