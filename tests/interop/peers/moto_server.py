"""moto as Amazon's STS and ECR: its answers are those of the services, its signatures nobody's, so requests are kept.

with moto_server(tmp) as amazon:
    amazon.client("ecr").create_repository(repositoryName="team/app")
    towline("repos", ..., *amazon.resolve, "--ca-file", amazon.ca_file)
"""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
from needed import need_peer
from ports import free_port
from vectors.certificates import certificate

READY_SECONDS = 20.0
REGION = "eu-west-3"
# moto's own, whoever asks.
ACCOUNT = "123456789012"
HOSTS = (f"sts.{REGION}.amazonaws.com", f"api.ecr.{REGION}.amazonaws.com")


@dataclass(frozen=True)
class Asked:
    """A request that came: its headers by lower-case names, and its body."""

    host: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Amazon:
    """A running moto, behind TLS by an authority of its own."""

    port: int
    ca_file: str
    keys: tuple[Path, Path]

    @property
    def resolve(self) -> list[str]:
        """The command's words that bring the services' names to loopback."""
        return [word for host in HOSTS for word in ("--resolve", f"{host}:443:127.0.0.1:{self.port}")]

    def client(self, service: str) -> Any:
        """Return botocore's client of a service."""
        return botocore.session.get_session().create_client(
            service, region_name=REGION, endpoint_url=f"https://127.0.0.1:{self.port}", verify=self.ca_file,
            aws_access_key_id="AKIATEST", aws_secret_access_key="s3cr3t-of-botocore",
        )  # fmt: skip

    def record(self) -> None:
        """Keep requests from now on, and forget those before."""
        self._own("reset-recording")
        self._own("start-recording")

    def recorded(self) -> list[Asked]:
        """Return the services' requests since `record`."""
        found = []
        for line in self._own("download-recording").splitlines():
            told = json.loads(line)
            body = told.get("body") or ""
            data = base64.b64decode(body) if told.get("body_encoded") else str(body).encode()
            headers = {name.lower(): value for name, value in told["headers"].items()}
            found.append(Asked(headers["host"], headers, data))
        return found

    def _own(self, action: str) -> str:
        method = "GET" if action.startswith("download") else "POST"
        url = f"https://127.0.0.1:{self.port}/moto-api/recorder/{action}"
        done = subprocess.run(
            [need_peer("curl"), "--silent", "--fail", "--cacert", self.ca_file, "-X", method, url],
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert done.returncode == 0, f"moto's recorder: {action}: {done.returncode} {done.stderr}"
        return done.stdout


@contextmanager
def moto_server(run: Path, *, names: tuple[str, ...] = ()) -> Iterator[Amazon]:
    """Serve on loopback until the end of the block. `names` are further ones that `keys` are good for."""
    port = free_port()
    chain, key = certificate(run, ["127.0.0.1", *HOSTS, *names])
    log = run / "moto.log"
    with log.open("wb") as out:
        where = ["-H", "127.0.0.1", "-p", str(port), "-c", str(chain), "-k", str(key)]
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", *where], stdout=out, stderr=subprocess.STDOUT, cwd=run
        )
        try:
            until = time.monotonic() + READY_SECONDS
            while True:
                assert process.poll() is None, f"moto ended: {log.read_text()}"
                assert time.monotonic() < until, f"moto did not begin to listen: {log.read_text()}"
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield Amazon(port, str(run / "ca.pem"), (chain, key))
        finally:
            process.terminate()
            process.wait(10)
