"""An upload in pieces: its head and body do not depend on the cuts, and a head that is written reads the same.

The first byte is the size of the pieces, the rest is the upload.
"""

from __future__ import annotations

from fuzz.harness import BrokenPromise, Bytes, refused_or_taken
from towline.core.broker import UploadDecoder, UploadHead, encode_upload_head


def run(data: bytes) -> None:
    script = Bytes(data)
    size = script.byte() or 1
    upload = script.rest()
    whole = refused_or_taken(lambda: decoded(upload, len(upload) or 1))
    pieces = refused_or_taken(lambda: decoded(upload, size))
    if whole != pieces:
        raise BrokenPromise(f"cut by {size}, the upload reads {pieces!r} instead of {whole!r}")
    if whole is not None:
        head, _ = whole
        headers: dict[str, list[str]] = {}
        for name, value in head.headers:
            headers.setdefault(name, []).append(value)
        again, _ = decoded(encode_upload_head(head.status, headers, head.error_type), 1)
        if sorted(again.headers) != sorted(head.headers) or again.status != head.status:
            raise BrokenPromise("a head that was read is written differently")


def decoded(upload: bytes, size: int) -> tuple[UploadHead, bytes]:
    decoder = UploadDecoder()
    body = b"".join(bytes(decoder.feed(upload[at : at + size])) for at in range(0, len(upload), size))
    decoder.end()
    assert decoder.head is not None
    return decoder.head, body
