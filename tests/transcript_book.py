"""Transcripts as text: what a machine was told, and what it wished, one record a line.

    machine: toy-echo
    0.0 < Wake()
        > Open(link=1, host='echo.test', port=7, tls=False, purpose='configured', route='direct')

`PYTHONPATH=tests python -m transcript_book [NAME ...]` writes `transcripts/<NAME>.txt`, from the good
conversation that each room registers.
A file may also come from a report: its facts are parsed and played into a fresh machine of that name.
"""

from __future__ import annotations

import ast
import difflib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from machines.oracle import Turn, play, show

from towline.core import RemoteProtocolError, Secret, TowlineError

GZIP = repr(b"\x1f\x8b")[2:-1]
HERE = Path(__file__).resolve().parent / "transcripts"

T = TypeVar("T")


def written(name: str, turns: list[Turn]) -> str:
    """Return a transcript as text."""
    lines = [f"machine: {name}"]
    for turn in turns:
        lines.append(f"{turn.now!r} < {show(turn.fact)}")
        lines += [f"    > {show(wish)}" for wish in turn.wishes]
        if turn.refusal is not None:
            lines.append(f"    ! {turn.refusal}")
    return "\n".join(lines) + "\n"


def parsed(text: str) -> tuple[str, list[tuple[float, Any]]]:
    """Return the machine's name and the facts of a transcript."""
    first, *lines = text.splitlines()
    vocabulary = words()
    facts = []
    for line in lines:
        if line and not line.startswith(" "):
            now, _, fact = line.partition(" < ")
            facts.append((float(now), value_of(ast.parse(fact, mode="eval").body, vocabulary)))
    return first.removeprefix("machine: "), facts


def words() -> dict[str, list[Any]]:
    """Return every record type that is loaded by its name; rooms may use a name for different records."""
    found: dict[str, list[Any]] = {kind.__name__: [kind] for kind in (Secret, TowlineError, RemoteProtocolError)}
    for kind in kinds_of(msgspec.Struct):
        if kind.__module__.split(".")[0] in ("towline", "machines"):
            found.setdefault(kind.__name__, []).append(kind)
    return found


def kinds_of(kind: type[T]) -> Iterator[type[T]]:
    for below in kind.__subclasses__():
        yield below
        yield from kinds_of(below)


def value_of(node: ast.expr, vocabulary: dict[str, list[Any]]) -> Any:
    """Return the value that an expression of `show` spells. It can make records and constants, and nothing else."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name(id="UNSET"):
            return msgspec.UNSET
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Tuple():
            return tuple(value_of(item, vocabulary) for item in node.elts)
        case ast.List():
            return [value_of(item, vocabulary) for item in node.elts]
        case ast.Set():
            return {value_of(item, vocabulary) for item in node.elts}
        case ast.Dict():
            return {
                value_of(key, vocabulary): value_of(item, vocabulary)
                for key, item in zip(node.keys, node.values)
                if key is not None
            }
        case ast.Call(func=ast.Name(id=name)) if name in vocabulary:
            told = [value_of(item, vocabulary) for item in node.args]
            fields = {word.arg: value_of(word.value, vocabulary) for word in node.keywords if word.arg}
            # `show` writes every field of a record, so its fields tell which of several it is.
            same = [kind for kind in vocabulary[name] if getattr(kind, "__struct_fields__", ()) == tuple(fields)]
            kind = (same or vocabulary[name])[0]
            return kind(**told[0]) if issubclass(kind, TowlineError) else kind(*told, **fields)
    raise ValueError(f"expected a record or a constant, got {ast.unparse(node)}")


def replayed(text: str, cases: dict[str, Any]) -> str:
    """Play a transcript's facts into a fresh machine and return what is then to be written."""
    name, facts = parsed(text)
    return written(name, play(cases[name].make(), facts))


def difference(expected: str, got: str) -> str:
    """Return the lines in which two transcripts differ, none if they are the same."""
    return "\n".join(difflib.unified_diff(expected.splitlines(), got.splitlines(), "committed", "played", lineterm=""))


def file_name(name: str) -> str:
    """Return a machine's name as that of a file: `tunnel-client-websocket` for "tunnel client, websocket"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def main(names: list[str]) -> int:
    from machines.case import load_cases

    for case in load_cases():
        if not names or case.name in names:
            text = written(case.name, play(case.make(), case.conversation()))
            if GZIP in text:
                print(f"{case.name}: not kept, compressed bytes are in it, and they differ by the compressor's release")
                continue
            (HERE / f"{file_name(case.name)}.txt").write_text(text)
            print(f"{file_name(case.name)}.txt: {len(text.splitlines())} lines, {len(text)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
