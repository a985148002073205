"""Scripts under the contract: what waits, what is answered on the spot, how failures travel."""

from __future__ import annotations

import pytest

from towline.core import (
    WAKE,
    Abandon,
    Answer,
    Begin,
    Body,
    Broken,
    End,
    Failed,
    Feed,
    Fetch,
    Finished,
    Gathered,
    Head,
    LocalProtocolError,
    Note,
    Plan,
    Proved,
    Question,
    Read,
    Refused,
    RemoteProtocolError,
    Request,
    Script,
    Sleep,
    Step,
    Store,
    Tail,
    Together,
    abandon,
    begin,
    clock,
    end,
    feed,
    fetch,
    read,
    say,
    sleep,
    store,
    together,
)

REQUEST = Request("GET", "https://a.test/v2/")
DENIED = RemoteProtocolError("registry-forbidden", "expected 200, got 403")


class APlan(Plan, frozen=True):
    size: int


def drain(script: Script[object]) -> list[object]:
    wishes: list[object] = []
    while (wish := script.poll()) is not None:
        wishes.append(wish)
    return wishes


def tell(script: Script[object], fact: Answer, now: float = 0.0) -> list[object]:
    script.handle(fact, now)
    return drain(script)


def test_a_fetch_and_its_body() -> None:
    def steps() -> Step[bytes]:
        head = yield from fetch(REQUEST)
        assert isinstance(head, Head)
        body = b""
        while isinstance(piece := (yield from read()), Body):
            body += piece.data
        return body

    script: Script[object] = Script(steps())
    assert drain(script) == []
    assert tell(script, WAKE) == [Fetch(REQUEST)]
    assert script.waits == Fetch(REQUEST)
    assert repr(script) == "Script(over=False, waits_for=Fetch)"
    assert tell(script, Head(200, ())) == [Read()]
    assert tell(script, Body(b"a")) == [Read()]
    assert tell(script, Body(b"b")) == [Read()]
    assert tell(script, Tail()) == [Finished(b"ab")]
    assert tell(script, Tail()) == []
    assert script.waits is None
    script.fail(DENIED, 1.0)
    assert drain(script) == []


def test_questions_that_need_no_answer() -> None:
    def steps() -> Step[tuple[float, int]]:
        yield from begin(1, APlan(4), 4)
        yield from feed(1, b"ab")
        yield from store(1, b"ab")
        yield from say(Note("info", "half"))
        yield from begin(2, APlan(4))
        yield from abandon(2)
        now = yield from clock()
        value = yield from end(1)
        return now, value

    script: Script[object] = Script(steps())
    assert tell(script, WAKE, 7.0) == [
        Begin(1, APlan(4), 4),
        Feed(1, b"ab"),
        Store(1, b"ab"),
        Note("info", "half"),
        Begin(2, APlan(4)),
        Abandon(2),
        End(1),
    ]
    assert tell(script, Proved(1, 4), 8.0) == [Finished((7.0, 4))]


def test_a_refused_stream_raises_where_it_is_waited_for() -> None:
    def steps() -> Step[str]:
        try:
            yield from end(3)
        except RemoteProtocolError as error:
            return error.kind
        return "proved"

    script: Script[object] = Script(steps())
    assert tell(script, WAKE) == [End(3)]
    with pytest.raises(LocalProtocolError, match="stream 3"):
        script.handle(Proved(2, None), 0.0)
    assert tell(script, Refused(3, DENIED)) == [Finished("registry-forbidden")]


def test_sleep_ends_at_its_time_and_not_before() -> None:
    def steps() -> Step[float]:
        return (yield from sleep(5.0))

    script: Script[object] = Script(steps())
    assert script.deadline() is None
    assert tell(script, WAKE, 1.0) == [Sleep(5.0)]
    assert script.deadline() == 5.0
    assert tell(script, WAKE, 4.9) == []
    assert tell(script, Tail(), 6.0) == []
    assert tell(script, WAKE, 6.5) == [Finished(6.5)]
    assert script.deadline() is None


@pytest.mark.parametrize(
    ("step", "wrong"),
    [(fetch(REQUEST), Tail()), (read(), Head(200, ())), (end(1), Tail()), (fetch(REQUEST), Gathered(()))],
    ids=["fetch", "read", "end", "gathered"],
)
def test_a_wrong_answer_is_refused_and_changes_nothing(step: Step[object], wrong: Answer) -> None:
    script: Script[object] = Script(step)
    (question,) = tell(script, WAKE)
    with pytest.raises(LocalProtocolError, match=f"{type(question).__name__} was asked"):
        script.handle(wrong, 0.0)
    assert script.waits == question
    assert tell(script, WAKE, 9.0) == []


