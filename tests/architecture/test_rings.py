"""The four rings around the core (style.md §10): graph, names, arrest, replay. Each catches a planted fault."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
BESIDE = Path(sys.executable).parent
Plant = Callable[[str, str, str], Path]

SCRIPT = "core/towline/core/_script.py"
TABLE = "core/towline/core/_table.py"
FINISH = "    def _finish(self, end: Finished[T] | Failed) -> None:\n"


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100
    )


def tool(name: str) -> Path:
    """Return a development tool of this environment; where the core alone is installed there is none."""
    found = shutil.which(name, path=str(BESIDE))
    if found is None:
        pytest.skip(f"no {name} beside {sys.executable}")
    return Path(found)


# ── first ring: the graph of imports ────────────────────────────────────────────
def graph(tree: Path) -> subprocess.CompletedProcess[str]:
    roots = os.pathsep.join(str(tree / part) for part in ("core", "drivers", "runtimes"))
    return run(tool("lint-imports"), "--no-cache", cwd=tree, PYTHONPATH=roots)


def test_imports_run_down_only(clone: Path) -> None:
    told = graph(clone)
    assert told.returncode == 0, told.stdout


@pytest.mark.parametrize(
    ("file", "fault", "broken"),
    [
        (TABLE, "import socket", "core touches nothing"),
        (TABLE, "import http.client", "core touches nothing"),
        (TABLE, "def late() -> None:\n    import time", "core touches nothing"),
        (TABLE, "import towline.drivers", "imports run down only"),
        ("drivers/towline/drivers/__init__.py", "import towline.runtimes", "imports run down only"),
    ],
)
def test_graph_catches(planted: Plant, file: str, fault: str, broken: str) -> None:
    told = graph(planted(file, "", fault))
    assert told.returncode == 1, told.stdout
    assert f"{broken} BROKEN" in told.stdout


# ── second ring: names that a harmless module also has ──────────────────────────
def names(tree: Path) -> subprocess.CompletedProcess[str]:
    return run(tool("ruff"), "check", "--no-cache", "--select", "TID251,T20", "core", cwd=tree)


def test_core_uses_no_banned_name(clone: Path) -> None:
    told = names(clone)
    assert told.returncode == 0, told.stdout


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("from os import urandom as dice\ndice(4)", "TID251"),
        ("import os as system\nsystem.environ['HOME']", "TID251"),
        ("import datetime\ndatetime.datetime.now()", "TID251"),
        ("from uuid import uuid4\nuuid4()", "TID251"),
        ("import time", "TID251"),
        ("print('hello')", "T201"),
    ],
)
def test_names_catch(planted: Plant, fault: str, rule: str) -> None:
    told = names(planted(TABLE, "", fault))
    assert told.returncode == 1
    assert rule in told.stdout


# ── third ring: arrest ──────────────────────────────────────────────────────────
def arrest(tree: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, HERE / "arrest.py", tree, cwd=tree)


def test_core_plays_under_arrest(clone: Path) -> None:
    told = arrest(clone)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "played toy-echo\n" in told.stdout
    assert "played toy-script.txt\n" in told.stdout


@pytest.mark.parametrize(
    ("place", "fault", "reason"),
    [
        ("", "import socket", "imports socket"),
        ("", "from time import monotonic", "imports time"),
        ("", "import importlib\nimportlib.import_module('sqlite3')", "import of sqlite3"),
        ("", "open('/etc/hostname')", "open('/etc/hostname')"),
        (FINISH, FINISH + "        __import__('os').urandom(4)\n", "os.urandom was called"),
        (FINISH, FINISH + "        __import__('sys').modules['time'].monotonic()\n", "time.monotonic was called"),
        (FINISH, FINISH + "        import datetime\n        datetime.datetime.now()\n", "datetime.now was called"),
        (FINISH, FINISH + "        import os\n        os.environ.get('HOME')\n", "os.environ was called"),
        (FINISH, FINISH + "        import os\n        os.system('true')\n", "os.system"),
        (FINISH, FINISH + "        import random\n", "imports random"),
        (FINISH, FINISH + "        open('/etc/hostname').close()\n", "open('/etc/hostname')"),
    ],
)
def test_arrest_catches(planted: Plant, place: str, fault: str, reason: str) -> None:
    told = arrest(planted(SCRIPT, place, fault))
    assert told.returncode == 1, told.stdout + told.stderr
    assert "arrested: " in told.stdout
    assert reason in told.stdout


# ── fourth ring: replay ─────────────────────────────────────────────────────────
def replay(tree: Path, seed: str) -> str:
    told = run(sys.executable, HERE / "replay.py", tree, cwd=tree, PYTHONHASHSEED=seed)
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_wishes_do_not_depend_on_the_process(clone: Path) -> None:
    one = replay(clone, "0")
    assert "machine: toy-echo" in one
    assert replay(clone, "4242") == one


@pytest.mark.parametrize(
    "fault",
    [
        "        self._wishes.extend(Note('info', name) for name in {'one', 'two', 'three', 'four', 'five', 'six'})\n",
        "        self._wishes.append(Note('info', 'at', {'id': id(self)}))\n",
        "        self._wishes.append(Note('info', 'process', {'pid': __import__('os').getpid()}))\n",
        "        self._wishes.append(Note('info', 'hash', {'of': hash('name')}))\n",
    ],
    ids=["set-order", "address", "process", "hash"],
)
def test_replay_catches(planted: Plant, fault: str) -> None:
    tree = planted(SCRIPT, FINISH, FINISH + fault)
    assert len({replay(tree, seed) for seed in ("0", "1", "2")}) > 1
