"""The hand tools as processes against our own registry, once with Basic and once with tokens."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_tools import make_image, sha256
from command_tools import Ran, repository, serving, towline

from towline.core import Secret
from towline.runtimes.demo.registry import Basic, Token

USER, CANARY = "robot", "canary:5ecret word"
OLD, NEW = make_image(version=b"5.1-1"), make_image(filler=70_000)
PACKAGES = ["libc6 2.36-9+deb12u4", "bash 5.2.15-2+b2"]


class There:
    """A registry that runs, and the command with a login for it."""

    def __init__(self, address: str, home: Path) -> None:
        self.address = address
        self.home = home

    def image(self, reference: str = ":2.0") -> str:
        return f"{self.address}/team/app{reference}"

    def ask(self, *arguments: str, password: str = CANARY) -> Ran:
        """Run a tool; the login comes by standard input."""
        return towline(*arguments, "--plain-http", "--creds-stdin", home=self.home, given=f"{USER}:{password}\n")


@pytest.fixture(scope="module", params=[Basic, Token])
def there(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    images = {"team/app": repository({"1.0": OLD, "2.0": NEW}), "team/base": repository(), "tool": repository()}
    with serving(images, request.param(USER, Secret(CANARY)), page_size=2) as address:
        yield There(address, tmp_path_factory.mktemp("home"))


# ── lists ───────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", ["repos", "catalog"])
def test_repositories(there: There, name: str) -> None:
    assert there.ask(name, there.address) == Ran(0, "team/app\nteam/base\ntool\n", "")


@pytest.mark.parametrize("name", ["tags", "ls"])
def test_tags(there: There, name: str) -> None:
    assert there.ask(name, f"docker://{there.image('')}") == Ran(0, "1.0\n2.0\n", "")


def test_lists_as_json_are_one_document(there: There) -> None:
    told = there.ask("repos", f"http://{there.address}", "-o", "json")
    assert json.loads(told.out) == {
        "repositories": ["team/app", "team/base", "tool"], "complete": True, "warnings": [],
    }  # fmt: skip
    told = there.ask("tags", there.image(""), "-o", "json")
    assert json.loads(told.out) == {
        "repository": "team/app", "tags": ["1.0", "2.0"], "complete": True, "warnings": [],
    }  # fmt: skip


# ── inspect ─────────────────────────────────────────────────────────────────────
def test_inspect_says_what_it_is(there: There) -> None:
    told = there.ask("inspect", there.image(), "--platform", "linux/amd64")
    assert (told.code, told.err) == (0, "")
    rows = [line.split(None, 1) for line in told.out.splitlines()]
    layer = json.loads(NEW["manifest"])["layers"][0]
    assert rows[0] == ["name", there.image()]
    assert rows[1] == ["digest", f"{sha256(NEW['manifest'])}  (application/vnd.oci.image.manifest.v1+json)"]
    assert rows[2:4] == [["platform", "linux/amd64"], ["created", "2026-01-02T03:04:05Z"]]
    assert rows[4][0] == "size"
    assert rows[4][1].endswith(" KiB in 1 layer")
    assert rows[5][1].split()[0] == layer["digest"]
    assert len(rows) == 6


def test_inspect_as_json(there: There) -> None:
    told = there.ask("inspect", there.image(f"@{sha256(NEW['manifest'])}"), "-o", "json")
    document = json.loads(told.out)
    layer = json.loads(NEW["manifest"])["layers"][0]
    assert document["digest"] == sha256(NEW["manifest"])
    assert document["sizeBytes"] == layer["size"]
    assert document["layers"] == [
        {"digest": layer["digest"], "sizeBytes": layer["size"], "mediaType": layer["mediaType"]}
    ]


def test_inspect_raw_is_every_byte_and_config_too(there: There) -> None:
    assert there.ask("inspect", there.image(), "--raw").out.encode() == NEW["manifest"]
    config = json.loads(NEW["manifest"])["config"]["digest"]
    assert there.ask("inspect", there.image(), "--config").out.encode() == NEW[config]


def test_the_platforms_of_an_image_without_an_index(there: There) -> None:
    told = there.ask("inspect", there.image(), "--platform", "all")
    assert told == Ran(0, f"none  {sha256(NEW['manifest'])}  application/vnd.oci.image.manifest.v1+json\n", "")


# ── pull ────────────────────────────────────────────────────────────────────────
def test_pull_writes_a_layout_whose_bytes_are_proved(there: There, tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    told = there.ask("pull", f"docker://{there.image()}", str(folder))
    assert (told.code, told.err) == (0, "")
    assert told.out.splitlines()[0].split() == ["digest", sha256(NEW["manifest"])]
    blobs = sorted((folder / "blobs" / "sha256").iterdir())
    assert {f"sha256:{path.name}" for path in blobs} == {sha256(data) for data in NEW.values()}
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in blobs)
    index = json.loads((folder / "index.json").read_bytes())
    assert [entry["digest"] for entry in index["manifests"]] == [sha256(NEW["manifest"])]
    again = there.ask("pull", there.image(), str(folder), "-o", "json")
    assert json.loads(again.out)["digest"] == sha256(NEW["manifest"])
    assert sorted((folder / "blobs" / "sha256").iterdir()) == blobs


# ── scan ────────────────────────────────────────────────────────────────────────
def test_scan_in_lines(there: There) -> None:
    told = there.ask("scan", there.image())
    assert (told.code, told.out.splitlines(), told.err) == (0, PACKAGES, "")


def test_scan_as_a_table(there: There) -> None:
    told = there.ask("scan", there.image(), "-o", "table")
    assert [line.split() for line in told.out.splitlines()] == [
        ["PACKAGE", "VERSION", "ARCH", "SOURCE"],
        ["libc6", "2.36-9+deb12u4", "amd64", "glibc"],
        ["bash", "5.2.15-2+b2", "amd64"],
    ]
    assert told.err.startswith("debian 12: 2 packages in 1 layer, ")


def test_scan_as_json_with_files(there: There) -> None:
    told = there.ask("scan", there.image(), "-o", "json", "--glob", "/etc/*", "--exclude", "**/*.conf")
    document = json.loads(told.out)
    facts = {fact["type"]: fact["data"] for fact in document["scanResults"][0]["facts"]}
    names = {package["info"]["name"] for package in facts["depGraph"]["pkgs"]}
    assert {"glibc/libc6", "bash"} <= names
    assert [(file["path"], file["name"]) for file in facts["imageManifestFiles"]] == [("/etc", "os-release")]
    assert b"bookworm" in base64.b64decode(facts["imageManifestFiles"][0]["contents"])


def test_several_images_are_one_document_and_one_that_fails_stops_no_other(there: There) -> None:
    names = [there.image(":1.0"), there.image(":absent"), there.image()]
    told = there.ask("scan", *names, "-o", "json")
    documents = json.loads(told.out)
    assert told.code == 1
    assert [document["image"] for document in documents] == names
    assert documents[1]["error"]["code"] == "IMAGE_NOT_FOUND"
    assert all(documents[at]["scanResults"] for at in (0, 2))
    assert told.err.startswith(f"towline: IMAGE_NOT_FOUND: {names[1]}: ")
    lines = there.ask("scan", names[0], names[2])
    assert (lines.code, lines.out.splitlines()) == (0, [PACKAGES[0], "bash 5.1-1", *PACKAGES])


def test_an_image_too_large_is_refused(there: There) -> None:
    told = there.ask("scan", there.image(), "--max-image-bytes", "1000")
    assert (told.code, told.out) == (1, "")
    assert told.err.startswith("towline: IMAGE_TOO_LARGE: ")


# ── check ───────────────────────────────────────────────────────────────────────
def test_check_goes_from_the_name_to_a_pull(there: There) -> None:
    told = there.ask("check", there.address)
    assert (told.code, told.err) == (0, "")
    rows = [line.split() for line in told.out.splitlines()]
    assert [row[:2] for row in rows] == [[name, "ok"] for name in ("resolve", "tcp", "v2", "token", "list", "pull")]
    assert all(row[2].isdigit() and row[3] == "ms" for row in rows)
    assert rows[-1][4] == sha256(OLD["manifest"])


def test_check_ends_at_the_first_step_that_fails(there: There) -> None:
    told = there.ask("check", there.address, "-o", "json", password="wrong")
    document = json.loads(told.out)
    assert (told.code, document["ok"]) == (1, False)
    assert [(step["name"], step["ok"]) for step in document["checks"]][-2:] == [("v2", True), ("token", False)]
    assert document["checks"][-1]["code"] == "REGISTRY_UNAUTHORIZED"
    assert "user name" in document["checks"][-1]["hint"]
