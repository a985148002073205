"""Blobs: proven before they are told, resumed where they were cut, bounded by their descriptor."""

from __future__ import annotations

from typing import Any

import pytest
from registry_tools import BASIC, Asks, Gives, Outcome, asks, bearer, breaks, gives, play, registry, sha256, token_url

from towline.core import Body, Broken, Head, Limits, Note
from towline.core.layer import BlobPlan
from towline.core.registry import Descriptor, Progress, download_blob, get_blob_document

DATA = b"abcdef"
AT = f"/v2/a/b/blobs/{sha256(DATA)}"
STORE = "https://store.example/blob?sig=x%2By"
PULL = "repository:a/b:pull"


def download(*columns: Any, data: bytes = DATA, size: int | None = None, keep: bool = True, **options: Any) -> Outcome:
    blob = Descriptor("", sha256(data), len(data) if size is None else size)
    plan = BlobPlan(blob.digest, blob.size)
    return play(download_blob(registry(**options), "a/b", blob, plan, keep=keep), *columns)


def part(start: int, data: bytes, *, total: str = "6", cut: str | None = None, **headers: str) -> Any:
    span = {"content-range": f"bytes {start}-{start + len(data) - 1}/{total}"}
    return gives(206, span | headers, data, cut=cut)


def test_whole() -> None:
    done = download(
        Asks(AT, headers={"accept-encoding": "identity", "range": None}),
        gives(200, {"content-length": "6"}, b"abc", b"def"),
    )
    assert (done.value.digest, done.value.size) == (sha256(DATA), 6)
    assert done.stored == {1: DATA}
    assert done.events == [Progress(sha256(DATA), 6, 6)]


def test_nothing_is_stored_that_is_not_to_be_kept() -> None:
    assert download(asks(AT), gives(200, None, DATA), keep=False).stored == {}


def test_an_empty_blob() -> None:
    at = f"/v2/a/b/blobs/{sha256(b'')}"
    assert download(asks(at), gives(), data=b"").value.size == 0


def test_progress_is_told_for_each_mebibyte() -> None:
    data = bytes(3 << 20)
    pieces = [data[at : at + 65536] for at in range(0, len(data), 65536)]
    done = download(asks(f"/v2/a/b/blobs/{sha256(data)}"), gives(200, None, *pieces), data=data, keep=False)
    assert [event.done_bytes for event in done.all_of(Progress)] == [1 << 20, 2 << 20, 3 << 20]


def test_resumed_with_a_range() -> None:
    done = download(
        asks(AT),                                   gives(200, None, b"abc", cut="reset"),
        asks(AT, range="bytes=3-"),                 part(3, b"def"),
    )  # fmt: skip
    assert done.value.size == 6
    assert done.stored == {1: DATA}
    assert len(done.sleeps) == 1
    note = done.events[0]
    assert isinstance(note, Note)
    assert (note.event, note.fields["have_bytes"]) == ("registry.resume", 3)


def test_a_range_that_is_ignored_is_passed_over() -> None:
    done = download(
        asks(AT),                                   gives(200, None, b"ab", b"c", cut="reset"),
        asks(AT, range="bytes=3-"),                 gives(200, None, b"a", b"bcd", b"ef"),
    )  # fmt: skip
    assert done.value.size == 6
    assert done.stored == {1: DATA}


def test_cut_after_the_last_byte_is_not_cut() -> None:
    assert download(asks(AT), gives(200, None, DATA, cut="reset")).value.size == 6


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (part(2, b"cdef"), "protocol-error"),
        (gives(206, {"content-type": "multipart/byteranges; boundary=x"}, b"--x"), "protocol-error"),
        (gives(206, {"content-range": "bytes */6"}, b""), "protocol-error"),
        (part(3, b"def", total="7"), "size-mismatch"),
        (part(3, b"defg"), "size-mismatch"),
        (gives(416, {"content-length": "100000"}), "size-mismatch"),
        (part(3, b"def", **{"content-encoding": "gzip"}), "protocol-error"),
    ],
)
def test_answers_to_a_range_that_are_wrong(answer: Any, kind: str) -> None:
    done = download(asks(AT), gives(200, None, b"abc", cut="reset"), asks(AT, range="bytes=3-"), answer)
    assert done.kind == kind


def test_an_unasked_for_part() -> None:
    assert download(asks(AT), part(0, DATA)).kind == "protocol-error"


def test_the_total_of_a_part_may_be_unknown() -> None:
    done = download(
        asks(AT), gives(200, None, b"abc", cut="reset"), asks(AT, range="bytes=3-"), part(3, b"def", total="*")
    )
    assert done.value.size == 6


