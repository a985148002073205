"""Layers put together into one view of the image, by names and without unpacking anything.

From the lowest layer up: its marks and its own entries hide what is below them, then its entries are added.

Source:  OCI image-spec, layer.md, "Whiteouts", "Opaque Whiteout", "Applying Changesets"
"""

from __future__ import annotations

from collections.abc import Sequence

from towline.core._limits import LIMITS, Limits
from towline.core.layer._content import LayerContent
from towline.core.layer._names import common, encoded
from towline.core.layer._view import ImageView, Link, Node, ViewFile, resolved


def merge(layers: Sequence[LayerContent], limits: Limits = LIMITS) -> ImageView:
    """Put layers together, the lowest first. What is below a hidden path is found, not looked for."""
    tree = _Tree(limits.symlink_hops)
    for index, layer in enumerate(layers):
        if tree.nodes:
            _hide(layer, tree)
        _add(index, layer, tree)
    return ImageView(layers, tree.nodes, tree.links, limits)


class _Tree:
    """The nodes so far: by path, by the bytes of their name, and by the folder they are in."""

    def __init__(self, hops: int) -> None:
        self.nodes: dict[str, Node] = {}
        self.links: set[str] = set()
        # Every node, and every folder above one.
        self.known: dict[bytes, str] = {}
        self._children: dict[str, dict[str, None]] = {"": {}}
        self.hops = hops

    def real(self, path: str) -> str | None:
        """Return where a path is, through the links above it; None if that does not end."""
        return resolved(path, self.nodes, self.links, self.hops, follow_last=False)

    def put(self, path: str, node: Node) -> None:
        # Taken out first, so that the order is that of the layer that brought it.
        if self.nodes.pop(path, None) is None:
            self._attach(path)
        self.nodes[path] = node
        if isinstance(node, Link) and node.kind == "symlink":
            self.links.add(path)
        else:
            self.links.discard(path)

    def drop(self, path: str) -> None:
        if self.nodes.pop(path, None) is not None:
            self.links.discard(path)
            self._detach(path)

    def drop_below(self, folder: str) -> None:
        todo = list(self._children.get(folder, ()))
        while todo:
            path = todo.pop()
            todo += self._children.get(path, ())
            self.drop(path)

    def _attach(self, path: str) -> None:
        self.known[encoded(path)] = path
        while path:
            folder = path.rpartition("/")[0]
            siblings = self._children.get(folder)
            if siblings is not None:
                siblings[path] = None
                return
            self._children[folder] = {path: None}
            self.known[encoded(folder)] = folder
            path = folder

    def _detach(self, path: str) -> None:
        while path and path not in self._children and path not in self.nodes:
            del self.known[encoded(path)]
            folder = path.rpartition("/")[0]
            siblings = self._children[folder]
            del siblings[path]
            if siblings or not folder:
                return
            del self._children[folder]
            path = folder


def _hide(layer: LayerContent, tree: _Tree) -> None:
    """Take away what a layer hides of those below it."""
    known = tree.known
    # A non-folder hides a file and a folder of its name; a folder hides a non-folder. A folder without an entry of
    # its own is walked through where the lower layer has a link, as an unpacker would.
    covered = [known[name] for name in common(layer.names, known.keys())]
    folders = [known[name] for name in common(layer.folders, known.keys())]
    folders += [path for name in common(layer.implied, known.keys()) if (path := known[name]) not in tree.links]
    whiteouts = [tree.real(path) or path for path in layer.whiteouts]
    opaque = [tree.real(path) or path for path in layer.opaque]
    for path in (*covered, *folders, *whiteouts):
        tree.drop(path)
    for path in (*covered, *whiteouts, *opaque):
        tree.drop_below(path)


def _add(index: int, layer: LayerContent, tree: _Tree) -> None:
    """Add a layer's entries, through links of the layers below."""
    # Where each goes is settled before any is added: an entry does not go through a link of its own layer.
    files = [(tree.real(path), kept) for path, kept in layer.files.items()]
    symlinks = [(tree.real(path), text) for path, text in layer.symlinks.items()]
    for at, kept in files:
        if at is not None:
            tree.put(at, ViewFile(at, kept, index))
    for at, text in symlinks:
        if at is not None:
            target = text if text.startswith("/") else f"{at.rpartition('/')[0]}/{text}"
            tree.put(at, Link("symlink", target, index))
    _add_hard_links(index, layer.hard_links, tree)


def _add_hard_links(index: int, hard_links: dict[str, str], tree: _Tree) -> None:
    """Give each hard link what its target is; targets may stand behind their links, and be links themselves."""
    left = [(at, tree.real(target)) for path, target in hard_links.items() if (at := tree.real(path)) is not None]
    for _ in range(tree.hops):
        waiting = []
        for at, target in left:
            node = None if target is None else tree.nodes.get(target)
            if isinstance(node, ViewFile):
                tree.put(at, ViewFile(at, node.kept, index))
            elif isinstance(node, Link) and node.kind == "symlink":
                tree.put(at, Link("symlink", node.target, index))
            else:
                waiting.append((at, target))
        if len(waiting) == len(left):
            break
        left = waiting
    for at, target in left:
        if target is not None:
            tree.put(at, Link("hardlink", target, index))
