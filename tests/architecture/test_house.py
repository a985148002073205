"""The house as it is meant to stand: layout, public face, sizes, words, documents that are true."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from architecture import public_names, tables

from towline.core import KINDS, Table, TowlineError

ROOTS = ("core", "drivers", "runtimes")

# Files of more than 400 lines, each with the reason why there is no second room in it.
LONG: dict[str, str] = {}


def sources(clone: Path) -> list[Path]:
    return sorted(path for root in ROOTS for path in (clone / root).rglob("*.py"))


def committed(clone: Path) -> Iterator[Path]:
    """Yield each text file of the tree that is ours: what git tracks, or all where there is no git."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=clone, capture_output=True, check=True, timeout=30
        ).stdout
        paths = [clone / os.fsdecode(name) for name in listed.split(b"\0") if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [path for part in (*ROOTS, "tests", "fuzz", "bench", "docs") for path in (clone / part).rglob("*")]
    for path in paths:
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".sh", ".txt", ".json", ".bash", ".cfg", ""):
            yield path


def fenced(clone: Path) -> list[tuple[str, str]]:
    """Return (place, code) for each fenced python block of the documents."""
    found = []
    for path in [clone / "README.md", *sorted((clone / "docs").rglob("*.md"))]:
        text = path.read_text() if path.exists() else ""
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text[: match.start()].count("\n") + 1
            found.append((f"{path.relative_to(clone)}:{line}", match[1]))
    return found


# ── layout ──────────────────────────────────────────────────────────────────────
def test_no_package_hides_the_other_portions(clone: Path) -> None:
    assert [path for root in ROOTS for path in (clone / root).glob("towline/__init__.py")] == []


def test_each_floor_is_typed(clone: Path) -> None:
    for root in ROOTS:
        assert (clone / root / "towline" / root / "py.typed").is_file()


def test_the_wheel_is_the_tree(clone: Path, tmp_path: Path) -> None:
    build = "import sys, hatchling.build; print(hatchling.build.build_wheel(sys.argv[1]))"
    told = subprocess.run(
        [sys.executable, "-c", build, tmp_path], cwd=clone, capture_output=True, text=True, timeout=100
    )
    assert told.returncode == 0, told.stderr
    with zipfile.ZipFile(tmp_path / told.stdout.split()[-1]) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    kept = {
        str(path.relative_to(clone / root))
        for root in ROOTS
        for path in (clone / root).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == kept


def test_no_file_grows_past_one_room(clone: Path) -> None:
    long = {str(path.relative_to(clone)): len(path.read_text().splitlines()) for path in sources(clone)}
    assert {name: lines for name, lines in long.items() if lines > 400 and name not in LONG} == {}
    assert all(long.get(name, 0) > 400 for name in LONG), "LONG names a file that is short"


# ── public face ─────────────────────────────────────────────────────────────────
def test_public_names_are_those_committed_to() -> None:
    # Changed on purpose? `python tests/architecture/public_names.py --write`
    assert public_names.public_names() == public_names.LIST.read_text().splitlines()


def test_every_public_name_exists() -> None:
    for name in public_names.public_names():
        room, _, last = name.rpartition(".")
        assert hasattr(importlib.import_module(room), last), name


def test_a_face_defines_nothing(clone: Path) -> None:
    """An `__init__.py` has a docstring, imports and `__all__`."""
    for path in sources(clone):
        if path.name != "__init__.py":
            continue
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path} has no docstring"
        for node in tree.body[1:]:
            lists_all = isinstance(node, ast.Assign | ast.AnnAssign) and "__all__" in ast.unparse(node).split("=")[0]
            assert isinstance(node, ast.Import | ast.ImportFrom) or lists_all, f"{path}:{node.lineno}"


