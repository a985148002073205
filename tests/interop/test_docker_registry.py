"""The registry's conversations against Debian's docker-registry: open, behind htpasswd, behind a token server."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from interop.peers.docker_registry import Login, RegistryPeer, docker_registry, push_corpus
from interop.peers.token_server import TokenServer, token_server

from towline.core import Data, Entropy, Plan, RemoteProtocolError, Secret, Step, together
from towline.core.http import Courier
from towline.core.layer import BlobPlan, LayerPlan
from towline.core.registry import (
    Credentials,
    Platform,
    Registry,
    check,
    download_blob,
    head_manifest,
    list_repositories,
    list_tags,
    resolve_image,
    state_identifier,
)
from towline.drivers import Dialer, Guard
from towline.drivers.on_asyncio import perform as asyncio_perform
from towline.drivers.on_trio import perform

pytestmark = [pytest.mark.interop, pytest.mark.trio]

NAMES = ["layers", "multiarch", "deb-bookworm", "zstd-layers", "scratch-empty", "docker-schema2"]
LOGIN = Login("scan user+x", "pä$$ word-canary")


@pytest.fixture(scope="module")
def pushed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of docker-registry's with the images pushed to it."""
    root = tmp_path_factory.mktemp("registry-root")
    with docker_registry(root) as registry:
        push_corpus(registry, corpus, NAMES)
        for number in range(7):
            push_corpus(registry, corpus, ["scratch-empty"], tag=f"v{number}")
    return root


@pytest.fixture(scope="module", params=["open", "htpasswd", "token"])
def peer_registry(request: pytest.FixtureRequest, pushed: Path) -> Iterator[RegistryPeer]:
    if request.param == "token":
        tokens = TokenServer(LOGIN.username, LOGIN.password)
        with token_server(tokens), docker_registry(pushed, token=tokens) as registry:
            yield registry
    else:
        with docker_registry(pushed, htpasswd=LOGIN if request.param == "htpasswd" else None) as registry:
            yield registry


def client(peer: RegistryPeer, login: Login | None = LOGIN, **options: Any) -> Registry:
    who = Credentials(login.username, Secret(login.password)) if login else None
    return Registry(
        peer.address, plain_http=True, credentials=who, entropy=Entropy(b"an interop test's seed"), **options
    )


