"""Paths, names, references and the body of /scan: what is taken, and the kind of error for what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.harness import refused_or_taken
from towline.core import RemoteProtocolError
from towline.core.agent import (
    ROUTES,
    CallbackPolicy,
    find_route,
    image_reference,
    job_query,
    list_query,
    parse_job,
    platform_name,
    repository_name,
    state_query,
    switch,
)

BODY: dict[str, Any] = {
    "contract": "cra/1",
    "requestId": "r-1",
    "image": {"repository": "team/app", "reference": "1.0", "platform": "linux/amd64", "expectedDigest": None},
    "callback": {
        "baseUrl": "http://broker:8000",
        "resultPath": "/api/v2/import/result",
        "donePath": "/api/v2/import/done",
        "headers": {},
        "context": {"any": ["opaque", 1]},
    },
    "options": {"maxImageBytes": None, "globs": {"include": ["/etc/*"], "exclude": []}, "timeoutSeconds": 60},
    "deliver": ["result", "done"],
}


def changed(path: str, value: Any) -> bytes:
    body = json.loads(json.dumps(BODY))
    at = body
    *parents, last = path.split(".")
    for name in parents:
        at = at[name]
    at[last] = value
    return json.dumps(body).encode()


def kind_of(call: Any, *args: Any, **named: Any) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        call(*args, **named)
    return caught.value.kind


def test_every_row_is_found() -> None:
    for (method, pattern), name in ROUTES.items():
        route = find_route(method, pattern.replace("*", "a/b"))
        assert route.name == name
        assert route.rest == ("a/b" if pattern.endswith("*") else "")


def test_paths_that_are_no_row() -> None:
    assert find_route("HEAD", "/list/").name == "list-repositories"
    assert kind_of(find_route, "GET", "/nothing") == "not-found"
    assert kind_of(find_route, "GET", "/scan") == "method-not-allowed"
    assert kind_of(find_route, "GET", "/list/%zz") == "bad-request"
    assert kind_of(find_route, "GET", "list") == "bad-request"
    assert kind_of(find_route, "GET", "/list/\x07") == "bad-request"


@pytest.mark.parametrize("name", ["a", "a/b/c", "a.b_c__d-e---f/0", "a" * 255])
def test_good_names(name: str) -> None:
    assert repository_name(name) == name


def test_an_encoded_slash_is_a_slash() -> None:
    assert repository_name("a%2Fb%2fc", encoded=True) == "a/b/c"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a//b",
        "/a",
        "a/",
        "a/../b",
        ".",
        "..",
        "a/.",
        "A",
        "a b",
        "a;b",
        "a&b",
        'a"b',
        "a\nb",
        "a:1",
        "ü",
        "a..b",
        "a" * 256,
        "a___b",
        "%2e%2e",
        "a%00",
        "_a",
        "a_",
        "a@b",
        "a\\b",
    ],
)
def test_bad_names(name: str) -> None:
    assert kind_of(repository_name, name, encoded=True) == "invalid-name"


def test_references_and_platforms() -> None:
    for good in ("latest", "v1.0-rc_1", "_x", "sha256:" + "a" * 64, "sha512:" + "0" * 128):
        assert image_reference(good) == good
    for bad in (
        "",
        ".x",
        "-x",
        "a/b",
        "x" * 129,
        "sha256:" + "A" * 64,
        "sha256:",
        "md5:" + "a" * 32,
        "a b",
        "ü",
        "a\n",
    ):
        assert kind_of(image_reference, bad) == "invalid-reference"
    assert platform_name("linux/arm/v7") == "linux/arm/v7"
    for bad in ("linux", "linux/", "/x", "linux/a/b/c", "Linux/amd64", "linux/amd64\n"):
        assert kind_of(platform_name, bad) == "bad-request"


def test_queries() -> None:
    got = list_query([("limit", "10"), ("cursor", b"team/app".hex()), ("prefix", "t"), ("strict", "true"), ("zz", "1")])
    assert (got.limit, got.after, got.prefix, got.strict) == (10, "team/app", "t", True)
    assert list_query([], default_limit=1000).limit == 1000
    assert list_query([("sort", "version")]).by_version
    for bad in (
        [("limit", "0")],
        [("limit", "1001")],
        [("limit", "x")],
        [("limit", "²")],
        [("limit", "1"), ("limit", "1")],
        [("cursor", "zz")],
        [("cursor", "ff")],
        [("strict", "maybe")],
        [("sort", "size")],
    ):
        assert kind_of(list_query, bad) == "bad-request"
    state = state_query([("repository", "a/b"), ("reference", "1"), ("platform", "linux/amd64")])
    assert (state.repository, state.reference, state.platform) == ("a/b", "1", "linux/amd64")
    assert kind_of(state_query, [("reference", "1")]) == "invalid-name"
    assert kind_of(state_query, [("repository", "a")]) == "invalid-reference"
    assert job_query([("state", "queued")], ["queued"]) == ("queued", 100, 0)
    assert kind_of(job_query, [("state", "nope")], ["queued"]) == "bad-request"
    assert switch([("deep", "1")], "deep")


def test_a_whole_body() -> None:
    job = parse_job("scan", json.dumps(BODY).encode())
    assert job.request_id == "r-1"
    assert (job.image.repository, job.image.reference, job.image.platform) == ("team/app", "1.0", "linux/amd64")
    assert job.options.globs.include == ("/etc/*",)
    assert job.options.timeout_seconds == 60
    assert bytes(job.callback.context) == b'{"any":["opaque",1]}'
    assert job.deliver == ("result", "done")


def test_harmless_headers_are_kept() -> None:
    job = parse_job("scan", changed("callback.headers", {"X-Flow": "a", "X-Tenant": "b"}))
    assert job.callback.headers == (("x-flow", "a"), ("x-tenant", "b"))


def test_the_least_body() -> None:
    body = b'{"image":{"repository":"a","reference":"1"},"extra":1}'
    job = parse_job("discover", body, default_callback="http://broker:8000/")
    assert job.callback.base_url == "http://broker:8000"
    assert job.callback.result_path == "/v1/recurring-tests/dependencies"
    assert job.request_id is None
    assert parse_job("scan", body, default_callback="http://b", key="k").request_id == "k"


@pytest.mark.parametrize(
    ("path", "value", "kind"),
    [
        ("contract", "cra/9", "bad-request"),
        ("requestId", "with space", "bad-request"),
        ("requestId", 5, "bad-request"),
        ("image", None, "bad-request"),
        ("image.repository", "A", "invalid-name"),
        ("image.reference", "a/b", "invalid-reference"),
        ("image.expectedDigest", "latest", "invalid-reference"),
        ("image.platform", "linux", "bad-request"),
        ("callback.baseUrl", None, "bad-request"),
        ("callback.baseUrl", "${BROKER_CLIENT_URL}", "bad-request"),
        ("callback.baseUrl", "ftp://x", "bad-request"),
        ("callback.baseUrl", "http://user:pw@x", "bad-request"),
        ("callback.baseUrl", "http://x/path", "bad-request"),
        ("callback.resultPath", "/elsewhere", "bad-request"),
        ("callback.donePath", "/api/v2/import/result", "bad-request"),
        ("callback.headers", {"Authorization": "x"}, "bad-request"),
        ("callback.headers", {"X-Api-Key": "x"}, "bad-request"),
        ("callback.headers", {"Host": "x"}, "bad-request"),
        ("callback.headers", {"X-Cra-Delivery": "x"}, "bad-request"),
        ("callback.headers", {"x": "a\r\nb: c"}, "bad-request"),
        ("callback.headers", {"x y": "a"}, "bad-request"),
        ("callback.headers", {str(i): "a" for i in range(33)}, "bad-request"),
        ("callback.context", "x" * 70_000, "bad-request"),
        ("options.timeoutSeconds", 0, "bad-request"),
        ("options.priority", 10, "bad-request"),
        ("options.nestedJarsDepth", -1, "bad-request"),
        ("options.maxImageBytes", 0, "bad-request"),
        ("options.maxImageBytes", "1", "bad-request"),
        ("options.ifNotState", "???", "invalid-reference"),
        ("options.targetReference", "x" * 2000, "bad-request"),
        ("options.globs", {"include": ["x" * 2000]}, "bad-request"),
        ("deliver", ["everything"], "bad-request"),
    ],
)
def test_what_is_refused(path: str, value: Any, kind: str) -> None:
    assert kind_of(parse_job, "scan", changed(path, value)) == kind


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 80 + b"1" + b"}" * 80,
        b"{" + b",".join(b'"%d":1' % number for number in range(10_001)) + b"}",
    ],
)
def test_what_is_no_body(body: bytes) -> None:
    assert kind_of(parse_job, "scan", body) == "bad-request"


def test_the_digest_stands_for_the_body_without_the_login() -> None:
    whole = parse_job("scan", json.dumps(BODY).encode())
    reordered = parse_job("scan", json.dumps(dict(reversed(BODY.items())), indent=2).encode())
    with_login = parse_job("scan", changed("credentials", {"type": "oci", "password": "c4n4ry"}))
    assert whole.digest == reordered.digest == with_login.digest
    assert with_login.credentials == {"credentials": {"type": "oci", "password": "c4n4ry"}}
    assert parse_job("scan", changed("image.reference", "2")).digest != whole.digest
    assert parse_job("scan", changed("registryId", "a")).digest != whole.digest


def test_callbacks_go_to_listed_origins_or_to_the_first() -> None:
    listed = CallbackPolicy(("http://broker:8000",))
    assert listed.pin("http://BROKER:8000/") is None
    assert kind_of(listed.pin, "http://evil:8000") == "bad-request"
    assert kind_of(listed.pin, "https://broker:8000") == "bad-request"
    first = CallbackPolicy()
    assert first.pin("http://broker:8000") == "http://broker:8000"
    pinned = CallbackPolicy((), "http://broker:8000")
    assert pinned.pin("http://broker:8000/") is None
    assert kind_of(pinned.pin, "http://evil:8000") == "bad-request"


def test_callbacks_may_name_a_connection_of_the_broker_client() -> None:
    one = "http://broker:8000/connections/my-registry"
    assert CallbackPolicy(("http://broker:8000",)).pin(one) is None
    assert CallbackPolicy((), "http://broker:8000").pin(one + "/") is None
    assert CallbackPolicy().pin(one) == "http://broker:8000"
    narrow = CallbackPolicy((one,))
    assert narrow.pin(one + "/") is None
    for other in ("http://broker:8000", "http://broker:8000/connections/other", one.replace("broker", "evil")):
        assert kind_of(narrow.pin, other) == "bad-request"
    odd = (
        "/elsewhere",
        "/connections",
        "/connections/",
        "/connections/a/b",
        "/connections/..",
        "/connections/%2e",
        "/?a",
    )
    for path in odd:
        assert kind_of(CallbackPolicy().pin, f"http://broker:8000{path}") == "bad-request"
    asked = parse_job("scan", changed("callback.baseUrl", one + "/"))
    assert asked.callback.base_url == one


@given(st.binary(max_size=400))
def test_any_body_is_a_job_or_a_named_error(data: bytes) -> None:
    refused_or_taken(lambda: parse_job("scan", data))
