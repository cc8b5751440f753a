"""Token buckets: a burst of a second, then the rate; one bucket however many processes take from it."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from serving.access.rates import SECOND_NS, Rates

KEYS = [f"{number:012x}" for number in range(5)]


class Clock:
    """Nanoseconds that are set by hand."""

    def __init__(self, now: int = SECOND_NS) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def granted(rates: Rates, key: str, rate: float, times: int) -> int:
    return sum(not rates.wait_ns(key, rate) for _ in range(times))


def test_a_key_has_its_rate_at_once_and_then_as_time_goes(tmp_path):
    for path in (None, tmp_path / "rates"):
        clock = Clock()
        rates = Rates(path, clock=clock)
        assert granted(rates, KEYS[0], 10, 30) == 10
        clock.now += SECOND_NS // 2
        assert granted(rates, KEYS[0], 10, 30) == 5
        clock.now += 100 * SECOND_NS
        assert granted(rates, KEYS[0], 10, 30) == 10
        assert granted(rates, KEYS[1], 10, 30) == 10


def test_a_slow_key_has_one_request_in_its_time():
    clock = Clock()
    rates = Rates(None, clock=clock)
    assert granted(rates, KEYS[0], 0.1, 3) == 1
    assert rates.wait_ns(KEYS[0], 0.1) == 10 * SECOND_NS
    clock.now += 9 * SECOND_NS
    assert rates.wait_ns(KEYS[0], 0.1) == SECOND_NS
    clock.now += SECOND_NS
    assert rates.wait_ns(KEYS[0], 0.1) == 0


@given(
    rate=st.floats(0.001, 1_000_000),
    steps=st.lists(st.tuples(st.integers(0, 3 * SECOND_NS), st.integers(1, 20)), max_size=20),
)
def test_no_more_than_the_rate_and_a_second_of_it_and_no_wait_that_is_too_short(rate, steps):
    """By recount: in any time t at most rate × t + max(rate, 1) requests, and the wait that is told is enough."""
    clock = Clock()
    rates, taken = Rates(None, clock=clock), 0
    for step, times in steps:
        clock.now += step
        taken += granted(rates, KEYS[0], rate, times)
        elapsed = (clock.now - SECOND_NS) / SECOND_NS
        assert taken <= rate * elapsed + max(rate, 1) + 1e-3 * (1 + rate * elapsed)
    wait = rates.wait_ns(KEYS[0], rate)
    if wait:
        clock.now += wait
        assert rates.wait_ns(KEYS[0], rate) == 0


def _takes(path: Path, results: multiprocessing.SimpleQueue) -> None:
    rates = Rates(path)
    results.put([granted(rates, key, 1 / 3600, 50) + granted(rates, key, 1 / 3600, 50) for key in KEYS])


def test_replicas_take_from_one_bucket(tmp_path):
    """Four processes ask at once for the only request of the hour of each of five keys: each is had once."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    arguments = (tmp_path / "run" / "rates", results)
    processes = [context.Process(target=_takes, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    taken = [results.get() for _ in processes]
    for process in processes:
        process.join()
    assert [sum(of_key) for of_key in zip(*taken, strict=True)] == [1] * len(KEYS)


def test_buckets_that_cannot_be_shared_are_each_processs_own(tmp_path):
    (tmp_path / "file").write_text("")
    failures = []
    rates = Rates(tmp_path / "file" / "rates", failed=lambda: failures.append(1))
    assert granted(rates, KEYS[0], 2, 10) in (2, 3)
    assert failures == [1]


def test_processes_of_a_machine_have_one_monotonic_clock(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    before = time.monotonic_ns()
    process = context.Process(target=_now, args=(results,))
    process.start()
    inside = results.get()
    process.join()
    assert before <= inside <= time.monotonic_ns()


def _now(results: multiprocessing.SimpleQueue) -> None:
    results.put(time.monotonic_ns())
