"""What layers put together come to: the files of interest in an image, found through links.

Links resolve inside the view only. What a link leads to and no layer kept is told as missing, so that a second pass
over the one layer that has it can bring it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias

from towline.core._contract import Record
from towline.core._limits import Limits
from towline.core.layer._content import KeptFile, LayerContent
from towline.core.layer._names import common, encoded, parents


class ViewFile(Record, frozen=True):
    """A regular file of the image: where it really is, what was kept of it, and the layer that brought it."""

    path: str
    kept: KeptFile
    layer: int

    @property
    def data(self) -> bytes | None:
        return self.kept.data


class Missing(Record, frozen=True):
    """A file (or all files of a folder, with a `/` at the end) that only a link made interesting."""

    layer: int
    path: str


class Link(Record, frozen=True):
    """A symlink, or a hard link whose target is not kept."""

    kind: Literal["symlink", "hardlink"]
    target: str
    layer: int


Node: TypeAlias = ViewFile | Link

# Names that one path may lead through, links and all; a real one has some twenty.
_STEPS: Final = 512


class ImageView:
    """The files of interest in an image, as they are after all its layers."""

    def __init__(self, layers: Sequence[LayerContent], nodes: dict[str, Node], links: set[str], limits: Limits) -> None:
        self._nodes = nodes
        self._links = links
        self._hops = limits.symlink_hops
        self.layers = tuple(layers)

    def resolve(self, path: str) -> str | None:
        """Return the real path behind a path, through every link on the way; None in a loop. It need not exist."""
        return resolved(path, self._nodes, self._links, self._hops, follow_last=True)

    def read(self, path: str) -> ViewFile | None:
        """Return the file at a path, through links; None if there is none of interest."""
        real = self.resolve(path)
        node = self._nodes.get(real) if real is not None else None
        return node if isinstance(node, ViewFile) else None

    def files(self) -> list[ViewFile]:
        """Every regular file of interest: the top layer's first, then in order of the archive."""
        found = [node for node in self._nodes.values() if isinstance(node, ViewFile)]
        found.sort(key=lambda file: -file.layer)
        return found

    def folder(self, path: str) -> list[ViewFile]:
        """Return the files of interest below a folder (through links), by path."""
        real = self.resolve(path.rstrip("/"))
        if real is None:
            return []
        prefix = real + "/" if real else ""
        below = [node for at, node in self._nodes.items() if isinstance(node, ViewFile) and at.startswith(prefix)]
        return sorted(below, key=lambda file: file.path)

    def symlinks(self) -> list[str]:
        """Every path that is a symlink: the top layer's first, then in order of the archive."""
        found = [(node.layer, at) for at, node in self._nodes.items() if isinstance(node, Link)]
        found.sort(key=lambda pair: -pair[0])
        return [at for _, at in found]

    def versions(self, path: str) -> list[tuple[int, KeptFile]]:
        """Return what each layer brought for a path (through the final view's links), the lowest layer first."""
        real = self.resolve(path)
        if real is None:
            return []
        found = []
        for index, layer in enumerate(self.layers):
            kept = layer.files.get(real)
            if kept is None and real in layer.hard_links and isinstance(node := self._nodes.get(real), ViewFile):
                kept = node.kept if node.layer == index else None
            if kept is not None:
                found.append((index, kept))
        return found

    def missing(self, paths: Iterable[str], folders: Iterable[str] = ()) -> list[Missing]:
        """Return the files, and below `folders` all files, which a path leads to by a link and no layer kept.

        A path without a link needs no second pass: what it names was wanted in the first.
        """
        top = len(self.layers) - 1
        wants: dict[str, int] = {}
        for path in paths:
            real = self.resolve(path)
            if real is not None and real != path and real not in self._nodes:
                wants[real] = top
        for node in self._nodes.values():
            if isinstance(node, Link) and node.kind == "hardlink":
                wants.setdefault(node.target, node.layer)
        found = self._having(wants)
        for folder in folders:
            real = self.resolve(folder.rstrip("/"))
            if real and real != folder.rstrip("/"):
                found += self._having_folder(real)
        return found

    def _having(self, wants: dict[str, int]) -> list[Missing]:
        """Find for each path the topmost layer, up to the one given, that has it as a file and did not keep it."""
        left = {encoded(path): (path, highest) for path, highest in wants.items()}
        found: list[Missing] = []
        for index in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[index]
            for name in sorted(common(layer.names, {name for name, (_, highest) in left.items() if highest >= index})):
                path, _ = left.pop(name)
                if path not in layer.files and path not in layer.symlinks:
                    found.append(Missing(index, path))
        return found

    def _having_folder(self, folder: str) -> list[Missing]:
        """Find the layers that have a folder whose files they were not asked to keep."""
        prefix, name = folder + "/", {encoded(folder)}
        return [
            Missing(index, prefix)
            for index, layer in enumerate(self.layers)
            if not any(prefix in wanted.folders for wanted in layer.passes)
            and (common(layer.folders, name) or common(layer.implied, name))
        ]


def resolved(path: str, nodes: dict[str, Node], links: set[str], hops: int, *, follow_last: bool) -> str | None:
    """Follow the links in a path from its root on; None after too many, or after too many names."""
    if path not in links and links.isdisjoint(parents(path)):
        return path
    todo = path.split("/")[::-1]
    done: list[str] = []
    for _ in range(_STEPS):
        if not todo:
            return "/".join(done)
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if done:
                done.pop()
            continue
        done.append(part)
        at = "/".join(done)
        if at in links and (todo or follow_last):
            hops -= 1
            node = nodes[at]
            if hops < 0 or not isinstance(node, Link):
                return None
            done = []
            todo += node.target.split("/")[::-1]
    return None