def test_resumes_end() -> None:
    cut = gives(200, None, b"abc", cut="reset")
    nothing = part(3, b"", cut="reset")
    stalled = download(asks(AT), cut, asks(AT), nothing, asks(AT), nothing)
    assert stalled.kind == "registry-unreachable"
    assert stalled.error is not None
    assert "got 3 in 3 pieces" in stalled.error.message
    silent = Gives(Head(200, ()), [Body(b"abc"), Broken("silence", "timeout")])
    part_of_it = Gives(Head(206, (("content-range", "bytes 3-5/6"),)), [Broken("silence", "timeout")])
    assert download(asks(AT), silent, asks(AT), part_of_it).kind == "timeout"
    limits = Limits(resume_progress=1, resumes=2)
    columns: list[Any] = [asks(AT), gives(200, None, b"a", cut="silence")]
    columns += [asks(AT), part(1, b"b", cut="silence"), asks(AT), part(2, b"c", cut="silence")]
    assert download(*columns, limits=limits).kind == "registry-unreachable"


def test_sizes() -> None:
    assert download(asks(AT), gives(200, {"content-length": "7"}, b"abcdefg")).kind == "size-mismatch"
    assert download(asks(AT), gives(200, None, b"abcdefg")).kind == "size-mismatch"
    assert download(asks(AT), gives(200, None, b"abc")).kind == "size-mismatch"
    assert download(size=11 << 30).kind == "image-too-large"


def test_a_wrong_digest_is_fetched_once_more() -> None:
    done = download(asks(AT), gives(200, None, b"abcdeX"), asks(AT), gives(200, None, DATA))
    assert done.value.size == 6
    assert done.began == [1, 2]
    assert [event.event for event in done.events if isinstance(event, Note)] == ["registry.fetch-again"]
    assert done.stored[2] == DATA
    again = download(asks(AT), gives(200, None, b"abcdeX"), asks(AT), gives(200, None, b"abcdeX"))
    assert again.kind == "digest-mismatch"


# ── object storage ─────────────────────────────────────────────────────────────
def test_storage_gets_no_login() -> None:
    done = download(
        asks(AT),                                   gives(401, bearer(PULL)),
        asks(token_url(PULL), BASIC),               gives(json={"token": "t"}),
        asks(AT, "Bearer t"),                       gives(307, {"location": STORE}),
        asks(STORE, purpose="untrusted"),           gives(200, None, b"abc", cut="reset"),
        asks(AT, "Bearer t", range="bytes=3-"),     gives(307, {"location": STORE}),
        asks(STORE, range="bytes=3-"),              part(3, b"def"),
    )  # fmt: skip
    assert done.value.size == 6


def test_a_relative_redirect_keeps_the_login() -> None:
    of = registry()
    blob = Descriptor("", sha256(DATA), 6)
    done = play(
        download_blob(of, "a/b", blob, BlobPlan(blob.digest, 6)),
        asks(AT),                                   gives(401, {"www-authenticate": "Basic"}),
        asks(AT, BASIC),                            gives(302, {"location": "/other"}),
        asks("/other", BASIC),                      gives(200, None, DATA),
    )  # fmt: skip
    assert done.value.size == 6


@pytest.mark.parametrize("status", [401, 403])
def test_storage_that_refuses_is_asked_again_through_the_registry(status: int) -> None:
    refusal = gives(status, {"www-authenticate": 'Bearer realm="https://store.example/t"'})
    start = asks(AT), gives(307, {"location": STORE}), asks(STORE), refusal
    assert download(*start, asks(AT), gives(307, {"location": STORE}), asks(STORE), gives(200, None, DATA)).value
    denied = download(*start, asks(AT), gives(307, {"location": STORE}), asks(STORE), refusal)
    assert denied.kind == ("registry-forbidden" if status == 403 else "registry-unauthorized")


@pytest.mark.parametrize("target", ["http://store.example/x", "ftp://store.example/x", "https://u@store.example/"])
def test_redirects_that_lead_where_they_must_not(target: str) -> None:
    assert download(asks(AT), gives(307, {"location": target})).kind == "redirect-blocked"


def test_errors() -> None:
    assert download(asks(AT), gives(404)).kind == "image-not-found"
    assert download(asks(AT), breaks(), retries=0).kind == "registry-unreachable"
    assert download(asks(AT), gives(200, {"content-encoding": "gzip"}, b"x")).kind == "protocol-error"


def test_a_foreign_layer_is_not_fetched_from_its_host() -> None:
    blob = Descriptor("", sha256(DATA), 6, urls=("https://evil.example/x",))
    done = play(download_blob(registry(), "a/b", blob, BlobPlan(blob.digest, 6)), asks(AT), gives(404))
    assert done.kind == "unsupported-media-type"


def test_a_document_that_came_with_its_descriptor_is_not_asked_for() -> None:
    blob = Descriptor("", sha256(DATA), 6, data=DATA)
    assert play(get_blob_document(registry(), "a/b", blob)).value == DATA
