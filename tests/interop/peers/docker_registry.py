"""Debian's docker-registry as a peer: open, behind htpasswd, or behind a token server; and images pushed to it.

    with docker_registry(root) as open_registry:
        push_corpus(open_registry, corpus, ["layers"])
    with docker_registry(root, htpasswd=Login("user", "word")) as registry: ...
    with token_server(...) as tokens, docker_registry(root, token=tokens) as registry: ...

Several may stand on one `root`: what is pushed once is served by all.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from interop.peers.token_server import TokenServer
from needed import need_peer
from ports import free_port

READY_SECONDS = 20.0


@dataclass(frozen=True)
class Login:
    """A user of a peer."""

    username: str
    password: str


@dataclass(frozen=True)
class RegistryPeer:
    """A running docker-registry. `address` is host:port, without TLS."""

    address: str
    root: Path
    log: Path
    login: Login | None = None


@contextmanager
def docker_registry(
    root: Path, *, htpasswd: Login | None = None, token: TokenServer | None = None, more: str = "", prefix: str = ""
) -> Iterator[RegistryPeer]:
    """Run a docker-registry on loopback over this folder, below a path. `more` is added to its configuration."""
    program = need_peer("docker-registry")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="docker-registry-") as name:
        folder = Path(name)
        config = folder / "config.yml"
        config.write_text(_config(root, port, prefix, _auth(folder, htpasswd, token)) + more)
        log = folder / "log"
        with log.open("wb") as out:
            # Variables named REGISTRY_… would change the configuration.
            clean = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}
            process = subprocess.Popen(
                [program, "serve", str(config)], stdout=out, stderr=subprocess.STDOUT, env=clean, cwd=folder
            )
            try:
                _await_http(f"http://127.0.0.1:{port}/v2/", process, log)
                login = htpasswd or (token.login if token else None)
                yield RegistryPeer(f"127.0.0.1:{port}", root, log, login)
            finally:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()
                process.wait()


def push_corpus(registry: RegistryPeer, corpus: Path, names: Iterable[str], *, tag: str = "latest") -> None:
    """Push images of the corpus as `corpus/NAME:TAG`, indexes with all their platforms."""
    for name in names:
        # skopeo reads no Docker manifests from an OCI layout; that image goes through its docker archive.
        docker = name == "docker-schema2"
        source = f"docker-archive:{corpus / name}.docker.tar" if docker else f"oci:{corpus / name}.oci:latest"
        push(registry, source, f"corpus/{name}:{tag}")


def push(registry: RegistryPeer, source: str, name: str) -> None:
    """Copy an image to a registry with skopeo, every platform of it."""
    with tempfile.TemporaryDirectory(prefix="skopeo-") as folder:
        command = [need_peer("skopeo"), "copy", "--quiet", "--all", "--dest-tls-verify=false", "--insecure-policy"]
        if source.startswith("oci:"):
            # Or skopeo compresses zstd layers anew, as gzip.
            command.append("--preserve-digests")
        if registry.login is not None:
            pair = f"{registry.login.username}:{registry.login.password}".encode()
            auths = {registry.address: {"auth": base64.b64encode(pair).decode()}}
            (Path(folder) / "auth.json").write_text(json.dumps({"auths": auths}))
            command += ["--dest-authfile", f"{folder}/auth.json"]
        done = subprocess.run(
            [*command, source, f"docker://{registry.address}/{name}"], capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, f"skopeo copy {source}: {done.stderr}"


def _config(root: Path, port: int, prefix: str, auth: str) -> str:
    below = f"\n  prefix: {prefix}/" if prefix else ""
    return f"""\
version: 0.1
log:
  level: error
  accesslog: {{disabled: true}}
storage:
  filesystem: {{rootdirectory: {json.dumps(str(root))}}}
  delete: {{enabled: true}}
http:
  addr: 127.0.0.1:{port}{below}
{auth}"""


def _auth(folder: Path, htpasswd: Login | None, token: TokenServer | None) -> str:
    if htpasswd is not None:
        users = folder / "htpasswd"
        made = subprocess.run(
            [need_peer("htpasswd"), "-niB", htpasswd.username],
            input=htpasswd.password,
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert made.returncode == 0, made.stderr
        users.write_text(made.stdout)
        return f"auth:\n  htpasswd: {{realm: registry, path: {json.dumps(str(users))}}}\n"
    if token is not None:
        bundle = folder / "roots.pem"
        bundle.write_bytes(token.certificate_pem)
        return (
            f"auth:\n  token: {{realm: {json.dumps(token.realm)}, service: {token.service},"
            f" issuer: {token.issuer}, rootcertbundle: {json.dumps(str(bundle))}}}\n"
        )
    return ""


def _await_http(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        assert process.poll() is None, f"docker-registry ended: {log.read_text()}"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"docker-registry did not answer within {READY_SECONDS} s: {log.read_text()}")
