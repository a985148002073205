"""What the agent's tests need around it: a small registry and a receiver that can stall, and a caller.

Registry and receiver are the standard library's HTTP server, so that they share nothing with what is tested.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import io
import json
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from towline.core import Secret
from towline.core.agent import encode_credentials
from towline.runtimes.agent import Running, serve
from towline.runtimes.agent.config import AgentConfig
from towline.runtimes.logs import Log

USER, CANARY = "robot$scan", 'c4n4ry"s3cr\\et*word'
REPOSITORY = "team/app"
STATUS = b"""Package: libc6
Status: install ok installed
Source: glibc
Version: 2.36-9+deb12u4
Architecture: amd64

Package: bash
Status: install ok installed
Version: 5.2.15-2+b2
Architecture: amd64
Depends: libc6
"""
OS_RELEASE = b'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n'


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def make_image(*, filler: int = 0, version: bytes = b"5.2.15-2+b2") -> dict[str, bytes]:
    """Return one Debian image's documents: `manifest`, and blobs by digest."""
    out = io.BytesIO()
    files = {
        "etc/os-release": OS_RELEASE,
        "var/lib/dpkg/status": STATUS.replace(b"5.2.15-2+b2", version),
        "usr/share/filler": hashlib.shake_128(b"filler").digest(filler),
    }
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    diff_id, layer = sha256(out.getvalue()), gzip.compress(out.getvalue(), mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2026-01-02T03:04:05Z",
            "config": {"Labels": {"a": "b"}},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": sha256(config),
                "size": len(config),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                    "digest": sha256(layer),
                    "size": len(layer),
                }
            ],
        }
    ).encode()
    return {"manifest": manifest, sha256(config): config, sha256(layer): layer}


