"""Long lists of Debian's docker-registry: all of what was pushed, as skopeo lists it, whatever the pages' size."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from command_tools import Ran, towline
from interop.peers.docker_registry import Login, RegistryPeer, docker_registry
from interop.peers.many_images import SOURCE, folder_in_memory, push_many
from interop.peers.nginx_front import NginxFront, nginx_front
from interop.peers.token_server import TokenServer, token_server

pytestmark = pytest.mark.interop

LOGIN = Login("robot", "c4n4ry:pass word")
REPOSITORIES, TAGS = 1200, 2500


class There(NamedTuple):
    front: NginxFront
    peer: RegistryPeer
    tokens: TokenServer
    repositories: list[str]
    tags: list[str]

    def ask(self, home: Path, *arguments: str) -> Ran:
        return towline(
            *arguments, "--plain-http", "--creds-stdin", home=home, given=f"{LOGIN.username}:{LOGIN.password}\n"
        )


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    tokens = TokenServer(LOGIN.username, LOGIN.password)
    with folder_in_memory() as root:
        with docker_registry(root) as open_registry:
            repositories, tags = push_many(open_registry.address, REPOSITORIES, TAGS)
        with (
            token_server(tokens),
            docker_registry(root, token=tokens) as peer,
            nginx_front(peer.address, tmp_path_factory.mktemp("front"), tls=False) as front,
        ):
            yield There(front, peer, tokens, repositories, tags)


@pytest.mark.parametrize(("size", "pages"), [("0", 12), ("100", 12), ("1000", 2)])
def test_every_repository_is_listed(there: There, size: str, pages: int, tmp_path: Path) -> None:
    passed, asked = len(there.front.passed()), len(there.tokens.asked)
    told = there.ask(tmp_path, "repos", there.front.address, "--page-size", size, "-o", "json")
    assert (told.code, told.err) == (0, "")
    found = json.loads(told.out)
    assert (sorted(found["repositories"]), found["complete"]) == (there.repositories, True)
    # One request is refused, one token is got for it, and the rest are pages.
    assert [one.status for one in there.front.passed()[passed:]] == [401, *[200] * pages]
    assert there.tokens.asked[asked:] == [("registry:catalog:*",)]


@pytest.mark.parametrize("size", ["0", "100", "1000"])
def test_every_tag_is_listed_as_skopeo_lists_it(
    there: There, size: str, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    image = f"docker://{there.front.address}/{SOURCE}"
    told = there.ask(tmp_path, "tags", image, "--page-size", size, "-o", "json")
    assert (told.code, told.err) == (0, "")
    found = json.loads(told.out)
    skopeo = [peer("skopeo"), "list-tags", "--tls-verify=false", "--creds", f"{LOGIN.username}:{LOGIN.password}"]
    theirs = json.loads(subprocess.run([*skopeo, image], capture_output=True, timeout=60, check=True).stdout)
    assert sorted(found["tags"]) == sorted(theirs["Tags"]) == there.tags
    assert found["complete"] is True


def test_the_details_of_every_tag(there: There, tmp_path: Path) -> None:
    told = there.ask(tmp_path, "tags", "--long", f"docker://{there.front.address}/{SOURCE}", "-o", "json")
    found = json.loads(told.out)
    assert (told.code, found["complete"]) == (0, True)
    assert sorted(item["tag"] for item in found["items"]) == there.tags
    link = there.peer.root / f"docker/registry/v2/repositories/{SOURCE}/_manifests/tags/v0/current/link"
    assert {item["digest"] for item in found["items"]} == {link.read_text()}
