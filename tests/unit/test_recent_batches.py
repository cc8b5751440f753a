"""Rates and ages of the newest batches, which one thread adds and another reads."""

from __future__ import annotations

import itertools
import sys
import threading

import numpy as np
import pytest

from streaming.status import RecentBatches

T0 = 1_700_000_000_000


def test_rates_and_ages_are_of_the_last_while_only() -> None:
    recent = RecentBatches()
    recent.add(T0, 1_000, np.arange(1_000))
    assert (recent.per_s(T0), recent.age_ms(T0)["p50_ms"]) == (100.0, pytest.approx(500, abs=5))
    assert (recent.per_s(T0 + 11_000), recent.age_ms(T0 + 70_000)) == (0.0, {})


def test_the_status_may_be_read_while_a_batch_ends() -> None:
    recent, ages, read = RecentBatches(), np.arange(3), threading.Event()

    def add() -> None:
        for second in itertools.count():
            recent.add(T0 + 1_000 * second, 1, ages)
            if read.is_set():
                return

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    adding = threading.Thread(target=add)
    adding.start()
    try:
        for _ in range(3_000):
            assert recent.per_s(T0) >= 0
            assert set(recent.age_ms(T0)) <= {"p50_ms", "p99_ms"}
    finally:
        read.set()
        adding.join()
        sys.setswitchinterval(interval)
