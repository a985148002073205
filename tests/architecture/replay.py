"""Fourth ring, run in processes of their own: `python replay.py TREE` prints every wish of every transcript.

The test runs it under different PYTHONHASHSEEDs and compares the output byte for byte.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main(tree: Path) -> int:
    sys.path[:0] = [str(tree / "core"), str(tree / "tests"), str(tree)]
    book = importlib.import_module("transcript_book")
    oracle = importlib.import_module("machines.oracle")
    cases = importlib.import_module("machines.case").load_cases()
    for case in cases:
        print(book.written(case.name, oracle.play(case.make(), case.conversation())))
    for path in sorted((tree / "tests" / "transcripts").glob("*.txt")):
        print(book.replayed(path.read_text(), {case.name: case for case in cases}))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
