"""The server's paths: which are its own, whatever their case and final slash, and what it leaves to the application."""

from __future__ import annotations

import json

import pytest
from worlds.brokers import TOKEN, Serving

from towline.core.http import Asked

OWN = [
    ("GET", "/healthcheck", 200),
    ("GET", "/HealthCheck/", 200),
    ("HEAD", "/healthcheck", 200),
    ("GET", "/", 200),
    ("GET", f"/connection-status/{TOKEN}", 200),
    ("GET", f"/Connection-Status/{TOKEN.upper()}/", 200),
    ("HEAD", f"/connection-status/{TOKEN}", 200),
    ("GET", f"/connection-status/{TOKEN}/ctx/some-context", 200),
    ("GET", f"/connection-status/{TOKEN}/CTX/some-context/", 200),
    ("GET", "/connection-status/nobody", 404),
    ("GET", "/connections-status", 200),
    ("GET", "/connections-status/", 200),
    ("HEAD", "/connections-status", 200),
    ("GET", "/broker/nobody/", 404),
    ("GET", "/service/nobody/x", 404),
    ("POST", f"/response-data/{TOKEN}/unknown", 500),
    ("POST", f"/RESPONSE-DATA/{TOKEN}/unknown/", 500),
    ("GET", "/primus/spec", 200),
    ("OPTIONS", "/primus/x/?EIO=4", 200),
]
NOT_OURS = [
    ("POST", "/healthcheck"),
    ("POST", "/"),
    ("GET", "/healthcheck/more"),
    ("GET", f"/connection-status/{TOKEN}/more"),
    ("GET", f"/connection-status/{TOKEN}/ctx/a/b"),
    ("GET", "/connection-status"),
    ("GET", "/connections-status/x"),
    ("GET", f"/broker/{TOKEN}"),
    ("GET", "/broker"),
    ("GET", f"/service/{TOKEN}"),
    ("POST", f"/service/{TOKEN}/x"),
    ("GET", f"/response-data/{TOKEN}/unknown"),
    ("GET", "/metrics"),
    ("POST", "/hidden/brokers/connections/x/auth/refresh"),
    ("GET", "/zzz"),
]


@pytest.fixture(scope="module")
def serving() -> Serving:
    made = Serving()
    made.client(metadata={"version": "5.1.0", "capabilities": ["post-streams"], "filters": {"private": []}})
    return made


@pytest.mark.parametrize(("method", "path", "status"), OWN)
def test_a_path_of_its_own(serving: Serving, method: str, path: str, status: int) -> None:
    got = serving.ask(path, method, body=b"x" if method == "POST" else None)
    assert got.status == status
    if "primus" not in path:
        assert len(got.get("snyk-request-id") or "") == 36
    if method == "HEAD":
        assert got.body == b""


@pytest.mark.parametrize(("method", "path"), NOT_OURS)
def test_a_path_that_is_the_application_s(serving: Serving, method: str, path: str) -> None:
    before = len(serving.server.of(Asked))
    got = serving.ask(path, method, body=b"x" if method == "POST" else None)
    assert got.pending
    (asked,) = serving.server.of(Asked)[before:]
    assert (asked.request.method, asked.request.path) == (method, path)


def test_what_the_pages_say(serving: Serving) -> None:
    assert json.loads(serving.ask("/healthcheck").body) == {"ok": True, "version": "local"}
    clients = [{"version": "5.1.0", "filters": {"private": []}}]
    assert json.loads(serving.ask(f"/connection-status/{TOKEN}").body) == {"ok": True, "clients": clients}
    gone = serving.ask("/connection-status/nobody")
    assert (json.loads(gone.body), gone.get("x-broker-failure")) == ({"ok": False}, "no-connection")
    (entry,) = json.loads(serving.ask("/connections-status").body)
    assert entry["identifier"] == "0000-...-000a"
    assert (entry["versions"], entry["brokerClientIds"]) == (["5.1.0"], ["hand-made"])
    assert len(entry["hashedIdentifier"]) == 64


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("11111111-1111-4111-8111-111111111111", True),
        ("00000000-0000-0000-0000-000000000000", False),
        ("not-an-id", False),
    ],
)
def test_an_id_that_came_is_echoed(serving: Serving, given: str, kept: bool) -> None:
    got = serving.ask("/healthcheck", headers=(("x-request-id", given),))
    assert (got.get("snyk-request-id") == given) is kept
