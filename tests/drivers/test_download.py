"""The whole way of a blob: a script over HTTP, its bytes through a worker into a folder, its digest proved."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from drivers.loops import LOOPS, Loop

from towline.core import Body, Entropy, Head, Request, Tail, TowlineError, begin, end, feed, fetch, read, store
from towline.core.http import Courier
from towline.core.layer import BlobPlan
from towline.drivers.blob_folder import OciLayoutStore

SMALL, LARGE = os.urandom(1000), os.urandom(24 << 20)


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.name)
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def port() -> Iterator[Any]:
    class Blobs(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            words = LARGE if self.path == "/large" else SMALL
            self.send_response(200)
            self.send_header("content-length", str(len(words)))
            self.end_headers()
            self.wfile.write(words)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Blobs) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def download(url: str, plan: Any) -> Any:
    head = yield from fetch(Request("GET", url))
    assert isinstance(head, Head)
    yield from begin(1, plan, plan.size)
    while isinstance(piece := (yield from read()), Body):
        yield from feed(1, piece.data)
        yield from store(1, piece.data)
    assert isinstance(piece, Tail)
    return (yield from end(1))


@pytest.mark.parametrize(("path", "words"), [("small", SMALL), ("large", LARGE)])
def test_a_blob_is_fetched_proved_and_kept(loop: Loop, port: int, tmp_path: Path, path: Any, words: Any) -> None:
    plan = BlobPlan("sha256:" + hashlib.sha256(words).hexdigest(), len(words))
    folder = OciLayoutStore(tmp_path)
    machine = Courier(download(f"http://127.0.0.1:{port}/{path}", plan), entropy=Entropy(bytes(16)))
    proved = loop.run(lambda: loop.perform(machine, store=folder))
    assert (proved.digest, proved.size) == (plan.digest, plan.size)
    assert folder.blob(plan.digest).read_bytes() == words


@pytest.mark.parametrize(("path", "words"), [("small", SMALL), ("large", LARGE)])
def test_a_blob_of_other_bytes_is_not_kept(loop: Loop, port: int, tmp_path: Path, path: Any, words: Any) -> None:
    plan = BlobPlan("sha256:" + "0" * 64, len(words))
    folder = OciLayoutStore(tmp_path)
    machine = Courier(download(f"http://127.0.0.1:{port}/{path}", plan), entropy=Entropy(bytes(16)))
    with pytest.raises(TowlineError) as caught:
        loop.run(lambda: loop.perform(machine, store=folder))
    assert caught.value.kind == "digest-mismatch"
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
