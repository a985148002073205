"""Third ring: `python arrest.py TREE`, in a fresh interpreter, plays the transcripts of TREE's core under arrest.

Arrested means: an import of a forbidden module from the core is refused, clocks and dice raise, the environment cannot
be read, and opening a file, a socket or a process raises. What the core may build on is loaded before.
Prints each machine that was played; ends with 1 and the reason at the first offence.
"""

from __future__ import annotations

import builtins
import datetime
import importlib
import importlib.abc
import importlib.util
import os
import pkgutil
import random
import sys
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

FORBIDDEN = frozenset(
    """socket ssl select selectors time random secrets asyncio trio anyio asyncssh threading subprocess logging http
    sqlite3 concurrent multiprocessing signal tempfile shutil glob urllib.request ftplib smtplib""".split()  # noqa: SIM905
)
LOADED_BEFORE = """
    hashlib hmac zlib base64 binascii bisect collections contextlib dataclasses enum fnmatch functools heapq io
    ipaddress itertools json lzma math operator re string struct textwrap typing unicodedata urllib.parse uuid ast gc
    difflib types decimal datetime h11 wsproto wsproto.connection wsproto.events wsproto.frame_protocol
    wsproto.extensions wsproto.utilities msgspec msgspec.json msgspec.structs""".split()  # noqa: SIM905
CODECS = ("isal.igzip_lib", "isal.isal_zlib", "backports.zstd", "compression.zstd")


# The import system would open files for it while under arrest.
sys.dont_write_bytecode = True


class Offence(BaseException):
    """The core did what it must not; a BaseException, so that nobody's `except Exception` hides it."""


def forbid(what: str) -> Any:
    def raiser(*_: object, **__: object) -> NoReturn:
        raise Offence(f"{what} was called")

    return raiser


class ForbiddenFinder(importlib.abc.MetaPathFinder):
    """Refuses what the core asks for and is not loaded yet; what is loaded, the guarded `__import__` refuses.

    The nearest frame of ours tells who asks: a room's test file may import what it likes.
    """

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name not in FORBIDDEN and name.split(".")[0] not in FORBIDDEN:
            return
        frame: types.FrameType | None = sys._getframe()
        while frame and not (asker := frame.f_globals.get("__name__", "")).startswith(("towline", "machines", "core")):
            frame = frame.f_back
        if frame and asker.startswith("towline"):
            raise Offence(f"import of {name}, for {asker} line {frame.f_lineno}")


def guarded_import(true_import: Any) -> Any:
    def guard(name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] = (), level: int = 0) -> Any:
        importer = (globals or {}).get("__name__", "")
        if importer.startswith("towline.core") and level == 0:
            names = {name, name.split(".")[0], *(f"{name}.{item}" for item in fromlist or ())}
            if names & FORBIDDEN:
                raise Offence(f"{importer} imports {name}")
        return true_import(name, globals, locals, fromlist, level)

    return guard


class NoEnvironment(dict[str, str]):
    """What `os.environ` is while the machines play."""

    __getitem__ = get = __contains__ = __iter__ = items = keys = values = forbid("os.environ")


class NoClock(datetime.datetime):
    now = utcnow = today = forbid("datetime.now")


LOUD = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "shutil.", "time.")
SOURCES = (".py", ".pyc", ".so")


def listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and not str(arguments[0]).endswith(SOURCES):
        raise Offence(f"open({arguments[0]!r})")
    if event.startswith(LOUD) or event == "_thread.start_new_thread":
        raise Offence(f"{event}{arguments!r}")


def arrest() -> None:
    """Take the clock, the dice, files, sockets and forbidden imports away, for good."""
    for module, names in (
        (time, "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time gmtime localtime sleep"),
        (os, "urandom getenv getrandom"),
        (random, "random randrange randint randbytes getrandbits choice shuffle uniform SystemRandom Random"),
    ):
        for name in names.split():
            setattr(module, name, forbid(f"{module.__name__}.{name}"))
    datetime.datetime = NoClock  # type: ignore[misc]
    sys.meta_path.insert(0, ForbiddenFinder())
    builtins.__import__ = guarded_import(builtins.__import__)
    sys.addaudithook(listen)


class Anything:
    """Stands for hypothesis here: the rooms' files build their strategies, and nobody draws from them."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *told: Any, **_: Any) -> Any:
        return self

    def __or__(self, other: Any) -> Any:
        return self

    __ror__ = __getitem__ = __or__


def pretend_hypothesis() -> None:
    anything = Anything()
    for name in ("hypothesis", "hypothesis.strategies"):
        module = types.ModuleType(name)
        module.__getattr__ = lambda name: anything  # type: ignore[method-assign]
        sys.modules[name] = module
    sys.modules["hypothesis"].strategies = sys.modules["hypothesis.strategies"]  # type: ignore[attr-defined]


def main(tree: Path) -> int:
    sys.path[:0] = [str(tree / "core"), str(tree / "tests"), str(tree)]
    for name in LOADED_BEFORE:
        importlib.import_module(name)
    for name in CODECS:
        if importlib.util.find_spec(name.split(".")[0]):
            try:
                importlib.import_module(name)
            except ImportError:
                print(f"without {name}")
    pretend_hypothesis()
    # A first round, free: the rooms' files are tests, and what they stand on may read files when it is imported.
    # Then all that it loaded of ours, and all that is forbidden, is forgotten, and imported again arrested.
    before = set(sys.modules)
    importlib.import_module("machines.case").load_cases()
    importlib.import_module("transcript_book")
    for name in set(sys.modules) - before:
        where = str(getattr(sys.modules[name], "__file__", None) or "")
        ours = where.startswith(str(tree)) and "site-packages" not in where
        if ours or name.split(".")[0] in {"towline", "machines", *FORBIDDEN}:
            del sys.modules[name]
    texts = [(path.name, path.read_text()) for path in sorted((tree / "tests" / "transcripts").glob("*.txt"))]
    arrest()
    try:
        core = importlib.import_module("towline.core")
        if not str(core.__file__).startswith(str(tree)):
            raise SystemExit(f"expected the core of {tree}, got {core.__file__}")
        for module in pkgutil.walk_packages(core.__path__, "towline.core."):
            importlib.import_module(module.name)
        cases = importlib.import_module("machines.case").load_cases()
        oracle = importlib.import_module("machines.oracle")
        book = importlib.import_module("transcript_book")
        makers = {case.name: case for case in cases}
        os.environ = NoEnvironment()  # type: ignore[assignment]  # noqa: B003
        for case in cases:
            oracle.play(case.make(), case.conversation())
            print(f"played {case.name}")
        for name, text in texts:
            book.replayed(text, makers)
            print(f"played {name}")
    except Offence as offence:
        print(f"arrested: {offence}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
