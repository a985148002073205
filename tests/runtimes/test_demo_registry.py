"""The embedded registry: what it says, to whom, and that a real puller believes it."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from towline.core import Entropy, Secret
from towline.core.http import ServerRequest
from towline.drivers import on_asyncio, on_trio
from towline.runtimes.demo.image import MANIFEST_TYPE, Repository, StoredManifest, from_layout, local_image
from towline.runtimes.demo.registry import TOKENS, Basic, DemoRegistry, Reply, Token, running

SEED = bytes(range(16))
SECRET = "canary-5ecret"
LOGIN = "Basic " + base64.b64encode(f"demo:{SECRET}".encode()).decode()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


BLOB = b"0123456789"
MANIFEST = b'{"schemaVersion":2}'
REPOSITORY = Repository(
    {f"v{number}": digest(MANIFEST) for number in range(5)},
    {digest(MANIFEST): StoredManifest(MANIFEST_TYPE, MANIFEST)},
    {digest(BLOB): BLOB},
)


def registry(auth: Basic | Token | None = None, **more: Any) -> DemoRegistry:
    return DemoRegistry({"team/app": REPOSITORY, "team/base": REPOSITORY}, auth, entropy=Entropy(SEED), **more)


def request(target: str, method: str = "GET", **headers: str) -> ServerRequest:
    from towline.core.http import RequestHead, server_request

    fields = (("host", "127.0.0.1:5000"), *((name.replace("_", "-"), value) for name, value in headers.items()))
    return server_request(RequestHead(fields, method, target), b"", "registry", "127.0.0.1")


def get(what: DemoRegistry, target: str, now: float = 0.0, **headers: str) -> Reply:
    return what.reply(request(target, **headers), now)


def header(reply: Reply, name: str) -> str | None:
    return next((value for key, value in reply.headers if key.lower() == name), None)


def code(reply: Reply) -> str:
    told: str = json.loads(reply.body)["errors"][0]["code"]
    return told


def test_the_base() -> None:
    assert get(registry(), "/v2/").status == 200
    assert get(registry(), "/v2").status == 200
    assert header(get(registry(), "/v2/"), "docker-distribution-api-version") == "registry/2.0"
    assert get(registry(), "/").status == 404


@pytest.mark.parametrize(
    ("target", "method", "status", "expected"),
    [
        ("/v2/Team/tags/list", "GET", 400, "NAME_INVALID"),
        ("/v2/nobody/tags/list", "GET", 404, "NAME_UNKNOWN"),
        ("/v2/team/app/manifests/absent", "GET", 404, "MANIFEST_UNKNOWN"),
        ("/v2/team/app/manifests/-bad", "GET", 400, "TAG_INVALID"),
        ("/v2/team/app/manifests/sha256:12", "GET", 400, "DIGEST_INVALID"),
        (f"/v2/team/app/manifests/sha256:{'0' * 64}", "GET", 404, "MANIFEST_UNKNOWN"),
        ("/v2/team/app/blobs/sha256:12", "GET", 400, "DIGEST_INVALID"),
        (f"/v2/team/app/blobs/sha256:{'0' * 64}", "GET", 404, "BLOB_UNKNOWN"),
        ("/v2/team/app/tags/list?n=-1", "GET", 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/_catalog?n=ten", "GET", 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/team/app/blobs/uploads/", "POST", 405, "UNSUPPORTED"),
        ("/v2/team/app/manifests/v1", "PUT", 405, "UNSUPPORTED"),
        ("/v2/tags/list", "GET", 404, "UNSUPPORTED"),
        ("/token", "GET", 404, "UNSUPPORTED"),
    ],
)
def test_refusals_have_the_codes_of_the_specification(target: str, method: str, status: int, expected: str) -> None:
    reply = registry().reply(request(target, method), 0.0)
    assert (reply.status, code(reply)) == (status, expected)


def test_pages_end_where_the_names_do() -> None:
    what, target, seen = registry(), "/v2/team/app/tags/list?n=2", []
    while target:
        reply = get(what, target)
        page = json.loads(reply.body)
        assert page["name"] == "team/app"
        assert len(page["tags"]) <= 2
        seen += page["tags"]
        link = header(reply, "link")
        assert link is None or link.endswith('>; rel="next"')
        target = link[1 : link.index(">")] if link else ""
    assert seen == ["v0", "v1", "v2", "v3", "v4"]
    assert json.loads(get(what, "/v2/_catalog").body) == {"repositories": ["team/app", "team/base"]}
    assert json.loads(get(what, "/v2/_catalog?last=team/app").body) == {"repositories": ["team/base"]}
    assert json.loads(get(what, "/v2/_catalog?n=0").body) == {"repositories": []}
    small = registry(page_size=1)
    assert header(get(small, "/v2/_catalog?n=50"), "link") == '</v2/_catalog?last=team%2Fapp&n=1>; rel="next"'


def test_manifests_by_tag_and_digest() -> None:
    for reference in ("v1", digest(MANIFEST)):
        reply = get(registry(), f"/v2/team/app/manifests/{reference}")
        assert (reply.status, reply.body) == (200, MANIFEST)
        assert header(reply, "content-type") == MANIFEST_TYPE
        assert header(reply, "docker-content-digest") == digest(MANIFEST)
    tag = header(get(registry(), "/v2/team/app/manifests/v1"), "etag")
    assert tag is not None
    assert get(registry(), "/v2/team/app/manifests/v1", if_none_match=tag).status == 304


@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        ("bytes=0-", 206, BLOB, "bytes 0-9/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=2-3", 206, b"23", "bytes 2-3/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-99", 206, BLOB, "bytes 0-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=5-3", 200, BLOB, None),
        ("bytes=-", 200, BLOB, None),
        ("bytes=0-1,3-4", 200, BLOB, None),
        ("lines=1-", 200, BLOB, None),
    ],
)
def test_ranges(asked: str, status: int, body: bytes, content_range: str | None) -> None:
    reply = get(registry(), f"/v2/team/app/blobs/{digest(BLOB)}", range=asked)
    assert (reply.status, reply.body, header(reply, "content-range")) == (status, body, content_range)


def test_a_range_of_another_blob_is_the_whole() -> None:
    target = f"/v2/team/app/blobs/{digest(BLOB)}"
    assert get(registry(), target, range="bytes=4-", if_range='"other"').status == 200
    assert get(registry(), target, range="bytes=4-", if_range=f'"{digest(BLOB)}"').status == 206


def test_basic_login() -> None:
    what = registry(Basic("demo", Secret(SECRET)))
    for wrong in ("", "Basic", "Basic !", "Bearer x", "Basic " + base64.b64encode(b"demo:wrong").decode()):
        reply = get(what, "/v2/", authorization=wrong) if wrong else get(what, "/v2/")
        assert reply.status == 401
        assert header(reply, "www-authenticate") == 'Basic realm="towline demo"'
        assert code(reply) == "UNAUTHORIZED"
    for target in ("/v2/", "/v2/_catalog", "/v2/team/app/tags/list", f"/v2/team/app/blobs/{digest(BLOB)}"):
        assert get(what, target).status == 401
        assert get(what, target, authorization=LOGIN).status == 200


def test_token_login() -> None:
    what = registry(Token("demo", Secret(SECRET)))
    target = "/v2/team/app/tags/list"
    challenge = header(get(what, target), "www-authenticate")
    assert challenge == (
        'Bearer realm="http://127.0.0.1:5000/token",service="towline-demo",scope="repository:team/app:pull"'
    )
    asked = "/token?service=towline-demo&scope=repository:team/app:pull,push&scope=nonsense"
    assert get(what, asked).status == 401
    assert get(what, asked.replace("towline-demo", "other"), authorization=LOGIN).status == 400
    assert what.reply(request(asked, "POST", authorization=LOGIN), 0.0).status == 405
    given = json.loads(get(what, asked, authorization=LOGIN).body)
    bearer = f"Bearer {given['token']}"
    assert get(what, target, authorization=bearer).status == 200
    assert get(what, "/v2/", authorization=bearer).status == 200
    other = get(what, "/v2/team/base/tags/list", authorization=bearer)
    assert 'error="insufficient_scope"' in str(header(other, "www-authenticate"))
    assert get(what, "/v2/_catalog", authorization=bearer).status == 401
    late = get(what, target, now=given["expires_in"] + 1.0, authorization=bearer)
    assert 'error="invalid_token"' in str(header(late, "www-authenticate"))


def test_a_token_for_the_catalogue() -> None:
    what = registry(Token("demo", Secret(SECRET)), scheme="https")
    assert str(header(get(what, "/v2/_catalog"), "www-authenticate")).startswith('Bearer realm="https://')
    given = json.loads(get(what, "/token?service=towline-demo&scope=registry:catalog:*", authorization=LOGIN).body)
    assert get(what, "/v2/_catalog", authorization=f"Bearer {given['token']}").status == 200


def test_tokens_do_not_pile_up() -> None:
    what = registry(Token("demo", Secret(SECRET)))
    for _ in range(TOKENS + 10):
        assert get(what, "/token?service=towline-demo", authorization=LOGIN).status == 200
    assert len(what._tokens) == TOKENS


def test_no_secret_in_its_repr() -> None:
    for auth in (Basic("demo", Secret(SECRET)), Token("demo", Secret(SECRET))):
        assert SECRET not in repr(registry(auth)) + repr(auth)


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="repository name"):
        DemoRegistry({"Team": REPOSITORY}, entropy=Entropy(SEED))


# ── over sockets ────────────────────────────────────────────────────────────────
def fetched(address: str, target: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://{address}{target}", timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


async def served(open_pump: Callable[..., Any]) -> None:
    said: list[int] = []
    async with running(registry(), open_pump, on_reply=lambda request, reply: said.append(reply.status)) as address:

        async def ask(target: str) -> tuple[int, bytes]:
            return await anyio.to_thread.run_sync(fetched, address, target)

        assert await ask(f"/v2/team/app/blobs/{digest(BLOB)}") == (200, BLOB)
        assert (await ask("/v2/nobody/tags/list"))[0] == 404
    assert said == [200, 404]


def test_served_on_trio() -> None:
    trio.run(served, on_trio.open_pump)


def test_served_on_asyncio() -> None:
    anyio.run(served, on_asyncio.open_pump, backend="asyncio")


@pytest.mark.interop
@pytest.mark.parametrize("kind", ["anonymous", "basic", "token"])
def test_skopeo_pulls_from_it(kind: str, peer: Callable[[str], str], corpus: Path, tmp_path: Path) -> None:
    skopeo = peer("skopeo")
    auth = {"anonymous": None, "basic": Basic("demo", Secret(SECRET)), "token": Token("demo", Secret(SECRET))}[kind]
    images = {
        "demo/this-machine": local_image().repository,
        "corpus/multiarch": from_layout(corpus / "multiarch.oci"),
    }
    what = DemoRegistry(images, auth, entropy=Entropy(SEED))
    # The login stands in a file, as a person would keep it; `ps` does not show it.
    logins = tmp_path / "auth.json"

    def pull(address: str, name: str) -> None:
        logins.write_text(json.dumps({"auths": {address: {"auth": LOGIN.removeprefix("Basic ")}} if auth else {}}))
        out = tmp_path / name.replace("/", "-")
        command = [skopeo, "--insecure-policy", "--tmpdir", str(tmp_path), "copy", "--all", "--src-tls-verify=false"]
        command += ["--src-authfile", str(logins), f"docker://{address}/{name}:latest", f"oci:{out}:latest"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert told.returncode == 0, told.stderr
        pulled = {path.name: path.read_bytes() for path in (out / "blobs" / "sha256").iterdir()}
        stored = images[name]
        for digest_, manifest in stored.manifests.items():
            assert pulled[digest_.removeprefix("sha256:")] == manifest.data

    async def pulls() -> None:
        async with running(what, on_trio.open_pump) as address:
            for name in images:
                await trio.to_thread.run_sync(pull, address, name)

    trio.run(pulls)
