"""Blobs: streamed and proven, resumed where they were cut, never handed on before their digest is known.

The bytes go to a stream that hashes while they come; its verdict is the download's value. A cut download
goes on from where it is with Range, through the registry again, because the address of an object store is
short-lived. A server that ignores Range sends everything, and what is there already is passed over.
"""

from __future__ import annotations

from typing import Any, Final

from towline.core._contract import Instant, Record
from towline.core._errors import RemoteProtocolError, TowlineError
from towline.core._limits import MIB
from towline.core._script import Body, Broken, HeaderList, Step, begin, clock, end, feed, read, say, sleep, store
from towline.core._wire import Note, Plan
from towline.core.http import redacted
from towline.core.registry._access import Ask, ask
from towline.core.registry._digest import Digest
from towline.core.registry._failure import failure
from towline.core.registry._manifest import Descriptor
from towline.core.registry._retry import backoff
from towline.core.registry._send import Reply, Want
from towline.core.registry._session import Registry

PROGRESS_STEP: Final = MIB
# Pieces in a row that bring less than LIMITS.resume_progress: such a line will not bring the rest. Fewer where
# each costs half a minute of silence or of single bytes.
_STALLS: Final = 2
_STALLS_IN_SILENCE: Final = 1
_IDENTITY: Final = ("accept-encoding", "identity")


class Progress(Record, frozen=True):
    """How much of a blob has come; said at most once for each MiB, and at the end."""

    digest: str
    done_bytes: int
    total_bytes: int


def download_blob(
    registry: Registry, repository: str, descriptor: Descriptor, plan: Plan, *, keep: bool = False
) -> Step[Any]:
    """Stream a blob through `plan` and return what it proved; with `keep`, store its bytes as well.

    A digest that does not match is fetched once more from the beginning: bytes are damaged on the way, too.

    Bounds:  the descriptor's size, refused at the first byte too many; LIMITS.image_layer
    Raises:  digest-mismatch, size-mismatch, image-too-large, unsupported-media-type for a layer that is not
             here, what the plan's stream raises, and what a request raises
    """
    if descriptor.size > registry.limits.image_layer:
        raise RemoteProtocolError(
            "image-too-large", f"expected a blob of at most {registry.limits.image_layer} bytes, got {descriptor.size}"
        )
    try:
        return (yield from _attempt(registry, repository, descriptor, plan, keep))
    except TowlineError as error:
        if error.kind != "digest-mismatch":
            raise
        yield from say(Note("warning", "registry.fetch-again", {"digest": descriptor.digest, "why": error.message}))
    return (yield from _attempt(registry, repository, descriptor, plan, keep))


def get_blob_document(registry: Registry, repository: str, descriptor: Descriptor) -> Step[bytes]:
    """Get a small blob whole, such as a config, size and digest proven.

    Raises:  image-too-large above LIMITS.registry_document, digest-mismatch, size-mismatch, what a request raises
    """
    limit = registry.limits.registry_document
    if descriptor.size > limit:
        raise RemoteProtocolError(
            "image-too-large", f"expected a document of at most {limit} bytes, got {descriptor.size}"
        )
    if descriptor.data is not None:
        return descriptor.data
    want = Want(descriptor.size, "size-mismatch", may_leave=True)
    reply = yield from _ask(registry, repository, descriptor, (_IDENTITY,), want)
    if reply.status != 200:
        raise failure(registry, "blob", "GET", reply.head, reply.url, reply.body)
    _check_plain(reply)
    if len(reply.body) != descriptor.size:
        raise _wrong_size(descriptor, len(reply.body), reply)
    promised = Digest.parse(descriptor.digest)
    computed = Digest.of(reply.body, promised.algorithm)
    if computed != promised:
        raise RemoteProtocolError("digest-mismatch", f"expected {promised} from {redacted(reply.url)}, got {computed}")
    return reply.body


class _Download:
    """Where one attempt stands."""

    def __init__(self, stream: int, size: int) -> None:
        self.stream = stream
        self.size = size
        # Bytes given to the stream; never more than `size`.
        self.have = 0
        self.told = 0


def _attempt(registry: Registry, repository: str, descriptor: Descriptor, plan: Plan, keep: bool) -> Step[Any]:
    at = _Download(registry.streams.take(), descriptor.size)
    yield from begin(at.stream, plan, descriptor.size)
    resumes = stalls = 0
    while True:
        before = at.have
        broken = yield from _transfer(registry, repository, descriptor, at, keep)
        if broken is None:
            return (yield from end(at.stream))
        resumes += 1
        stalls = stalls + 1 if at.have - before < registry.limits.resume_progress else 0
        most = _STALLS_IN_SILENCE if broken.kind == "timeout" else _STALLS
        if resumes > registry.limits.resumes or stalls > most:
            raise RemoteProtocolError(
                broken.kind,
                f"expected {descriptor.size} bytes of {descriptor.digest},"
                f" got {at.have} in {resumes} pieces: {broken.why}",
            )
        fields = {"digest": descriptor.digest, "have_bytes": at.have, "size_bytes": at.size, "why": broken.why}
        yield from say(Note("info", "registry.resume", fields))
        now: Instant = yield from clock()
        yield from sleep(now + backoff(resumes - 1, registry.entropy, registry.limits))


