"""The hand tools as processes against Debian's docker-registry; skopeo judges what was pulled."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from command_tools import Ran, towline
from interop.peers.docker_registry import Login, RegistryPeer, docker_registry, push_corpus
from interop.peers.token_server import TokenServer, token_server

pytestmark = pytest.mark.interop

LOGIN = Login("robot", "c4n4ry:pass word")
IMAGES = ["deb-bookworm", "docker-schema2", "layers", "multiarch"]


class There(NamedTuple):
    peer: RegistryPeer
    home: Path

    def image(self, name: str, reference: str = "") -> str:
        return f"docker://{self.peer.address}/corpus/{name}{reference}"

    def ask(self, *arguments: str) -> Ran:
        """Run a tool with the login where there is one."""
        login = ["--creds-stdin"] if self.peer.login else []
        told = towline(*arguments, "--plain-http", *login, home=self.home, given=f"{LOGIN.username}:{LOGIN.password}\n")
        assert "c4n4ry" not in told.out + told.err
        return told


@pytest.fixture(scope="module")
def root(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli-registry")
    with docker_registry(root) as registry:
        push_corpus(registry, corpus, IMAGES)
    return root


@pytest.fixture(scope="module", params=["open", "htpasswd", "token"])
def there(request: pytest.FixtureRequest, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    with ExitStack() as stack:
        if request.param == "token":
            tokens = stack.enter_context(token_server(TokenServer(LOGIN.username, LOGIN.password)))
            peer = stack.enter_context(docker_registry(root, token=tokens))
        else:
            htpasswd = LOGIN if request.param == "htpasswd" else None
            peer = stack.enter_context(docker_registry(root, htpasswd=htpasswd))
        yield There(peer, tmp_path_factory.mktemp("home"))


def documents(there: There, name: str) -> dict[str, bytes]:
    """Return the registry's own bytes of a name: its link, and what it leads to, by digest."""
    blobs = there.peer.root / "docker" / "registry" / "v2" / "blobs" / "sha256"
    link = there.peer.root / f"docker/registry/v2/repositories/corpus/{name}/_manifests/tags/latest/current/link"
    return {"root": link.read_bytes()} | {
        f"sha256:{path.name}": (path / "data").read_bytes() for path in blobs.glob("*/*")
    }


def test_lists(there: There) -> None:
    names = "".join(f"corpus/{name}\n" for name in sorted(IMAGES))
    assert there.ask("catalog", there.peer.address) == Ran(0, names, "")
    assert there.ask("ls", there.image("layers")) == Ran(0, "latest\n", "")


def test_check(there: There) -> None:
    told = there.ask("check", there.peer.address)
    assert (told.code, told.err) == (0, "")
    assert [line.split()[:2] for line in told.out.splitlines()] == [
        [step, "ok"] for step in ("resolve", "tcp", "v2", "token", "list", "pull")
    ]


@pytest.mark.parametrize("name", ["docker-schema2", "multiarch"])
def test_inspect(there: There, name: str) -> None:
    kept = documents(there, name)
    digest = kept["root"].decode()
    raw = there.ask("inspect", there.image(name), "--raw")
    assert (raw.code, raw.out.encode(), raw.err) == (0, kept[digest], "")
    told = there.ask("inspect", there.image(name), "-o", "json", "--platform", "linux/amd64")
    document = json.loads(told.out)
    assert (document["indexDigest"] or document["digest"]) == digest
    manifest = json.loads(kept[document["digest"]])
    assert [layer["digest"] for layer in document["layers"]] == [layer["digest"] for layer in manifest["layers"]]
    config = there.ask("inspect", there.image(name, f"@{digest}"), "--config", "--platform", "linux/amd64")
    assert config.out.encode() == kept[manifest["config"]["digest"]]


def test_the_platforms_of_an_index(there: There, expected: Callable[[str], Any]) -> None:
    told = there.ask("inspect", there.image("multiarch"), "--platform", "all", "-o", "json")
    platforms = {entry["platform"]: entry["digest"] for entry in json.loads(told.out)["platforms"]}
    assert set(expected("multiarch")["truth"]["packages_by_platform"]) <= set(platforms)
    kept = documents(there, "multiarch")
    assert set(platforms.values()) <= set(kept)


@pytest.mark.parametrize(
    ("name", "platform", "whole_index"),
    [
        ("deb-bookworm", None, False),
        ("docker-schema2", None, False),
        ("multiarch", None, True),
        ("multiarch", "linux/arm64", False),
    ],
)
def test_what_is_pulled_is_a_layout_that_skopeo_takes(
    there: There, name: str, platform: str | None, whole_index: bool, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    folder = tmp_path / "layout"
    chosen = ["--platform", platform] if platform else []
    for _ in range(2):
        told = there.ask("pull", there.image(name), str(folder), *chosen, "-o", "json")
        assert (told.code, told.err) == (0, "")
    document = json.loads(told.out)
    assert document["complete"] is True
    blobs = list((folder / "blobs" / "sha256").iterdir())
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in blobs)
    assert len(blobs) == document["blobs"]
    (entry,) = json.loads((folder / "index.json").read_bytes())["manifests"]
    assert entry["digest"] == document["digest"]
    skopeo = [peer("skopeo"), "--insecure-policy"]
    # skopeo reads no Docker manifests from a layout, whoever wrote it.
    if name == "docker-schema2":
        return
    source = f"oci:{folder}:latest"
    raw = subprocess.run([*skopeo, "inspect", "--raw", source], capture_output=True, timeout=60, check=True).stdout
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == document["digest"]
    assert ("manifests" in json.loads(raw)) == whole_index
    copy = subprocess.run(
        [*skopeo, "copy", "--all", source, f"dir:{tmp_path / 'copy'}"], capture_output=True, text=True, timeout=60
    )
    assert copy.returncode == 0, copy.stderr


def test_scan(there: There, expected: Callable[[str], Any]) -> None:
    truth = expected("deb-bookworm")["truth"]["packages"]
    told = there.ask("scan", there.image("deb-bookworm"), "--platform", "linux/amd64")
    assert told.code == 0
    assert sorted(told.out.splitlines()) == sorted(f"{package['name']} {package['version']}" for package in truth)
    for platform, packages in expected("multiarch")["truth"]["packages_by_platform"].items():
        told = there.ask("scan", there.image("multiarch"), "--platform", platform)
        assert sorted(told.out.splitlines()) == packages


def test_what_is_not_there(there: There) -> None:
    told = there.ask("tags", there.image("absent"))
    assert (told.code, told.out) == (1, "")
    assert told.err.startswith("towline: REPOSITORY_NOT_FOUND: ")
    told = there.ask("scan", there.image("multiarch"), "--platform", "plan9/mips")
    assert told.err.startswith("towline: PLATFORM_NOT_FOUND: ")


def test_a_wrong_login(there: There) -> None:
    told = towline(
        "check", there.peer.address, "--plain-http", "--creds-stdin", home=there.home, given="robot:c4n4ry-wr0ng\n"
    )
    assert "c4n4ry" not in told.out + told.err
    assert told.code == (1 if there.peer.login else 0)
    if there.peer.login:
        assert told.out.splitlines()[-1].split()[:2] == ["token", "FAIL"]
