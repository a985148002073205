"""Which files of a layer are worth keeping: a record that travels in plans, and the selector made from it."""

from __future__ import annotations

from towline.core._contract import Record
from towline.core._limits import LIMITS, Limits
from towline.core.layer._glob import Globs


class Wanted(Record, frozen=True):
    """What to keep of a layer. Paths have no leading `/`; folders end in one.

    `databases` are kept up to `scan_database` bytes, everything else up to `scan_file`. `hashed` are endings of paths
    whose files are hashed and not kept. `patterns`, `include` and `exclude` are globs; `exclude` takes away from
    `include` only.
    """

    databases: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    hashed: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.databases or self.files or self.folders or self.include or self.hashed or self.patterns)


class Selector:
    """A Wanted, ready to be asked about very many paths."""

    __slots__ = ("_exact", "_file_most", "_folders", "_globs", "_has_globs", "_hashed", "_patterns")

    def __init__(self, wanted: Wanted, limits: Limits = LIMITS) -> None:
        self._file_most = limits.scan_file
        self._exact = dict.fromkeys(wanted.files, limits.scan_file) | dict.fromkeys(
            wanted.databases, limits.scan_database
        )
        self._folders = wanted.folders
        self._hashed = wanted.hashed
        self._globs = Globs(wanted.include, wanted.exclude)
        self._patterns = Globs(wanted.patterns)
        self._has_globs = bool(self._globs)

    def most(self, path: str) -> int:
        """Return how many bytes of this file may be kept; 0 if it is of no interest."""
        most = self._exact.get(path, 0)
        if most:
            return most
        if (self._folders and path.startswith(self._folders)) or self._patterns.match(path):
            return self._file_most
        if self._has_globs and self._globs.match(path):
            return self._file_most
        return 0

    def hashes(self, path: str) -> bool:
        """Whether this file's digest is of interest."""
        return path.endswith(self._hashed)
