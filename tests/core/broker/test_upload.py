"""The head of an uploaded answer: cut anywhere, bounded, and read in spite of a wrong length."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.core import LIMITS, RemoteProtocolError
from towline.core.broker._upload import UploadDecoder, UploadHead, encode_upload_head, parse_answer_head

VECTORS = Path(__file__).parents[2] / "vectors" / "broker"


def decoded(upload: bytes, cuts: list[int]) -> tuple[UploadHead | None, bytes]:
    decoder = UploadDecoder()
    body = b""
    at = 0
    for cut in [*cuts, len(upload)]:
        piece, at = upload[at : at + cut], min(at + cut, len(upload))
        body += decoder.feed(piece)
    body += decoder.feed(upload[at:])
    decoder.end()
    return decoder.head, body


HEADERS = st.dictionaries(
    st.text("abc-xyz", min_size=1, max_size=8),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=20)
    | st.lists(st.text("ab=;", max_size=5), max_size=3),
    max_size=6,
)


@given(st.integers(200, 599), HEADERS, st.binary(max_size=100), st.lists(st.integers(0, 40), max_size=8))
def test_round_trip_cut_anywhere(
    status: int, headers: dict[str, str | list[str]], body: bytes, cuts: list[int]
) -> None:
    head, rest = decoded(encode_upload_head(status, headers) + body, cuts)
    pairs = [(name, text) for name, value in headers.items() for text in ([value] if isinstance(value, str) else value)]
    assert head == UploadHead(status, tuple(pairs))
    assert rest == body


def test_ours_is_ascii_so_that_bytes_and_utf16_units_agree() -> None:
    head = encode_upload_head(200, {"x": "é"})
    assert head.isascii()
    assert int.from_bytes(head[:4], "little") == len(head) - 4 == len(head.decode()) - 4


def test_own_answers_have_no_headers() -> None:
    # The bytes of broker-protocol.md §2.3.
    assert encode_upload_head(401, None, "FILTER_BLOCKED") == b'\x2b\0\0\0{"status":401,"errorType":"FILTER_BLOCKED"}'
    head, _ = decoded(encode_upload_head(401, None, "FILTER_BLOCKED"), [])
    assert head == UploadHead(401, (), "FILTER_BLOCKED", has_headers=False)


@given(st.lists(st.integers(0, 50), max_size=10))
def test_a_length_in_utf16_units_is_understood(cuts: list[int]) -> None:
    document = '{"status":200,"headers":{"x-name":"caf\u00e9 {\\"}","content-length":"4"}}'
    upload = len(document).to_bytes(4, "little") + document.encode() + b"body"
    head, body = decoded(upload, cuts)
    assert head is not None
    assert body == b"body"
    # The value's bytes are those of UTF-8; é is within what a header may hold.
    assert ("x-name", 'caf\u00e9 {"}') in head.headers


@pytest.mark.parametrize(
    "upload",
    [
        b"",
        b"\x05\0",
        b"\xff\xff\xff\xff{}" + b"x" * 1000,
        b"\x10\0\0\0{}",
        b"\x02\0\0\0{}body",
        b"\x02\0\0\0[]body",
        b'\x0e\0\0\0{"status":99 }',
        b'\x0e\0\0\0{"status":"2"}',
        b'\x04\0\0\0{"status":200',
        b"\x01\0\0\0{" + b"[" * 70_000,
        encode_upload_head(200, {"x": "a\r\nInjected: 1"}),
        encode_upload_head(200, {"x y": "a"}),
        encode_upload_head(200, {f"x{at}": "1" for at in range(101)}),
        encode_upload_head(200, {"x": "a" * LIMITS.upload_head}),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_malformed_heads(upload: bytes, size: int) -> None:
    def decode() -> None:
        decoder = UploadDecoder()
        for at in range(0, len(upload), size):
            decoder.feed(upload[at : at + size])
        decoder.end()

    with pytest.raises(RemoteProtocolError) as caught:
        decode()
    assert caught.value.kind == "tunnel-protocol"


def test_heads_of_events() -> None:
    assert parse_answer_head({"status": 200, "headers": {"A": "1", "set-cookie": ["b", "c"], "n": 7}}) == UploadHead(
        200, (("a", "1"), ("set-cookie", "b"), ("set-cookie", "c"), ("n", "7"))
    )
    wrongs: tuple[object, ...] = (
        None,
        [],
        {},
        {"status": "x"},
        {"status": 200, "headers": []},
        {"status": 200, "headers": {"a": {}}},
    )
    for wrong in wrongs:
        with pytest.raises(RemoteProtocolError):
            parse_answer_head(wrong)


@pytest.mark.parametrize("name", ["02-request-small", "03-request-body", "04-response-stream", "05-request-denied"])
def test_recorded_uploads(name: str) -> None:
    uploads = 0
    for line in (VECTORS / f"{name}.jsonl").read_text().splitlines():
        message = json.loads(line)
        if not message.get("start", "").startswith("POST /response-data/") or "body_b64" not in message:
            continue
        uploads += 1
        upload = base64.b64decode(message["body_b64"])
        length = int.from_bytes(upload[:4], "little")
        head, body = decoded(upload, [1] * 200)
        assert head is not None
        assert head.status == json.loads(upload[4 : 4 + length])["status"]
        assert body == upload[4 + length :]
    assert uploads
