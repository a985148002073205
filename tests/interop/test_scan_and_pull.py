"""Whole scans and pulls over both drivers from Debian's docker-registry; skopeo reads what was pulled."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from interop.peers.docker_registry import RegistryPeer, docker_registry, push_corpus

from towline.core import Entropy
from towline.core.http import Courier
from towline.core.registry import ImageReference, Platform, Progress, Registry
from towline.core.scan import PulledImage, ScanOptions, ScanOutcome, pull_image, scan_image
from towline.drivers import Dialer, Guard, on_asyncio, on_trio
from towline.drivers.blob_folder import OciLayoutStore

pytestmark = pytest.mark.interop

PACKAGES = ["deb-bookworm", "deb-distroless", "apk-alpine", "scratch-empty"]
FILES = ["layers", "layers-opaque-last", "zstd-layers", "tars", "tars-odd", "tars-v7"]
Perform = Callable[..., Any]


@pytest.fixture(scope="module")
def there(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryPeer]:
    with docker_registry(tmp_path_factory.mktemp("scanned")) as registry:
        push_corpus(registry, corpus, [*PACKAGES, *FILES, "multiarch"])
        yield registry


@pytest.fixture(params=["trio", "asyncio"])
def perform(request: pytest.FixtureRequest) -> Perform:
    """Run a script on one of the drivers to its end."""
    driver: Any = on_trio if request.param == "trio" else on_asyncio

    def run(steps: Any, **how: Any) -> Any:
        dialer = Dialer(guard=Guard(networks=("127.0.0.0/8",)))
        return anyio.run(partial(driver.perform, Courier(steps), dialer=dialer, **how), backend=request.param)

    return run


def client(peer: RegistryPeer) -> Registry:
    return Registry(peer.address, plain_http=True, entropy=Entropy(b"an interop test's seed"))


def scan(
    perform: Perform, there: RegistryPeer, name: str, options: ScanOptions, platform: str | None = None
) -> ScanOutcome:
    reference = ImageReference.parse(f"{there.address}/corpus/{name}:latest")
    wanted = Platform.parse(platform) if platform else None
    events: list[Any] = []
    outcome: ScanOutcome = perform(
        scan_image(client(there), f"corpus/{name}", "latest", wanted, options, reference), on_event=events.append
    )
    assert any(isinstance(event, Progress) for event in events)
    return outcome


@pytest.mark.parametrize("name", PACKAGES)
def test_packages(name: str, perform: Perform, there: RegistryPeer, expected: Callable[[str], Any]) -> None:
    outcome = scan(perform, there, name, ScanOptions())
    truth = expected(name)["truth"]["packages"]
    own = [(one.name, one.version, one.origin, one.arch, one.layer) for one in outcome.inventory.packages]
    should = [
        (p["name"], p["version"], p.get("source") or p.get("origin") or p["name"], p["arch"], p["layer"]) for p in truth
    ]
    assert sorted(own) == sorted(should)
    assert outcome.complete


def test_platforms(perform: Perform, there: RegistryPeer, expected: Callable[[str], Any]) -> None:
    for platform, packages in expected("multiarch")["truth"]["packages_by_platform"].items():
        outcome = scan(perform, there, "multiarch", ScanOptions(), platform)
        assert sorted(f"{one.name} {one.version}" for one in outcome.inventory.packages) == packages


@pytest.mark.parametrize("name", FILES)
def test_visible_files(name: str, perform: Perform, there: RegistryPeer, expected: Callable[[str], Any]) -> None:
    expectation = expected(name)
    globs = expectation["oracle"]["options"]["globsToFind"]
    # One file of the expectation for `layers` is not among those that its globs ask for.
    include = (*globs["include"], "**/METADATA")
    outcome = scan(perform, there, name, ScanOptions(include=include, exclude=tuple(globs["exclude"])))
    facts = json.loads(msgspec.json.encode(outcome.scan_results[0]))["facts"]
    files = next(fact["data"] for fact in facts if fact["type"] == "imageManifestFiles")
    found = {f"{one['path']}/{one['name']}": base64.b64decode(one["contents"]).decode().lstrip("\0") for one in files}
    assert found == expectation["truth"]["visible_files"]


@pytest.mark.parametrize("name", ["deb-bookworm", "multiarch"])
def test_skopeo_reads_what_was_pulled(
    name: str, perform: Perform, there: RegistryPeer, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    store = OciLayoutStore(tmp_path / "layout")
    pulled: PulledImage = perform(pull_image(client(there), f"corpus/{name}", "latest"), store=store)
    store.finish([pulled.index_entry("latest")])
    skopeo = peer("skopeo")
    copied = tmp_path / "copy"
    for command in (["inspect", f"oci:{store.path}"], ["copy", "--all", f"oci:{store.path}:latest", f"dir:{copied}"]):
        told = subprocess.run([skopeo, *command], capture_output=True, text=True, timeout=60, check=False)
        assert told.returncode == 0, told.stderr
    assert len(list((store.path / "blobs" / "sha256").iterdir())) == pulled.blobs
