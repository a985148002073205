"""What is left of a layer when its bytes have passed: the few contents that were wanted, and all names.

A LayerContent is a function of (diff ID, what was wanted, `CONTENT_VERSION`) and of nothing else, so it may be cached
under the three. It holds what putting layers together needs, and is a few MiB whatever the layer's size.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from towline.core._contract import Data, Record
from towline.core._limits import Limits
from towline.core.layer._names import NameKeep, normal, parents
from towline.core.layer._tar import Kind
from towline.core.layer._wanted import Selector, Wanted

CONTENT_VERSION: Final = 1

_WHITEOUT: Final = ".wh."
_AUFS: Final = ".wh..wh."
_OPAQUE: Final = ".wh..wh..opq"
_WARNINGS_MOST: Final = 100


class ProvedBlob(Record, frozen=True):
    """A blob whose size and digest hold."""

    digest: str
    size: int


class KeptFile(Record, frozen=True):
    """A regular file of interest: its bytes, unless it was only hashed or is too large (`data` is None)."""

    size: int
    data: bytes | None = None
    sha256: str | None = None
    too_large: bool = False


class LayerContent(Record, frozen=True):
    """One layer, proven, read and put down.

    `passes` are what was wanted, the first time and by any second pass. `files`, `hard_links` (path to target) and
    `symlinks` (path to text) are in order of their entries. `names` and `folders` are frozen NameKeeps of everything
    that is not a folder, and of the folders that have an entry; `implied` of those that have only something below them.
    """

    digest: str
    diff_id: str
    passes: tuple[Wanted, ...]
    size: int
    unpacked_bytes: int
    entries: int
    form: str
    files: dict[str, KeptFile]
    hard_links: dict[str, str]
    symlinks: dict[str, str]
    whiteouts: tuple[str, ...]
    opaque: tuple[str, ...]
    names: bytes
    folders: bytes
    implied: bytes
    warnings: tuple[str, ...] = ()

    def with_more(self, more: LayerContent) -> LayerContent:
        """Return this content with the files that a second pass over the same layer kept."""
        files = {**self.files, **{path: kept for path, kept in more.files.items() if path not in self.files}}
        return msgspec.structs.replace(self, files=files, passes=self.passes + more.passes)


class Collector:
    """The members of a layer's tar as they come; keeps what the selector wants and the name of everything else.

    Within a layer the last entry of a name counts: a later file takes the place of a folder and all below it, a
    later folder that of a file.
    """

    def __init__(self, wanted: Wanted, limits: Limits) -> None:
        self._selector = Selector(wanted, limits)
        self._limits = limits
        self._files: dict[str, KeptFile] = {}
        self._hard_links: dict[str, str] = {}
        self._symlinks: dict[str, str] = {}
        self._whiteouts: dict[str, None] = {}
        self._opaque: dict[str, None] = {}
        self._names = NameKeep(limits)
        self._folders = NameKeep(limits)
        self._implied = NameKeep(limits)
        self._seen_folders: set[str] = {""}
        # Those of the seen that are known to stand; forgotten as a whole when a file takes the place of one.
        self._standing: set[str] = {""}
        self._last_parent = ""
        # Entries in order, for those rare archives in which a file takes the place of a folder.
        self._order: dict[str, int] = {}
        self._replaced: dict[str, int] = {}
        self._count = 0
        self._kept_bytes = 0
        self._path = ""
        self._size = 0
        self._pieces: list[bytes] | None = None
        self._hash: Any = None
        self._warnings: dict[str, None] = {}

    # ── Members ────────────────────────────────────────────────────────────────
    def member(self, path: str, kind: Kind, size: int, link: str) -> bool:
        if not path:
            return False
        slash = path.rfind("/")
        parent = path[:slash] if slash > 0 else ""
        if parent != self._last_parent:
            self._last_parent = parent
            if parent not in self._standing:
                self._imply(parent)
        if ".wh." in path and self._is_mark(path, path[slash + 1 :], parent):
            return False
        self._count += 1
        if kind == "folder":
            self._folder(path)
            return False
        self._names.add(path)
        self._forget(path)
        if path in self._seen_folders:
            self._replaced[path] = self._count
            self._standing = {""}
            self._last_parent = ""
        if kind == "file":
            return self._file(path, size)
        if kind == "symlink":
            self._symlinks[path] = link
            self._order[path] = self._count
        elif kind == "hardlink":
            return self._hard_link(path, size, link)
        return False

    def piece(self, data: Data) -> None:
        if self._pieces is not None:
            self._pieces.append(bytes(data))
        else:
            self._hash.update(data)

    def done(self) -> None:
        if self._pieces is not None:
            kept = KeptFile(self._size, b"".join(self._pieces))
            if self._hash is not None:
                self._hash.update(kept.data or b"")
        else:
            kept = KeptFile(self._size)
        if self._hash is not None:
            kept = msgspec.structs.replace(kept, sha256=self._hash.hexdigest())
        self._files[self._path] = kept
        self._pieces = self._hash = None

    def unknown(self, path: str, type_flag: str) -> None:
        self._warn(f"an archive entry of unknown type {type_flag!r} was skipped: {path[:200]!a}")

    # ── what it comes to ───────────────────────────────────────────────────────
    def content(
        self, *, digest: str, diff_id: str, wanted: Wanted, size: int, unpacked: int, entries: int, form: str
    ) -> LayerContent:
        if self._replaced:
            for path in [path for path in self._order if self._is_replaced(path)]:
                self._forget(path)
        return LayerContent(
            digest=digest,
            diff_id=diff_id,
            passes=(wanted,),
            size=size,
            unpacked_bytes=unpacked,
            entries=entries,
            form=form,
            files=self._files,
            hard_links=self._hard_links,
            symlinks=self._symlinks,
            whiteouts=tuple(self._whiteouts),
            opaque=tuple(self._opaque),
            names=self._names.freeze(),
            folders=self._folders.freeze(),
            implied=self._implied.freeze(),
            warnings=tuple(self._warnings),
        )

    # ── entries of each kind ───────────────────────────────────────────────────
    def _file(self, path: str, size: int) -> bool:
        most = self._selector.most(path)
        hashes = self._selector.hashes(path)
        if not most and not hashes:
            return False
        self._order[path] = self._count
        if most and (size > most or self._kept_bytes + size > self._limits.scan_kept):
            self._warn(f"a file of {size} bytes is larger than what is kept of it: {ascii('/' + path[:200])[1:-1]}")
            most = 0
            if not hashes:
                self._files[path] = KeptFile(size, too_large=True)
                return False
        self._path, self._size = path, size
        if most:
            self._kept_bytes += size
            self._pieces = []
        if hashes:
            self._hash = hashlib.sha256(usedforsecurity=False)
        return True

    def _hard_link(self, path: str, size: int, link: str) -> bool:
        if not self._selector.most(path):
            return False
        if size:
            return self._file(path, size)
        self._order[path] = self._count
        self._hard_links[path] = normal(link)
        return False

    def _folder(self, path: str) -> None:
        self._seen_folders.add(path)
        self._standing.add(path)
        self._folders.add(path)
        if path in self._order:
            self._forget(path)

    def _imply(self, parent: str) -> None:
        """Take note of folders that have something below them; they may have no entry of their own."""
        while parent not in self._standing:
            self._seen_folders.add(parent)
            self._standing.add(parent)
            self._implied.add(parent)
            if parent in self._order:
                self._forget(parent)
            slash = parent.rfind("/")
            parent = parent[:slash] if slash > 0 else ""

    def _is_mark(self, path: str, name: str, parent: str) -> bool:
        """Whether an entry is a mark for lower layers, which never becomes a file; nor does anything below one."""
        if name.startswith(_WHITEOUT):
            if name == _OPAQUE:
                self._opaque[parent] = None
            elif not name.startswith(_AUFS):
                hidden = name[len(_WHITEOUT) :]
                if hidden in ("", ".", ".."):
                    self._warn(f"a whiteout that names nothing was skipped: {path[:200]!a}")
                else:
                    self._whiteouts[f"{parent}/{hidden}" if parent else hidden] = None
            return True
        return any(part.startswith(_WHITEOUT) for part in parent.split("/"))

    def _forget(self, path: str) -> None:
        if self._order.pop(path, None) is not None:
            self._files.pop(path, None)
            self._hard_links.pop(path, None)
            self._symlinks.pop(path, None)

    def _is_replaced(self, path: str) -> bool:
        return any(self._replaced.get(parent, 0) > self._order[path] for parent in parents(path))

    def _warn(self, text: str) -> None:
        if len(self._warnings) < _WARNINGS_MOST:
            self._warnings[text] = None
