"""Which client serves a token: identified sessions, the newest first, and the tokens whose last client just left."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import Any, Final

from towline.core._contract import Instant
from towline.core.broker._answers import Missing, token_text
from towline.core.broker._ids import hashed_token, masked_token
from towline.core.tunnel import CAPABILITY_POST, Identified, SessionOpened

# Tokens that are remembered after their last client left; the oldest are forgotten first.
MOST_REMEMBERED: Final = 20_000


class Session:
    """One identified client connection, and what is under way on it."""

    __slots__ = (
        "capabilities",
        "client_id",
        "filters",
        "leaving",
        "number",
        "role",
        "running",
        "token",
        "version",
        "waiting",
    )

    def __init__(self, said: Identified) -> None:
        self.number = said.session
        self.token = token_text(said.token)
        self.role = said.role
        self.learn(said)
        # It said that it stops: what it was asked it answers, and it is asked no more.
        self.leaving = False
        # Requests that went to the client and are not answered, and those that wait for their turn.
        self.running = 0
        self.waiting: deque[Any] = deque()

    def learn(self, said: Identified) -> None:
        """Take what an identify says of the client."""
        self.client_id = said.client_id
        self.version = said.version
        self.capabilities = said.capabilities
        self.filters: Any = said.metadata.get("filters")

    def __repr__(self) -> str:
        return f"Session({self.number}, {masked_token(self.token)}, {self.role})"

    @property
    def ready(self) -> bool:
        """Whether it may be asked."""
        return self.version is not None and self.capabilities is not None and not self.leaving

    @property
    def posts(self) -> bool:
        """Whether the client uploads its answers."""
        return self.capabilities is not None and CAPABILITY_POST in self.capabilities


class Directory:
    """Sessions by token (broker-protocol.md §1.10)."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._sessions: dict[int, Session] = {}
        self._by_token: dict[str, list[Session]] = {}
        self._left: OrderedDict[str, Instant] = OrderedDict()
        # Sessions that were let in and have not said who they are, and how many of each token.
        self._opening: dict[int, str] = {}
        self._expected: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._sessions)

    def opened(self, said: SessionOpened) -> None:
        """Callers of this token may come again soon: a client that proved who it is will identify itself."""
        token = self._opening[said.session] = token_text(said.token)
        self._expected[token] += 1

    def identified(self, said: Identified) -> Session:
        """Put a session in front; one that identifies again is renewed in its place."""
        self._arrived(said.session)
        session = self._sessions.get(said.session)
        if session is None:
            session = self._sessions[said.session] = Session(said)
            self._by_token.setdefault(session.token, []).insert(0, session)
            self._left.pop(session.token, None)
        else:
            session.learn(said)
        return session

    def closed(self, number: int, now: Instant) -> Session | None:
        """Take a session out; return it if it had identified itself."""
        self._arrived(number)
        session = self._sessions.pop(number, None)
        if session is not None:
            listed = self._by_token[session.token]
            listed.remove(session)
            if not listed:
                del self._by_token[session.token]
                self._left[session.token] = now + self._grace
                if len(self._left) > MOST_REMEMBERED:
                    self._left.popitem(last=False)
        return session

    def _arrived(self, number: int) -> None:
        token = self._opening.pop(number, None)
        if token is not None:
            self._expected[token] -= 1
            if not self._expected[token]:
                del self._expected[token]

    def session(self, number: int) -> Session | None:
        return self._sessions.get(number)

    def all_of(self, token: str) -> list[Session]:
        """Return the sessions of a token, the newest first."""
        return self._by_token.get(token.lower(), [])

    def lookup(self, token: str, now: Instant) -> Session | Missing:
        """Return the session that serves a token, or why there is none. A token's case does not matter (Q14)."""
        token = token.lower()
        listed = self._by_token.get(token)
        if listed:
            none: Missing = "connection-not-ready" if any(session.leaving for session in listed) else "bad-request"
            return next((session for session in listed if session.ready), none)
        if token in self._expected:
            return "connection-not-ready"
        until = self._left.get(token)
        if until is None or now >= until:
            self._left.pop(token, None)
            return "no-connection"
        return "connection-not-ready"

    def summary(self) -> list[dict[str, Any]]:
        """Return what `/connections-status` shows; no token among it."""
        return [
            {
                "identifier": masked_token(token),
                "hashedIdentifier": hashed_token(token),
                "versions": list(dict.fromkeys(session.version for session in listed)),
                "brokerClientIds": list(dict.fromkeys(session.client_id for session in listed)),
            }
            for token, listed in self._by_token.items()
        ]
