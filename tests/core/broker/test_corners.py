"""What a peer, a caller or a configuration may do and nearly none does."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest
from worlds.brokers import CLIENT, TOKEN, UPSTREAM, Brokers, Serving, plain

from towline.core import LIMITS, WAKE, Accepted, Limits, Lost, Received, Refused, RemoteProtocolError, Secret, Transmit
from towline.core.broker import AcceptRules, Allowed, Denied, Filter, UploadDecoder, encode_upload_head


def filter_of(*valid: dict[str, Any], **more: Any) -> Filter:
    rules = AcceptRules.load({"private": [{"method": "POST", "path": "/a", "origin": "http://x", "valid": [*valid]}]})
    return Filter(rules.private, {}, **more)


# ── the filter ────────────────────────────────────────────────────────────────
def test_a_filter_that_fails_denies() -> None:
    # A caller's mistake that no type check saw: it must not pass, and not stop the broker.
    body: Any = 3
    verdict = filter_of().decide("POST", "/a", {}, body)
    assert isinstance(verdict, Allowed | Denied)

    class Hostile(dict[str, str]):
        def items(self) -> Any:
            raise ValueError("a secret")

    denied = filter_of().decide("POST", "/a", Hostile(), None)
    assert denied == Denied("the filter failed with ValueError")


def test_headers_beyond_a_limit_are_denied() -> None:
    for headers in ({"a": "x\n"}, {"a": "x" * LIMITS.http_header}, {"a": "x", "A": "y"}):
        assert isinstance(filter_of().decide("POST", "/a", headers, None), Denied)
    assert isinstance(filter_of().decide("POST", "/a", {"a": "x"}, None), Allowed)


@pytest.mark.parametrize(
    ("target", "passes"), [("/a?q=x/y.json", True), ("/a?q=x/../y.json", False), ("/a?q=./y.json", False)]
)
def test_a_query_s_path_has_no_dot_segments(target: str, passes: bool) -> None:
    rules = filter_of({"queryParam": "q", "values": ["**/*.json"]})
    assert isinstance(rules.decide("POST", target, {}, None), Allowed) is passes


@pytest.mark.parametrize(
    ("wanted", "body", "passes"),
    [
        (True, b'{"x":true}', True),
        (True, b'{"x":1}', False),
        (1, b'{"x":true}', False),
        (None, b'{"x":null}', True),
        (None, b'{"x":0}', False),
        (1, b'{"x":1.0}', True),
        ("1", b'{"x":1}', False),
        ([1], b'{"x":[1]}', False),
    ],
)
def test_values_are_equal_by_type_too(wanted: Any, body: bytes, passes: bool) -> None:
    rules = filter_of({"path": "x", "value": wanted}, strict=True)
    assert isinstance(rules.decide("POST", "/a", {}, body), Allowed) is passes


@pytest.mark.parametrize(
    ("regex", "text", "passes"),
    [
        (r"^[^\x00-a]$", "b", True),
        (r"^[^\x00-a]$", "a", False),
        (r"^[^\S]$", " ", True),
        (r"^[^\S]$", "c", False),
    ],
)
def test_classes_from_the_first_or_to_the_last_character(regex: str, text: str, passes: bool) -> None:
    rules = filter_of({"path": "x", "regex": regex})
    assert isinstance(rules.decide("POST", "/a", {}, json.dumps({"x": text}).encode()), Allowed) is passes


def test_a_matcher_forgets_what_it_would_remember_too_much_of() -> None:
    rules = filter_of({"path": "x", "regex": "[ab]*a[ab]{12}c"})
    texts = [format(at, "014b").replace("0", "a").replace("1", "b") for at in range(0, 1 << 14, 7)]
    for text in texts:
        verdict = rules.decide("POST", "/a", {}, json.dumps({"x": text + "c"}).encode())
        assert isinstance(verdict, Allowed) is (text[1] == "a")


# ── heads of uploads ──────────────────────────────────────────────────────────
def head_of(headers: dict[str, Any], limits: Limits = LIMITS) -> Any:
    decoder = UploadDecoder(limits)
    decoder.feed(encode_upload_head(200, headers))
    assert decoder.head is not None
    return decoder.head.headers


def test_an_upload_s_headers_may_be_numbers_and_truths_and_not_too_many() -> None:
    said = {"A": True, "b": False, "c": 1, "d": None, "e": ["1", "2"]}
    assert head_of(said) == (("a", "true"), ("b", "false"), ("c", "1"), ("d", ""), ("e", "1"), ("e", "2"))
    for headers, limits in (({"a": ["1"] * 3}, Limits(http_headers=2)), ({"a": "x" * 100}, Limits(http_head=100))):
        with pytest.raises(RemoteProtocolError) as caught:
            head_of(headers, limits)
        assert caught.value.kind == "tunnel-protocol"


# ── the client ────────────────────────────────────────────────────────────────
def test_a_client_needs_no_address_of_its_own() -> None:
    brokers = Brokers(client={"client_url": None})
    assert brokers.relay("/x").status == 200


def test_events_of_a_server_that_ask_for_nothing() -> None:
    brokers = Brokers()
    host = brokers.server_machine._host
    events: list[tuple[str, list[Any], bool]] = [
        ("unheard-of", [1], False),
        ("service", [{"url": "/filters/reload"}], False),
        ("service", [None], True),
        ("request", [], False),
        ("request", [], True),
    ]
    for name, args, ack in events:
        host.emit(1, name, args, ack=ack, now=brokers.world.now)
    brokers.world.tell(brokers.server, WAKE)
    brokers.world.run(0.1)
    assert brokers.relay("/x").status == 200


def test_a_check_whose_credentials_cannot_be_sent() -> None:
    secrets = (Secret("Basic can\nary"), Secret("Basic dXNlcjpwdw=="))
    brokers = Brokers(client={"check_url": f"http://agent:{UPSTREAM}/check", "check_authorizations": secrets})
    got = brokers.ask("/systemcheck", port=CLIENT)
    first, second = json.loads(got.body)
    assert (first["ok"], second["ok"]) == (False, True)
    assert "ary" not in first["error"]
    assert len(brokers.upstream.requests) == 1


def test_a_caller_that_leaves_before_an_upstream_answers_gets_nothing_uploaded() -> None:
    brokers = Brokers(lambda head, body: plain(200, b"x" * 100_000))
    real = brokers.world.opens

    def holding(party: Any, wish: Any) -> None:
        real(party, wish)
        if wish.port == UPSTREAM:
            party.ends[wish.link].held = True

    brokers.world.opens = holding
    leaving = brokers.relay("/x", run=0.1)
    brokers.callers.leave(leaving)
    brokers.turn()
    brokers.world.run(0.1)
    assert len(brokers.upstream.requests) == 1
    brokers.world._cut = lambda size: min(size, 1_000)
    for end in brokers.client.ends.values():
        end.held = False
    turns = count(0)
    brokers.world._pick = lambda ready: next(turns) % ready
    brokers.world.run(1.0)
    assert len(brokers.client_machine._jobs) == 0
    assert brokers.upstream.lost


def test_a_link_that_opens_slowly_is_not_timed_out_while_it_is_used() -> None:
    brokers = Brokers(lambda head, body: (200, [], ["hang"]))
    got = brokers.relay("/x", run=60.0)
    assert got.pending
    assert brokers.upstream.lost == []


# ── the server ────────────────────────────────────────────────────────────────
def test_what_a_client_filters_is_shown() -> None:
    serving = Serving()
    filters: dict[str, Any] = {"/": {"private": []}}
    serving.client(metadata={"capabilities": ["post-streams"], "version": "local", "filters": filters})
    got = serving.ask(f"/connection-status/{TOKEN}")
    assert json.loads(got.body) == {"ok": True, "clients": [{"version": "local", "filters": filters}]}


def test_a_client_may_say_anew_who_it_is() -> None:
    serving = Serving()
    party, client = serving.client()
    client.emit("identify", {"token": TOKEN, "metadata": {"capabilities": [], "version": "local", "filters": 1}})
    serving.say(party)
    got = serving.ask(f"/connection-status/{TOKEN}")
    assert json.loads(got.body) == {"ok": True, "clients": [{"version": "local", "filters": 1}]}


def test_a_header_that_comes_twice() -> None:
    serving = Serving()
    _, client = serving.client()
    serving.relay("/x", headers=(("authorization", "one"), ("authorization", "two"), ("x-a", "1"), ("x-a", "2")))
    headers = client.asked[0]["headers"]
    assert (headers["authorization"], headers["x-a"]) == ("one", "1, 2")


def test_facts_that_are_not_a_server_s() -> None:
    serving = Serving()
    error = RemoteProtocolError("bad-request", "x")
    serving.world.tell(serving.server, Refused(1, error))
    serving.world.tell(serving.server, Lost(77, "never heard of"))
    assert serving.ask("/healthcheck").status == 200


class Raw:
    """A link on which a test says bytes."""

    def __init__(self, serving: Serving, link: int = 901) -> None:
        self._serving = serving
        self._link = link
        self._tell(Accepted(link, "http", "raw"))

    def _tell(self, fact: Any) -> bytes:
        machine, said = self._serving.machine, b""
        machine.handle(fact, self._serving.world.now)
        while (wish := machine.poll()) is not None:
            if isinstance(wish, Transmit) and wish.link == self._link:
                said += bytes(wish.data)
        return said

    def say(self, text: str, more: bytes = b"") -> bytes:
        return self._tell(Received(self._link, text.replace("\n", "\r\n").encode() + more))

    def lose(self) -> None:
        self._tell(Lost(self._link, "reset"))


def test_a_poll_whose_client_leaves() -> None:
    serving = Serving()
    raw = Raw(serving)
    opened = raw.say(f"GET /primus/{TOKEN}/?EIO=4&transport=polling HTTP/1.1\nHost: h\n\n")
    sid = json.loads(opened[opened.index(b"{") : opened.rindex(b"}") + 1])["sid"]
    poll = f"GET /primus/{TOKEN}/?EIO=4&transport=polling&sid={sid} HTTP/1.1\nHost: h\n\n"
    while raw.say(poll):
        pass
    raw.lose()
    serving.world.run(60.0)
    assert serving.ask("/healthcheck").status == 200


def test_what_comes_with_an_upgrade_is_the_tunnel_s() -> None:
    serving = Serving()
    asked = (
        f"GET /primus/{TOKEN}/?EIO=4&transport=websocket HTTP/1.1\nHost: h\nConnection: upgrade\nUpgrade: websocket\n"
        "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n"
    )
    close = b"\x88\x80\x00\x00\x00\x00"
    with_it, alone = Raw(serving, 901).say(asked, close), Raw(serving, 903).say(asked)
    assert with_it.startswith(b"HTTP/1.1 101 ")
    assert b"\x88" in with_it[len(alone) - 1 :]


def test_tokens_of_clients_that_left_are_forgotten_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("towline.core.broker.server._directory.MOST_REMEMBERED", 1)
    serving = Serving()
    tokens = [f"00000000-0000-4000-8000-00000000000{digit}" for digit in "bc"]
    for token in tokens:
        party, _ = serving.client(token)
        serving.world.kill(party)
        serving.world.run(0.1)
    assert [serving.ask(f"/broker/{token}/x").status for token in tokens] == [404, 503]
