"""A copy of the tree in which a fault can be planted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

CLONE = Path(__file__).resolve().parents[2]
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", "corpus", "interop", "vectors")


@pytest.fixture(scope="session")
def clone() -> Path:
    """The clone itself, read only."""
    return CLONE


@pytest.fixture
def planted(tmp_path: Path) -> Callable[[str, str, str], Path]:
    """`planted(file, old, new)` is a copy of the tree in which `old` in that file reads `new` ("" is the end)."""

    def plant(file: str, old: str, new: str) -> Path:
        tree = tmp_path / "tree"
        for part in ("core", "drivers", "runtimes", "tests"):
            shutil.copytree(CLONE / part, tree / part, ignore=IGNORED)
        shutil.copy(CLONE / "pyproject.toml", tree)
        path = tree / file
        text = path.read_text()
        assert old in text, f"{file} has no {old!r}"
        path.write_text(text.replace(old, new, 1) if old else text + "\n" + new + "\n")
        return tree

    return plant
