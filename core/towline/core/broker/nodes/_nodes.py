"""What a node knows of the others: who they are, and which of them hold a token.

The directory is the application's: the machine wishes `Locate` and is told `Located`, says `TokenHeld` and
`TokenLeft`, and is told at each renewal of its lease (`Leased`) who else has one. What it does not hear in time it
takes for a directory that is away.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from towline.core._contract import Instant, Record
from towline.core._limits import LIMITS, Limits
from towline.core._wire import Note
from towline.core.broker._alarms import Alarms, Timed
from towline.core.broker.nodes._cluster import ClusterConfig, ClusterKeys, Node

# Renewals after which a node that is not found is nobody any more.
_FORGOTTEN: Final = 100


# ── wishes, of the application ─────────────────────────────────────────────────
class TokenHeld(Record, frozen=True):
    """A client of this token is here, the newest of it. `name` is the token's name in the directory."""

    name: str


class TokenLeft(Record, frozen=True):
    """The last client of this token left."""

    name: str


class Locate(Record, frozen=True):
    """Which nodes hold the token with this name? Without a name: which node has this number?"""

    question: int
    name: str | None
    number: int = 0


NodeEvent: TypeAlias = TokenHeld | TokenLeft | Locate


# ── facts ──────────────────────────────────────────────────────────────────────
class Found(Record, frozen=True):
    """A node's record, and when a client of the token was last new to it, in milliseconds of wall time."""

    record: str
    since: int = 0


class Located(Record, frozen=True):
    """The answer to `Locate`; `found` is None where the directory does not answer.

    `left` says that a client of the token was there a moment ago.
    """

    question: int
    found: tuple[Found, ...] | None
    left: bool = False


class Leased(Record, frozen=True):
    """This node's lease runs anew; all `records` have one. `epoch` is the directory's wall time minus `now`."""

    number: int
    epoch: float
    records: tuple[str, ...] = ()


# ── what comes of a question ───────────────────────────────────────────────────
class Holders(Record, frozen=True):
    """The nodes to try, the one with the newest client first."""

    nodes: tuple[Node, ...]
    left: bool = False


class _Question(Timed):
    __slots__ = ("askers", "key", "number")

    def __init__(self, number: int, key: str | int) -> None:
        super().__init__()
        self.number = number
        self.key = key
        self.askers: list[Any] = []


