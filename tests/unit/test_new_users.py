"""What is recommended to users of whom nothing is known: by the popularity that ranked best what new users took."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from training.data import Interactions, Split, coded
from training.recommender.candidates import USUAL_MS, first_half_life, fit_candidates
from training.settings import TrainingSettings

HOUR, DAY, NOW = 3_600_000, 86_400_000, 1_700_000_000_000
SETTINGS = TrainingSettings(weights={"purchase": 1.0}, targets=("purchase",), sources=(), k=3, ease_l2=1.0)
SPLIT = Split(NOW - 60 * DAY, NOW, NOW + DAY)


def sold(*rows: tuple[str, str, int]) -> Interactions:
    """Purchases of (user, item, hours before NOW), the first one first."""
    (user, users), (item, items) = (coded(pa.array([row[column] for row in rows])) for column in (0, 1))
    times = np.array([NOW - row[2] * HOUR for row in rows], dtype=np.int64)
    return Interactions(users, items, ("purchase",), user, item, np.zeros(len(rows), dtype=np.int64), times)


def history(taken: Callable[[int], list[str]]) -> Interactions:
    """300 days of users who come once and take what is ``taken`` that day; the last 60 days are learnt from."""
    return sold(*((f"{day}-{n}", item, 24 * (300 - day)) for day in range(300) for n, item in enumerate(taken(day))))


@pytest.mark.parametrize(
    ("taken", "holds"),
    [
        (lambda day: [f"fashion{day // 5}"] * 3, lambda half_life: half_life <= 7 * DAY),
        (lambda day: ["classic"] if day % 10 == 0 else [f"odd{day}"] * 2, lambda half_life: half_life > 14 * DAY),
        (lambda _: ["bread", "milk", "eggs"], lambda half_life: half_life == USUAL_MS),
    ],
)
def test_the_half_life_is_that_of_what_new_users_took_and_the_usual_one_where_none_is_better(taken, holds):
    found = first_half_life(history(taken), ("purchase",), SPLIT, SETTINGS)
    assert found is not None
    assert holds(found), found / DAY


def test_a_few_new_users_say_nothing():
    few = history(lambda day: ["bread"] if day < 245 else [])
    assert first_half_life(few, ("purchase",), SPLIT, SETTINGS) is None
    assert fit_candidates(few, ("purchase",), NOW, SETTINGS).first is None


def test_the_table_is_popularity_by_that_half_life():
    shop = sold(("u", "b", 24), ("u", "a", 0))
    assert fit_candidates(shop, ("purchase",), NOW + HOUR, SETTINGS, DAY).first == pytest.approx(
        [2 ** (-1 / 24), 2 ** (-25 / 24)]
    )
    assert fit_candidates(shop, ("purchase",), NOW + HOUR, SETTINGS, math.inf).first == pytest.approx([1.0, 1.0])
