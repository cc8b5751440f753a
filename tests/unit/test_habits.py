"""Habits by hand: distances in widths, their rarity, and a threshold that keeps a rate of alerts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.definitions import FalseAlerts, Habit
from features.errors import ArtefactError, DefinitionError
from models.event_model import FittedHabit, FittedHabits, RarityCurve
from models.event_model.habits import load_habits, save_habits
from training.data import LabelledEvents
from training.event_model.incidents import counts_of, curve_of, firsts_of, threshold_of_rate

DAY, WEEK = 86_400_000, 7 * 86_400_000
LINE = RarityCurve(distances=(0.0, 1.0), rarities=(0.0, 1.0), exponent=2.0)
BAND = FittedHabit(of=0, low=1, high=2, middle=None, spread=None, curve=LINE)
ROUND = FittedHabit(of=0, low=None, high=None, middle=1, spread=2, curve=LINE)
FITTED = FittedHabits(inputs=4, habits=(BAND, ROUND), least=((3, 10.0),))


def part(time: list[int], group: list[int], positive: list[bool] | None = None) -> LabelledEvents:
    mask = np.zeros(len(time), bool) if positive is None else np.array(positive)
    return LabelledEvents(np.array(time, np.int64), np.array(group, np.int64), mask, np.zeros((len(time), 1)))


def test_a_distance_is_beyond_the_band_or_from_the_middle_in_widths() -> None:
    inputs = np.array(
        [[5.0, 0.0, 10.0], [15.0, 0.0, 10.0], [-20.0, 0.0, 10.0], [np.nan, 0.0, 10.0], [5.0, np.nan, 10.0]]
    )
    np.testing.assert_allclose(BAND.distances(inputs), [0.0, 0.5, 2.0, np.nan, np.nan])
    np.testing.assert_allclose(ROUND.distances(inputs), [0.5, 1.5, 2.0, np.nan, np.nan])
    assert BAND.usual(inputs[:3]).tolist() == [5.0, 10.0, 0.0]


def test_a_constant_number_has_a_width_too() -> None:
    assert BAND.distances(np.array([[101.0, 100.0, 100.0]])) == pytest.approx([10.0])
    assert np.isfinite(BAND.distances(np.array([[1.0, 0.0, 0.0]]))).all()


def test_what_has_no_habit_and_what_is_below_the_least_has_the_score_0() -> None:
    inputs = np.array(
        [[15.0, 0.0, 10.0, 9.0], [15.0, 0.0, 10.0, 10.0], [15.0, np.nan, np.nan, 10.0], [15.0, 0.0, 10.0, np.nan]]
    )
    np.testing.assert_allclose(FITTED.scores(inputs), [0.0, (0.5 + 1.0 + 2 * np.log10(1.5)) / 2, 0.0, 0.0])


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.lists(st.floats(0, 1e9), min_size=2, max_size=30))
@settings(deadline=None)
def test_a_rarity_is_finite_rises_with_the_distance_and_repeats(learned: list[float], asked: list[float]) -> None:
    curve = curve_of(np.array(learned))
    found = curve.of(np.sort(np.array(asked)))
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert (np.diff(found) >= 0).all()
    again = RarityCurve.model_validate_json(curve.model_dump_json())
    assert again.of(np.sort(np.array(asked))).tobytes() == found.tobytes()


def test_a_rarity_is_the_share_of_what_was_learned_from_that_is_as_far() -> None:
    learned = np.random.default_rng(1).exponential(1.0, 100_000)
    curve = curve_of(learned)
    for share in (0.5, 0.1, 0.01):
        assert curve.of(np.array([-np.log(share)]))[0] == pytest.approx(-np.log10(share), abs=0.05)


def test_where_nothing_was_beyond_anything_beyond_is_rarer_than_one_of_all() -> None:
    curve = curve_of(np.zeros(999))
    assert curve.of(np.array([0.0, 1.0])).tolist() == pytest.approx([0.0, 6.0])


def test_an_alert_within_the_quiet_time_after_the_first_is_of_the_same_incident() -> None:
    events = part([0, DAY // 2, DAY, 3 * DAY, DAY // 2], [0, 0, 0, 0, 1])
    assert firsts_of(events, np.ones(5, bool), DAY).tolist() == [0, 2, 3, 4]
    assert firsts_of(events, np.array([False, True, True, False, False]), DAY).tolist() == [1]


def test_incidents_are_runs_of_labelled_events_of_a_group_and_false_alerts_are_outside_of_them() -> None:
    time, group = [hour * DAY for hour in range(6)] * 2, [0] * 6 + [1] * 6
    events = part(time, group, [False, True, True, False, True, False] + [False] * 6)
    alerting = np.array([True, False, True, False, False, False, False, True, False, False, False, True])
    counts = counts_of(events, alerting, DAY)
    assert (counts.found.tolist(), counts.missed.tolist(), counts.alerts.tolist()) == ([1, 0], [1, 0], [1, 2])
    np.testing.assert_allclose(counts.weeks, [5 / 7, 5 / 7])


def test_the_threshold_is_the_lowest_score_that_keeps_the_rate() -> None:
    rng = np.random.default_rng(3)
    events = part(np.tile(np.arange(0, 4 * WEEK, DAY // 4), 5).tolist(), np.repeat(np.arange(5), 112).tolist())
    scores = rng.random(len(events))
    alert = FalseAlerts(1.0)
    threshold = threshold_of_rate(events, scores, alert)
    weeks = counts_of(events, scores > 2, DAY).weeks.sum()
    assert len(firsts_of(events, scores >= threshold, DAY)) <= weeks
    below = scores[scores < threshold].max()
    assert len(firsts_of(events, scores >= below, DAY)) > weeks
    assert threshold_of_rate(events, np.zeros(len(events)), alert) > 0


def test_fitted_habits_are_read_as_they_were_written_and_refused_with_other_columns(tmp_path: Path) -> None:
    save_habits(FITTED, tmp_path / "habits.json")
    assert load_habits(tmp_path / "habits.json", 4) == FITTED
    with pytest.raises(ArtefactError, match="3 inputs"):
        load_habits(tmp_path / "habits.json", 3)
    outside = FITTED.model_copy(update={"habits": (BAND.model_copy(update={"of": 9}),)})
    save_habits(outside, tmp_path / "other.json")
    with pytest.raises(ArtefactError, match="column 9"):
        load_habits(tmp_path / "other.json", 4)
    (tmp_path / "torn.json").write_text('{"inputs": 4', encoding="utf-8")
    with pytest.raises(ArtefactError, match="fitted habits"):
        load_habits(tmp_path / "torn.json", 4)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"low": "a"}, {"middle": "m"}, {"spread": "s"}, {"low": "a", "high": "b", "middle": "m", "spread": "s"}],
)
def test_a_habit_is_a_band_or_a_middle_with_a_width(wrong: dict[str, str]) -> None:
    with pytest.raises(DefinitionError, match="Habit"):
        Habit(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"a_week": 0}, {"a_week": float("nan")}, {"a_week": True}, {"quiet": "soon"}, {"quiet": "0s"}]
)
def test_a_rate_is_above_0(wrong: dict[str, object]) -> None:
    with pytest.raises(DefinitionError):
        FalseAlerts(**wrong)
