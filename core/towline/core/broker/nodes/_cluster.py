"""What the nodes of a cluster share: one secret, records by which they find each other, and signed requests.

The secret never leaves a node. What stands in the directory is named and proven by keys made of it: whoever reads
the directory learns no token, and whoever writes to it cannot send a request anywhere (security.md §8).

    x-towline-node: 1.FROM.TO.SECONDS.COUNT.MAC

FROM and TO are incarnations: drawn anew at each start, so that a request is good for one run of one node. COUNT
grows with each request of FROM, and no count is taken twice; SECONDS, of the directory's clock, lets TO forget.
The MAC is over all of these, the method, the target and the digest of a whole body ("-" for one that is streamed).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._secret import Secret
from towline.core.http import Url

NODE_HEADER: Final = "x-towline-node"
# A node's number goes into twelve of the free bits of a stream's id (RFC 9562 §5.4); 0 is no node.
HIGHEST_NUMBER: Final = 0xFFF

_RECORD: Final = re.compile(r"1 ([0-9]{1,4}) ([0-9a-f]{32}) ([\x21-\x7e]{1,1024}) ([\x21-\x7e]{1,128}) ([0-9a-f]{64})")
_REQUEST: Final = re.compile(r"1\.([0-9a-f]{32})\.([0-9a-f]{32})\.([0-9]{1,12})\.([0-9]{1,18})\.([0-9a-f]{64})")
_DIGITS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# Requests of one node that may overtake each other on their way.
_WINDOW: Final = 4096


class Node(Record, frozen=True):
    """A node as the others know it."""

    number: int
    incarnation: str
    url: Url
    name: str


class ClusterConfig(Record, frozen=True):
    """This server as a node among others.

    Shape:  `url` is how the other nodes reach it, without a path; `name` is for people; `incarnation` is 32 hex
            digits, drawn at each start
    Units:  seconds. After `lease` without a renewal a node is no more
    """

    secret: Secret
    url: Url
    name: str
    incarnation: str
    lease: float = 30.0

    def keys(self) -> ClusterKeys:
        return ClusterKeys(self.secret)

    def record(self, number: int) -> str:
        """Return this node's record in the directory, under the number it has claimed."""
        name = re.sub(r"[^\x21-\x7e]", "-", self.name)[:128] or "-"
        said = f"1 {number} {self.incarnation} {self.url.origin!s} {name}"
        return f"{said} {self.keys().seal(said)}"


class ClusterKeys:
    """Keys made of the cluster's secret, one for each use."""

    __slots__ = ("_records", "_requests", "_tokens", "directory")

    def __init__(self, secret: Secret) -> None:
        key = secret.reveal().encode()
        self._tokens = hmac.digest(key, b"towline token", "sha256")
        self._records = hmac.digest(key, b"towline record", "sha256")
        self._requests = hmac.digest(key, b"towline request", "sha256")
        # Names the cluster's part of a directory that others use too.
        self.directory: Final = hmac.digest(key, b"towline directory", "sha256").hex()[:16]

    def name_of(self, token: str) -> str:
        """Return the name that a token has in the directory."""
        return hmac.digest(self._tokens, token.lower().encode(), "sha256").hex()[:32]

    def seal(self, record: str) -> str:
        return hmac.digest(self._records, record.encode(), "sha256").hex()

    def node_of(self, record: str) -> Node | None:
        """Return the node of a record; None for one that this cluster's nodes did not write."""
        found = _RECORD.fullmatch(record)
        if found is None:
            return None
        said = record.rpartition(" ")[0]
        if not hmac.compare_digest(self.seal(said), found[5]):
            return None
        try:
            url = Url.parse(found[3])
        except RemoteProtocolError:
            return None
        return Node(int(found[1]), found[2], url, found[4])

    def sign(self, told: str, method: str, target: str, digest: str) -> str:
        said = "\n".join((told, method, target, digest))
        return hmac.digest(self._requests, said.encode(), "sha256").hex()

    def proof(self, mac: str) -> str:
        """Return what only a node can say of a request with this MAC: that it did nothing with it."""
        return hmac.digest(self._requests, b"not here\n" + mac.encode(), "sha256").hex()[:32]


