"""What requests of a connection, or of one of its contexts, are decided by and filled in with: made ready once.

A variable `KEY` beside which a `KEY_POOL` stands is drawn from that list, one entry after the other each time it is
used (broker-protocol.md §3.4). The filter knows the first entry, and what it decides does not depend on it; where the
request then goes, and with which authorization, is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle
from typing import Final

import msgspec

from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._secret import Secret
from towline.core.broker.client._client_config import BrokerClientConfig, ConnectionConfig
from towline.core.broker.client._substitution import MARKER_HEADER, MARKER_KEY, substitutable
from towline.core.broker.filter._expand import POOL, Variables, entries_of, names_in, reveal
from towline.core.broker.filter._filter import Allowed, Filter, where_to
from towline.core.broker.filter._rules import Rule
from towline.core.http import Origin
from towline.core.tunnel import RequestPayload

_MARKER: Final = MARKER_KEY.encode()


class Outlook:
    """`private` is the filter of what comes down the tunnel; `warnings` name what of the rules or pools is no good."""

    __slots__ = (
        "_agent",
        "_drawn",
        "_elsewhere",
        "_insecure",
        "_pools",
        "_rotating",
        "_to_agent",
        "private",
        "warnings",
    )

    def __init__(
        self,
        config: BrokerClientConfig,
        connection: ConnectionConfig,
        overlay: Variables | None = None,
        *,
        limits: Limits = LIMITS,
    ) -> None:
        self._insecure = config.insecure_downstream
        self._agent = connection.agent(overlay, insecure=self._insecure)
        given = connection.filled(overlay, prefixed=len(config.connections) > 1)
        pools = _pools(given)
        variables = given | {name: entries[0] for name, entries in pools.items()}
        rules = connection.rules
        self.private = Filter(
            rules.private, variables, strict=config.filter_strict, insecure=self._insecure, limits=limits
        )
        self.warnings = list(self.private.warnings)
        self._pools: dict[str, Iterator[Secret]] = {}
        self._rotating: dict[int, tuple[Rule, tuple[str, ...], Variables]] = {}
        for at, rule in enumerate(rules.private):
            names = tuple(name for name in dict.fromkeys(_named(rule)) if name in pools)
            if names:
                self._check(at, rule, names, pools, variables)
                self._rotating[at] = (rule, names, variables)
        self._to_agent = substitutable(variables, connection.substitutable, to_agent=True)
        self._elsewhere = substitutable(variables, connection.substitutable, to_agent=False)
        self._drawn = tuple(name for name in pools if name in self._to_agent)
        used = {name for _, names, _ in self._rotating.values() for name in names} | set(self._drawn)
        self._pools = {name: cycle(entries) for name, entries in pools.items() if name in used}

    def drawn(self, verdict: Allowed) -> Allowed:
        """Return the verdict with the next entries of the pools that its rule names.

        Raises:  RemoteProtocolError for an entry with which the rule's origin leads nowhere
        """
        found = self._rotating.get(verdict.rule)
        if found is None:
            return verdict
        rule, names, variables = found
        entries = {name: next(self._pools[name]) for name in names}
        upstream, authorization = where_to(rule, {**variables, **entries}, insecure=self._insecure)
        return msgspec.structs.replace(verdict, upstream=upstream, authorization=authorization)

    def fill(self, origin: Origin, asked: RequestPayload) -> Mapping[str, str | Secret]:
        """Return what the far side may have filled in for a request that goes to this origin."""
        filled = self._to_agent if origin == self._agent else self._elsewhere
        if self._drawn and (MARKER_HEADER in asked.headers or _MARKER in (asked.body or b"")):
            return {**filled, **{name: next(self._pools[name]) for name in self._drawn if name in filled}}
        return filled

    def _check(
        self, at: int, rule: Rule, names: tuple[str, ...], pools: dict[str, tuple[Secret, ...]], variables: Variables
    ) -> None:
        for name in names:
            for place, entry in enumerate(pools[name], 1):
                try:
                    where_to(rule, {**variables, name: entry}, insecure=self._insecure)
                except RemoteProtocolError:
                    self.warnings.append(f"rule {at}: its origin leads nowhere with entry {place} of {name}{POOL}")


def _pools(variables: Variables) -> dict[str, tuple[Secret, ...]]:
    names = [name.removesuffix(POOL) for name in variables if name.endswith(POOL)]
    return {name: entries_of(name, variables) for name in names if reveal(variables[name + POOL]).strip(", ")}


def _named(rule: Rule) -> Iterator[str]:
    yield from names_in(rule.origin or "")
    if rule.auth is not None:
        for text in (rule.auth.username, rule.auth.password.reveal(), (rule.auth.token or Secret("")).reveal()):
            yield from names_in(text)
