"""Checks tell step by step what holds, and never raise."""

from __future__ import annotations

from typing import Any

import pytest
from registry_tools import BASIC, asks, bearer, breaks, gives, play, registry, sha256, token_url

from towline.core.registry import CheckStep, check

PING = "/v2/"


def run(*columns: Any, of: Any = None, **options: Any) -> list[CheckStep]:
    done = play(check(of or registry(retries=0), **options), *columns)
    assert done.error is None
    steps: list[CheckStep] = done.value
    return steps


def names(steps: list[CheckStep]) -> list[tuple[str, bool]]:
    return [(step.name, step.ok) for step in steps]


def test_with_a_token() -> None:
    steps = run(
        asks(PING),                                 gives(401, bearer()),
        asks(token_url(), BASIC),                   gives(json={"token": "t"}),
        asks(PING, "Bearer t"),                     gives(200, None, b"true"),
    )  # fmt: skip
    assert names(steps) == [("v2", True), ("token", True)]
    assert steps[1].detail == "let in with a token"


def test_with_basic_and_without_a_login() -> None:
    basic = run(asks(PING), gives(401, {"www-authenticate": "Basic"}), asks(PING, BASIC), gives())
    assert basic[1].detail == "let in with Basic"
    assert run(asks(PING), gives())[1].detail == "let in without asking for a login"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (breaks("refused"), "REGISTRY_UNREACHABLE"),
        (breaks("expired", "tls-error"), "TLS_ERROR"),
        (gives(404, None, b"404 page not found"), "NOT_FOUND"),
        (gives(500), "REGISTRY_ERROR"),
    ],
)
def test_no_registry(answer: Any, code: str) -> None:
    steps = run(asks(PING), answer)
    assert names(steps) == [("v2", False)]
    assert steps[0].code == code


def test_a_login_that_is_refused() -> None:
    steps = run(asks(PING), gives(401, bearer()), asks(token_url(), BASIC), gives(401))
    assert names(steps) == [("v2", True), ("token", False)]
    assert steps[1].code == "REGISTRY_UNAUTHORIZED"
    assert steps[1].hint


def test_deep() -> None:
    digest = {"docker-content-digest": sha256(b"m"), "content-type": "application/vnd.oci.image.manifest.v1+json"}
    steps = run(
        asks(PING),                                 gives(),
        asks("/v2/_catalog?n=100"),                 gives(json={"repositories": ["a", "b"]}),
        asks("/v2/a/manifests/1", method="HEAD"),   gives(200, digest),
        listing=True,
        image=("a", "1"),
    )  # fmt: skip
    assert names(steps) == [("v2", True), ("token", True), ("list", True), ("pull", True)]
    assert [step.detail for step in steps[2:]] == ["2 repositories", sha256(b"m")]


def test_a_deep_step_that_fails_ends_the_check() -> None:
    steps = run(asks(PING), gives(), asks("/v2/_catalog?n=100"), gives(404), listing=True, image=("a", "1"))
    assert names(steps) == [("v2", True), ("token", True), ("list", False)]
    assert steps[2].code == "CATALOG_UNSUPPORTED"


def test_a_pull_step_wants_a_digest() -> None:
    steps = run(asks(PING), gives(), asks("/v2/a/manifests/1", method="HEAD"), gives(), image=("a", "1"))
    assert names(steps)[-1] == ("pull", False)
