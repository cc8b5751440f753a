"""Requests in flight, answered together: what waits, who answers, and what is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest
from hand_clock import Clock

from serving.batches import MOST_TOGETHER, Batches
from serving.metrics import Metrics
from serving.workers import OverloadedError

DEADLINE_MS = 60_000.0
"""Longer than any test: what ends by a deadline here ends at once."""


class Answering:
    """Answers a text by itself in capitals; keeps what was asked together, and waits where a test says so."""

    def __init__(self) -> None:
        self.together: list[list[str]] = []
        self.begun = {name: threading.Event() for name in ("hold", "hold2")}
        self.free = {name: threading.Event() for name in self.begun}
        self.each: Callable[[str], None] = lambda _: None

    def go(self, name: str = "hold") -> None:
        """The request of this name is answered."""
        self.free[name].set()

    def __call__(self, works: Sequence[str]) -> Iterator[str | Exception]:
        self.together.append(list(works))
        for work in works:
            self.each(work)
            if work in self.begun:
                self.begun[work].set()
                assert self.free[work].wait(60)
            yield ValueError(work) if work == "wrong" else work.upper()


@pytest.fixture
def answering() -> Iterator[Answering]:
    made = Answering()
    yield made
    for name in made.free:
        made.go(name)


def batches(clock: Any = None, most_waiting: int = 1_000, deadline_ms: float = DEADLINE_MS) -> Batches:
    return Batches(3, most_waiting, deadline_ms, Metrics(), clock or Clock())


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, 60))


async def begun(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 60)


async def asked(made: Batches, answering: Answering, *works: str, key: str = "") -> list[asyncio.Task]:
    """The requests wait in this order."""
    tasks = []
    for work in works:
        tasks.append(asyncio.create_task(made.in_time(key, work, answering)))
        await asyncio.sleep(0)
    return tasks


async def holding(made: Batches, answering: Answering) -> asyncio.Task:
    """A request that is worked on until the test lets it go."""
    (task,) = await asked(made, answering, "hold")
    await begun(answering.begun["hold"])
    return task


def test_a_request_alone_does_not_wait_for_others(answering):
    assert run(batches().in_time("", "a", answering)) == "A"
    assert answering.together == [["a"]]


def test_all_that_wait_are_answered_together_and_those_of_another_key_apart(answering):
    async def main() -> None:
        made = batches()
        held = await holding(made, answering)
        one = await asked(made, answering, "a", "b")
        other = await asked(made, answering, "x", key="other")
        more = await asked(made, answering, "c")
        answering.go()
        assert await asyncio.gather(held, *one, *other, *more) == ["HOLD", "A", "B", "X", "C"]

    run(main())
    assert answering.together == [["hold"], ["a", "b", "c"], ["x"]]


def test_a_batch_has_an_end(answering):
    async def main() -> None:
        made = batches()
        held = await holding(made, answering)
        many = await asked(made, answering, *["a"] * (MOST_TOGETHER + 1))
        answering.go()
        await asyncio.gather(held, *many)

    run(main())
    assert [len(works) for works in answering.together] == [1, MOST_TOGETHER, 1]


def test_an_error_of_one_is_its_alone(answering):
    async def main() -> list[Any]:
        made = batches()
        held = await holding(made, answering)
        tasks = await asked(made, answering, "a", "wrong", "b")
        answering.go()
        return await asyncio.gather(held, *tasks, return_exceptions=True)

    _, first, wrong, last = run(main())
    assert (first, last) == ("A", "B")
    assert isinstance(wrong, ValueError)


def test_those_that_fail_together_are_answered_one_by_one(answering):
    def each(work: str) -> None:
        if work == "poison" or "poison" in answering.together[-1]:
            raise ZeroDivisionError

    answering.each = each

    async def main() -> list[Any]:
        made = batches()
        held = await holding(made, answering)
        tasks = await asked(made, answering, "a", "poison", "b")
        answering.go()
        return await asyncio.gather(held, *tasks, return_exceptions=True)

    _, first, poison, last = run(main())
    assert (first, last) == ("A", "B")
    assert isinstance(poison, ZeroDivisionError)


def test_one_that_takes_long_stays_with_its_thread_and_those_behind_it_are_answered(answering):
    async def main() -> list[str]:
        clock = Clock()
        made = batches(clock)
        first = await holding(made, answering)
        behind = await asked(made, answering, "a", "b")
        clock.now += DEADLINE_MS / 1000
        made.relieve()
        answers = await asyncio.gather(*behind)
        assert not first.done()
        answering.go()
        assert await first == "HOLD"
        return answers

    assert run(main()) == ["A", "B"]


def test_each_event_loop_that_asks_watches_once(answering, monkeypatch):
    made, other, watches = batches(), asyncio.new_event_loop(), []
    monkeypatch.setattr(made, "relieve", lambda: watches.append(asyncio.get_running_loop()))

    async def main() -> None:
        tasks = [await holding(made, answering)]
        for _ in range(3):
            (task,) = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asked(made, answering, "a"), other))
            tasks += await asked(made, answering, "b")
            there.append(task)
        assert watches == [asyncio.get_running_loop(), other]
        answering.go()
        await asyncio.gather(*tasks)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.wait(there), other))

    there: list[asyncio.Task] = []
    thread = threading.Thread(target=other.run_forever)
    thread.start()
    try:
        run(main())
    finally:
        other.call_soon_threadsafe(other.stop)
        thread.join()
        other.close()
    assert [task.result() for task in there] == ["A"] * 3


def test_of_a_batch_only_the_one_that_takes_long_waits(answering):
    async def main() -> None:
        clock = Clock()
        made = batches(clock)
        first = await holding(made, answering)
        tasks = await asked(made, answering, "a", "hold2", "b", "c")
        answering.go()
        await first
        await begun(answering.begun["hold2"])
        assert await tasks[0] == "A"
        clock.now += DEADLINE_MS / 1000
        made.relieve()
        assert await asyncio.gather(*tasks[2:]) == ["B", "C"]
        assert not tasks[1].done()
        answering.go("hold2")
        assert await tasks[1] == "HOLD2"

    run(main())
    assert answering.together[-2:] == [["b"], ["c"]]


def test_one_that_is_given_up_is_not_worked_on(answering):
    async def main() -> None:
        made = batches()
        held = await holding(made, answering)
        (gone,) = await asked(made, answering, "gone")
        stays = await asked(made, answering, "a")
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        answering.go()
        await asyncio.gather(held, *stays)

    run(main())
    assert answering.together == [["hold"], ["a"]]


def test_there_is_no_answer_after_the_deadline(answering):
    with pytest.raises(TimeoutError):
        run(batches(deadline_ms=0).in_time("", "hold", answering))


@pytest.mark.parametrize(("took_s", "room"), [(1.0, 42), (30.0, 1), (1e-9, 999)])
def test_a_request_is_refused_at_once_if_those_before_it_take_most_of_its_deadline(answering, took_s, room):
    """Each answer took so long up to now, and 70 % of the deadline of 60 s may be waited."""
    clock = Clock()

    def each(work: str) -> None:
        clock.now += took_s if work == "measured" else 0

    answering.each = each

    async def main() -> None:
        made = batches(clock)
        await made.in_time("", "measured", answering)
        held = await holding(made, answering)
        tasks = await asked(made, answering, *["a"] * (room + 5))
        refused = [task.exception() for task in tasks if task.done()]
        assert len(refused) == 5
        assert all(isinstance(error, OverloadedError) for error in refused)
        assert all(1 <= error.retry_after_s <= 60 for error in refused)
        answering.go()
        await asyncio.gather(held, *tasks, return_exceptions=True)

    run(main())