def test_rooms_are_entered_by_their_face_from_above(clone: Path) -> None:
    """Drivers and programs import from a core room's face, not from its private modules."""
    inside = re.compile(r"^\s*(?:from|import) towline\.core\.\w+\._", re.MULTILINE)
    offenders = [
        str(path.relative_to(clone))
        for root in ("drivers", "runtimes")
        for path in (clone / root).rglob("*.py")
        if inside.search(path.read_text())
    ]
    assert offenders == []


def test_the_core_brings_no_loop_no_tls_no_network() -> None:
    code = (
        "import importlib, pkgutil, sys, towline.core\n"
        "rooms = pkgutil.walk_packages(towline.core.__path__, 'towline.core.')\n"
        "for room in rooms: importlib.import_module(room.name)\n"
        "print(*sorted(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    loaded = set(told.stdout.split())
    network = {"asyncio", "trio", "anyio", "ssl", "_ssl", "socket", "select", "selectors", "http.client", "logging"}
    assert loaded & (network | {"sqlite3", "threading", "subprocess", "urllib.request", "rich", "random"}) == set()


def test_the_drivers_face_imports_no_loop() -> None:
    code = "import sys, towline.drivers; print(*sorted(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    assert set(told.stdout.split()) & {"asyncio", "trio", "anyio"} == set()


# ── words ───────────────────────────────────────────────────────────────────────
# Written backwards, so that this file does not have them.
HIDDEN = [
    word[::-1] for word in ["/krow/", "-mraf", "/yrarbil.", "gro.ipyp", ".sjmpn", "gro.naibed.bed", "detsohnohtyp"]
]
STALE = re.compile(r"\b(for the time being|as of now|T[O]DO|FIX[M]E|XX[X])\b")


def test_no_word_of_a_workplace(clone: Path) -> None:
    found = [
        f"{path.relative_to(clone)}: {word}"
        for path in committed(clone)
        if "corpus/data" not in str(path)
        for word in HIDDEN
        if word in path.read_text(errors="replace")
    ]
    assert found == []


def test_comments_read_the_same_in_a_year(clone: Path) -> None:
    found = [
        f"{path.relative_to(clone)}:{number} {line.strip()}"
        for path in sources(clone)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if STALE.search(line)
    ]
    assert found == []


# ── documents ───────────────────────────────────────────────────────────────────
def test_tables_pictures_are_true(clone: Path) -> None:
    # Changed on purpose? `python tests/architecture/tables.py --write`
    assert tables.PAGE.read_text() == tables.page()


@pytest.mark.parametrize("table", tables.all_tables(), ids=lambda table: table.name)
def test_every_pair_of_every_table(table: Table) -> None:
    """Legal or refused; every state has a way in and, but for the ends, a way out."""
    for state in table.states:
        for fed in table.inputs:
            if (state, fed) in table.steps:
                assert table.next(state, fed) == table.steps[state, fed]
            else:
                with pytest.raises(TowlineError):
                    table.next(state, fed)
    assert table.kind in KINDS
    assert {state for state, _ in table.steps} == set(table.states) - table.ends
    reached = [table.start]
    for state in reached:
        reached += [after for (at, _), after in table.steps.items() if at == state and after not in reached]
    assert set(reached) == set(table.states)
    for state in set(table.states) - table.ends:
        seen = [state]
        for at in seen:
            seen += [after for (origin, _), after in table.steps.items() if origin == at and after not in seen]
        assert not table.ends or table.ends & set(seen), f"{table.name}: no way from {state} to an end"


@pytest.mark.parametrize(("place", "code"), fenced(tables.PAGE.parents[1]), ids=lambda part: str(part)[:40])
def test_python_in_documents_runs(place: str, code: str, tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 0, f"{place}\n{told.stderr}"


def test_links_between_documents_lead_somewhere(clone: Path) -> None:
    for path in [clone / "README.md", clone / "CHANGELOG.md", *sorted((clone / "docs").rglob("*.md"))]:
        if not path.exists():
            continue
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.relative_to(clone)} links to {target}"
