"""Every committed transcript, played again, is the same; and what is written can be read back."""

from __future__ import annotations

from pathlib import Path

import pytest
import transcript_book as book
from machines.case import load_cases
from machines.oracle import play, show

from towline.core import Body, Note, Refused, RemoteProtocolError, Secret

CASES = {case.name: case for case in load_cases()}
FILES = sorted(book.HERE.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_transcript_is_the_machine(path: Path) -> None:
    text = path.read_text()
    # Changed on purpose? `PYTHONPATH=tests python -m transcript_book NAME` writes it anew.
    assert book.difference(text, book.replayed(text, CASES)) == ""


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_conversation_can_be_written_and_read(name: str) -> None:
    conversation = CASES[name].conversation()
    text = book.written(name, play(CASES[name].make(), conversation))
    assert book.difference(text, book.replayed(text, CASES)) == ""


def test_a_changed_wish_is_seen() -> None:
    text = (book.HERE / "toy-echo.txt").read_text()
    assert "Transmit" in book.difference(text.replace("ONE", "one"), book.replayed(text, CASES))


def test_values_survive() -> None:
    facts = [
        (0.5, Refused(1, RemoteProtocolError("digest-mismatch", "expected a, got b", hint="ask again"))),
        (1.0, Note("info", "x", {"a": [1, -2.5, None, True], "b": Secret("canary"), "c": ("one",)})),
        (1.5, Body(memoryview(b"\0\xff'"))),
    ]
    text = "machine: any\n" + "".join(f"{now!r} < {show(fact)}\n" for now, fact in facts)
    assert book.parsed(text) == ("any", facts)


@pytest.mark.parametrize("line", ["__import__('os')", "Wake().link", "open('x')", "1 + 1"])
def test_a_transcript_is_not_a_program(line: str) -> None:
    with pytest.raises(ValueError, match="expected a record or a constant"):
        book.parsed(f"machine: any\n0.0 < {line}\n")
