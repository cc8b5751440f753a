"""Load at a steady rate, while versions of the model become champion one after the other and one is rolled back."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

from headrace.bench.loop.serve.requests import FULL, Caller, TimedResponse
from headrace.loop import LoopError

if TYPE_CHECKING:
    from training.registry import ModelRegistry, Version

WORKERS = 24

SWAPPED_WITHIN_S, REST_S = 15.0, 2.0
"""The longest time from a move of the alias to the first answer of the new champion, and that from there to the next
move."""

Bodies = Sequence[Mapping[str, Any]]


def held(swap: Mapping[str, Any]) -> bool:
    """Every request was answered by a version that was champion, and every swap was seen in time."""
    late = any(seconds is None or seconds > SWAPPED_WITHIN_S for seconds in swap["visible_s"])
    return not (swap["failed"] or swap["strangers"] or late)


def swapped(
    address: tuple[str, int], bodies: Bodies, registry: ModelRegistry, versions: list[Version], load: tuple[int, int]
) -> dict[str, Any]:
    """Figures while each version in turn becomes champion, as soon as the one before is seen, and one is rolled back.

    Args:
        load: seconds and requests a second; the load goes on beyond that until the last swap is seen or late.
    """
    seconds, rate = load
    answers: list[TimedResponse] = []
    moves: list[tuple[str, float]] = []
    done = threading.Event()

    def moving() -> None:
        try:
            for number in range(1, len(versions) + 1):
                time.sleep(REST_S)
                moves.append((_moved(registry, versions, number), time.perf_counter()))
                _wait_until_seen(answers, moves[-1])
        finally:
            done.set()

    mover = threading.Thread(target=moving)
    mover.start()
    at_rate(address, bodies, (seconds, rate), answers, done.is_set)
    mover.join()
    champions = {version.version for version in versions}
    strangers = sum(answer.version not in champions for answer in answers if answer.status == FULL)
    return {
        **figures_of(answers),
        "strangers": strangers,
        "versions": [version for version, _ in moves],
        "visible_s": [_visible(answers, *move) for move in moves],
    }


def _wait_until_seen(answers: list[TimedResponse], move: tuple[str, float]) -> None:
    """Returns once an answer is of the version, or SWAPPED_WITHIN_S after the move."""
    while time.perf_counter() < move[1] + SWAPPED_WITHIN_S and _visible(answers[-1_000:], *move) is None:
        time.sleep(0.05)


def _moved(registry: ModelRegistry, versions: list[Version], number: int) -> str:
    """The champion after this move: the next version, or after the last one the one before it."""
    if number < len(versions):
        return registry.promote(versions[number], time.time_ns() // 1_000_000).version
    return registry.rollback(versions[0].name).version


def _visible(answers: list[TimedResponse], version: str, moved_at: float) -> float | None:
    """Seconds from the alias's move to the first response of this version; None where there is none."""
    seen = [answer.at - moved_at for answer in answers if answer.version == version and answer.at > moved_at]
    return round(min(seen), 2) if seen else None


def at_rate(
    address: tuple[str, int],
    bodies: Bodies,
    load: tuple[int, int],
    answers: list[TimedResponse],
    ended: Callable[[], bool],
) -> None:
    """All responses to requests that are due at even times, answered or not (an open loop), go into ``answers``.

    Args:
        load: seconds, and requests a second.
        ended: asked after those seconds, whether no more are wanted.
    """
    seconds, rate = load
    due, starting = itertools.count(), time.perf_counter()

    def worker(_: int) -> None:
        with closing(Caller(address)) as caller:
            while (number := next(due)) < seconds * rate or not ended():
                at = starting + number / rate
                time.sleep(max(0.0, at - time.perf_counter()))
                answers.append(caller.recommend(bodies[number % len(bodies)], at))

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(worker, range(WORKERS)))


def figures_of(answers: list[TimedResponse]) -> dict[str, Any]:
    """Times of the good responses, and the numbers of requests, failures and fallbacks."""
    good = [answer for answer in answers if answer.status == FULL]
    if not good:
        raise LoopError("the bench's requests", "answers", f"none to {len(answers)}")
    counts = {
        "requests": len(answers),
        "failed": len(answers) - len(good),
        "fallbacks": sum(answer.fallback for answer in good),
    }
    from streaming.fold import ages_of

    return {**ages_of([answer.took_ms for answer in good]), **counts}


def recovered_s(
    address: tuple[str, int], bodies: Bodies, since: float, within_s: float, in_a_row: int = 20
) -> float | None:
    """Seconds from ``since`` (perf_counter) to the first of so many full answers in a row; None for later than that."""
    first, row = since, 0
    with closing(Caller(address)) as caller:
        for body in itertools.cycle(bodies):
            asked = time.perf_counter()
            if asked > since + within_s:
                break
            answer = caller.recommend(body)
            full = answer.status == FULL and not answer.fallback
            first, row = (first if row else asked, row + 1) if full else (first, 0)
            if row == in_a_row:
                return round(first - since, 2)
    return None
