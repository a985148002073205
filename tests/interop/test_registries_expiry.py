"""A token that ends in the middle of a pull of forty layers from Debian's docker-registry: the command goes on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from command_tools import towline
from expiring_registry import LAYERS, made_image
from interop.peers.docker_registry import Login, docker_registry
from interop.peers.many_images import push_image
from interop.peers.nginx_front import nginx_front
from interop.peers.token_server import TokenServer, token_server

pytestmark = pytest.mark.interop

LOGIN = Login("robot", "c4n4ry:pass word")


def test_one_renewal_and_no_byte_twice(tmp_path: Path) -> None:
    manifest, blobs = made_image()
    with docker_registry(tmp_path / "root") as open_registry:
        push_image(open_registry.address, "team/app", "latest", manifest, blobs)
    # The first token holds one and a half to two and a half seconds; the pull is let through in three and a half.
    tokens = TokenServer(LOGIN.username, LOGIN.password, short_lives=[2.5])
    with (
        token_server(tokens),
        docker_registry(tmp_path / "root", token=tokens) as peer,
        nginx_front(peer.address, tmp_path / "front", tls=False, rate=12) as front,
    ):
        told = towline(
            "pull", f"docker://{front.address}/team/app:latest", str(tmp_path / "layout"), "--plain-http",
            "--creds-stdin", "-o", "json", home=tmp_path, given=f"{LOGIN.username}:{LOGIN.password}\n",
        )  # fmt: skip
        passed = front.passed()
    assert (told.code, told.err) == (0, "")
    assert json.loads(told.out)["complete"] is True
    kept = {path.name: path.read_bytes() for path in (tmp_path / "layout" / "blobs" / "sha256").iterdir()}
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in kept.items())
    assert {f"sha256:{name}" for name in kept} >= set(blobs)
    assert len(kept) == LAYERS + 2
    # One token to begin with, one for all who were refused.
    assert tokens.asked == [("repository:team/app:pull",)] * 2
    assert tokens.short_lives == []
    refused = [one for one in passed if one.status == 401]
    assert 2 <= len(refused) <= 5, "nobody was refused in the middle"
    served = [
        (one.target.rpartition("/")[2], one.size) for one in passed if one.status == 200 and "/blobs/" in one.target
    ]
    assert sorted(served) == sorted((digest, len(data)) for digest, data in blobs.items())
