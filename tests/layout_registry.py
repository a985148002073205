"""A registry made of OCI layouts, at the level of exchanges: scripts run against it without a network.

It is also a driver in miniature: streams are built from plans and fed, and what is stored is kept by digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from oci_layout import Layout

from towline.core import (
    WAKE,
    Abandon,
    Begin,
    Body,
    Broken,
    End,
    Entropy,
    Failed,
    Feed,
    Fetch,
    Finished,
    Head,
    Proved,
    Read,
    Refused,
    Request,
    Script,
    Sleep,
    Step,
    Store,
    Tail,
    TowlineError,
)
from towline.core.layer import build
from towline.core.registry import Registry

T = TypeVar("T")
PIECE = 50_000


def registry(**options: Any) -> Registry:
    return Registry("registry.example:5000", entropy=Entropy(b"a seed of 16 bytes"), **options)


class LayoutRegistry:
    """Answers the questions of scripts about `corpus/NAME` from `NAME.oci` in a folder.

    `damage` may change a blob's bytes before they are sent. `asked` are the paths that were asked for.
    """

    def __init__(self, folder: Path, damage: Callable[[str, bytes], bytes | None] = lambda digest, data: data) -> None:
        self.folder = folder
        self.damage = damage
        self.asked: list[str] = []
        self.said: list[Any] = []
        self.stored: dict[str, bytes] = {}
        self.order: list[str] = []

    def run(self, steps: Step[T], *, tick: float = 0.001) -> T:
        """Run a script to its end; return its value or raise its error."""
        script = Script(steps)
        now = 1000.0
        body: list[bytes] = []
        streams: dict[int, Any] = {}
        plans: dict[int, Any] = {}
        written: dict[int, list[bytes]] = {}
        answer: Any = WAKE
        while True:
            now += tick
            script.handle(answer, now)
            answer = None
            while (wish := script.poll()) is not None:
                match wish:
                    case Finished(value):
                        assert set(written) == set(), "something stored was never ended"
                        return value  # type: ignore[no-any-return]
                    case Failed(error):
                        raise error
                    case Fetch(request):
                        answer, data = self._answer(request)
                        body = [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
                    case Read():
                        answer = Body(body.pop(0)) if body else Tail()
                    case Sleep(until):
                        now = max(now, until)
                        answer = WAKE
                    case Begin(stream, plan):
                        streams[stream], plans[stream] = build(plan), plan
                    case Feed(stream, data):
                        try:
                            streams[stream].feed(data)
                        except TowlineError as error:
                            script.fail(error, now)
                    case Store(stream, data):
                        written.setdefault(stream, []).append(bytes(data))
                    case End(stream):
                        answer = self._verdict(stream, streams.pop(stream), plans[stream], written)
                    case Abandon(stream):
                        del streams[stream]
                        written.pop(stream, None)
                    case _:
                        self.said.append(wish)

    def _verdict(self, number: int, stream: Any, plan: Any, written: dict[int, list[bytes]]) -> Proved | Refused:
        kept = written.pop(number, None)
        try:
            value = stream.end()
        except TowlineError as error:
            return Refused(number, error)
        if kept is not None:
            self.stored[plan.digest] = b"".join(kept)
            self.order.append(plan.digest)
        return Proved(number, value)

    def _answer(self, request: Request) -> tuple[Head | Broken, bytes]:
        path = urlsplit(request.url).path
        self.asked.append(path)
        _, _, rest = path.partition("/v2/corpus/")
        name, kind, reference = rest.split("/")
        layout = Layout(self.folder / f"{name}.oci")
        digest = reference if ":" in reference else layout.top["digest"]
        data = layout.blob(digest)
        data = self.damage(digest, data) if data is not None else None
        if data is None:
            code = "BLOB_UNKNOWN" if kind == "blobs" else "MANIFEST_UNKNOWN"
            told = json.dumps({"errors": [{"code": code, "message": "unknown"}]}).encode()
            return Head(404, (("content-type", "application/json"),)), told
        headers = [("content-length", str(len(data)))]
        if kind == "manifests":
            media_type = json.loads(data)["mediaType"]
            headers += [("content-type", media_type), ("docker-content-digest", sha256(data))]
        return Head(200, tuple(headers)), data


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
