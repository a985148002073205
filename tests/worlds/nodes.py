"""Several broker servers in one world, with a directory of nodes in memory that can be away or silent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from worlds.brokers import PLATFORM, SERVER_RULES, TOKEN, HandMade
from worlds.world import Answer, Caller, Party, World

from towline.core import LIMITS, WAKE, Entropy, Limits, Open, Secret
from towline.core.broker import (
    BrokerServer,
    BrokerServerConfig,
    ClusterConfig,
    Found,
    Leased,
    Locate,
    Located,
    TokenHeld,
    TokenLeft,
)
from towline.core.http import Url

SECRET = Secret("the secret of this cluster")
FIRST = 7341
# A port at which the nodes take turns, link by link.
BALANCER = 7000
EPOCH = 1_700_000_000.0


@dataclass
class Directory:
    """What Redis would know. `away` answers that it does not answer, `silent` does not even do that."""

    records: dict[int, str] = field(default_factory=dict)
    held: dict[str, dict[int, int]] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)
    away: bool = False
    silent: bool = False
    asked: list[Locate] = field(default_factory=list)
    changes: int = 0

    def take(self, number: int, wish: Any) -> Any:
        if isinstance(wish, TokenHeld):
            self.changes += 1
            self.held.setdefault(wish.name, {})[number] = self.changes
        elif isinstance(wish, TokenLeft):
            self.held[wish.name].pop(number, None)
            self.left.add(wish.name)
        else:
            self.asked.append(wish)
            return None if self.silent else Located(wish.question, *self._find(wish))
        return None

    def _find(self, wish: Locate) -> tuple[tuple[Found, ...] | None, bool]:
        if self.away:
            return None, False
        if wish.name is None:
            record = self.records.get(wish.number)
            return (() if record is None else (Found(record),)), False
        held = self.held.get(wish.name, {})
        found = tuple(Found(self.records[number], since) for number, since in held.items() if number in self.records)
        return found, wish.name in self.left


class Node:
    """One server of the cluster."""

    def __init__(self, number: int, limits: Limits, **more: Any) -> None:
        self.number = number
        self.port = FIRST + number - 1
        self.config = ClusterConfig(
            more.pop("secret", SECRET),
            Url.parse(f"http://node-{number}:{self.port}"),
            f"node-{number}",
            f"{number:032x}",
        )
        settings = {
            "rules": SERVER_RULES,
            "variables": {"PLATFORM": f"http://platform:{PLATFORM}"},
            "cluster": self.config,
            **more,
        }
        self.machine = BrokerServer(
            BrokerServerConfig(**settings), entropy=Entropy(b"node %d" % number * 8), limits=limits
        )
        self.record = self.config.record(number)
        # What stands in the world: the machine, or a recorder around it.
        self.watched: Any = self.machine
        self.party: Party


class ClusterWorld(World):
    """A world whose nodes speak to the directory between turns."""

    def __init__(
        self,
        count: int = 2,
        *,
        limits: Limits = LIMITS,
        watch: Callable[[Any], Any] = lambda machine: machine,
        **more: Any,
    ) -> None:
        super().__init__()
        self.directory = Directory()
        # Links that went through the balancer.
        self._turn = 0
        self.nodes = [Node(number, limits, **more) for number in range(1, count + 1)]
        self._facts: list[tuple[Party, Any]] = []
        self._by_party: dict[int, Node] = {}
        self.callers = Caller()
        for node in self.nodes:
            node.watched = watch(node.machine)
            node.party = self.add(f"node-{node.number}", node.watched, node.port)
            self._by_party[id(node.party)] = node
            self.directory.records[node.number] = node.record
        self.caller = self.add("caller", self.callers)
        self.lease()

    def lease(self) -> None:
        """Every node's lease runs anew."""
        for node in self.nodes:
            if node.party in self.parties and not self.directory.away:
                self.tell(node.party, Leased(node.number, EPOCH, tuple(self.directory.records.values())))

    def _do(self, party: Party, wish: Any) -> None:
        if isinstance(wish, Open) and wish.port == BALANCER:
            alive = [node for node in self.nodes if node.party in self.parties]
            self._turn += 1
            wish = msgspec.structs.replace(wish, port=alive[self._turn % len(alive)].port)
        super()._do(party, wish)
        if isinstance(wish, TokenHeld | TokenLeft | Locate):
            fact = self.directory.take(self._by_party[id(party)].number, wish)
            if fact is not None:
                self._facts.append((party, fact))

    def _deliver(self) -> None:
        super()._deliver()
        while self._facts:
            self.tell(*self._facts.pop(0))
            super()._deliver()

    def client(self, node: int, client_id: str = "hand-made", token: str = TOKEN) -> tuple[Party, HandMade]:
        """A client made by hand, connected to one node."""
        made = HandMade(token, port=self.nodes[node - 1].port, client_id=client_id)
        party = self.add(client_id, made)
        self.run(0.1)
        return party, made

    def ask(self, node: int, path: str, method: str = "GET", *, run: float = 0.1, **more: Any) -> Answer:
        answer = self.callers.ask(f"http://host:{self.nodes[node - 1].port}{path}", method, **more)
        self.tell(self.caller, WAKE)
        self.run(run)
        return answer

    def relay(self, node: int, path: str, method: str = "GET", **more: Any) -> Answer:
        """Ask the token's client through one node."""
        return self.ask(node, f"/broker/{TOKEN}{path}", method, **more)

    def upload(self, node: int, stream: str, upload: bytes, *, token: str = TOKEN, **more: Any) -> Answer:
        return self.ask(node, f"/response-data/{token}/{stream}", "POST", body=upload, **more)

    def lose(self, node: int) -> None:
        """A node is killed; its lease has not ended."""
        self.kill(self.nodes[node - 1].party)

    def expire(self, node: int) -> None:
        """A node's lease has ended."""
        self.directory.records.pop(node, None)
