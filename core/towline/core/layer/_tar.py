"""A tar archive read as it comes: every dialect that layers are written in, strict, and cheap where it is skipped.

Bytes are pushed in; members go to a `Members` object, which says for each whether it wants the body. Nothing is
allocated for a body that nobody wants, and no record is made of one that somebody does.

Dialects: v7, ustar, GNU (long names, base-256, old sparse), pax (local and global records; sparse 0.0, 0.1, 1.0).
Source:   POSIX.1-2017 pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual, "Basic Tar Format"
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, Protocol, TypeAlias

from towline.core._contract import Data
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core.layer._names import normal
from towline.core.layer._pax import (
    SPARSE_MOST,
    SPARSE_PAIRS,
    SPARSE_PAIRS_MORE,
    bad,
    checksum_holds,
    decimal,
    number,
    pax_records,
    sparse_map,
    sparse_pairs,
)
from towline.core.layer._sparse import Expander

Kind: TypeAlias = Literal["file", "folder", "symlink", "hardlink", "other"]

BLOCK: Final = 512
_ZEROS: Final = bytes(BLOCK)
_NO_RECORDS: Final[dict[str, str]] = {}

# Types whose header stands alone, whatever its size field says.
_ALONE: Final[dict[bytes, Kind]] = {b"2": "symlink", b"3": "other", b"4": "other", b"5": "folder", b"6": "other"}
_DESCRIBE: Final = frozenset((b"x", b"g", b"X", b"L", b"K"))  # X: Solaris' name for x
_FILES: Final = frozenset((b"0", b"\0", b"7"))


class Members(Protocol):
    """What a TarReader tells its members to."""

    def member(self, path: str, kind: Kind, size: int, link: str) -> bool:
        """A member began; return whether `piece` and `done` shall follow with its body. Paths are normal."""

    def piece(self, data: Data) -> None: ...

    def done(self) -> None: ...

    def unknown(self, path: str, type_flag: str) -> None:
        """A member of a type that no dialect defines was skipped."""


class TarReader:
    """Reads one archive.

    Shape:   pieces may be cut anywhere; `end` is called once after the last
    Bounds:  `tar_entries` headers ("bomb"), `tar_name`, `tar_depth`, `tar_pax`, `tar_pax_records` ("bad-archive")
    Raises:  "bad-archive" for anything that is not a tar archive, with the offset of the header it concerns

    An archive may end without its two zero blocks, at any block boundary; what follows them is padding.
    """

    def __init__(self, members: Members, limits: Limits = LIMITS) -> None:
        self._members = members
        self._limits = limits
        self._held = bytearray()  # the first bytes of a header that is cut; shorter than a block
        self._left = 0  # body bytes still to come. Never negative.
        self._pad = 0  # padding after them
        self._body: Callable[[memoryview], None] | None = None
        self._then: Callable[[], None] | None = None
        self._collected = bytearray()
        self._zeros = 0
        self._global: dict[str, str] = _NO_RECORDS
        self._records: dict[str, str] | None = None
        self._long_name: str | None = None
        self._long_link: str | None = None
        self._offset = 0
        self._expanded = 0
        self.entries = 0

    def feed(self, data: Data) -> None:
        view = memoryview(data)
        at, end = 0, len(view)
        while at < end:
            if self._left:
                take = min(self._left, end - at)
                if self._body is not None:
                    self._body(view[at : at + take])
                self._left -= take
                at += take
                if self._left == 0 and self._then is not None:
                    self._finish_body()
            elif self._pad:
                take = min(self._pad, end - at)
                self._pad -= take
                at += take
            elif self._zeros == 2:
                return
            elif not self._held and end - at >= BLOCK:
                self._block(bytes(view[at : at + BLOCK]))
                at += BLOCK
            else:
                take = min(BLOCK - len(self._held), end - at)
                self._held += view[at : at + take]
                at += take
                if len(self._held) == BLOCK:
                    block = bytes(self._held)
                    self._held.clear()
                    self._block(block)

    def end(self) -> None:
        if self._left or self._pad:
            raise bad(f"expected {self._left + self._pad} more bytes of the member before {self._offset}, got the end")
        if self._held:
            raise bad(f"expected a header of {BLOCK} bytes at {self._offset}, got {len(self._held)} and the end")
        if self._records is not None or self._long_name is not None or self._long_link is not None:
            raise bad(f"expected a member at {self._offset}, after the header that describes it, got the end")

    # ── headers ────────────────────────────────────────────────────────────────
    def _block(self, block: bytes) -> None:
        here = self._offset
        self._offset += BLOCK
        if block == _ZEROS:
            self._zeros += 1
            return
        if self._zeros:
            raise bad(f"expected a second zero block at {here}, got a header")
        try:
            self._header(block)
        except RemoteProtocolError as error:
            if " at offset " not in error.message:
                error.message += f" (header at offset {here})"
                error.args = (error.message,)
            raise

    def _header(self, block: bytes) -> None:
        if not checksum_holds(block):
            raise bad("expected a tar header, got a block whose checksum does not hold")
        self.entries += 1
        if self.entries > self._limits.tar_entries:
            raise RemoteProtocolError("bomb", f"expected at most {self._limits.tar_entries} entries, got more")
        size = number(block[124:136], "size")
        flag = block[156:157]
        if flag in _DESCRIBE:
            self._describe(flag, size)
            return
        records = self._global if self._records is None else self._records
        if "size" in records:
            size = decimal(records["size"], "pax size")
        name = records.get("path")
        if name is None:
            name = self._long_name if self._long_name is not None else _name(block)
        name = records.get("GNU.sparse.name", name)
        link = records.get("linkpath")
        if link is None:
            link = self._long_link if self._long_link is not None else _text(block[157:257])
        self._records = self._long_name = self._long_link = None
        self._member(block, flag, name, link, size, records)

    def _member(self, block: bytes, flag: bytes, name: str, link: str, size: int, records: dict[str, str]) -> None:
        if len(name) > self._limits.tar_name or len(link) > self._limits.tar_name:
            raise bad(f"expected names of at most {self._limits.tar_name} bytes, got a longer one")
        path = normal(name)
        if path.count("/") >= self._limits.tar_depth:
            raise bad(f"expected paths of at most {self._limits.tar_depth} folders, got a deeper one")
        if flag in _FILES:
            if name.endswith("/"):
                self._skip(size)
                self._members.member(path, "folder", 0, "")
            elif "GNU.sparse.size" in records or "GNU.sparse.major" in records:
                self._pax_sparse(path, size, records)
            else:
                self._plain(path, "file", size, "")
        elif flag in _ALONE:
            self._members.member(path, _ALONE[flag], 0, link)
        elif flag == b"1":
            # Some pax writers store the file's data with its links: what the size field says is there.
            self._plain(path, "hardlink", size, link)
        elif flag == b"S":
            self._old_sparse(block, path, size)
        else:
            self._skip(size)
            if flag == b"D":  # GNU: a folder with a list of its members as data
                self._members.member(path, "folder", 0, "")
            elif flag != b"V":  # GNU: the volume's label
                self._members.unknown(path, flag.decode("latin-1"))

    # ── bodies ─────────────────────────────────────────────────────────────────
    def _skip(self, size: int) -> None:
        self._left = size
        self._pad = -size % BLOCK
        self._offset += size + self._pad
        self._body = self._then = None

    def _read(self, size: int, body: Callable[[memoryview], None], then: Callable[[], None]) -> None:
        self._skip(size)
        self._body, self._then = body, then
        if size == 0:
            self._finish_body()

    def _finish_body(self) -> None:
        then, self._then, self._body = self._then, None, None
        assert then is not None
        then()

    def _plain(self, path: str, kind: Kind, size: int, link: str) -> None:
        if self._members.member(path, kind, size, link):
            self._read(size, self._members.piece, self._members.done)
        else:
            self._skip(size)

    def _describe(self, flag: bytes, size: int) -> None:
        """A header about the next member: a pax header, or a GNU long name or link target."""
        most = self._limits.tar_name + 1 if flag in b"LK" else self._limits.tar_pax
        if size > most:
            raise bad(f"expected at most {most} bytes of type {flag.decode()!r}, got {size}")
        self._collected = bytearray()
        self._read(size, self._collect, lambda: self._described(flag, bytes(self._collected)))

    def _collect(self, data: memoryview) -> None:
        self._collected += data

    def _described(self, flag: bytes, body: bytes) -> None:
        if flag == b"L":
            self._long_name = _text(body)
        elif flag == b"K":
            self._long_link = _text(body)
        else:
            records = pax_records(body, self._limits)
            if flag == b"g":
                self._global = _merged(self._global, records)
            else:
                self._records = _merged(self._global, records)

    # ── sparse files ───────────────────────────────────────────────────────────
    def _expand(self, size: int, stretches: list[int], real_size: int) -> None:
        # The zeros of a sparse file cost its archive nothing, and whoever wanted it reads them.
        self._expanded += real_size
        if self._expanded > self._limits.scan_kept:
            raise RemoteProtocolError(
                "bomb", f"expected at most {self._limits.scan_kept} bytes of sparse files, got more"
            )
        expander = Expander(sparse_map(stretches, real_size), real_size, self._members.piece)

        def then() -> None:
            expander.end()
            self._members.done()

        self._read(size, expander.feed, then)

    def _old_sparse(self, block: bytes, path: str, size: int) -> None:
        real_size = number(block[483:495], "sparse file's size")
        wants = self._members.member(path, "file", real_size, "")
        stretches = sparse_pairs(block, 386, SPARSE_PAIRS)
        if block[482]:
            self._more_sparse(stretches, size, real_size, wants)
        elif wants:
            self._expand(size, stretches, real_size)
        else:
            self._skip(size)

    def _more_sparse(self, stretches: list[int], size: int, real_size: int, wants: bool) -> None:
        """Read one extension block of an old sparse map; it says whether another follows."""
        self._collected = bytearray()

        def then() -> None:
            block = bytes(self._collected)
            stretches.extend(sparse_pairs(block, 0, SPARSE_PAIRS_MORE))
            if len(stretches) > 2 * SPARSE_MOST:
                raise bad(f"expected at most {SPARSE_MOST} stretches in a sparse file, got more")
            if block[504]:
                self._more_sparse(stretches, size, real_size, wants)
            elif wants:
                self._expand(size, stretches, real_size)
            else:
                self._skip(size)

        self._read(BLOCK, self._collect, then)

    def _pax_sparse(self, path: str, size: int, records: dict[str, str]) -> None:
        major = records.get("GNU.sparse.major", "0")
        real_size = decimal(records.get("GNU.sparse.realsize") or records.get("GNU.sparse.size") or "", "sparse size")
        if not self._members.member(path, "file", real_size, ""):
            self._skip(size)
        elif major == "0":
            text = records.get("GNU.sparse.map", "")
            numbers = [decimal(part, "sparse map") for part in text.split(",")] if text else []
            self._expand(size, numbers, real_size)
        elif major == "1":
            self._collected = bytearray()
            self._sparse_head(size, real_size)
        else:
            raise bad(f"expected a GNU sparse file of version 0 or 1, got {major[:20]!r}")

    def _sparse_head(self, size: int, real_size: int) -> None:
        """Read a block of the map that stands before a 1.0 sparse file's data: numbers, one a line, in whole blocks."""
        if size < BLOCK:
            raise bad("expected the map of a sparse file in its data, got the end of it")

        def then() -> None:
            lines = bytes(self._collected).split(b"\n")
            complete = [decimal(line.decode("latin-1"), "sparse map") for line in lines[:-1] if line.strip(b"\0")]
            if complete and complete[0] > SPARSE_MOST:
                raise bad(f"expected at most {SPARSE_MOST} stretches in a sparse file, got {complete[0]}")
            if complete and len(complete) > 2 * complete[0]:
                self._expand(size - BLOCK, complete[1 : 1 + 2 * complete[0]], real_size)
            else:
                self._sparse_head(size - BLOCK, real_size)

        self._read(BLOCK, self._collect, then)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _name(block: bytes) -> str:
    """Return the name in a header; only POSIX's dialect has a prefix, star's a shorter one."""
    name = _text(block[:100])
    if block[345] and block[257:263] == b"ustar\0":
        prefix = _text(block[345:476] if block[508:512] == b"tar\0" else block[345:500])
        return f"{prefix}/{name}"
    return name


def _merged(before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    """Return records with later ones over them; an empty value takes a record away."""
    merged = {**before, **after}
    return {key: value for key, value in merged.items() if value}
