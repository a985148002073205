"""Explore one fuzz target: `python fuzz/run.py NAME --seconds 60`; `--list` names them, `--replay` runs the corpus.

No dependency beside the package's own: inputs are mutated at random from the corpus, and one that reaches a line of
`towline` not reached before joins the pool. A finding is written to `fuzz/corpus/NAME/` and ends the run with 1.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
LONGEST = 1 << 16
SLOW = 20.0
"""Seconds under the tracer after which an input is a finding by itself."""

Run = Callable[[bytes], None]


def target_names() -> list[str]:
    """Return the names of all targets."""
    return sorted(path.stem.removeprefix("target_") for path in HERE.glob("target_*.py"))


def load(name: str) -> Run:
    """Return a target's `run`."""
    module = importlib.import_module(f"fuzz.target_{name}")
    run: Run = module.run
    return run


def seeds(name: str) -> list[Path]:
    """Return a target's committed inputs."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file() and not path.name.startswith("."))


class Reach:
    """Which lines of the package were ever run. `new()` tells whether the last input added some."""

    def __init__(self) -> None:
        self._lines: set[tuple[CodeType, int]] = set()
        self._before = 0

    def __len__(self) -> int:
        return len(self._lines)

    def __enter__(self) -> None:
        self._before = len(self._lines)
        sys.settrace(self._enter)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def new(self) -> bool:
        return len(self._lines) > self._before

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if "/towline/" in frame.f_code.co_filename else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        self._lines.add((frame.f_code, frame.f_lineno))
        return self._line


INTERESTING = (b"\0", b"\xff", b"\r\n", b"\r\n\r\n", b"\x7f", b"\x80", b'"', b"\\", b"%", b",", b";", b"=", b":", b"/")
NUMBERS = (b"0", b"-1", b"65535", b"65536", b"4294967296", b"18446744073709551616", b"1e999", b"NaN")


def mutate(chance: random.Random, pool: list[bytes]) -> bytes:
    """Return a change of one input, or a splice of two."""
    data = bytearray(chance.choice(pool))
    for _ in range(1 << chance.randrange(5)):
        at = chance.randrange(len(data) + 1)
        size = 1 << chance.randrange(7)
        match chance.randrange(9):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(data):
                data[at] = chance.randrange(256)
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = data[at : at + size]
            case 4:
                data[at:at] = chance.choice(INTERESTING) * chance.choice((1, 1, 2, 64))
            case 5:
                data[at:at] = chance.choice(NUMBERS)
            case 6:
                other = chance.choice(pool)
                begin = chance.randrange(len(other) + 1)
                data[at:] = other[begin:]
            case 7:
                data[at : at + size] = chance.randbytes(size)
            case _:
                other = chance.choice(pool)
                begin = chance.randrange(len(other) + 1)
                data[at:at] = other[begin : begin + size]
    return bytes(data[:LONGEST])


def trouble(run: Run, data: bytes) -> str | None:
    """Return the traceback if the target did not hold, else None."""

    def too_slow(*_: object) -> None:
        raise TimeoutError(f"an input of {len(data)} bytes takes more than {SLOW:g} s")

    before = signal.signal(signal.SIGALRM, too_slow)
    signal.setitimer(signal.ITIMER_REAL, SLOW)
    try:
        run(data)
    except Exception:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return None


def shrink(run: Run, data: bytes, until: float) -> bytes:
    """Return a smaller input that fails too; gives up at `until`."""
    size = len(data) // 2
    while size:
        at = 0
        while at < len(data) and time.monotonic() < until:
            less = data[:at] + data[at + size :]
            if trouble(run, less):
                data = less
            else:
                at += size
        size //= 2
    return data


def explore(name: str, seconds: float, seed: int) -> int:
    """Mutate until the time is up or something is found. Returns the exit code."""
    run = load(name)
    chance = random.Random(seed)
    pool = [path.read_bytes() for path in seeds(name)] or [b""]
    reach = Reach()
    until = time.monotonic() + seconds
    tried = 0
    while time.monotonic() < until:
        data = pool[tried] if tried < len(pool) else mutate(chance, pool)
        tried += 1
        with reach:
            found = trouble(run, data)
        if found:
            data = shrink(run, data, time.monotonic() + 10)
            path = CORPUS / name / f"crash-{hashlib.sha256(data).hexdigest()[:12]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            print(trouble(run, data) or found, file=sys.stderr)
            print(f"{name}: found after {tried} inputs; kept as {os.path.relpath(path)} ({len(data)} bytes)")
            print("rename it to its issue when it is fixed, and commit it: the tests replay it")
            return 1
        if reach.new() and data not in pool:
            pool.append(data)
    print(
        f"{name}: {tried} inputs in {seconds:g} s, {len(reach)} lines reached, {len(pool)} in the pool, nothing found"
    )
    return 0


def replay(name: str) -> int:
    """Run the committed corpus once. Returns the exit code."""
    run = load(name)
    bad = 0
    for path in seeds(name):
        if found := trouble(run, path.read_bytes()):
            bad += 1
            print(f"{path.name}:\n{found}", file=sys.stderr)
    print(f"{name}: {len(seeds(name))} inputs, {bad} bad")
    return 1 if bad else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="a target; `all` takes each in turn")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long for each target (default 60)")
    parser.add_argument("--seed", type=int, default=None, help="of the mutations; chosen and printed if not given")
    parser.add_argument("--replay", action="store_true", help="run the committed corpus and stop")
    parser.add_argument("--list", action="store_true", help="name the targets")
    options = parser.parse_args(arguments)
    if options.list:
        for name in target_names():
            print(f"{name:24} {len(seeds(name))} inputs")
        return 0
    names = target_names() if options.name == "all" else [options.name]
    if options.name is None or not set(names) <= set(target_names()):
        parser.error(f"expected one of {', '.join(target_names())}, or all")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    if not options.replay:
        print(f"seed {seed}")
    return max(replay(name) if options.replay else explore(name, options.seconds, seed) for name in names)


if __name__ == "__main__":
    root = HERE.parent
    sys.path[:0] = [str(root / part) for part in ("", "tests", "core", "drivers", "runtimes")]
    sys.exit(main())
