"""Archives and layers for tests: written by tarfile, described as a registry would, fed in any pieces."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from towline.core import LIMITS, Data, Limits
from towline.core.layer import LayerContent, LayerPlan, TarReader, Wanted, build

EVERYTHING = Wanted(include=("**",))


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def gzipped(data: bytes) -> bytes:
    codec = zlib.compressobj(6, zlib.DEFLATED, 31)
    return codec.compress(data) + codec.flush()


def tar_of(entries: Iterable[tuple[Any, ...]], fmt: int = tarfile.PAX_FORMAT) -> bytes:
    """`("file", path, bytes)`, `("folder", path)`, `("symlink" | "hardlink", path, target)`, `("fifo", path)`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt, encoding="utf-8", errors="surrogateescape") as archive:
        for kind, path, *more in entries:
            info = tarfile.TarInfo(path)
            if kind == "file":
                info.size = len(more[0])
                archive.addfile(info, io.BytesIO(more[0]))
                continue
            info.type = {
                "folder": tarfile.DIRTYPE,
                "symlink": tarfile.SYMTYPE,
                "hardlink": tarfile.LNKTYPE,
                "fifo": tarfile.FIFOTYPE,
            }[kind]
            info.linkname = more[0] if more else ""
            archive.addfile(info)
    return out.getvalue()


def cut(data: bytes, cuts: Sequence[int]) -> list[memoryview]:
    """Cut data into pieces of these lengths, over and over."""
    view, pieces, at, turn = memoryview(data), [], 0, 0
    while at < len(data):
        pieces.append(view[at : at + cuts[turn % len(cuts)]])
        at += cuts[turn % len(cuts)]
        turn += 1
    return pieces


def feed_through_window(feed: Callable[[Data], None], piece: Data) -> None:
    """Feed a piece as a driver's window brings it: its buffer is written over once the call is done."""
    window = bytearray(piece)
    feed(memoryview(window))
    window[:] = b"\xa5" * len(window)


def read_layer(
    blob: bytes,
    wanted: Wanted = EVERYTHING,
    *,
    cuts: Sequence[int] = (1 << 16,),
    limits: Limits = LIMITS,
    diff_id: str | None = None,
) -> LayerContent:
    """Run a layer's stream over a blob that is what its descriptor says."""
    stream = build(LayerPlan(sha256(blob), len(blob), diff_id, wanted=wanted, limits=limits))
    for piece in cut(blob, cuts):
        feed_through_window(stream.feed, piece)
    content = stream.end()
    assert isinstance(content, LayerContent)
    return content


class Recorder:
    """Members that wants every body and keeps all it is told."""

    def __init__(self, wants: bool = True) -> None:
        self.wants = wants
        self.told: list[list[Any]] = []
        self.unknowns: list[tuple[str, str]] = []

    def member(self, path: str, kind: str, size: int, link: str) -> bool:
        self.told.append([path, kind, size, link, b""])
        return self.wants and kind in ("file", "hardlink")

    def piece(self, data: Data) -> None:
        self.told[-1][4] += bytes(data)

    def done(self) -> None:
        pass

    def unknown(self, path: str, type_flag: str) -> None:
        self.unknowns.append((path, type_flag))


def read_tar(archive: bytes, cuts: Sequence[int] = (1 << 16,), limits: Limits = LIMITS, wants: bool = True) -> Recorder:
    recorder = Recorder(wants)
    reader = TarReader(recorder, limits)
    for piece in cut(archive, cuts):
        feed_through_window(reader.feed, piece)
    reader.end()
    return recorder
