"""Conversations that need a login at the same moment get it once."""

from __future__ import annotations

import pytest
from http_tools import Network
from registry_tools import REALM, registry

from towline.core import WAKE, Fetch, Head, Script, Step, Tail, TowlineError, together
from towline.core.http import Courier, RequestHead
from towline.core.registry import Listing, Registry, list_tags

Answer = tuple[int, tuple[tuple[str, str], ...], bytes]
CHALLENGE = (("www-authenticate", f'Bearer realm="{REALM}",service="s",scope="repository:a/b:pull"'),)


def at_once(of: Registry, count: int = 6) -> Step[list[Listing | TowlineError]]:
    def one() -> Step[Listing | TowlineError]:
        try:
            return (yield from list_tags(of, "a/b"))
        except TowlineError as error:
            return error

    return (yield from together([one() for _ in range(count)], count))


def asked(network: Network) -> int:
    return sum(head.target.startswith("/token") for head in network.requests)


@pytest.mark.parametrize("anonymous", [False, True])
def test_one_token_for_all(anonymous: bool) -> None:
    def site(head: RequestHead, body: bytes) -> Answer:
        if head.target.startswith("/token"):
            return 200, (), b'{"token":"t"}'
        return (200, (), b'{"tags":["1"]}') if head.get("authorization") == "Bearer t" else (401, CHALLENGE, b"")

    network = Network(site)
    found = network.run(Courier(at_once(registry(anonymous=anonymous))))
    assert [one.items for one in found] == [("1",)] * 6
    assert asked(network) == 1


def test_a_refused_login_is_shown_once() -> None:
    def site(head: RequestHead, body: bytes) -> Answer:
        return 401, () if head.target.startswith("/token") else CHALLENGE, b""

    network = Network(site)
    found = network.run(Courier(at_once(registry())))
    assert {one.kind for one in found} == {"registry-unauthorized"}
    assert asked(network) == 1


def test_where_one_fails_by_accident_the_next_one_tries() -> None:
    answers = iter([(500, (), b""), (200, (), b'{"token":"t"}')])

    def site(head: RequestHead, body: bytes) -> Answer:
        if head.target.startswith("/token"):
            return next(answers)
        return (200, (), b'{"tags":["1"]}') if head.get("authorization") == "Bearer t" else (401, CHALLENGE, b"")

    network = Network(site)
    found = network.run(Courier(at_once(registry(retries=0))))
    assert sorted(type(one).__name__ for one in found) == ["Listing"] * 5 + ["RemoteProtocolError"]
    assert asked(network) == 2


def test_a_conversation_that_is_given_up_leaves_the_place() -> None:
    of = registry()
    script = Script(list_tags(of, "a/b"))
    for answer in (WAKE, Head(401, CHALLENGE), Tail()):
        script.handle(answer, 1000.0)
    assert isinstance(script.waits, Fetch)
    assert script.waits.request.url.startswith(REALM)
    assert len(of.getting) == 1
    script.close()
    assert of.getting == set()
