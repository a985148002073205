"""Logins that are the client's, or the caller's: the agent has none of its own, and nobody writes one down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from interop.canaries import Canaries, files_below, hits
from interop.chain import Chain, chain
from interop.findings import expected_packages, packages
from interop.peers.docker_registry import docker_registry, push_corpus

from towline.core import Secret
from towline.core.agent import encode_credentials

pytestmark = pytest.mark.interop

NAME = "deb-distroless"
# What the backend writes where it does not know the login: the client fills it in.
FILL_IN = {"x_broker_var_sub": "x-registry-credentials", "x_registry_credentials": "${CR_CREDENTIALS}"}


@pytest.fixture(scope="module")
def running(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    root, canaries = tmp_path_factory.mktemp("login-registry"), Canaries()
    with docker_registry(root) as open_registry:
        push_corpus(open_registry, corpus, [NAME])
    with docker_registry(root, htpasswd=canaries.login) as registry:
        with chain(tmp_path_factory.mktemp("logins"), registry.address, canaries, own_login=False) as made:
            yield made
            lines = {f"ps {program.name}": program.command_line() for program in made.ours}
            while_running = files_below([made.folder])
            assert [program.stop() for program in made.programs] == [0, 0, 0], made.all_said()
            at_end = {f"{name} at the end": data for name, data in files_below([made.folder]).items()}
            assert hits(canaries, lines | while_running | at_end) == []


def wrong(running: Chain) -> str:
    login = running.canaries.login
    secret = Secret(running.canaries.wrong)
    return encode_credentials("oci", username=login.username, password=secret, base=running.registry).reveal()


def test_the_clients_login_in_a_header(running: Chain) -> None:
    assert running.ask("GET", "/validate-credentials", **FILL_IN).body["valid"] is True
    assert running.ask("GET", "/list", **FILL_IN).body["repositories"] == [f"corpus/{NAME}"]


def test_the_clients_login_in_a_body(running: Chain, expected: Callable[[str], Any]) -> None:
    results = running.results(running.scan(NAME, credentials="${CR_CREDENTIALS}"))
    assert results["state"] == "done", results["done"]
    assert packages(results) == expected_packages(expected(NAME)["truth"])


def test_no_login(running: Chain) -> None:
    for headers in ({}, {"x_registry_credentials": "${CR_CREDENTIALS}"}):
        refused = running.ask("GET", "/list", **headers)
        assert refused.status == 400
        assert refused.body["error"]["code"] in ("MISSING_CREDENTIALS", "MALFORMED_CREDENTIALS")


def test_a_login_that_the_registry_refuses(running: Chain) -> None:
    shown = {"x_registry_credentials": wrong(running)}
    assert running.ask("GET", "/validate-credentials", **shown).status == 401
    told = running.ask("GET", "/validate-credentials", x_cra_version="1", **shown)
    assert (told.status, told.body["valid"]) == (200, False)
    assert running.ask("GET", "/list", **shown).body["error"]["code"] == "REGISTRY_UNAUTHORIZED"
    results = running.results(running.scan(NAME, credentials=wrong(running)))
    assert (results["state"], results["done"]["error"]["code"]) == ("failed", "REGISTRY_UNAUTHORIZED")
    assert results["scanResults"] == []


def test_two_logins_that_differ(running: Chain) -> None:
    both = {"x_registry_credentials": wrong(running)}
    body = {
        "image": {"repository": f"corpus/{NAME}", "reference": "latest"},
        "callback": {"baseUrl": "${BROKER_CLIENT_URL}"},
        "credentials": "${CR_CREDENTIALS}",
        "BROKER_VAR_SUB": ["callback.baseUrl", "credentials"],
    }
    refused = running.ask("POST", "/scan", body, **both)
    assert (refused.status, refused.body["error"]["code"]) == (400, "AMBIGUOUS_CREDENTIALS")


def test_what_the_far_side_may_not_have_filled_in(running: Chain) -> None:
    """Only the short list is filled in, whatever is asked for, and a login goes to the agent alone."""
    for name in ("CR_PASSWORD", "BROKER_TOKEN", "PATH"):
        asked = {"x_broker_var_sub": "x-request-id", "x_request_id": f"${{{name}}}"}
        answer = running.ask("GET", "/healthcheck", **asked)
        assert answer.headers["x-request-id"] == f"${{{name}}}"
    body = {
        "image": {"repository": f"corpus/{NAME}", "reference": "latest"},
        "callback": {"baseUrl": "${BROKER_CLIENT_URL}", "context": {"leak": "${CR_PASSWORD} ${BROKER_TOKEN}"}},
        "credentials": "${CR_CREDENTIALS}",
        "BROKER_VAR_SUB": ["callback.baseUrl", "credentials", "callback.context.leak"],
    }
    job = running.ask("POST", "/scan", body).body["jobId"]
    assert running.results(job)["done"]["context"] == {"leak": "${CR_PASSWORD} ${BROKER_TOKEN}"}
