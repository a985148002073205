"""The recorded sessions of the stock pair, played into both machines; and that the player sees what differs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vectors import run, wire_page
from vectors.broker_player import deviations
from vectors.broker_player.play import Played, play

from towline.core.broker import BrokerServer

FOLDER = Path(__file__).parent / "broker"
FILES = sorted(FOLDER.glob("*.jsonl"))
MORE = sorted((Path(__file__).parent / "broker_more").glob("*.jsonl"))
ROLES = {path.stem: [played.role for played in play(path)] for path in FILES}


def test_there_are_21_sessions_and_each_has_its_roles() -> None:
    numbers = [int(path.stem[:2]) for path in FILES]
    assert numbers == list(range(1, 22))
    server = [int(name[:2]) for name, roles in ROLES.items() if "server" in roles]
    client = [int(name[:2]) for name, roles in ROLES.items() if "client" in roles]
    assert server == [number for number in range(1, 22) if number not in (15, 16)]
    assert client == [*range(1, 12), *range(15, 20)]


@pytest.mark.parametrize("path", [*FILES, *MORE], ids=lambda path: path.stem)
def test_session(path: Path) -> None:
    for played in play(path):
        assert played.problems == []
        assert played.compared >= 4


@pytest.mark.parametrize("number", ["07", "09", "10", "16", "35"])
def test_sessions_whatever_is_drawn(number: str) -> None:
    """When our client comes back is random by right; what it says then is not."""
    path = next(path for path in (*FILES, *MORE) if path.stem.startswith(number))
    for seed in range(8):
        for played in play(path, b"seed" * 3 + seed.to_bytes(4, "big")):
            assert played.problems == [], seed


def test_every_recording_is_known_and_every_row_that_can_occur_does() -> None:
    assert deviations.PLACES.keys() == {path.stem for path in (*FILES, *MORE)}
    listed = {
        name
        for said in deviations.PLACES.values()
        for role in ("server", "client")
        for rows in said.get(role, {}).values()
        for name in rows
    }
    assert {row.name for row in (*deviations.DEVIATIONS, *deviations.WHOLE)} == listed


def test_a_deviation_that_does_not_occur_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    path = FILES[0]
    known = json.loads(json.dumps(deviations.PLACES))
    known[path.stem]["client"]["client-server"]["upload-length"] = 3
    del known[path.stem]["client"]["client-server"]["no-compression-offered"]
    monkeypatch.setattr(deviations, "PLACES", known)
    server, client = play(path)
    assert server.problems == []
    assert [problem.partition(": ")[2] for problem in client.problems] == [
        "client, client-server: deviation no-compression-offered: expected 0 times, got 2",
        "client, client-server: deviation upload-length: expected 3 times, got 0",
    ]


Edit = Callable[[dict[str, Any]], None]


def _first(lines: list[dict[str, Any]], **wanted: str) -> dict[str, Any]:
    found = (line for line in lines if all(text in str(line.get(name, "")) for name, text in wanted.items()))
    return next(found)


def _status(line: dict[str, Any]) -> None:
    line["start"] = line["start"].replace("200", "201")


def _header(line: dict[str, Any]) -> None:
    line["headers"].append(["x-doctored", "1"])


def _target(line: dict[str, Any]) -> None:
    line["start"] = line["start"].replace("?", "?doctored=1&")


def _body(line: dict[str, Any]) -> None:
    line["body_text"] = line["body_text"].replace("true", "false").replace("GET", "PUT")


def _text(line: dict[str, Any]) -> None:
    line["text"] = line["text"].replace("/", "/doctored/", 1)


def _late(line: dict[str, Any]) -> None:
    line["t"] += 5.0


DOCTORED: list[tuple[str, str, dict[str, str], Edit, str]] = [
    ("02", "server", {"hop": "caller-server", "kind": "http-response"}, _status, "status: expected 201, got 200"),
    (
        "02",
        "server",
        {"hop": "caller-server", "kind": "http-response"},
        _body,
        "body.method: expected 'PUT', got 'GET'",
    ),
    ("02", "server", {"hop": "client-server", "kind": "http-response"}, _header, "header:x-doctored: expected ['1']"),
    ("02", "server", {"dir": "s2c", "text": '"request"'}, _text, "/doctored/healthcheck"),
    ("02", "client", {"hop": "client-upstream", "kind": "http-request"}, _header, "header:x-doctored: expected ['1']"),
    ("02", "client", {"hop": "client-server", "start": "POST /response-data"}, _target, "got nothing"),
    ("02", "client", {"hop": "client-server", "start": "transport=websocket"}, _target, "doctored"),
    ("07", "server", {"hop": "server-platform", "kind": "http-request"}, _header, "header:x-doctored: expected ['1']"),
    ("07", "client", {"hop": "agent-client", "kind": "http-response"}, _status, "status: expected 201, got 200"),
    ("08", "server", {"dir": "s2c", "text": "2"}, _late, "time: expected"),
    ("08", "client", {"dir": "c2s", "text": "primus::ping"}, _late, "primus ping"),
    ("06", "client", {"dir": "c2s", "text": '"type":1'}, _text, "args[0]"),
    ("15", "client", {"dir": "c2s", "text": '"sid-1","",true'}, lambda line: line.update(text="3"), "finished"),
]


@pytest.mark.parametrize(("number", "role", "which", "edit", "said"), DOCTORED, ids=range(len(DOCTORED)))
def test_a_doctored_recording_fails(
    number: str, role: str, which: dict[str, str], edit: Edit, said: str, tmp_path: Path
) -> None:
    """Whatever the recorded peer is said to have said otherwise is seen: the comparison is not of our own words."""
    path = next(path for path in FILES if path.stem.startswith(number))
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    edit(_first(lines[1:], **which))
    doctored = tmp_path / path.name
    doctored.write_text("\n".join(map(json.dumps, lines)))
    played = _of(play(doctored), role)
    assert any(said in problem for problem in played.problems), played.problems


def _of(both: list[Played], role: str) -> Played:
    return next(played for played in both if played.role == role)


def test_the_folder_runs_with_a_line_for_each_file_and_role(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([str(FOLDER)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert sum(line.endswith(" 0 differences") for line in out) == 19 + 16 + 1
    assert "filters.json: 170 compared, 31 deviations, 0 differences" in out
    assert out[-1].endswith(" passed, 0 failed")


def test_a_folder_with_a_difference_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = FILES[1].read_text("utf-8").replace("X-Broker", "X-Other").replace('"HTTP/1.1 200 OK"', '"HTTP/1.1 203 OK"')
    (tmp_path / "x.jsonl").write_text(text)
    (tmp_path / "y.jsonl").write_text("{}\n")
    assert run.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "status: expected 203, got 200" in out
    assert "y.jsonl: not run: no recorded session" in out


def test_a_recording_that_no_machine_can_take_is_a_difference_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def handle(self: BrokerServer, fact: Any, now: float) -> None:
        raise ZeroDivisionError("doctored")

    monkeypatch.setattr(BrokerServer, "handle", handle)
    (tmp_path / FILES[12].name).write_bytes(FILES[12].read_bytes())
    lines = FILES[12].read_text("utf-8").splitlines()
    (tmp_path / "none.jsonl").write_text(lines[0] + "\n")
    assert run.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "server: expected a machine that goes on, got ZeroDivisionError: doctored" in out
    assert "none.jsonl: not run: neither peer is a stock one" in out


def test_what_is_random_is_the_same_where_it_was_the_same(tmp_path: Path) -> None:
    """A recording in which one id was two: ours cannot stand for both."""
    path = FILES[1]
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    upgrade = _first(lines[1:], start="transport=websocket")
    upgrade["headers"] = [
        [name, "99999999-0000-4000-8000-000000000000" if name == "snyk-request-id" else value]
        for name, value in upgrade["headers"]
    ]
    doctored = tmp_path / path.name
    doctored.write_text("\n".join(map(json.dumps, lines)))
    assert any("header:snyk-request-id" in problem for problem in _of(play(doctored), "client").problems)


def test_the_page_of_deviations_is_the_tests_own() -> None:
    text = wire_page.PAGE.read_text("utf-8")
    assert wire_page.page(text) == text, "run tests/vectors/wire_page.py --write"


def test_rows_are_narrow() -> None:
    names = Counter(row.name for row in (*deviations.DEVIATIONS, *deviations.WHOLE))
    assert set(names.values()) == {1}
    for row in deviations.DEVIATIONS:
        assert row.field != ".*"
        assert (row.expected, row.came) != (".*", ".*")
        assert row.why.startswith(("Q", "security.md", "broker-protocol.md"))
