"""A way between client and server that is spoiled in every manner: no answer is wrong, and none stays away."""

from __future__ import annotations

from pathlib import Path

import pytest
from interop import chaos

pytestmark = pytest.mark.interop


def test_no_answer_is_wrong_and_none_stays_away(tmp_path: Path) -> None:
    load = chaos.run(tmp_path, seconds=15.0, seed=7)
    assert load.wrong == []
    assert load.outcomes["good"] > 100
    assert load.longest < chaos.LONGEST