class Kept:
    """A store in memory, by digest; only what was proven stays."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def open(self, plan: Plan) -> Any:
        assert isinstance(plan, BlobPlan | LayerPlan)
        kept, digest = self.blobs, plan.digest

        class Sink:
            def __init__(self) -> None:
                self.data = bytearray()

            def write(self, data: Data) -> None:
                self.data += data

            def commit(self) -> None:
                kept[digest] = bytes(self.data)

            def abort(self) -> None:
                pass

        return Sink()


async def run(steps: Step[Any], store: Kept | None = None) -> Any:
    dialer = Dialer(guard=Guard(networks=("127.0.0.0/8",)))
    return await perform(Courier(steps), dialer=dialer, store=store)


def pull(registry: Registry, name: str, platform: str | None = None) -> Step[Any]:
    wanted = Platform.parse(platform) if platform else None
    image = yield from resolve_image(registry, f"corpus/{name}", "latest", wanted)
    layers = {layer.digest: layer for layer in image.layers}
    scripts = [
        download_blob(registry, f"corpus/{name}", layer, BlobPlan(layer.digest, layer.size), keep=True)
        for layer in layers.values()
    ]
    proved = yield from together(scripts, 4)
    return image, proved


async def test_check(peer_registry: RegistryPeer) -> None:
    steps = await run(check(client(peer_registry), listing=True, image=("corpus/layers", "latest")))
    assert [(step.name, step.ok) for step in steps] == [("v2", True), ("token", True), ("list", True), ("pull", True)]


async def test_catalogue_and_tags_with_pages(peer_registry: RegistryPeer) -> None:
    registry = client(peer_registry)
    found = await run(list_repositories(registry, page_size=2))
    assert (sorted(found.items), found.complete) == (sorted(f"corpus/{name}" for name in NAMES), True)
    assert (await run(list_repositories(registry))).items == found.items
    tags = await run(list_tags(registry, "corpus/scratch-empty", page_size=3))
    assert (sorted(tags.items), tags.complete) == (sorted(["latest", *(f"v{at}" for at in range(7))]), True)


@pytest.mark.parametrize("name", NAMES)
async def test_pull(peer_registry: RegistryPeer, corpus: Path, name: str) -> None:
    kept = Kept()
    image, proved = await run(pull(client(peer_registry), name), kept)
    assert {blob.digest for blob in proved} == {layer.digest for layer in image.layers} == set(kept.blobs)
    for digest, data in kept.blobs.items():
        assert "sha256:" + hashlib.sha256(data).hexdigest() == digest
    told = json.loads((corpus / f"{name}.json").read_text())
    # The index of multiarch tells the same of each of its images.
    told = told.get("platforms", {}).get("linux/amd64", told)
    assert list(image.config.rootfs.diff_ids) == told["diff_ids"]
    assert image.config_digest == told["config_digest"]
    if name != "docker-schema2":
        # That one went through a docker archive, and skopeo compressed it anew.
        assert image.manifest.digest == told["manifest_digest"]
        assert [layer.digest for layer in image.layers] == told.get("layer_digests", [image.layers[0].digest])
    assert image.manifest.digest == await run(state_identifier(client(peer_registry), f"corpus/{name}", "latest"))


async def test_platforms(peer_registry: RegistryPeer, corpus: Path) -> None:
    registry = client(peer_registry)
    for platform, told in json.loads((corpus / "multiarch.json").read_text())["platforms"].items():
        image = await run(resolve_image(registry, "corpus/multiarch", "latest", Platform.parse(platform)))
        assert image.manifest.digest == told["manifest_digest"]
        assert list(image.config.rootfs.diff_ids) == told["diff_ids"]
    amd64 = await run(resolve_image(registry, "corpus/multiarch", "latest", Platform.parse("linux/amd64")))
    arm64 = await run(resolve_image(registry, "corpus/multiarch", "latest", Platform.parse("linux/arm64")))
    assert amd64.manifest.digest != arm64.manifest.digest
    assert amd64.index_digest == arm64.index_digest is not None
    head = await run(head_manifest(registry, "corpus/multiarch", "latest"))
    assert head.digest == amd64.index_digest
    with pytest.raises(RemoteProtocolError) as caught:
        await run(resolve_image(registry, "corpus/multiarch", "latest", Platform.parse("plan9/mips")))
    assert caught.value.kind == "platform-not-found"


async def test_what_is_not_there(peer_registry: RegistryPeer) -> None:
    registry = client(peer_registry)
    for steps, kind in (
        (list_tags(registry, "corpus/none"), "repository-not-found"),
        (resolve_image(registry, "corpus/layers", "none"), "image-not-found"),
        (resolve_image(registry, "corpus/layers", "sha256:" + "0" * 64), "image-not-found"),
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            await run(steps)
        assert caught.value.kind == kind
        assert caught.value.registry_status == 404


async def test_a_wrong_password_is_tried_once(pushed: Path) -> None:
    wrong = Login(LOGIN.username, "wrong-canary")
    tokens = TokenServer(LOGIN.username, LOGIN.password)
    with token_server(tokens), docker_registry(pushed, token=tokens) as peer:
        registry = client(peer, wrong)
        for _ in range(3):
            with pytest.raises(RemoteProtocolError) as caught:
                await run(list_tags(registry, "corpus/layers"))
            assert caught.value.kind == "registry-unauthorized"
            assert "wrong-canary" not in f"{caught.value} {caught.value!r} {caught.value.hint}"
        assert len(tokens.asked) == 1
    with docker_registry(pushed, htpasswd=LOGIN) as peer:
        with pytest.raises(RemoteProtocolError) as caught:
            await run(list_tags(client(peer, wrong), "corpus/layers"))
        assert caught.value.kind == "registry-unauthorized"
        with pytest.raises(RemoteProtocolError) as caught:
            await run(list_tags(client(peer, None), "corpus/layers"))
        assert caught.value.kind == "registry-unauthorized"


async def test_a_pull_takes_one_token(pushed: Path) -> None:
    tokens = TokenServer(LOGIN.username, LOGIN.password)
    with token_server(tokens), docker_registry(pushed, token=tokens) as peer:
        await run(pull(client(peer), "deb-bookworm"), Kept())
        assert tokens.asked == [("repository:corpus/deb-bookworm:pull",)]


async def test_without_a_login_only_what_is_public(pushed: Path) -> None:
    tokens = TokenServer(LOGIN.username, LOGIN.password, public=("corpus/layers",))
    with token_server(tokens), docker_registry(pushed, token=tokens) as peer:
        registry = client(peer, None)
        assert (await run(list_tags(registry, "corpus/layers"))).items == ("latest",)
        with pytest.raises(RemoteProtocolError) as caught:
            await run(list_tags(registry, "corpus/zstd-layers"))
        assert caught.value.kind == "registry-unauthorized"


async def test_the_same_on_asyncio(peer_registry: RegistryPeer) -> None:
    kept = Kept()
    dialer = Dialer(guard=Guard(networks=("127.0.0.0/8",)))

    def on_asyncio() -> Any:
        steps = Courier(pull(client(peer_registry), "zstd-layers"))
        return asyncio.run(asyncio_perform(steps, dialer=dialer, store=kept))

    _, proved = await trio.to_thread.run_sync(on_asyncio)
    assert {blob.digest for blob in proved} == set(kept.blobs)
