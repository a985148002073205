"""Addresses: what is read, what is refused, how references resolve, what a log may show."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towline.core import RemoteProtocolError
from towline.core.http import Origin, Url, redacted


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://registry.example.com", Url("https", "registry.example.com", 443, "/")),
        ("https://Registry.Example.COM:443/v2/", Url("https", "registry.example.com", 443, "/v2/")),
        ("HTTP://a.test/", Url("http", "a.test", 80, "/")),
        ("http://a.test:5000/v2/x?n=1&last=a%2Fb", Url("http", "a.test", 5000, "/v2/x", "n=1&last=a%2Fb")),
        ("http://a.test?x=1", Url("http", "a.test", 80, "/", "x=1")),
        ("http://a.test/?", Url("http", "a.test", 80, "/", "")),
        ("http://a.test:/", Url("http", "a.test", 80, "/")),
        ("http://127.0.0.1:5000/", Url("http", "127.0.0.1", 5000, "/")),
        ("http://[::1]:5000/v2/", Url("http", "::1", 5000, "/v2/")),
        ("https://[FE80::1]/", Url("https", "fe80::1", 443, "/")),
        ("http://a.test/x#part", Url("http", "a.test", 80, "/x")),
        ("http://a.test/a//b/../c", Url("http", "a.test", 80, "/a//b/../c")),
        ("http://a.test/x?u=http://b.test/@", Url("http", "a.test", 80, "/x", "u=http://b.test/@")),
        ("http://under_score.test/", Url("http", "under_score.test", 80, "/")),
    ],
)
def test_reads(text: str, url: Url) -> None:
    assert Url.parse(text) == url
    assert Url.parse(str(url)) == url


@pytest.mark.parametrize(
    "text",
    [
        "", "a.test", "//a.test/", "/v2/", "ftp://a.test/", "file:///etc/passwd", "http:/a.test", "http://",
        "http:///v2/", "http://user@a.test/", "http://user:hunter2@a.test/", "http://a.test:0/", "http://a.test:65536/",
        "http://a.test:80a/", "http://a.test:+80/", "http://a.test:-1/", "http://a.test:٣/", "http://a b.test/",
        "http://a.test/a b", "http://a.test/\r\nX: y", "http://a.test/\0", "http://a%2etest/", "http://a.test\\@b.test/",
        "http://.a.test/", "http://a..test/", "http://ä.test/", "http://[::1/", "http://[]/", "http://[::1]x/",
        "http://[v1.x]/", "http://::1/", "http://a.test:80:80/", "http://" + "a" * 64 + ".test/",
        "http://" + "a." * 127 + "test/", "http://a.test/" + "x" * 8192,
    ],
)  # fmt: skip
def test_refuses(text: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        Url.parse(text, kind="redirect-blocked")
    assert caught.value.kind == "redirect-blocked"
    assert "expected" in caught.value.message
    assert "hunter2" not in str(caught.value)


def test_the_longest_address() -> None:
    longest = "http://a.test/".ljust(8 * 1024, "x")
    assert str(Url.parse(longest)) == longest


def test_parts() -> None:
    url = Url.parse("https://[::1]:5000/v2/?n=1")
    assert (url.authority, url.target, str(url.origin)) == ("[::1]:5000", "/v2/?n=1", "https://[::1]:5000")
    assert url.origin == Origin("https", "::1", 5000)
    assert Url.parse("https://a.test:443/").authority == "a.test"
    assert Url.parse("http://a.test:443/").authority == "a.test:443"


@pytest.mark.parametrize(
    ("reference", "joined"),
    [
        # RFC 3986 §5.4, against /b/c/d?q
        ("g", "/b/c/g"), ("./g", "/b/c/g"), ("g/", "/b/c/g/"), ("/g", "/g"), ("?y", "/b/c/d?y"), ("g?y", "/b/c/g?y"),
        ("g#s", "/b/c/g"), ("", "/b/c/d?q"), ("#s", "/b/c/d?q"), (".", "/b/c/"), ("./", "/b/c/"), ("..", "/b/"),
        ("../", "/b/"), ("../g", "/b/g"), ("../..", "/"), ("../../g", "/g"), ("../../../g", "/g"), ("/./g", "/g"),
        ("/../g", "/g"), ("g.", "/b/c/g."), (".g", "/b/c/.g"), ("g..", "/b/c/g.."), ("./../g", "/b/g"),
        ("./g/.", "/b/c/g/"), ("g/./h", "/b/c/g/h"), ("g/../h", "/b/c/h"), ("g?y/./x", "/b/c/g?y/./x"),
        ("?", "/b/c/d?"), ("/v2/t?last=a:b%2F", "/v2/t?last=a:b%2F"),
    ],
)  # fmt: skip
def test_joins(reference: str, joined: str) -> None:
    assert str(Url.parse("https://a.test:8443/b/c/d?q").join(reference)) == "https://a.test:8443" + joined


def test_joins_across_origins() -> None:
    base = Url.parse("https://a.test/b")
    assert str(base.join("//c.test/d")) == "https://c.test/d"
    assert str(base.join("http://c.test:81/d?e=%2f")) == "http://c.test:81/d?e=%2f"


@pytest.mark.parametrize("reference", ["ftp://b.test/", "mailto:x", "//u@b.test/", "a b", "\r\n", "//", "x" * 9000])
def test_refuses_to_join(reference: str) -> None:
    with pytest.raises(RemoteProtocolError, match="expected"):
        Url.parse("https://a.test/b").join(reference)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://a.test/b", "https://a.test/b"),
        ("https://s3.test/x?X-Amz-Signature=abc&expires=5", "https://s3.test/x?X-Amz-Signature=***&expires=***"),
        ("https://a.test/x?c2lnbmVk", "https://a.test/x?***"),
        ("https://user:hunter2@a.test/", "(an address that cannot be read)"),
    ],
)
def test_what_a_log_shows(text: str, shown: str) -> None:
    assert redacted(text) == shown


@settings(deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text(base: str, reference: str) -> None:
    for prefix in ("", "http://a.test/", "https://"):
        try:
            url = Url.parse(prefix + base)
            joined = url.join(reference)
        except RemoteProtocolError:
            continue
        assert Url.parse(str(url)) == url
        assert Url.parse(str(joined)) == joined
