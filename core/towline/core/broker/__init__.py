"""The broker: the allow-list, what it lets through and how, from both ends of the tunnel (broker-protocol.md §2–3)."""

from towline.core.broker._filter import Allowed, Denied, Filter, Upstream, Verdict, target_fault
from towline.core.broker._rules import DEFAULT_AGENT_RULES, AcceptRules, Auth, Rule, default_server_rules

__all__ = [
    "DEFAULT_AGENT_RULES",
    "AcceptRules",
    "Allowed",
    "Auth",
    "Denied",
    "Filter",
    "Rule",
    "Upstream",
    "Verdict",
    "default_server_rules",
    "target_fault",
]
