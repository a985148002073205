"""What the application tells a broker root, server and client alike."""

from __future__ import annotations

from towline.core._contract import Record
from towline.core._limits import LIMITS
from towline.core.broker.filter._rules import AcceptRules


class Reload(Record, frozen=True):
    """Take these rules from here on. Requests under way keep the verdict they have."""

    rules: AcceptRules


class Stop(Record, frozen=True):
    """Take no more requests, finish what is under way for so many seconds, then end with Finished."""

    within: float = LIMITS.drain
