"""Operations are generators that ask one question at a time, and this puts them under the contract.

A script holds no resource, asks only through the typed functions below (a bare `yield` is typed as
anything), and raises a TowlineError to fail. What must survive a restart is a record, not a frame.

    def list_catalogue(registry):
        page = yield from get_json(registry, url, CataloguePage)     # a script inside a script
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

from towline.core._contract import Data, Instant, Record
from towline.core._errors import LocalProtocolError, TowlineError
from towline.core._secret import Secret
from towline.core._wire import (
    Abandon,
    Begin,
    End,
    Failed,
    Feed,
    Finished,
    Note,
    Plan,
    Proved,
    Purpose,
    Refused,
    Store,
    Wake,
)

T = TypeVar("T")

HeaderList: TypeAlias = tuple[tuple[str, str | Secret], ...]


# ── questions about an exchange, and their answers ────────────────────────────
class Request(Record, frozen=True):
    """One HTTP request. `url` is absolute; header values that are secrets come as `Secret`."""

    method: str
    url: str
    headers: HeaderList = ()
    body: bytes = b""
    purpose: Purpose = "configured"

    def __repr__(self) -> str:
        # Neither a query nor a body is shown: a signed address and a login form are secrets.
        return f"Request({self.method} {self.url.partition('?')[0]}, {self.headers}, {len(self.body)} bytes)"


class Fetch(Record, frozen=True):
    """Send this; answered by Head or Broken. A body that was not read to its end is given up."""

    request: Request


class Read(Record, frozen=True):
    """The next piece of the body; answered by Body, Tail or Broken."""


class Sleep(Record, frozen=True):
    """Answered by Wake, at this instant or later."""

    until: Instant


class Clock(Record, frozen=True):
    """What time is it? Answered by Wake, at once."""


class Together(Record, frozen=True):
    """Run these scripts side by side, at most so many at once; answered by Gathered, in their order.

    The first failure abandons the rest and fails the asking script with the same error.
    """

    steps: tuple[Generator[Any, Any, Any], ...]
    at_most: int


class Head(Record, frozen=True):
    """A response began. Names in lower case, order and repeats kept."""

    status: int
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str | None:
        """Return the first value of a header, or None. `name` is lower case."""
        return next((value for key, value in self.headers if key == name), None)

    def all(self, name: str) -> tuple[str, ...]:
        """Return every value of a header, in order."""
        return tuple(value for key, value in self.headers if key == name)


class Body(Record, frozen=True):
    """The next bytes of a body. For a script that has begun a stream they may be a view of a window: good until it
    asks the next question that waits, so that it feeds them at once and copies what it keeps."""

    data: Data


class Tail(Record, frozen=True):
    """The body ended as its framing said it would."""


class Broken(Record, frozen=True):
    """The exchange ended before its time. `kind` is a row of KINDS; `sent` tells whether the peer may have it."""

    why: str
    kind: str = "registry-unreachable"
    sent: bool = True


class Gathered(Record, frozen=True):
    values: tuple[Any, ...]


Question: TypeAlias = Fetch | Read | Sleep | Clock | Together | Begin | Feed | Store | End | Abandon | Note | Record
Answer: TypeAlias = Head | Body | Tail | Broken | Wake | Gathered | Proved | Refused
Step: TypeAlias = Generator[Question, tuple[Answer, Instant], T]


# ── the typed functions ────────────────────────────────────────────────────────
def fetch(request: Request) -> Step[Head | Broken]:
    """Send a request and return the response's head, or what stood in its way."""
    answer, _ = yield Fetch(request)
    return cast("Head | Broken", answer)


def read() -> Step[Body | Tail | Broken]:
    """Return the next piece of the body."""
    answer, _ = yield Read()
    return cast("Body | Tail | Broken", answer)


def sleep(until: Instant) -> Step[Instant]:
    """Wait, and return the time it then is."""
    _, now = yield Sleep(until)
    return now


def clock() -> Step[Instant]:
    """Return the time it is."""
    _, now = yield Clock()
    return now


def together(steps: Sequence[Step[T]], at_most: int) -> Step[list[T]]:
    """Run scripts side by side and return their values in order."""
    answer, _ = yield Together(tuple(steps), at_most)
    return list(cast(Gathered, answer).values)


def begin(stream: int, plan: Plan, expected_bytes: int | None = None) -> Step[None]:
    """Start a stream under a number that was not used before."""
    yield Begin(stream, plan, expected_bytes)


def feed(stream: int, data: Data) -> Step[None]:
    """Hand a stream its next bytes."""
    yield Feed(stream, data)


def store(stream: int, data: Data) -> Step[None]:
    """Keep bytes under a stream's name until its verdict."""
    yield Store(stream, data)


def end(stream: int) -> Step[Any]:
    """Wait for a stream's verdict; return its value or raise its error."""
    answer, _ = yield End(stream)
    if isinstance(answer, Refused):
        raise answer.error
    return cast(Proved, answer).value


