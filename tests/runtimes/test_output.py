"""How answers look: columns, sizes, and foreign names that stay on their line."""

from __future__ import annotations

import io
import json

import pytest

from towline.core import KINDS, RemoteProtocolError
from towline.runtimes.config import ConfigurationError
from towline.runtimes.output import error_lines, exit_code, size, write_json, write_lines, write_table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    out = io.StringIO()
    write_table([("NAME", "VERSION", "ARCH"), ("a", "1", "amd64"), ("longer", "10:2", "")], out)
    assert out.getvalue() == "NAME    VERSION  ARCH\na       1        amd64\nlonger  10:2\n"
    write_table([], empty := io.StringIO())
    assert empty.getvalue() == ""


def test_a_name_stays_on_its_line() -> None:
    out = io.StringIO()
    write_lines(["good", "ev\x1b[2Jil\nname", "\u202egnp"], out)
    write_table([("a\rb", "c\nd")], out)
    assert out.getvalue() == "good\nev\\x1b[2Jil\\x0aname\n\\u202egnp\na\\x0db  c\\x0ad\n"


def test_json_is_one_document_on_one_line() -> None:
    out = io.StringIO()
    write_json({"a": ["\n\x1b"], "b": None}, out)
    assert out.getvalue().count("\n") == 1
    assert json.loads(out.getvalue()) == {"a": ["\n\x1b"], "b": None}


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10 * 1024, "10 KiB"), (759_808, "742 KiB"),
        (1024**2 * 3 // 2, "1.5 MiB"), (1024**3, "1.0 GiB"), (1024**5 * 3, "3072 TiB"),
    ],
)  # fmt: skip
def test_sizes(count: int, shown: str) -> None:
    assert size(count) == shown


def test_an_error_is_one_line_and_a_hint() -> None:
    assert error_lines(RemoteProtocolError("timeout", "no answer\nin time")) == [
        "towline: TIMEOUT: no answer\\x0ain time"
    ]
    hinted = RemoteProtocolError("digest-mismatch", "m", hint="try\x1b again")
    assert error_lines(hinted, "an\x1b/image") == [
        "towline: DIGEST_MISMATCH: an\\x1b/image: m", "hint: try\\x1b again",
    ]  # fmt: skip
    assert error_lines(ConfigurationError(["a is not set", "b"])) == ["a is not set", "b", "2 errors"]


def test_every_kind_has_an_exit_code_of_the_table() -> None:
    codes = {kind: exit_code(RemoteProtocolError(kind, "")) for kind in KINDS}
    assert set(codes.values()) == {1, 2, 3}
    assert codes["registry-unreachable"] == codes["timeout"] == 3
    assert codes["invalid-reference"] == codes["invalid-configuration"] == 2
    assert codes["image-not-found"] == codes["digest-mismatch"] == codes["registry-unauthorized"] == 1