class Nodes:
    """The other nodes, and a short memory of which holds what."""

    def __init__(self, cluster: ClusterConfig, wishes: deque[Any], limits: Limits = LIMITS) -> None:
        self.keys = ClusterKeys(cluster.secret)
        self.number = 0
        # The directory's wall time minus now; None before the first lease.
        self.epoch: float | None = None
        self._cluster = cluster
        self._wishes = wishes
        self._limits = limits
        self._by_number: dict[int, Node] = {}
        # Nodes that had a lease, and how many of this node's own renewals in a row have not found it since.
        self._missed: dict[str, int] = {}
        # Nodes that could not be reached, and until when they are left alone.
        self._resting: dict[str, Instant] = {}
        self._memory: OrderedDict[str, tuple[Instant, Holders]] = OrderedDict()
        self._questions: dict[int, _Question] = {}
        self._by_key: dict[str | int, _Question] = {}
        self._asked = 0
        self._alarms: Alarms[_Question] = Alarms()
        self._answers: deque[tuple[Any, Holders | None]] = deque()
        self._foreign = False

    def deadline(self) -> Instant | None:
        return self._alarms.deadline()

    def next(self) -> tuple[Any, Holders | None] | None:
        """Return the next asker that has its answer, and the answer; None in it for a directory that is away."""
        return self._answers.popleft() if self._answers else None

    # ── what the owner says ────────────────────────────────────────────────────
    def held(self, token: str) -> None:
        """A client of this token identified itself here."""
        self._wishes.append(TokenHeld(self.keys.name_of(token)))

    def left(self, token: str) -> None:
        """The last client of this token left."""
        self._wishes.append(TokenLeft(self.keys.name_of(token)))

    # ── what the owner asks ────────────────────────────────────────────────────
    def holders(self, token: str, asker: Any, now: Instant) -> Holders | None:
        """Return the other nodes that hold a token, if that is known; else the asker gets its answer by `next`."""
        name = self.keys.name_of(token)
        known = self._memory.get(name)
        if known is not None and now < known[0]:
            return known[1]
        self._ask(name, Locate(self._asked + 1, name), asker, now)
        return None

    def node(self, number: int, asker: Any, now: Instant) -> Node | None:
        """Return the node with this number, if it is known; else the asker gets its answer by `next`."""
        node = self._by_number.get(number)
        if node is None:
            self._ask(number, Locate(self._asked + 1, None, number), asker, now)
        return node

    def forget(self, token: str) -> None:
        """What is remembered of this token turned out to be wrong."""
        self._memory.pop(self.keys.name_of(token), None)

    def unreachable(self, node: Node, now: Instant) -> None:
        self._resting[node.incarnation] = now + self._limits.node_rest

    def resting(self, node: Node, now: Instant) -> bool:
        """Whether a node could not be reached a moment ago."""
        return now < self._resting.get(node.incarnation, now)

    def gone(self, node: Node) -> bool:
        """Whether a node's lease has ended.

        Once is not enough: a directory that has lost everything gets it back from one node after the other. While
        it is away nobody's lease ends.
        """
        return self._missed.get(node.incarnation, 0) > 1

    # ── facts ──────────────────────────────────────────────────────────────────
    def leased(self, fact: Leased, now: Instant) -> None:
        self.number, self.epoch = fact.number, fact.epoch
        self._by_number = {node.number: node for node in self._others(fact.records)}
        self._missed = {name: missed + 1 for name, missed in self._missed.items() if missed < _FORGOTTEN}
        self._missed.update((node.incarnation, 0) for node in self._by_number.values())
        self._resting = {name: until for name, until in self._resting.items() if until > now}

    def located(self, fact: Located, now: Instant) -> None:
        question = self._questions.get(fact.question)
        if question is None:
            return
        holders = None
        if fact.found is not None:
            newest_first = sorted(fact.found, key=lambda found: -found.since)
            holders = Holders(tuple(self._others(found.record for found in newest_first)), fact.left)
            self._missed.update((node.incarnation, 0) for node in holders.nodes)
            if isinstance(question.key, int):
                self._by_number.update((node.number, node) for node in holders.nodes)
            elif holders.nodes:
                # That nobody has it is not remembered: its client may come at any moment.
                self._memory[question.key] = now + self._limits.node_memory, holders
                self._memory.move_to_end(question.key)
                if len(self._memory) > self._limits.node_memories:
                    self._memory.popitem(last=False)
        self._answer(question, holders)

    def wake(self, now: Instant) -> None:
        for question in self._alarms.due(now):
            self._answer(question, None)

    # ── inside ─────────────────────────────────────────────────────────────────
    def _ask(self, key: str | int, locate: Locate, asker: Any, now: Instant) -> None:
        question = self._by_key.get(key)
        if question is None:
            if len(self._questions) >= self._limits.node_questions:
                self._answers.append((asker, None))
                return
            self._asked += 1
            question = self._questions[self._asked] = self._by_key[key] = _Question(self._asked, key)
            self._alarms.set(question, now + self._limits.node_answer)
            self._wishes.append(locate)
        question.askers.append(asker)

    def _answer(self, question: _Question, holders: Holders | None) -> None:
        del self._questions[question.number], self._by_key[question.key]
        self._alarms.set(question, None)
        self._answers.extend((asker, holders) for asker in question.askers)

    def _others(self, records: Iterable[str]) -> list[Node]:
        """Return the nodes of records that this cluster wrote, without this one."""
        nodes = []
        for record in records:
            node = self.keys.node_of(record)
            if node is None:
                if not self._foreign:
                    self._foreign = True
                    self._wishes.append(Note("warning", "node.record", {"problem": "not of this cluster's secret"}))
            elif node.incarnation != self._cluster.incarnation:
                nodes.append(node)
        return nodes
