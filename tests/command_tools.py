"""The command as a person or a script meets it: a process of its own, in a pipe or on a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import trio
from agent_tools import make_image, sha256

from towline.core import Entropy
from towline.drivers import Listener, on_trio
from towline.runtimes.demo.image import MANIFEST_TYPE, Repository, StoredManifest
from towline.runtimes.demo.registry import Basic, DemoRegistry, Token, running

COMMAND = (sys.executable, "-m", "towline")


class Ran(NamedTuple):
    """What came of a command."""

    code: int
    out: str
    err: str


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment with nothing of this person's in it. A name with the value "" is left out."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "VIRTUAL_ENV") if name in os.environ}
    clean = {**kept, "HOME": str(home), "LANG": "C.UTF-8", "TERM": "xterm-256color", "COLUMNS": "100", **more}
    return {name: value for name, value in clean.items() if value}


def towline(*arguments: str, home: Path, given: str = "", **more: str) -> Ran:
    """Run the command in a pipe, in an empty home, to its end."""
    told = subprocess.run(
        [*COMMAND, *arguments], input=given, capture_output=True, text=True, timeout=60, env=environment(home, **more),
        cwd=home,
    )  # fmt: skip
    assert "Traceback" not in told.stderr, told.stderr
    return Ran(told.returncode, told.stdout, told.stderr)


def on_terminal(*arguments: str, home: Path, out_too: bool = False, **more: str) -> Ran:
    """Run the command with stderr, and if asked for stdout, on a terminal of 100 columns."""
    near, far = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments], stdin=subprocess.DEVNULL, stdout=far if out_too else subprocess.PIPE, stderr=far,
        env=environment(home, **more), cwd=home, close_fds=True,
    ) as process:  # fmt: skip
        os.close(far)
        shown = bytearray()
        until = time.monotonic() + 60
        while time.monotonic() < until:
            readable, _, _ = select.select([near], [], [], 1.0)
            if not readable:
                continue
            try:
                piece = os.read(near, 65536)
            except OSError:
                # Linux says EIO when the last of the other side is closed.
                break
            if not piece:
                break
            shown += piece
        out = process.stdout.read().decode() if process.stdout else ""
        code = process.wait(20)
    os.close(near)
    return Ran(code, out, shown.decode())


def interrupted(*arguments: str, home: Path, when: threading.Event, number: int = signal.SIGINT) -> Ran:
    """Run the command until `when` is set, send it a signal, and return what came of it."""
    with subprocess.Popen(
        [*COMMAND, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(home), cwd=home,
    ) as process:  # fmt: skip
        assert when.wait(30), "the command did not come so far"
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    return Ran(process.returncode, out, err)


def repository(tags: Mapping[str, dict[str, bytes]] | None = None) -> Repository:
    """Return a repository with these images (agent_tools.make_image) by tag."""
    named = tags or {"1.0": make_image()}
    manifests, blobs = {}, {}
    for image in named.values():
        manifests[sha256(image["manifest"])] = StoredManifest(MANIFEST_TYPE, image["manifest"])
        blobs.update({digest: data for digest, data in image.items() if digest != "manifest"})
    return Repository({tag: sha256(image["manifest"]) for tag, image in named.items()}, manifests, blobs)


@contextmanager
def serving(
    images: Mapping[str, Repository], auth: Basic | Token | None = None, listener: Listener | None = None, **more: Any
) -> Iterator[str]:
    """Run the demo's registry in a thread while the block lasts; gives its `host:port`."""
    registry = DemoRegistry(images, auth, entropy=Entropy(b"a registry of the tests"), **more)
    ready: list[str] = []
    up, stop = threading.Event(), trio.Event()
    token: list[trio.lowlevel.TrioToken] = []

    async def run() -> None:
        async with running(registry, on_trio.open_pump, listener) as address:
            ready.append(address)
            token.append(trio.lowlevel.current_trio_token())
            up.set()
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(run,), daemon=True)
    thread.start()
    assert up.wait(20)
    try:
        yield ready[0]
    finally:
        token[0].run_sync_soon(stop.set)
        thread.join(20)