def _transfer(
    registry: Registry, repository: str, descriptor: Descriptor, at: _Download, keep: bool
) -> Step[Broken | None]:
    """Ask for what is missing and feed it; return what cut it, or None when all is there."""
    headers: HeaderList = (_IDENTITY, ("range", f"bytes={at.have}-")) if at.have else (_IDENTITY,)
    reply = yield from _ask(registry, repository, descriptor, headers, Want(None, may_leave=True))
    skip = _where_it_begins(registry, reply, descriptor, at.have)
    while True:
        piece = yield from read()
        if isinstance(piece, Broken):
            # Cut after the last byte is not cut: the digest has the last word.
            return None if at.have == at.size else piece
        if not isinstance(piece, Body):
            break
        data = memoryview(piece.data)
        if skip:
            passed = min(skip, len(data))
            data, skip = data[passed:], skip - passed
        if not len(data):
            continue
        if at.have + len(data) > at.size:
            raise _wrong_size(descriptor, at.have + len(data), reply, "or more")
        at.have += len(data)
        yield from feed(at.stream, data)
        if keep:
            yield from store(at.stream, data)
        if at.have - at.told >= PROGRESS_STEP or at.have == at.size:
            at.told = at.have
            yield from say(Progress(descriptor.digest, at.have, at.size))
    if at.have != at.size:
        raise _wrong_size(descriptor, at.have, reply)
    return None


def _where_it_begins(registry: Registry, reply: Reply, descriptor: Descriptor, have: int) -> int:
    """Judge the head; return how many bytes of the body are there already and passed over."""
    if reply.status == 416:
        raise _wrong_size(descriptor, have, reply, "and no more")
    if reply.status not in (200, 206) or (reply.status == 206 and not have):
        raise failure(registry, "blob", "GET", reply.head, reply.url, reply.body)
    _check_plain(reply)
    length = reply.head.get("content-length")
    if reply.status == 200:
        if length is not None and length != str(descriptor.size):
            raise _wrong_size(descriptor, length[:20], reply, "announced")
        return have
    start, total = _content_range(reply.head.get("content-range") or "")
    if start != have:
        raise RemoteProtocolError(
            "protocol-error",
            f"expected 206 for bytes={have}- from {redacted(reply.url)}, got one that begins at {start}",
        )
    if total not in (None, descriptor.size):
        raise _wrong_size(descriptor, total, reply, "announced")
    return 0


def _content_range(text: str) -> tuple[int | None, int | None]:
    # `bytes 4096-8191/8192`, the total may be `*`. A multipart answer has none.
    unit, _, rest = text.strip().partition(" ")
    span, _, total = rest.strip().partition("/")
    start = span.partition("-")[0].strip()
    if unit.lower() != "bytes" or not _is_number(start):
        return None, None
    return int(start), int(total) if _is_number(total.strip()) else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 19


def _ask(registry: Registry, repository: str, descriptor: Descriptor, headers: HeaderList, want: Want) -> Step[Reply]:
    name = registry.repository(repository)
    url = registry.url(f"{name}/blobs/{Digest.parse(descriptor.digest)}")
    wanted = Ask("blob", url, f"repository:{name}:pull", want, "GET", headers)
    reply = yield from ask(registry, wanted)
    if reply.status in (401, 403):
        # Object storage refuses an address that is too old: the registry gives a fresh one.
        reply = yield from ask(registry, wanted)
    if reply.status == 404 and descriptor.foreign:
        raise RemoteProtocolError(
            "unsupported-media-type",
            f"expected {descriptor.digest} at the registry, got 404: it is kept on another host",
            hint="layers that may not be distributed are not fetched from the hosts that the manifest names",
        )
    return reply


def _check_plain(reply: Reply) -> None:
    encoding = (reply.head.get("content-encoding") or "identity").strip().lower()
    if encoding != "identity":
        raise RemoteProtocolError(
            "protocol-error", f"expected the blob's own bytes from {redacted(reply.url)}, got them in {encoding[:20]!a}"
        )


def _wrong_size(descriptor: Descriptor, came: object, reply: Reply, how: str = "") -> RemoteProtocolError:
    got = f"{came} {how}".strip()
    return RemoteProtocolError(
        "size-mismatch",
        f"expected {descriptor.size} bytes of {descriptor.digest} from {redacted(reply.url)}, got {got}",
    )
