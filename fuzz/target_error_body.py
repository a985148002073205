"""An error's body: the first byte chooses a content type; codes and a text that may be shown."""

from __future__ import annotations

from fuzz.harness import Bytes
from towline.core import LIMITS
from towline.core.registry import parse_error_body


def run(data: bytes) -> None:
    script = Bytes(data)
    content_type = script.pick((None, "application/json", "text/plain", "text/html; charset=utf-8"))
    report = parse_error_body(400, content_type, script.rest())
    assert len(report.codes) <= 16
    assert all(code.isascii() and code.isprintable() and len(code) <= 64 for code in report.codes)
    if report.message is not None:
        assert 0 < len(report.message) <= LIMITS.foreign_text
        assert report.message.isprintable()
        assert not report.message.startswith("<")
