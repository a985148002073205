"""The tables as tables: every state is reached and left, every illegal step is refused."""

from __future__ import annotations

import pytest

from towline.core import RemoteProtocolError, Table
from towline.core.tunnel import CLIENT, SESSION, TRANSPORT

TABLES = [CLIENT, TRANSPORT, SESSION]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_cell(table: Table) -> None:
    for state in table.states:
        for fed in table.inputs:
            if (state, fed) in table.steps:
                assert table.next(state, fed) in table.states
            else:
                with pytest.raises(RemoteProtocolError) as refused:
                    table.next(state, fed)
                assert refused.value.kind == "tunnel-protocol"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_state_is_reached_and_left(table: Table) -> None:
    reached = {table.start}
    while more := {after for (state, _), after in table.steps.items() if state in reached} - reached:
        reached |= more
    assert reached == set(table.states)
    leaving = {state for state, _ in table.steps}
    assert set(table.states) - leaving == table.ends
    ending = set(table.ends)
    while more := {state for (state, _), after in table.steps.items() if after in ending} - ending:
        ending |= more
    assert ending == set(table.states), "a state from which there is no end"
