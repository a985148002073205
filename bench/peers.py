"""The registries, proxies and token servers of the tests, for the benches that need them too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from interop.peers.docker_registry import docker_registry
from interop.peers.many_images import SOURCE, folder_in_memory, push_many
from interop.peers.nginx_front import NginxFront, Passed, nginx_front
from interop.peers.token_server import TokenServer, token_server
from ports import free_port

__all__ = [
    "SOURCE",
    "NginxFront",
    "Passed",
    "TokenServer",
    "docker_registry",
    "folder_in_memory",
    "free_port",
    "nginx_front",
    "push_many",
    "token_server",
]