class _Quiet(ThreadingHTTPServer):
    """Says nothing of callers that go: they are killed here on purpose."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _Server:
    """An HTTP server in threads, on loopback."""

    def __init__(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                outer.serve(self)

            do_HEAD = do_POST = do_DELETE = do_GET

        self.server = _Quiet(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    @property
    def port(self) -> int:
        port: int = self.server.server_address[1]
        return port

    def serve(self, asked: BaseHTTPRequestHandler) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def reply(asked: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    asked.send_response(status)
    for name, value in headers.items():
        asked.send_header(name.replace("_", "-"), value)
    asked.send_header("Content-Length", str(len(body)))
    asked.end_headers()
    if asked.command != "HEAD":
        asked.wfile.write(body)


class SmallRegistry(_Server):
    """One registry with Basic auth, whose `password` may be changed: `images` by tag. `stall` holds blobs half-way
    until it is set; `catalogue` is the status of the catalogue."""

    def __init__(self, images: dict[str, dict[str, bytes]] | None = None) -> None:
        self.images = images or {"1.0": make_image()}
        self.asked: list[str] = []
        self.stall: threading.Event | None = None
        self.stalled = threading.Event()
        self.blob_status = 200
        self.corrupt = False
        self.password = CANARY
        self.catalogue = 200
        super().__init__()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def count(self, part: str) -> int:
        return sum(part in line for line in self.asked)

    def credentials(self, password: str = CANARY) -> Secret:
        return encode_credentials("oci", username=USER, password=Secret(password), base=self.host)

    def serve(self, asked: BaseHTTPRequestHandler) -> None:
        self.asked.append(f"{asked.command} {asked.path}")
        wanted = "Basic " + base64.b64encode(f"{USER}:{self.password}".encode()).decode()
        if asked.headers.get("authorization") != wanted:
            return reply(asked, 401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', WWW_Authenticate='Basic realm="r"')
        path = asked.path.partition("?")[0]
        if path == "/v2/":
            return reply(asked, 200, b"{}")
        if path == "/v2/_catalog" and self.catalogue != 200:
            return reply(asked, self.catalogue, b'{"errors":[{"code":"DENIED"}]}')
        if path == "/v2/_catalog":
            return reply(asked, 200, json.dumps({"repositories": [REPOSITORY, "team/other"]}).encode())
        if path == f"/v2/{REPOSITORY}/tags/list":
            return reply(asked, 200, json.dumps({"name": REPOSITORY, "tags": sorted(self.images)}).encode())
        if path.startswith(f"/v2/{REPOSITORY}/manifests/"):
            return self._manifest(asked, path.rpartition("/")[2])
        if path.startswith(f"/v2/{REPOSITORY}/blobs/"):
            return self._blob(asked, path.rpartition("/")[2])
        code = "NAME_UNKNOWN" if "/tags/" in path or "/manifests/" in path else "UNKNOWN"
        return reply(asked, 404, json.dumps({"errors": [{"code": code}]}).encode())

    def _manifest(self, asked: BaseHTTPRequestHandler, reference: str) -> None:
        for tag, image in self.images.items():
            if reference in (tag, sha256(image["manifest"])):
                media_type = json.loads(image["manifest"])["mediaType"]
                digest = sha256(image["manifest"])
                return reply(asked, 200, image["manifest"], Content_Type=media_type, Docker_Content_Digest=digest)
        return reply(asked, 404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')

    def _blob(self, asked: BaseHTTPRequestHandler, digest: str) -> None:
        data = next((image[digest] for image in self.images.values() if digest in image), None)
        if data is None or self.blob_status != 200:
            return reply(asked, 404 if data is None else self.blob_status)
        if self.corrupt and data[:2] == b"\x1f\x8b":
            data = data[:-20] + bytes(20)
        if self.stall is not None and data[:2] == b"\x1f\x8b":
            asked.send_response(200)
            asked.send_header("Content-Length", str(len(data)))
            asked.end_headers()
            asked.wfile.write(data[: len(data) // 2])
            asked.wfile.flush()
            self.stalled.set()
            self.stall.wait(60)
            asked.wfile.write(data[len(data) // 2 :])
            return None
        return reply(asked, 200, data)


@dataclass
class Delivery:
    path: str
    delivery: str
    attempt: int
    headers: dict[str, str]
    body: Any


class Receiver(_Server):
    """Keeps the receiver rules of the contract: 2xx is taken, a repeated delivery id is 2xx and ignored.

    `script` are answers to give before that, in order. `stall` holds every answer until it is set.
    `taken` are the deliveries that were acknowledged, once each; `seen` is everything that came.
    """

    def __init__(self) -> None:
        self.script: list[tuple[int, bytes, dict[str, str]]] = []
        self.seen: list[Delivery] = []
        self.taken: dict[str, Delivery] = {}
        self.stall: threading.Event | None = None
        self.stall_on = ""
        self.stalled = threading.Event()
        self.largest: int | None = None
        self.deny: set[str] = set()
        self.fault: list[str] = []
        super().__init__()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, asked: BaseHTTPRequestHandler) -> None:
        data = asked.rfile.read(int(asked.headers.get("content-length", "0")))
        body = json.loads(data)
        headers = {name.lower(): value for name, value in asked.headers.items()}
        came = Delivery(asked.path, headers["x-cra-delivery"], int(headers["x-cra-attempt"]), headers, body)
        if body["deliveryId"] != came.delivery:
            self.fault.append(f"{came.delivery} has another id in its body")
        self.seen.append(came)
        if self.stall is not None and self.stall_on in came.delivery:
            self.stalled.set()
            self.stall.wait(60)
        if self.script:
            status, said, more = self.script.pop(0)
            return reply(asked, status, said, **more)
        if self.largest is not None and len(data) > self.largest:
            return reply(asked, 413)
        if asked.path in self.deny:
            return reply(asked, 401, b'{"code":"FILTER_BLOCKED"}')
        known = self.taken.get(came.delivery)
        if known is not None and known.body != body:
            self.fault.append(f"{came.delivery} came twice with different bodies")
        if body["kind"] == "done":
            parts = {
                d.body["resultIndex"]
                for d in list(self.taken.values())
                if self._of(d, body) and d.body["kind"] == "result"
            }
            if len(parts) != body["resultCount"]:
                self.fault.append(f"done of {body['jobId']} came before its results")
        self.taken.setdefault(came.delivery, came)
        return reply(asked, 204)

    @staticmethod
    def _of(delivery: Delivery, body: Any) -> bool:
        return bool(delivery.body["jobId"] == body["jobId"])

    def of(self, job_id: str) -> list[Delivery]:
        return [delivery for delivery in list(self.taken.values()) if delivery.body["jobId"] == job_id]

    def done(self, job_id: str) -> Any:
        """Return the done message of a job, or None."""
        return next((d.body for d in self.of(job_id) if d.body["kind"] in ("done", "discover")), None)


def scan_body(receiver: Receiver, **changes: Any) -> bytes:
    """Return a body for /scan; `changes` are members, `image_` and `options_` ones of those objects."""
    body: dict[str, Any] = {
        "contract": "cra/1",
        "image": {"repository": REPOSITORY, "reference": "1.0"},
        "callback": {"baseUrl": receiver.url, "context": {"k": [1]}},
        "options": {},
    }
    for name, value in changes.items():
        head, _, rest = name.partition("_")
        if head in ("image", "options", "callback") and rest:
            body[head][rest] = value
        else:
            body[name] = value
    return json.dumps(body).encode()


@dataclass
class ApiReply:
    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.data)

    @property
    def code(self) -> Any:
        return self.body["error"]["code"]


def call(
    port: int, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> ApiReply:
    """Ask the agent."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, target, body, headers or {})
        got = connection.getresponse()
        return ApiReply(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())
    finally:
        connection.close()


