"""HTTP dates, with the standard library as the judge."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.core.http._date import http_date, write_http_date


@given(st.integers(-2_000_000_000, 250_000_000_000))
def test_what_is_written_is_read(instant: int) -> None:
    assert http_date(formatdate(instant, usegmt=True)) == instant
    assert write_http_date(instant) == formatdate(instant, usegmt=True)
    assert write_http_date(instant + 0.999) == formatdate(instant, usegmt=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 CET",
        "Sun, 06 Brumaire 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 19940 08:49:37 GMT",
        "Sun, 0６ Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
    ],
)
def test_anything_else_is_no_date(text: str) -> None:
    assert http_date(text) is None
