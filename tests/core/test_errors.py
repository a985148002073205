"""One table of kinds: what the code says and what the table has are the same set."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from towline.core import KINDS, LocalProtocolError, RemoteProtocolError, TowlineError

ROOTS = [Path(__file__).parents[2] / part / "towline" for part in ("core", "drivers", "runtimes")]


def words(folder: Path) -> Iterator[str]:
    """Yield each string in the code, but for the table itself."""
    for path in sorted(folder.rglob("*.py")):
        if path.name != "_errors.py":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def raised(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, kind) for each error, Lost or Broken made with a kind spelled out."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            kind: ast.expr | None = None
            if name in ("RemoteProtocolError", "TowlineError"):
                kind = node.args[0] if node.args else None
            elif name == "Lost":
                kind = node.args[2] if len(node.args) > 2 else None
            elif name == "Broken":
                kind = node.args[1] if len(node.args) > 1 else None
            for keyword in node.keywords:
                if keyword.arg == "kind":
                    kind = keyword.value
            if isinstance(kind, ast.Constant) and isinstance(kind.value, str):
                yield f"{path.name}:{node.lineno}", kind.value


def test_every_kind_that_is_made_has_a_row() -> None:
    strangers = [f"{place} {kind}" for folder in ROOTS for place, kind in raised(folder) if kind not in KINDS]
    assert strangers == []


# A row that no code names, and why it is there.
UNNAMED = {
    "broke-the-law": "LocalProtocolError makes it itself",
}


def test_every_row_is_used() -> None:
    """By its name, or by its API code."""
    said = {text for folder in ROOTS for text in words(folder)}
    unused = {name for name in KINDS if name not in said and name.upper().replace("-", "_") not in said}
    assert unused == set(UNNAMED)


def test_rows() -> None:
    for name, kind in KINDS.items():
        assert name == name.lower()
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz-")
        assert 400 <= kind.status <= 599
        assert kind.meaning
        error = RemoteProtocolError(name, "expected a, got b")
        assert (error.status_hint, error.retryable) == (kind.status, kind.retryable)
        assert error.code == name.upper().replace("-", "_")


def test_an_error_tells_and_compares() -> None:
    error = RemoteProtocolError(
        "registry-rate-limited",
        "expected 200, got 429",
        hint="wait",
        retry_after=3.0,
        registry_status=429,
        registry_code="TOOMANYREQUESTS",
    )
    assert str(error) == "expected 200, got 429"
    assert repr(error) == "RemoteProtocolError('registry-rate-limited', 'expected 200, got 429')"
    assert (error.hint, error.retry_after, error.registry_status, error.registry_code) == (
        "wait",
        3.0,
        429,
        "TOOMANYREQUESTS",
    )
    assert error == error
    assert error != RemoteProtocolError("registry-rate-limited", "expected 200, got 429")
    assert RemoteProtocolError("timeout", "late") == RemoteProtocolError("timeout", "late")
    assert RemoteProtocolError("timeout", "late") != TowlineError("timeout", "late")
    assert RemoteProtocolError("timeout", "late") != "late"
    assert hash(RemoteProtocolError("timeout", "late")) == hash(RemoteProtocolError("timeout", "late"))


def test_two_families() -> None:
    assert issubclass(LocalProtocolError, TowlineError)
    assert issubclass(RemoteProtocolError, TowlineError)
    assert LocalProtocolError("no").kind == "broke-the-law"