class Caller:
    """A running agent, as its tests see it."""

    def __init__(self, running: Running, registry: SmallRegistry, log: io.StringIO) -> None:
        self.running = running
        self.port = running.port
        self.registry = registry
        self.log = log

    async def __call__(
        self, method: str, target: str, body: bytes | None = None, *, login: bool = True, **headers: str
    ) -> ApiReply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if login:
            named["x-registry-credentials"] = self.registry.credentials().reveal()
        return await to_thread.run_sync(call, self.port, method, target, body, named)

    async def scan(self, receiver: Receiver, **changes: Any) -> str:
        """Have a scan accepted; return its job's id."""
        accepted = await self("POST", "/scan", scan_body(receiver, **changes))
        assert accepted.status == 202, accepted.data
        return str(accepted.body["jobId"])

    async def ended(self, job_id: str, seconds: float = 15.0) -> Any:
        """Return a job once it is over."""
        return await self.reached(
            job_id, {"done", "unchanged", "failed", "cancelled", "expired", "undeliverable"}, seconds
        )

    async def reached(self, job_id: str, states: set[str], seconds: float = 15.0) -> Any:
        until = time.monotonic() + seconds
        while True:
            job = (await self("GET", f"/jobs/{job_id}", login=False)).body
            if job["state"] in states:
                return job
            assert time.monotonic() < until, f"{job['state']} and not one of {states}"
            await anyio.sleep(0.02)


@asynccontextmanager
async def agent(driver: Any, folder: Path, registry: SmallRegistry, **settings: Any) -> AsyncIterator[Caller]:
    """Run an agent on this loop while the block lasts, then drain it."""
    usual: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "allow_http": (registry.host,), "drain_seconds": 5.0}
    config = AgentConfig(workdir=str(folder), **(usual | settings))
    text = io.StringIO()
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def run(*, task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
            await serve(config, driver, log=Log("debug", "json", text), stop=stop, task_status=task_status)

        caller = Caller(await tasks.start(run), registry, text)
        yield caller
        stop.set()


async def until(holds: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < end, "it did not come to hold"
        await anyio.sleep(0.02)
    return value
