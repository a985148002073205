"""Every operation of the command against Debian's docker-registry behind TLS and behind a path of a proxy."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
from command_tools import Ran, towline
from interop.peers.docker_registry import Login, RegistryPeer, docker_registry, push_corpus
from interop.peers.nginx_front import NginxFront, nginx_front
from interop.peers.token_server import TokenServer, token_server
from ports import free_port

from towline.core import Entropy, Secret
from towline.core.http import Courier
from towline.core.registry import Credentials, Registry, state_identifier
from towline.drivers import Dialer, Guard, TlsSettings, on_trio

pytestmark = pytest.mark.interop

LOGIN = Login("robot$team+x", "c4n4ry:pass word")
IMAGES = ["deb-bookworm", "layers", "multiarch"]
PREFIX = "/some/prefix"
# How one is let in; what stands before the registry, which knows of its prefix or does not.
WAYS = ["basic, TLS", "token, TLS", "basic, prefix", "token, its own prefix"]


class There(NamedTuple):
    way: str
    front: NginxFront
    peer: RegistryPeer
    home: Path

    def ask(self, command: str, *arguments: str) -> Ran:
        """Run a tool; the image of a registry with a path is named beside its base."""
        told = towline(
            command, *arguments, "--ca-file", self.front.ca_file, "--creds-stdin", home=self.home,
            given=f"{LOGIN.username}:{LOGIN.password}\n",
        )  # fmt: skip
        assert "c4n4ry" not in told.out + told.err
        return told

    def of(self, name: str) -> list[str]:
        """Return the arguments that name an image."""
        if "prefix" in self.way:
            return ["--registry", self.front.base, f"corpus/{name}"]
        return [f"docker://{self.front.base}/corpus/{name}"]

    def link(self, name: str) -> str:
        """Return the digest of a name, as the registry keeps it on its disk."""
        path = f"docker/registry/v2/repositories/corpus/{name}/_manifests/tags/latest/current/link"
        return (self.peer.root / path).read_text()


@pytest.fixture(scope="module")
def root(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("real-registries")
    with docker_registry(root) as registry:
        push_corpus(registry, corpus, IMAGES)
    return root


@pytest.fixture(scope="module", params=WAYS)
def there(request: pytest.FixtureRequest, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    way: str = request.param
    prefix = PREFIX if "prefix" in way else ""
    own = PREFIX if "own" in way else ""
    port = free_port()
    with ExitStack() as stack:
        tokens, more = None, ""
        if way.startswith("token"):
            tokens = TokenServer(LOGIN.username, LOGIN.password, seen_at=f"https://127.0.0.1:{port}/token")
            stack.enter_context(token_server(tokens))
            more = f"location = /token {{ proxy_pass http://127.0.0.1:{tokens.port}/token; }}"
        htpasswd = LOGIN if way.startswith("basic") else None
        peer = stack.enter_context(docker_registry(root, htpasswd=htpasswd, token=tokens, prefix=own))
        front = stack.enter_context(
            nginx_front(
                peer.address, tmp_path_factory.mktemp("front"), prefix=prefix, strip=bool(prefix and not own),
                more=more, port=port,
            )
        )  # fmt: skip
        yield There(way, front, peer, tmp_path_factory.mktemp("home"))


def test_check(there: There) -> None:
    told = there.ask("check", there.front.base)
    assert (told.code, told.err) == (0, "")
    steps = ["resolve", "tcp", "tls", "v2", "token", "list", "pull"]
    assert [line.split()[:2] for line in told.out.splitlines()] == [[step, "ok"] for step in steps]


def test_a_wrong_login(there: There) -> None:
    told = towline(
        "check", there.front.base, "--ca-file", there.front.ca_file, "--creds-stdin", home=there.home,
        given=f"{LOGIN.username}:c4n4ry-wr0ng\n",
    )  # fmt: skip
    assert "c4n4ry" not in told.out + told.err
    assert told.code == 1
    assert told.out.splitlines()[-1].split()[:2] == ["token", "FAIL"]


def test_without_the_authority(there: There) -> None:
    told = towline("repos", there.front.base, "--anonymous", home=there.home)
    assert (told.code, told.out) == (3, "")
    assert told.err.startswith("towline: TLS_ERROR: ")


@pytest.mark.parametrize("size", ["0", "1"])
def test_repos(there: There, size: str) -> None:
    told = there.ask("repos", there.front.base, "--page-size", size, "-o", "json")
    assert (told.code, told.err) == (0, "")
    found = json.loads(told.out)
    assert (sorted(found["repositories"]), found["complete"]) == ([f"corpus/{name}" for name in IMAGES], True)


def test_tags_and_their_details(there: There) -> None:
    assert there.ask("tags", *there.of("layers")) == Ran(0, "latest\n", "")
    told = there.ask("tags", "--long", *there.of("layers"), "-o", "json")
    assert (told.code, told.err) == (0, "")
    found = json.loads(told.out)
    assert (found["repository"], found["complete"]) == ("corpus/layers", True)
    assert [(item["tag"], item["digest"]) for item in found["items"]] == [("latest", there.link("layers"))]


def test_inspect(there: There) -> None:
    told = there.ask("inspect", *there.of("multiarch"), "-o", "json", "--platform", "linux/amd64")
    assert (told.code, told.err) == (0, "")
    assert json.loads(told.out)["indexDigest"] == there.link("multiarch")
    raw = there.ask("inspect", *there.of("multiarch"), "--raw")
    assert f"sha256:{hashlib.sha256(raw.out.encode()).hexdigest()}" == there.link("multiarch")


@pytest.mark.parametrize("name", ["deb-bookworm", "multiarch"])
def test_pull(there: There, name: str, tmp_path: Path) -> None:
    told = there.ask("pull", *there.of(name), str(tmp_path / "layout"), "-o", "json")
    assert (told.code, told.err) == (0, "")
    document = json.loads(told.out)
    assert (document["digest"], document["complete"]) == (there.link(name), True)
    blobs = list((tmp_path / "layout" / "blobs" / "sha256").iterdir())
    assert len(blobs) == document["blobs"]
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in blobs)


def test_scan(there: There, expected: Callable[[str], Any]) -> None:
    told = there.ask("scan", *there.of("deb-bookworm"), "--platform", "linux/amd64")
    truth = expected("deb-bookworm")["truth"]["packages"]
    assert told.code == 0
    assert sorted(told.out.splitlines()) == sorted(f"{package['name']} {package['version']}" for package in truth)


def test_what_is_not_there(there: There) -> None:
    told = there.ask("tags", *there.of("absent"))
    assert (told.code, told.out) == (1, "")
    assert told.err.startswith("towline: REPOSITORY_NOT_FOUND: ")


def test_state_identifier(there: There) -> None:
    """It has no command: the agent asks for it before a scan."""
    who = Credentials(LOGIN.username, Secret(LOGIN.password))
    client = Registry(there.front.base, credentials=who, entropy=Entropy(b"an interop test's seed"))
    dialer = Dialer(guard=Guard(networks=("127.0.0.0/8",)), tls=TlsSettings(ca_files=(there.front.ca_file,)))

    async def run() -> Any:
        return await on_trio.perform(Courier(state_identifier(client, "corpus/layers", "latest")), dialer=dialer)

    assert trio.run(run) == there.link("layers")


@pytest.mark.parametrize("there", [way for way in WAYS if "prefix" not in way], indirect=True)
def test_skopeo_lists_and_reads_the_same(there: There, peer: Callable[[str], str]) -> None:
    """It has no way to name a registry with a path."""
    folder = Path(there.front.ca_file).parent / "trusted"
    folder.mkdir(exist_ok=True)
    (folder / "ca.crt").write_bytes(Path(there.front.ca_file).read_bytes())
    login = ["--creds", f"{LOGIN.username}:{LOGIN.password}"]

    def skopeo(*words: str) -> bytes:
        command = [peer("skopeo"), *words, "--cert-dir", str(folder), *login]
        return subprocess.run(
            [*command, f"docker://{there.front.base}/corpus/multiarch"], capture_output=True, timeout=60, check=True
        ).stdout

    assert json.loads(skopeo("list-tags"))["Tags"] == there.ask("tags", *there.of("multiarch")).out.split()
    assert skopeo("inspect", "--raw") == there.ask("inspect", *there.of("multiarch"), "--raw").out.encode()
