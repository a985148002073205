"""A folder of blobs in the OCI image layout: what `pull` writes, and skopeo and containerd read.

Each blob is written beside its final place under a temporary name and renamed when its stream proved it, so
that a name in `blobs/` always has the bytes it promises. Nothing is synced to disk: a blob that a power cut
left torn fails its digest at the next read, and is fetched again. An archive (`.tar`) of the same tree is not
written here.

Source: OCI image-layout.md; descriptor.md, "Digests"
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from towline.core import Data, Plan, RemoteProtocolError

# The algorithms of descriptor.md, and the length of their digests in hex. Matched whole, because the text
# becomes a file name.
DIGEST: Final = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")


class OciLayoutStore:
    """A BlobStore over one folder, and the two documents that make the folder an image layout.

    Streams of different blobs may be written at once, from several threads; each sink is one thread's.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"OciLayoutStore({str(self.path)!r})"

    def open(self, plan: Plan) -> BlobSink:
        """Begin to write the blob whose digest the plan names."""
        return BlobSink(self.blob(getattr(plan, "digest", "")))

    def blob(self, digest: str) -> Path:
        """Return where the blob of this digest is, or would be.

        Raises: RemoteProtocolError "invalid-reference" for what is no digest, since it becomes a file's name
        """
        found = DIGEST.fullmatch(digest)
        if found is None:
            raise RemoteProtocolError("invalid-reference", f"expected a sha256 or sha512 digest, got {digest[:100]!r}")
        algorithm, _, name = digest.partition(":")
        return self.path / "blobs" / algorithm / name

    def has(self, digest: str, size: int) -> bool:
        """Whether a blob of this digest and size is kept already. Its bytes are not read again."""
        try:
            return self.blob(digest).stat().st_size == size
        except FileNotFoundError:
            return False

    def keep(self, digest: str, document: bytes) -> None:
        """Keep a manifest, an index or a config: bytes that are in memory, and are proved here."""
        algorithm = digest.partition(":")[0]
        place = self.blob(digest)
        if hashlib.new(algorithm, document).hexdigest() != place.name:
            raise RemoteProtocolError("digest-mismatch", f"expected bytes of {digest}, got {len(document)} others")
        write_atomically(place, document)

    def finish(self, manifests: Sequence[Mapping[str, Any]], annotations: Mapping[str, str] | None = None) -> None:
        """Write `oci-layout` and `index.json`; the folder is a layout once these are there.

        `manifests` are descriptors (mediaType, digest, size, …), in the order in which they shall be listed.
        """
        index: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [dict(descriptor) for descriptor in manifests],
        }
        if annotations:
            index["annotations"] = dict(annotations)
        (self.path / "blobs").mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        # The index is written last: it is what names the blobs, and they are there by then.
        write_atomically(self.path / "index.json", json.dumps(index, separators=(",", ":")).encode())


class BlobSink:
    """One blob on its way to its name. Also a context manager that aborts unless `commit` was called."""

    def __init__(self, place: Path) -> None:
        self._place = place
        place.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, so that the rename stays in one file system; 0600 while nothing is proved.
        number, self._path = tempfile.mkstemp(prefix=".", suffix=".part", dir=place.parent)
        self._file: BinaryIO | None = os.fdopen(number, "wb", buffering=0)

    def __enter__(self) -> BlobSink:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def write(self, data: Data) -> None:
        """Write all of it; a raw file may take less at a time."""
        assert self._file is not None
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or 0 :]

    def commit(self) -> None:
        """Give the blob its name, replacing one that is there: both have the same bytes."""
        assert self._file is not None
        os.fchmod(self._file.fileno(), 0o666 & ~_umask())
        self._file.close()
        os.replace(self._path, self._place)
        self._file = None

    def abort(self) -> None:
        """Throw the bytes away; after a commit there is nothing to throw."""
        if self._file is not None:
            self._file.close()
            self._file = None
            Path(self._path).unlink(missing_ok=True)


def write_atomically(place: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, whole."""
    with BlobSink(place) as sink:
        sink.write(data)
        sink.commit()


def _umask() -> int:
    """Return the process's umask. It can only be asked by setting it, where /proc does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o077
