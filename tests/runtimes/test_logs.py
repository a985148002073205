"""Log lines: one record a line, valid, bounded, with nothing in it that steers a terminal or tells a secret."""

from __future__ import annotations

import base64
import io
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.core import LIMITS, Note, RemoteProtocolError, Secret
from towline.runtimes.logs import Log, plain

CANARY = 'c4n4ry "quoted"\\ö/&'
STEERING = "\x00\x07\x1b[2J\r\n\x7f\x9b31m\u200e\u202e\u2066\ud800"


def logged(form: str, *notes: Note, level: str = "debug", secret: str = "") -> list[str]:
    stream = io.StringIO()
    log = Log(level, form, stream)
    log.strike(Secret(secret) if secret else None)
    for note in notes:
        log.note(note)
    text = stream.getvalue()
    assert text == "" or text.endswith("\n")
    return text.splitlines()


def record(**fields: Any) -> dict[str, Any]:
    (line,) = logged("json", Note("info", "something", fields))
    told: dict[str, Any] = json.loads(line)
    return told


def test_a_record_of_each_form() -> None:
    note = Note("warning", "registry.retry", {"url": "http://x/", "wait_seconds": 0.5, "last": None, "again": True})
    (line,) = logged("json", note)
    told = json.loads(line)
    assert list(told)[:3] == ["time", "level", "event"]
    assert told.pop("time").endswith("Z")
    assert told == {
        "level": "warning", "event": "registry.retry", "url": "http://x/", "wait_seconds": 0.5, "last": None,
        "again": True,
    }  # fmt: skip
    (line,) = logged("human", note)
    assert line[8:] == " warning registry.retry  url=http://x/  wait_seconds=0.5  last=None  again=True"


def test_a_pipe_gets_json_unless_told_otherwise() -> None:
    stream = io.StringIO()
    Log("info", None, stream).say("info", "started", port=1)
    assert json.loads(stream.getvalue())["port"] == 1


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("warn", 2), ("error", 1)])
def test_levels(level: str, count: int) -> None:
    levels: list[Any] = ["debug", "info", "warning", "error"]
    assert len(logged("json", *(Note(one, "x", {}) for one in levels), level=level)) == count


def test_an_error_is_told_by_code_and_message() -> None:
    assert record(error=RemoteProtocolError("timeout", "late\x1b[0m"))["error"] == "TIMEOUT: late\\x1b[0m"


def test_a_field_cannot_pose_as_the_record() -> None:
    told = record(event="other", level="error", time="never")
    assert (told["event"], told["level"]) == ("something", "info")
    assert told["time"] != "never"


@given(st.text(), st.text(alphabet=STEERING), st.sampled_from(["json", "human"]))
def test_no_text_steers_a_terminal_or_makes_a_second_line(text: str, steering: str, form: str) -> None:
    lines = logged(form, Note("info", "peer said", {"text": text + steering + text}))
    assert len("\n".join(lines).split("\n")) == 1
    assert not set(lines[0]) & set(STEERING.replace("[2J", "").replace("31m", ""))
    if form == "json":
        assert json.loads(lines[0])["event"] == "peer said"


def test_what_is_escaped_can_be_read() -> None:
    assert plain("a\x1b[0m\r\n\u202eb\x9c") == "a\\x1b[0m\\x0d\\x0a\\u202eb\\x9c"
    assert plain("x" * 20, 10) == "x" * 10 + "…"


@pytest.mark.parametrize("form", ["json", "human"])
def test_a_record_is_bounded_and_still_a_record(form: str) -> None:
    fields = {f"field{number}": "\x1b" * 5_000 for number in range(50)}
    (line,) = logged(form, Note("info", "much", {**fields, "port": 17500}))
    assert len(line) <= LIMITS.log_record
    if form == "json":
        assert json.loads(line)["port"] == 17500
        assert json.loads(line)["cut"] is True


@pytest.mark.parametrize("form", ["json", "human"])
def test_the_last_net_strikes_secrets_out(form: str) -> None:
    said = f"{CANARY}|{quote(CANARY, safe='')}|{base64.b64encode(CANARY.encode()).decode()}"
    (line,) = logged(form, Note("info", "careless", {"text": said, "typed": Secret(CANARY)}), secret=CANARY)
    assert "c4n4ry" not in line
    assert quote(CANARY, safe="") not in line
    assert base64.b64encode(CANARY.encode()).decode().rstrip("=") not in line
    assert "text" in line
    assert "***" in line


def test_a_secret_inside_another_leaves_nothing_of_it() -> None:
    stream = io.StringIO()
    log = Log("info", "human", stream)
    log.strike(Secret("abcdefgh"))
    log.strike(Secret("xx-abcdefgh-yy"))
    log.say("info", "careless", text="xx-abcdefgh-yy")
    assert stream.getvalue().endswith("text=***\n")


def test_a_word_too_short_to_be_told_apart_is_not_struck() -> None:
    (line,) = logged("human", Note("info", "x", {"text": "dodo"}), secret="do")
    assert line.endswith("text=dodo")
