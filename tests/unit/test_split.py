"""Time splits and moments: half-open, and blind to what comes after."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from features.errors import UsageError
from training.data.dataset import Interactions
from training.data.split import Split, arrivals, drawn_moments, time_split, visits
from training.settings import TrainingSettings

USERS, ITEMS, KINDS = pa.array(["a", "b", "c"]), pa.array(["p", "q", "r"]), ("purchase", "view")
PURCHASE, VIEW = 0, 1


def interactions(*rows: tuple[int, int, int, int]) -> Interactions:
    """(known_at, user, item, kind) in the order of known_at."""
    known, user, item, kind = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return Interactions(USERS, ITEMS, KINDS, user, item, kind, known)


SHOP = interactions(
    (100, 0, 0, VIEW),
    (200, 0, 1, VIEW),
    (200, 1, 0, VIEW),
    (300, 0, 1, PURCHASE),
    (400, 0, 2, PURCHASE),
    (400, 1, 0, VIEW),
    (500, 2, 0, PURCHASE),
)


def test_the_parts_last_as_long_as_they_are_set_to_and_the_end_is_just_after_the_last_event():
    assert time_split(np.array([0, 50, 100]), TrainingSettings(test_ms=20)) == Split(61, 81, 101)


def test_without_a_length_each_part_holds_its_share_of_the_events():
    split = time_split(np.arange(1_000), TrainingSettings(test_share=0.25))
    assert split == Split(500, 750, 1_000)


@pytest.mark.parametrize("times", [[], [5], [5, 5, 5, 5], [0, 50, 100]])
def test_events_that_do_not_fill_three_parts_are_refused(times):
    with pytest.raises(UsageError, match="training requires events"):
        time_split(np.array(times, dtype=np.int64), TrainingSettings(test_ms=60))


def test_a_part_has_its_first_instant_and_not_its_last():
    assert SHOP.between(200, 400).known_at.tolist() == [200, 200, 300]
    assert len(SHOP.between(200, 200)) == 0


def test_a_user_arrives_just_before_the_first_event_and_is_asked_about_everything_taken_after():
    moments = arrivals(SHOP, SHOP.of(("purchase",)))
    assert moments.user.tolist() == [0, 2]
    assert moments.as_of.tolist() == [99, 499]
    assert [moments.taken(at).tolist() for at in range(2)] == [[1, 2], [0]]


def test_all_can_be_asked_at_one_instant():
    assert arrivals(SHOP, SHOP.of(("purchase",)), as_of=7).as_of.tolist() == [7, 7]


def test_a_visit_asks_after_events_about_what_was_taken_later_and_never_about_the_event_itself():
    moments = visits(SHOP, SHOP.of(("purchase",)), 9, np.random.default_rng(0))
    asked = {
        (int(user), int(as_of)): moments.taken(at).tolist()
        for at, (user, as_of) in enumerate(zip(moments.user, moments.as_of, strict=True))
    }
    assert asked == {
        (0, 99): [1, 2],
        (0, 100): [1, 2],
        (0, 200): [1, 2],
        (0, 300): [2],
        (2, 499): [0],
    }


def test_a_user_who_takes_nothing_is_never_asked():
    assert 1 not in visits(SHOP, SHOP.of(("purchase",)), 9, np.random.default_rng(0)).user.tolist()
    assert len(visits(SHOP.only(slice(0, 3)), np.zeros(3, dtype=bool), 9, np.random.default_rng(0))) == 0


def test_moments_that_are_drawn_keep_their_order_and_what_was_taken():
    every = visits(SHOP, SHOP.of(("purchase",)), 9, np.random.default_rng(0))
    some = drawn_moments(every, 2, np.random.default_rng(1))
    pairs = [(int(u), int(t)) for u, t in zip(every.user, every.as_of, strict=True)]
    for at, pair in enumerate(zip(some.user.tolist(), some.as_of.tolist(), strict=True)):
        assert some.taken(at).tolist() == every.taken(pairs.index(pair)).tolist()
    assert drawn_moments(every, 99, np.random.default_rng(1)) is every
