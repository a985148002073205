"""A tar archive: any bytes, wanted or skipped, whole or cut, tell the same members or the same refusal."""

from __future__ import annotations

from fuzz.harness import Bytes
from towline.core import Data, Limits, TowlineError
from towline.core.layer import Kind, TarReader

TIGHT = Limits(tar_entries=100, tar_pax=1 << 16, scan_kept=1 << 20)


class Told:
    def __init__(self) -> None:
        self.members: list[tuple[str, str, int, str]] = []
        self.bodies: list[bytes] = []
        self.taken = 0

    def member(self, path: str, kind: Kind, size: int, link: str) -> bool:
        assert not path.startswith("/")
        assert ".." not in path.split("/")
        self.members.append((path, kind, size, link))
        self.bodies.append(b"")
        return size < 1 << 20

    def piece(self, data: Data) -> None:
        self.bodies[-1] += bytes(data)

    def done(self) -> None:
        if self.members[-1][1] == "file":
            assert len(self.bodies[-1]) == self.members[-1][2]

    def unknown(self, path: str, type_flag: str) -> None:
        self.members.append((path, "unknown", 0, type_flag))
        self.bodies.append(b"")


def read(data: bytes, cut: int) -> object:
    told = Told()
    reader = TarReader(told, TIGHT)
    try:
        for at in range(0, len(data), cut):
            reader.feed(data[at : at + cut])
        reader.end()
    except TowlineError as error:
        return error.kind, error.message, told.members
    return told.members, told.bodies


def run(data: bytes) -> None:
    script = Bytes(data)
    cut = 1 + script.byte() * 3
    rest = script.rest()
    assert read(rest, len(rest) or 1) == read(rest, cut)