class NodeSigner:
    """Signs the requests that this node makes of others."""

    def __init__(self, keys: ClusterKeys, incarnation: str) -> None:
        self._keys = keys
        self._incarnation = incarnation
        self._count = 0

    def sign(self, node: Node, method: str, target: str, digest: str, seconds: float) -> tuple[str, str]:
        """Return the header's value, and the proof that the other node may answer with."""
        self._count += 1
        told = f"1.{self._incarnation}.{node.incarnation}.{int(seconds)}.{self._count}"
        mac = self._keys.sign(told, method, target, digest)
        return f"{told}.{mac}", self._keys.proof(mac)


class _Sender:
    """The counts of one node that were taken: bit n of `taken` is `highest - n`."""

    __slots__ = ("highest", "seconds", "taken")

    def __init__(self) -> None:
        self.highest = 0
        self.taken = 0
        self.seconds = 0.0

    def take(self, count: int) -> bool:
        ahead = count - self.highest
        if ahead > 0:
            self.taken = ((self.taken << ahead) | 1) & ((1 << _WINDOW) - 1) if ahead < _WINDOW else 1
            self.highest = count
            return True
        bit = 1 << -ahead if -ahead < _WINDOW else 0
        if not bit or self.taken & bit:
            return False
        self.taken |= bit
        return True


class NodeGuard:
    """Judges requests that say they come from a node.

    Bounds:  LIMITS.nodes senders; one that was silent for twice LIMITS.node_skew is forgotten, as no request of its
             could be replayed any more
    """

    def __init__(self, keys: ClusterKeys, incarnation: str, limits: Limits = LIMITS) -> None:
        self._keys = keys
        self._incarnation = incarnation
        self._skew = limits.node_skew
        self._most = limits.nodes
        self._senders: dict[str, _Sender] = {}

    def check(self, value: str, method: str, target: str, digest: str, seconds: float | None) -> tuple[str | None, str]:
        """Judge a signature; `seconds` is the directory's wall time, None while this node has no lease.

        Returns the proof for an answer, and what is wrong. With both, a node of ours means somebody else, and may be
        told that nothing was done; without a proof, it is none of ours, or it came before.
        """
        found = _REQUEST.fullmatch(value)
        if found is None:
            return None, "no signature of a node"
        mac = found[5]
        wanted = self._keys.sign(value.rpartition(".")[0], method, target, digest)
        if not hmac.compare_digest(wanted, mac):
            return None, "signed with another secret, or for another request"
        proof = self._keys.proof(mac)
        if found[2] != self._incarnation:
            return proof, "signed for another node, or for one that ran here before"
        if seconds is None:
            return proof, "this node has no lease"
        if abs(int(found[3]) - seconds) > self._skew:
            return proof, f"signed more than {self._skew:g} s ago or ahead"
        sender = self._senders.get(found[1])
        if sender is None:
            self._forget(seconds)
            if len(self._senders) >= self._most:
                return proof, "too many nodes"
            sender = self._senders[found[1]] = _Sender()
        sender.seconds = seconds
        if not sender.take(int(found[4])):
            return None, "signed for a request that came already"
        return proof, ""

    def _forget(self, seconds: float) -> None:
        stale = [name for name, sender in self._senders.items() if seconds - sender.seconds > 2 * self._skew]
        for name in stale:
            del self._senders[name]


def digest_of(body: bytes | None) -> str:
    return hashlib.sha256(body or b"").hexdigest()


STREAMED: Final = "-"


def stream_id(drawn: str, number: int) -> str:
    """Return a version 4 UUID that tells the node which gave it; its other bits are as they were drawn."""
    return f"{drawn[:15]}{number:03x}{drawn[18:]}"


def session_mark(number: int) -> str:
    """Return what the ids of a node's sessions begin with: its number in two characters of base64url."""
    return _DIGITS[number >> 6] + _DIGITS[number & 63]


def session_node(sid: str) -> int:
    """Return the number of the node that began a session; 0 for what is no session's id."""
    return _DIGITS.find(sid[0]) * 64 + _DIGITS.find(sid[1]) if re.fullmatch(r"[0-9A-Za-z_-]{20}", sid) else 0


def node_number(stream: str) -> int:
    """Return the number of the node that gave a stream its id; 0 for what is no such id."""
    digits = stream[15:18]
    known = len(stream) == 36 and stream[14] == "4" and re.fullmatch("[0-9a-f]{3}", digits)
    return int(digits, 16) if known else 0
