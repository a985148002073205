"""Parsers under any input: an answer or a TowlineError, in linear time, with nothing of the peer's in an error raw."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.core import LIMITS, RemoteProtocolError, strict_json
from towline.core.http import Url
from towline.core.registry import (
    BadLink,
    Digest,
    ImageReference,
    InvalidReference,
    TokenRefused,
    is_digest,
    next_page,
    parse_challenges,
    parse_error_body,
    parse_manifest,
    parse_token_answer,
    realm_allowed,
    select,
)

REQUEST = Url.parse("https://registry.example/v2/a/tags/list?n=2")
CHALLENGY = st.text(st.sampled_from('Bearer realm="https:/.x,\\ \t=Basic;\r\n\x00ü'), max_size=60)


# ── references ─────────────────────────────────────────────────────────────────
@given(st.text(max_size=80) | st.text(st.sampled_from("aA0.:/@_-[]sha256"), max_size=80))
def test_a_reference_reads_back_as_it_is_written(text: str) -> None:
    try:
        found = ImageReference.parse(text)
    except InvalidReference:
        return
    assert ImageReference.parse(str(found)) == found
    assert found.path.islower() or not found.path.isalpha()


def test_references_from_users() -> None:
    assert ImageReference.from_user(" docker://ghcr.io/a/b:1\n") == ImageReference("ghcr.io", "a/b", "1")
    assert ImageReference.parse("a/b").reference == "latest"
    assert ImageReference.parse("a/b:1").reference == "1"
    digest = "sha256:" + "a" * 64
    assert ImageReference.parse(f"a/b:1@{digest}").reference == digest
    assert ImageReference.parse("docker.io/library/a/b").familiar == "library/a/b"


def test_a_reference_that_is_too_long() -> None:
    with pytest.raises(InvalidReference) as caught:
        ImageReference.parse("a" * 2000)
    assert caught.value.fault == "too-long"
    assert len(caught.value.message) < 200


# ── digests ────────────────────────────────────────────────────────────────────
def test_digests() -> None:
    for algorithm in ("sha256", "sha384", "sha512"):
        digest = Digest.of(b"x", algorithm)
        assert Digest.parse(str(digest)) == digest
        hasher = digest.hasher()
        hasher.update(b"x")
        assert hasher.hexdigest() == digest.encoded


@pytest.mark.parametrize(
    "text", ["", "sha256", "sha256:", "md5:" + "a" * 32, "sha256:" + "A" * 64, "sha256:" + "a" * 65]
)
def test_what_is_no_digest(text: str) -> None:
    assert not is_digest(text)
    with pytest.raises(RemoteProtocolError) as caught:
        Digest.parse(text)
    assert caught.value.kind == "invalid-reference"


# ── challenges ─────────────────────────────────────────────────────────────────
@given(st.lists(CHALLENGY, max_size=3))
def test_challenges_never_fail_and_never_double_a_name(lines: list[str]) -> None:
    found = parse_challenges(lines)
    for challenge in found.items:
        assert challenge.scheme == challenge.scheme.lower()
        assert not any(char in value for value in challenge.params.values() for char in "\r\n\0")
    assert select(found) in (None, *found.items)


def test_a_value_without_a_name_drops_the_challenge() -> None:
    found = parse_challenges(['Basic realm="a", Bearer "x"'])
    assert [challenge.scheme for challenge in found.items] == ["basic"]
    assert found.malformed


def test_challenges_are_bounded() -> None:
    many = parse_challenges([", ".join(f'S{at} a="b"' for at in range(90))])
    assert (len(many.items), many.malformed) == (LIMITS.challenge_count, True)
    exactly = parse_challenges([", ".join(f'S{at} a="b"' for at in range(16))])
    assert (len(exactly.items), exactly.malformed) == (16, False)
    params = ", ".join(f"p{at}=1" for at in range(33))
    assert parse_challenges([f"Bearer {params}"]).items == ()
    assert parse_challenges(["Basic " + "a" * LIMITS.challenge_line]).malformed


@pytest.mark.parametrize(
    "line", ["Bearer " + "a=," * 5000, '"' * 16000, "a " * 8000, "Bearer a=" + "\\" * 16000, "," * 16000]
)
def test_the_worst_line_takes_no_time(line: str) -> None:
    begun = time.perf_counter()
    parse_challenges([line])
    assert time.perf_counter() - begun < 2.0


# ── realms ─────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("base", "realm", "rule"),
    [
        ("https://registry.example.com", "https://auth.registry.example.com/t", "subdomain"),
        ("https://a.github.io", "https://github.io/t", "unrelated-host"),
        ("https://github.io", "https://a.github.io/t", "unrelated-host"),
        ("https://a.co.uk", "https://b.co.uk/t", "unrelated-host"),
        ("https://a.house.co.uk", "https://b.house.co.uk/t", "same-registrable-domain"),
        ("https://a.house.de", "https://b.house.de/t", "same-registrable-domain"),
        ("https://a.kawasaki.jp", "https://b.kawasaki.jp/t", "unrelated-host"),
        ("https://x.s3.eu-west-1.amazonaws.com", "https://y.s3.eu-west-1.amazonaws.com/t", "unrelated-host"),
        ("https://one.azurecr.io", "https://two.azurecr.io/t", "unrelated-host"),
        ("https://localhost:5000", "https://localhost:5001/t", "same-host"),
        ("https://registry", "https://auth/t", "unrelated-host"),
        ("https://registry.example.com", "https://8.8.8.8/t", "unrelated-host"),
        ("https://registry.example.com", "https://[::ffff:10.0.0.1]/t", "private-address"),
        ("https://registry.example.com", "https://[::1]/t", "private-address"),
        ("https://registry.example.com", "https://0.0.0.0/t", "private-address"),
        ("https://registry.example.com", "https://127.1/t", "malformed"),
        ("https://registry.example.com", "https://2130706433/t", "malformed"),
        ("https://registry.example.com", "https://0x7f000001/t", "malformed"),
        ("https://registry.example.com", "https:registry.example.com/t", "malformed"),
        ("https://registry.example.com", "https://registry.example.com:99999/t", "malformed"),
        ("https://registry.example.com", "https://registry.example.com./t", "same-host"),
        ("https://10.0.0.5", "https://x.10.0.0.5/t", "malformed"),
        ("https://10.0.0.5", "https://registry.example.com/t", "unrelated-host"),
    ],
)
def test_realms(base: str, realm: str, rule: str) -> None:
    assert realm_allowed(base, realm).rule == rule


def test_hosts_that_are_listed() -> None:
    base, realm = "https://registry.example.com", "https://login.other.example:8443/t"
    assert realm_allowed(base, realm, ["login.other.example"]).rule == "configured"
    assert realm_allowed(base, realm, ["LOGIN.other.example:8443"]).rule == "configured"
    assert realm_allowed(base, realm, ["login.other.example:443"]).rule == "unrelated-host"
    assert realm_allowed(base, realm, [], ["login.other.example"]).rule == "built-in"


@given(st.text(max_size=60), st.sampled_from(["", "https://", "http://", "https://registry.example"]))
def test_a_realm_is_always_judged(text: str, scheme: str) -> None:
    verdict = realm_allowed("https://registry.example", scheme + text)
    if verdict.send_credentials:
        assert (scheme + text).lower().startswith("https://")


# ── links ──────────────────────────────────────────────────────────────────────
@given(st.lists(st.text(st.sampled_from('</v2?=a>;rel"nxt,:@ \\\té\n'), max_size=60), max_size=3))
def test_a_next_page_is_on_the_same_origin_or_an_error(lines: list[str]) -> None:
    try:
        url = next_page(REQUEST, lines)
    except BadLink:
        return
    assert url is None or (url.origin == REQUEST.origin and url != REQUEST)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('</a\\b>; rel="next"', "malformed"),
        ('</a\r\nb>; rel="next"', "malformed"),
        ("</a>; =x", "malformed"),
        ("</a> x", "malformed"),
        ("<" + "a" * 20_000, "malformed"),
        ('<https://registry.example:99999/>; rel="next"', "malformed"),
        ('<//user@registry.example/x>; rel="next"', "userinfo"),
    ],
)
def test_bad_links(line: str, fault: str) -> None:
    with pytest.raises(BadLink) as caught:
        next_page(REQUEST, [line])
    assert caught.value.fault == fault


def test_odd_links() -> None:
    assert next_page(REQUEST, ["</a>; rel=next;"]) == Url.parse("https://registry.example/a")
    assert next_page(REQUEST, ["</a>; crossorigin; rel=next"]) == Url.parse("https://registry.example/a")
    assert next_page(REQUEST, ['</\xe9>; rel="ne\\xt"']) == Url.parse("https://registry.example/%E9")


# ── tokens, errors, manifests, JSON ────────────────────────────────────────────
@given(st.sampled_from([200, 301, 401, 403, 408, 418, 429, 500]), st.binary(max_size=80))
def test_any_token_answer(status: int, body: bytes) -> None:
    assert isinstance(parse_token_answer(status, body), TokenRefused)


@pytest.mark.parametrize(
    ("expires", "lifetime"),
    [
        ("true", 60.0),
        ("null", 60.0),
        ("-5", 60.0),
        ('"x"', 60.0),
        ("90.5", 90.5),
        (str(10**18), 604800.0),
        ("[]", 60.0),
    ],
)
def test_lifetimes(expires: str, lifetime: float) -> None:
    answer = parse_token_answer(200, b'{"token":"t","expires_in":%s}' % expires.encode())
    assert not isinstance(answer, TokenRefused)
    assert answer.lifetime == lifetime


@given(st.integers(100, 599), st.sampled_from([None, "application/json", "text/html"]), st.binary(max_size=80))
def test_any_error_body(status: int, content_type: str | None, body: bytes) -> None:
    report = parse_error_body(status, content_type, body)
    assert report.message is None or report.message.isprintable()


def test_error_texts_are_cut_and_cleaned() -> None:
    assert parse_error_body(500, None, b"a\x1b[31m\nb").message == "a [31m b"
    assert len(parse_error_body(500, None, b"x" * 100_000).message or "") == LIMITS.foreign_text
    assert parse_error_body(500, None, b'{"message": "<b>x</b>"}').message is None
    assert parse_error_body(500, None, b'"said"').message == "said"
    assert parse_error_body(500, None, b"[" * 100_000).message is None
    assert parse_error_body(400, None, b'{"error": "invalid_grant", "error_description": "d"}').message == "d"


@given(st.binary(max_size=120))
def test_any_manifest(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_manifest(body, None)


@pytest.mark.parametrize(
    "text", [b'{"a": 1, "a": 2}', b"[1,]", b"1" * 65, b"0." + b"1" * 65, b"Infinity", b"", b"\xff"]
)
def test_json_that_is_refused(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        strict_json(text, "test", kind="bad-request")
    assert caught.value.kind == "bad-request"
    assert caught.value.message.startswith("test: expected")
