"""Header fields: what belongs to one hop, what may be written, what is never shown."""

from __future__ import annotations

import pytest

from towline.core import RemoteProtocolError, Secret
from towline.core.http import members, strip_hop_by_hop, without
from towline.core.http._headers import Fields, check_method, check_target, content_length, written


def test_strips_what_belongs_to_this_hop() -> None:
    given = (
        ("Connection", "close, X-Trace"),
        ("x-trace", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "websocket"),
        ("Accept", "*/*"),
        ("Authorization", Secret("t")),
        ("Accept", "text/html"),
    )
    assert strip_hop_by_hop(given) == (("Accept", "*/*"), ("Authorization", Secret("t")), ("Accept", "text/html"))
    assert without(given, frozenset({"accept"}))[-1] == ("Authorization", Secret("t"))


def test_fields_show_their_names_only() -> None:
    fields = Fields((("authorization", "Basic hunter2"), ("accept", "*/*")))
    assert repr(fields) == "Fields(authorization, accept)"
    assert "hunter2" not in str(fields.__rich_repr__())


def test_members_of_a_list() -> None:
    assert members(["Close, TE ,", "upgrade"]) == ["close", "te", "upgrade"]


def test_writes_secrets_and_latin_1() -> None:
    assert written([("A", " x\ty "), ("B", "é"), ("C", Secret("s"))]) == [
        (b"A", b"x\ty"),
        (b"B", b"\xe9"),
        (b"C", b"s"),
    ]


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\0b", "a\x1bb", "snow ☃", "\x7f"])
def test_a_value_cannot_become_a_second_header(value: str) -> None:
    for form in (value, Secret(value)):
        with pytest.raises(RemoteProtocolError) as caught:
            written([("X-Token", form)])
        assert caught.value.kind == "bad-request"
        assert "x-token" in caught.value.message
        assert value not in caught.value.message


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "é", "x" * 257])
def test_a_name_is_a_token(name: str) -> None:
    with pytest.raises(RemoteProtocolError, match="header name"):
        written([(name, "x")])


@pytest.mark.parametrize("method", ["", "GE T", "GET\r\n", "CONNECT", "connect", "X" * 33])
def test_methods(method: str) -> None:
    check_method("PROPFIND")
    with pytest.raises(RemoteProtocolError, match="method"):
        check_method(method)


@pytest.mark.parametrize("target", ["", "/a b", "/a\r\nX: y", "/é", "/" * 65537])
def test_targets(target: str) -> None:
    check_target("/a?b=%20")
    with pytest.raises(RemoteProtocolError, match="target"):
        check_target(target)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("0", 0),
        ("007", 7),
        ("9" * 19, 10**19 - 1),
        ("9" * 20, None),
        ("-1", None),
        ("+1", None),
        ("1_0", None),
        ("٣", None),
        ("", None),
    ],
)
def test_lengths(text: str, length: int | None) -> None:
    assert content_length(text) == length
