"""What a terminal gets that a pipe does not: live lines and tables, and never a colour where none is wanted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_tools import make_image
from command_tools import on_terminal, repository, serving, towline

ESCAPE = "\x1b"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving({"team/app": repository({"1.0": make_image(filler=3_000_000)})}) as address:
        yield address


def scan(address: str) -> tuple[str, ...]:
    return ("scan", f"{address}/team/app:1.0", "--plain-http")


def test_a_terminal_shows_live_lines_and_stdout_only_the_answer(address: str, tmp_path: Path) -> None:
    told = on_terminal(*scan(address), home=tmp_path)
    assert (told.code, told.out) == (0, "libc6 2.36-9+deb12u4\nbash 5.2.15-2+b2\n")
    assert ESCAPE in told.err
    assert "MiB" in told.err


@pytest.mark.parametrize(
    ("arguments", "terminal"),
    [(["--no-progress"], "xterm-256color"), (["-q"], "xterm-256color"), ([], "dumb"), ([], "")],
    ids=["no-progress", "quiet", "dumb", "no-term"],
)
def test_no_live_lines_where_none_are_wanted(arguments: list[str], terminal: str, address: str, tmp_path: Path) -> None:
    told = on_terminal(*scan(address), *arguments, home=tmp_path, TERM=terminal)
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("libc6 ")


def painted(shown: str) -> list[str]:
    """Return the sequences that colour or weigh text; moving the cursor is another matter."""
    return [found for found in re.findall(r"\x1b\[([0-9;]*)m", shown) if found not in ("", "0")]


def test_without_colour_the_live_lines_have_none(address: str, tmp_path: Path) -> None:
    pull = ("pull", f"{address}/team/app:1.0", "image", "--plain-http")
    assert painted(on_terminal(*pull, home=tmp_path).err)
    told = on_terminal(*pull, home=tmp_path, NO_COLOR="1")
    assert (told.code, painted(told.err)) == (0, [])


def test_a_terminal_gets_a_table(address: str, tmp_path: Path) -> None:
    told = on_terminal(*scan(address), "-q", home=tmp_path, out_too=True)
    lines = told.err.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["PACKAGE", "libc6", "bash"]


def test_a_pipe_gets_no_escape_and_no_live_line(address: str, tmp_path: Path) -> None:
    for arguments in (scan(address), ("pull", f"{address}/team/app:1.0", "image", "--plain-http")):
        told = towline(*arguments, home=tmp_path)
        assert (told.code, told.err) == (0, "")
        assert ESCAPE not in told.out