def test_an_answer_to_nothing_is_refused() -> None:
    def steps() -> Step[None]:
        yield from fetch(REQUEST)

    script: Script[object] = Script(steps())
    script.handle(WAKE, 0.0)
    script._waits = None  # what a runner of its own, such as a Courier, may leave
    with pytest.raises(LocalProtocolError, match="nothing was asked"):
        script.handle(Tail(), 0.0)


def test_an_error_ends_it() -> None:
    def steps() -> Step[None]:
        head = yield from fetch(REQUEST)
        if isinstance(head, Broken):
            raise RemoteProtocolError(head.kind, head.why)

    script: Script[object] = Script(steps())
    script.handle(WAKE, 0.0)
    drain(script)
    assert tell(script, Broken("reset")) == [Failed(RemoteProtocolError("registry-unreachable", "reset"))]


def test_fail_raises_at_the_open_question() -> None:
    def steps() -> Step[str]:
        try:
            yield from fetch(REQUEST)
        except RemoteProtocolError as error:
            yield from sleep(1.0)
            return error.kind
        return "answered"

    script: Script[object] = Script(steps())
    script.handle(WAKE, 0.0)
    drain(script)
    script.fail(DENIED, 0.0)
    assert drain(script) == [Sleep(1.0)]
    assert tell(script, WAKE, 1.0) == [Finished("registry-forbidden")]


def test_fail_before_the_start() -> None:
    script: Script[object] = Script(fetch(REQUEST))
    script.fail(DENIED, 0.0)
    assert drain(script) == [Failed(DENIED)]


def get(path: str) -> Step[int]:
    head = yield from fetch(Request("GET", f"https://a.test{path}"))
    if isinstance(head, Broken):
        raise RemoteProtocolError(head.kind, head.why)
    return head.status


def asks(*paths: str) -> Step[list[int]]:
    return (yield from together([get(path) for path in paths], 2))


def fetching(path: str) -> Question:
    return Fetch(Request("GET", f"https://a.test{path}"))


def test_together_runs_in_order() -> None:
    script: Script[object] = Script(asks("/a", "/b"))
    assert tell(script, WAKE) == [fetching("/a")]
    assert tell(script, Head(200, ())) == [fetching("/b")]
    assert tell(script, Head(404, ())) == [Finished([200, 404])]


def test_together_nests_and_may_be_empty() -> None:
    def steps() -> Step[list[list[int]]]:
        return (yield from together([asks("/a"), asks(), asks("/b", "/c")], 3))

    script: Script[object] = Script(steps())
    assert tell(script, WAKE) == [fetching("/a")]
    assert tell(script, Head(200, ())) == [fetching("/b")]
    assert tell(script, Head(201, ())) == [fetching("/c")]
    assert tell(script, Head(202, ())) == [Finished([[200], [], [201, 202]])]


def test_the_first_failure_abandons_the_rest_and_fails_who_asked() -> None:
    started: list[str] = []

    def noted(path: str) -> Step[int]:
        started.append(path)
        return (yield from get(path))

    def steps() -> Step[str]:
        try:
            yield from together([noted("/a"), noted("/b"), noted("/c")], 3)
        except RemoteProtocolError as error:
            return error.message
        return "gathered"

    script: Script[object] = Script(steps())
    script.handle(WAKE, 0.0)
    drain(script)
    assert tell(script, Head(200, ())) == [fetching("/b")]
    assert tell(script, Broken("cut")) == [Finished("cut")]
    assert started == ["/a", "/b"]


def test_a_failure_in_a_nest_reaches_the_top() -> None:
    def steps() -> Step[object]:
        return (yield from together([asks("/a")], 1))

    script: Script[object] = Script(steps())
    script.handle(WAKE, 0.0)
    drain(script)
    assert tell(script, Broken("cut")) == [Failed(RemoteProtocolError("registry-unreachable", "cut"))]


def test_a_runner_that_can_do_more_gets_together_as_a_question() -> None:
    script: Script[object] = Script(asks("/a", "/b"), serial=False)
    (question,) = tell(script, WAKE)
    assert isinstance(question, Together)
    assert (len(question.steps), question.at_most) == (2, 2)
    assert tell(script, Gathered((200, 201))) == [Finished([200, 201])]


def test_close_gives_it_up() -> None:
    script: Script[object] = Script(get("/a"))
    script.handle(WAKE, 0.0)
    script.close()
    assert drain(script) == []
    assert script.deadline() is None
    assert tell(script, Head(200, ())) == []


def test_a_heads_values() -> None:
    head = Head(200, (("link", "a"), ("etag", "e"), ("link", "b")))
    assert head.get("link") == "a"
    assert head.get("location") is None
    assert head.all("link") == ("a", "b")
    assert head.all("location") == ()
