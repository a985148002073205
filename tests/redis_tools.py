"""A Redis of the test's own: Debian's server on a free port of loopback, with nothing kept on disk."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from needed import need_peer
from ports import free_port


class RedisServer:
    """One `redis-server` and its process."""

    def __init__(self, folder: Path, *options: str, certificate: tuple[str, str] | None = None) -> None:
        """`certificate` and key let it speak TLS, and nothing else."""
        self.folder = folder
        self._program = need_peer("redis-server")
        self._options = options
        self.port: int = free_port()
        self._listening = ["--port", str(self.port)]
        if certificate is not None:
            files = zip(("--tls-cert-file", "--tls-key-file", "--tls-ca-cert-file"), (*certificate, certificate[0]))
            tls = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            self._listening = [*tls, *(word for pair in files for word in pair)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> RedisServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Nothing is saved: after a kill it comes back empty, which is the worst that it can do.
        where = ["--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "", "--appendonly", "no"]
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, *self._listening, *where, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                assert time.monotonic() < end, (self.folder / "redis.log").read_text()
                time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, and gone."""
        if self._process is not None:
            # One that was stopped dies only when it goes on.
            os.kill(self._process.pid, signal.SIGCONT)
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def pause(self) -> None:
        """Let it hold its connections and say nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def cli(self, *words: str) -> str:
        """What `redis-cli` says."""
        done = subprocess.run(
            [need_peer("redis-cli"), "-p", str(self.port), *words],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return done.stdout.strip()


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Run a Redis while the block lasts."""
    server = RedisServer(folder, *options)
    try:
        yield server.start()
    finally:
        server.kill()
