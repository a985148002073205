"""One SQLite file that survives a kill at any instruction, and is replaced when it does not (security.md §7).

WAL with `synchronous=FULL`: a transaction that returned is on the disk. The file is 0600 and locked against a
second process. A file that is torn or corrupt is set aside under a name with the time in it, and a new one is
begun; a file of a newer version is left alone and refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from towline.core import RemoteProtocolError, TowlineError

T = TypeVar("T")

# "TOWL": tells our files from others' before anything in them is read.
APPLICATION_ID: Final = 0x544F574C
_BROKEN: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Database:
    """An open file with its schema brought up to date. Used by one thread at a time.

    `notice` is a sentence for the log when a broken file was set aside, else None.
    """

    def __init__(self, path: Path, migrations: Sequence[str]) -> None:
        self.path = path
        self.notice: str | None = None
        self._inside = False
        self._lock = _locked(path)
        try:
            try:
                self.connection = _opened(path, migrations)
            except _Broken as broken:
                self.notice = _set_aside(path, str(broken))
                self.connection = _opened(path, migrations)
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Close the file; its write-ahead log is folded in."""
        with contextlib.suppress(sqlite3.Error):
            self.connection.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside happens or nothing does. Inside `batch` it is a part that can fail alone.

        Raises:  TowlineError("insufficient-disk") when the disk is full, "internal" when the file fails
        """
        begin, commit, undo = (
            ("SAVEPOINT part", "RELEASE part", "ROLLBACK TO part; RELEASE part")
            if self._inside
            else ("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK")
        )
        outer, self._inside = self._inside, True
        try:
            self.connection.execute(begin)
            try:
                yield self.connection
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    for statement in undo.split(";"):
                        self.connection.execute(statement)
                raise
            self.connection.execute(commit)
        except sqlite3.Error as error:
            if not outer:
                with contextlib.suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")
            raise _translated(error, self.path) from None
        finally:
            self._inside = outer

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read, inside a transaction or outside of one; errors of the file are translated."""
        try:
            yield self.connection
        except sqlite3.Error as error:
            raise _translated(error, self.path) from None

    def batch(self, operations: Sequence[Callable[[], T]]) -> list[T | Exception]:
        """Run operations in one transaction, so that many share one wait for the disk.

        One that raises is undone alone and its exception takes its place; when the file itself fails, all fail.
        """
        answers: list[T | Exception] = []
        try:
            with self.transaction():
                for operation in operations:
                    try:
                        # Several calls in one operation happen together or not at all.
                        with self.transaction():
                            answer = operation()
                        answers.append(answer)
                    except Exception as error:
                        if not self.connection.in_transaction:
                            # A full disk may end the whole transaction, and with it what came before.
                            raise
                        answers.append(error)
        except TowlineError as error:
            return [error for _ in operations]
        return answers


class _Broken(Exception):
    """The file cannot be used, and a new one can take its place."""


def _locked(path: Path) -> int:
    # A file of its own: closing any other handle of the database would drop SQLite's locks.
    handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise RemoteProtocolError(
            "invalid-configuration",
            f"another process uses {path}",
            hint="give each agent and each results box a folder of its own",
        ) from None
    return handle


def _opened(path: Path, migrations: Sequence[str]) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    os.chmod(path, 0o600)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        _prepare(connection, path, migrations)
    except sqlite3.Error as error:
        connection.close()
        if _code(error) in _BROKEN:
            raise _Broken(str(error)) from None
        raise _translated(error, path) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    # What is deleted is overwritten: an inventory that was delivered does not linger in free pages.
    connection.execute("PRAGMA secure_delete=FAST")
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if tables and owner != APPLICATION_ID:
        raise RemoteProtocolError("invalid-configuration", f"{path} is a database of another program")
    if version > len(migrations):
        raise RemoteProtocolError(
            "invalid-configuration",
            f"{path} has schema version {version}, this program knows {len(migrations)}",
            hint="start the newer version again, or give this one another folder",
        )
    if tables:
        # Reads the whole file, which is what it costs to know before the first write that it is sound.
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _Broken(str(verdict))
    for number, script in enumerate(migrations[version:], version + 1):
        connection.executescript(
            f"BEGIN IMMEDIATE; {script}; PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={number}; COMMIT"
        )


def _set_aside(path: Path, why: str) -> str:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = path.with_name(f"{path.name}.broken-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.broken-{stamp}-{number}")
    os.rename(path, aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(path.with_name(path.name + suffix), aside.with_name(aside.name + suffix))
    return f"{path} is broken ({why[:200]}); it is kept as {aside.name}, and a new one is begun"


def _code(error: sqlite3.Error) -> int:
    # Without one it is an error of the module itself; extended codes carry the primary in their low byte.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _translated(error: sqlite3.Error, path: Path) -> TowlineError:
    if _code(error) == sqlite3.SQLITE_FULL:
        return RemoteProtocolError("insufficient-disk", f"no room to write {path.name}", hint="free some disk space")
    # The text of an SQLite error names tables and columns, never values.
    return RemoteProtocolError("internal", f"{path.name}: {type(error).__name__}: {str(error)[:200]}")
