"""The one writing of a JSON value: equal values are equal bytes, whatever they were made of."""

from __future__ import annotations

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from towline.core import canonical


class Late(msgspec.Struct, rename="camel"):
    """Members in an order that is not that of their names."""

    zulu_name: int
    alpha: dict[str, int]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=10,
)


def test_a_record_is_written_as_the_object_that_it_reads_as() -> None:
    record = Late(1, {"b": 2, "a": 1})
    written = canonical(record)
    assert written == b'{"alpha":{"a":1,"b":2},"zuluName":1}'
    assert canonical(json.loads(written)) == written


@given(VALUES)
def test_reading_and_writing_again_changes_nothing(value: object) -> None:
    written = canonical(value)
    assert canonical(json.loads(written)) == written
    assert canonical(json.loads(json.dumps(value, indent=1))) == written
