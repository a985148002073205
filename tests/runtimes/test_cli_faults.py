"""What goes wrong: exit codes, one line and a hint, no traceback, nothing of a peer's that steers a terminal."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from agent_tools import CANARY, REPOSITORY, USER, SmallRegistry, make_image, reply
from command_tools import COMMAND, environment, interrupted, repository, serving, towline
from msgspec import structs

NASTY = "\x1b[2J\x1b]0;owned\x07\r\u202egnp\x00"


class Odd(SmallRegistry):
    """A registry that lets everybody in, and answers what begins with `path` as it is told to."""

    def __init__(self, path: str = "", status: int = 200, body: bytes = b"", **headers: str) -> None:
        self.odd = (path, status, body, headers)
        super().__init__({"1.0": make_image(filler=400_000)})

    def serve(self, asked: BaseHTTPRequestHandler) -> None:
        path, status, body, headers = self.odd
        if path and asked.path.startswith(path):
            return reply(asked, status, body, **headers)
        del asked.headers["Authorization"]
        asked.headers["Authorization"] = "Basic " + base64.b64encode(f"{USER}:{CANARY}".encode()).decode()
        return super().serve(asked)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving({"team/app": repository({f"v{number}": make_image() for number in range(3)})}) as address:
        yield address


@pytest.fixture
def odd() -> Iterator[Callable[..., Odd]]:
    made: list[Odd] = []

    def make(path: str, status: int, body: bytes, **headers: str) -> Odd:
        made.append(Odd(path, status, body, **headers))
        return made[-1]

    yield make
    for one in made:
        one.close()


def lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n")


# ── exit codes ──────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("arguments", "code", "begins"),
    [
        (["tags", "{}/team/app", "--plain-http"], 0, None),
        (["tags", "{}/team/none", "--plain-http"], 1, "REPOSITORY_NOT_FOUND"),
        (["inspect", "{}/team/app:none", "--plain-http"], 1, "IMAGE_NOT_FOUND"),
        (["scan", "{}/team/app:v1", "--plain-http", "--platform", "plan9/mips"], 1, "PLATFORM_NOT_FOUND"),
        (["tags"], 2, "BAD_REQUEST"),
        (["fetch", "{}"], 2, "BAD_REQUEST"),
        (["tags", "{}/Team/App"], 2, "INVALID_REFERENCE"),
        (["tags", "{}/a", "--type", "warehouse"], 2, "UNSUPPORTED_TYPE"),
        (["tags", "{}/a", "--timeout", "5x"], 2, "BAD_REQUEST"),
        (["tags", "{}/a", "--retries", "-1"], 2, "BAD_REQUEST"),
        (["inspect", "{}/a", "--platform", "linux/a/b/c"], 2, "BAD_REQUEST"),
        (["tags", "{}/a", "--allow-network", "10.0.0.0/99"], 2, "BAD_REQUEST"),
        (["tags", "{}/a", "--creds", ":"], 2, "MALFORMED_CREDENTIALS"),
        (["tags", "{}/a", "--ca-file", "absent.pem", "--retries", "0"], 2, "INVALID_CONFIGURATION"),
        (["scan", "{}/a", "--max-image-bytes", "1G"], 2, "BAD_REQUEST"),
        (["tags", "127.0.0.1:1/a", "--retries", "0"], 3, "REGISTRY_UNREACHABLE"),
        (["tags", "no-such-host.invalid/a", "--retries", "0"], 3, "REGISTRY_UNREACHABLE"),
        (["tags", "{}/a", "--retries", "0"], 3, "TLS_ERROR"),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else "",
)
def test_exit_codes(arguments: list[str], code: int, begins: str | None, address: str, tmp_path: Path) -> None:
    told = towline(*(part.format(address) for part in arguments), home=tmp_path)
    said = [line for line in lines(told.err) if not line.startswith(("towline: warning: ", "hint: "))]
    assert (told.code, len(said)) == (code, 1)
    assert said == [""] if begins is None else said[0].startswith(f"towline: {begins}: ")
    assert bool(told.out) == (code == 0)


def test_an_unreachable_peer_is_named_once(tmp_path: Path) -> None:
    told = towline("inspect", "127.0.0.1:1/a", "--plain-http", "--retries", "0", home=tmp_path)
    assert told.err == (
        "towline: REGISTRY_UNREACHABLE: GET http://127.0.0.1:1/v2/a/manifests/latest:"
        " cannot connect to 127.0.0.1:1: connection refused\n"
    )


def test_a_check_of_what_is_not_there(address: str, tmp_path: Path) -> None:
    for target, code, step in (("127.0.0.1:1", 3, "tcp"), ("no-such-host.invalid", 3, "resolve"), (address, 1, "tls")):
        told = towline("check", target, home=tmp_path)
        assert told.code == code
        assert lines(told.out)[-1].split()[:2] == [step, "FAIL"]
        assert told.err.startswith("hint: ") == (step == "tls")


def test_an_interrupt_while_a_layer_stalls(tmp_path: Path) -> None:
    registry = Odd()
    registry.stall = threading.Event()
    try:
        for command in (
            ["pull", f"{registry.host}/{REPOSITORY}:1.0", "image"],
            ["scan", f"{registry.host}/{REPOSITORY}:1.0"],
        ):
            registry.stalled.clear()
            told = interrupted(*command, "--plain-http", home=tmp_path, when=registry.stalled)
            assert (told.code, told.out, told.err) == (130, "", "")
    finally:
        registry.stall.set()
        registry.close()
    blobs = list((tmp_path / "image").rglob("blobs/*/*"))
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in blobs)
    layer = json.loads(registry.images["1.0"]["manifest"])["layers"][0]["digest"].partition(":")[2]
    assert layer not in {path.name for path in blobs}
    assert not (tmp_path / "image" / "index.json").exists()


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    kept = repository()
    (digest,) = kept.tags.values()
    many = structs.replace(kept, tags={f"v{number:05}": digest for number in range(9_000)})
    with serving({"team/app": many}, page_size=9_000) as address:
        told = subprocess.run(
            f"{' '.join(COMMAND)} tags {address}/team/app --plain-http | head -1", shell=True, capture_output=True,
            text=True, timeout=60, env=environment(tmp_path),
        )  # fmt: skip
    assert (told.stdout, told.stderr) == ("v00000\n", "")


@pytest.mark.parametrize("command", [["version"], ["tags", "{}/team/app", "--plain-http"]], ids=lambda it: it[0])
def test_an_answer_that_cannot_be_written(command: list[str], address: str, tmp_path: Path) -> None:
    asked = [*COMMAND, *(part.format(address) for part in command)]
    for output, code, said in ((">/dev/full", 1, "towline: INTERNAL: no space left on device\n"), (">&-", 0, "")):
        told = subprocess.run(
            ["bash", "-c", f'"$@" {output}', "bash", *asked], capture_output=True, text=True, timeout=60,
            env=environment(tmp_path), check=False,
        )  # fmt: skip
        assert (told.returncode, told.stdout, told.stderr) == (code, "", said)


def test_a_folder_that_is_none(address: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below"):
        told = towline("pull", f"{address}/team/app:v1", folder, "--plain-http", home=tmp_path)
        assert (told.code, told.out) == (2, "")
        assert told.err.startswith("towline: BAD_REQUEST: expected a folder to write to, got the file ")


def test_a_login_in_an_address_is_refused_and_not_repeated(address: str, tmp_path: Path) -> None:
    for command in ("tags", "scan", "repos", "check"):
        for scheme in ("", "docker://", "https://"):
            told = towline(command, f"{scheme}robot:c4n4ry@{address}/a", "--plain-http", home=tmp_path)
            assert (told.code, told.out) == (2, "")
            assert "c4n4ry" not in told.err


# ── peers that lie ──────────────────────────────────────────────────────────────
def test_a_list_that_is_not_whole_says_so(odd: Callable[..., Odd], tmp_path: Path) -> None:
    body = json.dumps({"name": REPOSITORY, "tags": ["1.0", "latest"]}).encode()
    path = f"/v2/{REPOSITORY}/tags/list"
    registry = odd(path, 200, body, Link=f'<{path}?n=1000>; rel="next"')
    told = towline("tags", f"{registry.host}/{REPOSITORY}", "--plain-http", home=tmp_path)
    assert (told.code, told.out) == (1, "1.0\nlatest\n")
    assert told.err.startswith("towline: warning: list incomplete: ")
    assert len(lines(told.err)) == 1
    told = towline("tags", f"{registry.host}/{REPOSITORY}", "--plain-http", "-o", "json", home=tmp_path)
    assert (told.code, json.loads(told.out)["complete"]) == (1, False)


def test_what_a_registry_says_does_not_steer_the_terminal(odd: Callable[..., Odd], tmp_path: Path) -> None:
    for message in (NASTY, NASTY + "\n\n" + "x" * 20_000, "x" * 100_000 + NASTY):
        body = json.dumps({"errors": [{"code": "DENIED", "message": message}]}).encode()
        registry = odd("/v2/", 403, body, Content_Type="application/json")
        for command in (["tags", f"{registry.host}/a"], ["check", registry.host]):
            told = towline(*command, "--plain-http", home=tmp_path)
            assert told.code == 1
            assert len(told.out + told.err) < 4_000
            assert not set(told.out + told.err) & set("\x00\x07\x1b\r\u202e")
            assert len(lines(told.err)) <= 2
            assert ("[2J" in told.out + told.err) == message.startswith(NASTY)


def test_names_that_are_none_are_left_out_aloud(odd: Callable[..., Odd], tmp_path: Path) -> None:
    body = json.dumps({"name": REPOSITORY, "tags": ["good", NASTY]}).encode()
    registry = odd(f"/v2/{REPOSITORY}/tags/list", 200, body)
    told = towline("tags", f"{registry.host}/{REPOSITORY}", "--plain-http", home=tmp_path)
    assert told.out == "good\n"
    assert "\x1b" not in told.err
    assert "warning" in told.err


def test_a_corrupted_layer_is_no_result(tmp_path: Path) -> None:
    registry = Odd()
    registry.corrupt = True
    try:
        pulled = towline("pull", f"{registry.host}/{REPOSITORY}:1.0", "image", "--plain-http", home=tmp_path)
        scanned = towline("scan", f"{registry.host}/{REPOSITORY}:1.0", "--plain-http", "-o", "json", home=tmp_path)
    finally:
        registry.close()
    for told in (pulled, scanned):
        assert (told.code, told.out) == (1, "")
        assert lines(told.err)[-1].startswith("towline: DIGEST_MISMATCH: ")
    layer = json.loads(registry.images["1.0"]["manifest"])["layers"][0]["digest"].partition(":")[2]
    assert [path for path in (tmp_path / "image").rglob("*") if layer in path.name] == []


def test_bytes_that_are_no_registry(odd: Callable[..., Odd], tmp_path: Path) -> None:
    for body in (b"", b"[]", b"{", b"<html>", b'{"tags": 5}', b"\xff\xfe"):
        registry = odd(f"/v2/{REPOSITORY}/", 200, body)
        for command in (["tags", f"{registry.host}/{REPOSITORY}"], ["scan", f"{registry.host}/{REPOSITORY}:1.0"]):
            told = towline(*command, "--plain-http", "--retries", "0", home=tmp_path)
            assert (told.code, told.out) == (1, ""), (body, told)
            assert told.err.startswith("towline: "), body
