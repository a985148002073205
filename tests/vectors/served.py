"""Serve a transcript over real sockets, a listener for each of its hosts, to the command as a person runs it.

The vendors' names lead to loopback by the command's hidden `--resolve`, their certificates are signed by an
authority of ours, and its wall clock is the transcript's. What comes is compared step by step as at the machine
level. Operations that have no command, and transcripts that move the clock, are not served.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vectors import registry_b, transcripts
from vectors.certificates import certificate
from vectors.transcripts import Mismatch, Player

from towline.core import Body, Broken, Request, Tail

COMMAND = Path(sys.executable).with_name("towline")
PORTS = {"https": 443, "http": 80}
Origin = tuple[str, str, int]


def scenario_is_served(scenario: dict[str, Any]) -> bool:
    """Tell whether a scenario has a command and leaves the clock alone."""
    return scenario["operation"]["op"] in (
        "connect-check",
        "list-tags",
        "list-repositories",
        "get-manifest",
    ) and not any("then_advance_clock_s" in step for step in scenario["steps"])


def vector_is_served(vector: dict[str, Any]) -> bool:
    """Tell the same of a vector of part B."""
    moved = any("clock" in step for step in vector.get("steps", ()))
    return vector["operation"] in ("check", "list_repositories", "list_tags", "get_manifest") and not moved


def serve_scenario(document: dict[str, Any], scenario: dict[str, Any], folder: Path) -> str | None:
    """Run the command against a scenario of part A; return None, or what went wrong."""
    config, operation = document["config"], scenario["operation"]
    who = operation.get("credentials", config)
    if who and "oauth_token" in who:
        who = {"username": "$oauthtoken", "password": who["oauth_token"]}
    options = ["--type", document["type"]]
    named = [operation[name] for name in ("namespace", "group", "registry") if name in operation]
    for name in named or config.get("namespaces", ()):
        options += ["--namespace", name]
    for host in config.get("extra_realm_hosts", ()):
        options += ["--realm-host", host]
    if "api_url" in config:
        options += ["--api", config["api_url"]]
    if "page_size" in operation:
        options += ["--page-size", str(operation["page_size"])]
    else:
        options += ["--page-size", "0"]
    if operation.get("op") == "get-manifest":
        options += ["--platform", operation["platform"]]
    command = {"connect-check": "check", "list-tags": "tags", "list-repositories": "repos", "get-manifest": "inspect"}
    player = Player(scenario["steps"])
    done = _run(
        player,
        [step["expect"]["url"] for step in scenario["steps"]],
        command[operation["op"]],
        config["base_url"].removeprefix("https://"),
        operation.get("repository"),
        operation.get("reference"),
        options,
        f"{who['username']}:{who['password']}" if who and who.get("password") else None,
        {},
        folder,
    )
    if isinstance(done, str):
        return done
    result = scenario["result"]
    if "error" in result:
        return done.error_misfit(transcripts.ERRORS[result["error"]])
    wanted = result.get("tags", result.get("repositories"))
    return done.value_misfit(wanted, result.get("manifest_digest"))


def serve_vector(vector: dict[str, Any], folder: Path) -> str | None:
    """Run the command against a vector of part B; return None, or what went wrong."""
    config = vector["config"]
    options = ["--type", vector["type"], "--wall-clock", vector["clock"]]
    chosen, asked = vector.get("options") or {}, vector.get("arguments") or {}
    options += ["--page-size", str(chosen.get("page_size", 0))]
    if "listing" in chosen:
        options += ["--via", registry_b.VIA[chosen["listing"]]]
    environment = dict(config.get("environment", {}))
    for at, (path, content) in enumerate(config.get("files", {}).items()):
        (folder / f"file{at}").write_text(content)
        environment = {k: str(folder / f"file{at}") if v == path else v for k, v in environment.items()}
    base = config.get("registryBase", "")
    if "roleArn" in config:
        options += ["--role-arn", config["roleArn"], "--region", config["extra"]["region"]]
        environment["CR_EXTERNAL_ID"] = config["extra"]["externalId"]
        account, region = config["roleArn"].split(":")[4], config["extra"]["region"]
        base = base or f"{account}.dkr.ecr.{region}.amazonaws.com"
    command = {"check": "check", "list_repositories": "repos", "list_tags": "tags", "get_manifest": "inspect"}
    done = _run(
        registry_b.ServedPlayer(vector),
        [step["request"]["url"] for step in vector["steps"]],
        command[vector["operation"]],
        base,
        asked.get("repository"),
        asked.get("reference"),
        options,
        f"{config['username']}:{config['password']}" if config.get("password") else None,
        environment,
        folder,
    )
    if isinstance(done, str):
        return done
    result = vector["result"]
    if not result["ok"]:
        return done.error_misfit(registry_b.ERRORS[result["error"]["kind"]])
    value = result.get("value")
    return done.value_misfit(
        value if isinstance(value, list) else None, value["digest"] if isinstance(value, dict) else None
    )


class Done:
    """What the command said."""

    def __init__(self, code: int, out: bytes, told: str) -> None:
        self.code, self.out, self.told = code, out, told

    def error_misfit(self, kinds: set[str]) -> str | None:
        """Compare the code that was told with the kinds that are expected."""
        codes = {kind.upper().replace("-", "_") for kind in kinds}
        text = self.told + self.out.decode("utf-8", "replace")
        if self.code and any(code in text for code in codes):
            return None
        return f"expected an error of {sorted(codes)}, got exit {self.code}: {text[:300]}"

    def value_misfit(self, items: Sequence[str] | None, digest: str | None) -> str | None:
        """Compare the lines, or the digest of the bytes, with what is expected."""
        if self.code:
            return f"expected exit 0, got {self.code}: {self.told[:300]}"
        if digest is not None and f"sha256:{hashlib.sha256(self.out).hexdigest()}" != digest:
            return f"expected a manifest {digest}, got {self.out[:80]!r}"
        if items is not None and self.out.decode().splitlines() != list(items):
            return f"expected {items}, got {self.out.decode().splitlines()}"
        return None


def _run(
    player: Player,
    urls: list[str],
    command: str,
    base: str,
    repository: str | None,
    reference: str | None,
    options: list[str],
    login: str | None,
    environment: dict[str, str],
    folder: Path,
) -> Done | str:
    origins = {(url.scheme, url.hostname or "", url.port or PORTS[url.scheme]) for url in map(urlsplit, urls)}
    host, _, port = base.partition("/")[0].partition(":")
    origins.add(("https", host, int(port or 443)))
    arguments = [str(COMMAND), command]
    if repository is None:
        arguments.append(base)
    else:
        separator = "@" if reference and ":" in reference else ":"
        arguments += ["--registry", base, f"{repository}{separator}{reference}" if reference else repository]
    if command == "check":
        arguments += ["--login-only", "--output", "json"]
    if command == "inspect":
        arguments.append("--raw")
    arguments += [*options, "--retries", "0", "--ca-file", str(folder / "ca.pem")]
    arguments += ["--creds-stdin"] if login else ["--anonymous"]
    with servers(player, origins, folder) as (places, faults):
        for (_, name, number), local in places.items():
            arguments += ["--resolve", f"{name}:{number}:127.0.0.1:{local}"]
        done = subprocess.run(
            arguments,
            input=f"{login}\n".encode() if login else b"",
            capture_output=True,
            timeout=60,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
            check=False,
        )
    if faults:
        return faults[0]
    if player.pending:
        return f"ended early, with {len(player.pending)} steps left: {done.stderr.decode()[:300]}"
    return Done(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))


@contextmanager
def servers(player: Player, origins: set[Origin], folder: Path) -> Iterator[tuple[dict[Origin, int], list[str]]]:
    """Listen for each origin; yield the local ports, and what did not fit."""
    faults: list[str] = []
    lock = threading.Lock()
    servers: dict[Origin, ThreadingHTTPServer] = {}
    names = sorted({host for scheme, host, _ in origins if scheme == "https"})
    files = certificate(folder, names)
    try:
        for origin in origins:
            server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(player, origin, faults, lock))
            server.daemon_threads = True
            if origin[0] == "https":
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*files)
                server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            servers[origin] = server
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield {origin: server.server_address[1] for origin, server in servers.items()}, faults
    finally:
        for server in servers.values():
            server.shutdown()
            server.server_close()


def _handler(player: Player, origin: Origin, faults: list[str], lock: threading.Lock) -> type[BaseHTTPRequestHandler]:
    scheme, host, port = origin
    authority = host if port == PORTS[scheme] else f"{host}:{port}"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(length)
            headers = tuple((name.lower(), value) for name, value in self.headers.items())
            request = Request(self.command, f"{scheme}://{authority}{self.path}", headers, body)
            with lock:
                try:
                    head = player.answer(request)
                except Mismatch as mismatch:
                    faults.append(str(mismatch))
                    self.send_error(500)
                    return
                pieces = list(player.body)
            data = b"".join(bytes(piece.data) for piece in pieces if isinstance(piece, Body))
            cut = any(isinstance(piece, Broken) for piece in pieces)
            self.send_response_only(head.status)
            given = {name for name, _ in head.headers}
            for name, value in head.headers:
                self.send_header(name, value)
            if "content-length" not in given and head.status not in (204, 304):
                self.send_header("content-length", str(len(data) + cut))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)
            assert cut or any(isinstance(piece, Tail) for piece in pieces)
            self.close_connection = cut

        do_GET = do_HEAD = do_POST = do_PUT = answer

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    return Handler


def served(path: Path) -> Iterator[tuple[str, Callable[[Path], str | None] | None]]:
    """Yield each transcript of a file by name, and what serves it; None for one at the machine level only."""
    document = json.loads(path.read_text())
    if document.get("format") == registry_b.FORMAT:
        for vector in document["vectors"]:
            if "steps" in vector:
                run = (lambda folder, vector=vector: serve_vector(vector, folder)) if vector_is_served(vector) else None
                yield vector["name"], run
    elif document.get("kind") == "transcript":
        for scenario in document["scenarios"]:
            run = None
            if scenario_is_served(scenario):
                run = lambda folder, scenario=scenario: serve_scenario(document, scenario, folder)
            yield scenario["name"], run


def run_all(path: Path, at_once: int = 4) -> list[tuple[str, str | None]]:
    """Serve every transcript of a file that can be, several side by side; return each name and what went wrong."""

    def one(run: Callable[[Path], str | None]) -> str | None:
        with tempfile.TemporaryDirectory() as folder:
            return run(Path(folder))

    runs = [(name, run) for name, run in served(path) if run is not None]
    with ThreadPoolExecutor(at_once) as pool:
        return list(zip([name for name, _ in runs], pool.map(one, [run for _, run in runs]), strict=True))
