"""An OCI layout behind loopback nginx, as a read-only registry with sendfile: the server is not the bottleneck."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from image import MANIFEST_TYPE, Image

CONFIGURATION = """
daemon off; worker_processes 2; pid {run}/nginx.pid; error_log {run}/error.log warn;
{user}
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; sendfile_max_chunk 2m; tcp_nodelay on; etag off;
  client_body_temp_path {run}/t1; proxy_temp_path {run}/t2; fastcgi_temp_path {run}/t3;
  uwsgi_temp_path {run}/t4; scgi_temp_path {run}/t5;
  server {{
    listen 127.0.0.1:{port};
    default_type application/octet-stream;
    location = /v2/ {{ default_type application/json; return 200 "{{}}"; }}
    location ~ ^/v2/bench/blobs/sha256:(?<hex>[0-9a-f]+)$ {{
      types {{}} alias {blobs}/$hex; add_header Docker-Content-Digest "sha256:$hex";
    }}
    location ~ ^/v2/bench/manifests/(?:latest|{manifest})$ {{
      types {{}} default_type {media_type}; alias {blobs}/{manifest_hex};
      add_header Docker-Content-Digest "{manifest}";
    }}
  }}
}}
"""


def program() -> str | None:
    """Return the path of nginx, or None."""
    return shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin")


@contextmanager
def serving(image: Image, run: Path) -> Iterator[str]:
    """Serve the image as `bench:latest` while the block lasts; gives `127.0.0.1:port`."""
    found = program()
    if found is None:
        raise SystemExit("bench: nginx is needed to serve the image (tests/peers.sh installs it)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run.mkdir()
    configuration = run / "nginx.conf"
    configuration.write_text(
        CONFIGURATION.format(
            run=run,
            port=port,
            blobs=image.folder / "blobs" / "sha256",
            manifest=image.manifest,
            manifest_hex=image.manifest.removeprefix("sha256:"),
            media_type=MANIFEST_TYPE,
            # As root, workers would drop to a user that may not read a private folder.
            user="user root;" if os.getuid() == 0 else "",
        )
    )
    command = [found, "-c", str(configuration), "-p", str(run), "-e", str(run / "error.log")]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _wait_for(port, server)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)
        if server.stderr:
            server.stderr.close()


def _wait_for(port: int, server: subprocess.Popen[bytes], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if server.poll() is not None:
            said = server.stderr.read().decode() if server.stderr else ""
            raise SystemExit(f"bench: nginx ended with {server.returncode}: {said}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit("bench: nginx does not listen")