def abandon(stream: int) -> Step[None]:
    """Forget a stream."""
    yield Abandon(stream)


def say(event: Record) -> Step[None]:
    """Put an event (a Note, a Progress) out for the application."""
    yield event


# What waits for a fact from outside, and what answers it; every other question is answered on the spot.
ANSWERS: Final[dict[type, tuple[type, ...]]] = {
    Fetch: (Head, Broken),
    Read: (Body, Tail, Broken),
    Sleep: (Wake,),
    End: (Proved, Refused),
    Together: (Gathered,),
}
WAITING: Final = tuple(ANSWERS)


class Script(Generic[T]):
    """A generator under the contract: Machine[Answer, Question | Finished[T] | Failed].

    Start it with `handle(WAKE, now)`. It wishes its questions; those in WAITING are then answered by
    `handle(answer, now)`, the others need no answer. `Together` is run one after the other here, so that
    an embedder with a plain HTTP client need not know it; a Courier runs it side by side.
    """

    def __init__(self, steps: Step[T], *, serial: bool = True) -> None:
        self._steps = steps
        self._serial = serial
        self._wishes: deque[Question | Finished[T] | Failed] = deque()
        self._waits: Question | None = None
        self._started = False
        self._over = False
        self._askers: list[_Asker] = []

    def __repr__(self) -> str:
        return f"Script(over={self._over}, waits_for={type(self._waits).__name__})"

    @property
    def waits(self) -> Question | None:
        """The question that is open, or None."""
        return self._waits

    def handle(self, fact: Answer, now: Instant) -> None:
        if self._over:
            return
        if not self._started:
            self._started = True
            self._advance(None, now)
            return
        if self._waits is None:
            raise LocalProtocolError(f"nothing was asked, yet {type(fact).__name__} came")
        if isinstance(self._waits, Sleep) and (not isinstance(fact, Wake) or now < self._waits.until):
            return
        if not isinstance(self._waits, Sleep) and isinstance(fact, Wake):
            return
        if not isinstance(fact, ANSWERS[type(self._waits)]):
            raise LocalProtocolError(f"{type(self._waits).__name__} was asked, yet {type(fact).__name__} came")
        if isinstance(self._waits, End) and cast("Proved | Refused", fact).stream != self._waits.stream:
            raise LocalProtocolError(f"the verdict on stream {self._waits.stream} was asked for, not this: {fact}")
        self._waits = None
        self._advance((fact, now), now)

    def fail(self, error: TowlineError, now: Instant) -> None:
        """Raise an error at the script's open question, as if asking had failed."""
        if self._over:
            return
        self._waits = None
        self._started = True
        self._advance(error, now)

    def poll(self) -> Question | Finished[T] | Failed | None:
        return self._wishes.popleft() if self._wishes else None

    def deadline(self) -> Instant | None:
        return self._waits.until if isinstance(self._waits, Sleep) else None

    def close(self) -> None:
        """Give the script up; it wishes nothing more."""
        self._over = True
        self._waits = None
        self._wishes.clear()
        self._steps.close()

    def _advance(self, answer: tuple[Answer, Instant] | TowlineError | None, now: Instant) -> None:
        while True:
            try:
                if isinstance(answer, TowlineError):
                    question = self._steps.throw(answer)
                else:
                    question = next(self._steps) if answer is None else self._steps.send(answer)
            except StopIteration as stop:
                if not self._askers:
                    return self._finish(Finished(stop.value))
                answer = self._next_child(stop.value, now)
                continue
            except TowlineError as error:
                if not self._askers:
                    return self._finish(Failed(error))
                self._steps = self._askers.pop().give_up()
                answer = error
                continue
            if isinstance(question, Clock):
                answer = (Wake(), now)
            elif isinstance(question, Together) and self._serial:
                self._askers.append(_Asker(self._steps, list(question.steps), []))
                answer = self._next_child(None, now)
            else:
                self._wishes.append(question)
                if isinstance(question, WAITING):
                    self._waits = question
                    return None
                answer = (Wake(), now)

    def _next_child(self, value: Any, now: Instant) -> tuple[Answer, Instant] | None:
        asker = self._askers[-1]
        if asker.steps is not self._steps:
            asker.values.append(value)
        if asker.left:
            self._steps = asker.left.pop(0)
            return None
        self._steps = self._askers.pop().steps
        return Gathered(tuple(asker.values)), now

    def _finish(self, end: Finished[T] | Failed) -> None:
        self._over = True
        self._wishes.append(end)


class _Asker:
    """A script that waits for a Together whose scripts run one after the other."""

    __slots__ = ("left", "steps", "values")

    def __init__(self, steps: Step[Any], left: list[Step[Any]], values: list[Any]) -> None:
        self.steps = steps
        self.left = left
        self.values = values

    def give_up(self) -> Step[Any]:
        for child in self.left:
            child.close()
        return self.steps
