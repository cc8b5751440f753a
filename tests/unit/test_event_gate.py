"""The gate of event models: intervals over draws of whole groups, by hand; who may become champion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from training.data.labelled_events import EventTrainingSettings
from training.event_model.gate import EventModelResult, difference, gate
from training.event_model.metrics import precision_draws
from training.judging.confidence import DRAWS, drawn_weights

SETTINGS = EventTrainingSettings(tolerance=0.05)
CARDS, A_CARD = 300, 6
GROUP = np.repeat(np.arange(CARDS), A_CARD)


def scored(clearness: float, seed: int = 1, groups: int = CARDS) -> tuple[np.ndarray, np.ndarray]:
    """Whether each event is positive, where a card's events are so together, and scores that tell it so clearly."""
    rng = np.random.default_rng(seed)
    positive = np.repeat(rng.random(groups) < 0.2, A_CARD)
    noise = np.repeat(rng.normal(0, 1, groups), A_CARD) + rng.normal(0, 0.3, groups * A_CARD)
    return positive, clearness * positive + noise


POSITIVE, CLEAR = scored(3.0)


def judged(
    name: str, scores: np.ndarray, positive: np.ndarray = POSITIVE, group: np.ndarray = GROUP
) -> EventModelResult:
    draws = precision_draws(group, positive, scores, seed=0)
    return EventModelResult(name, {"ap": float(average_precision_score(positive, scores))}, scores, draws)


AMOUNT = judged("amount", np.random.default_rng(2).random(len(POSITIVE)))


# --- draws ----------------------------------------------------------------------------------------------------------


def test_a_draw_is_the_average_precision_of_the_events_of_the_groups_that_are_drawn() -> None:
    rng = np.random.default_rng(5)
    group, positive = rng.integers(0, 12, 200), rng.random(200) < 0.3
    scores = rng.integers(0, 25, 200) / 25.0  # many events of one score
    found = precision_draws(group, positive, scores, seed=4)
    weights = np.concatenate(list(drawn_weights(12, 4)))
    assert found.shape == (DRAWS,)
    for number in range(0, DRAWS, 50):
        expected = average_precision_score(positive, scores, sample_weight=weights[number][group])
        assert found[number] == pytest.approx(expected, abs=1e-12)


def test_draws_do_not_depend_on_how_many_are_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = precision_draws(GROUP, POSITIVE, CLEAR, seed=0)
    monkeypatch.setattr("training.judging.confidence.CELLS", 7_000)
    np.testing.assert_allclose(precision_draws(GROUP, POSITIVE, CLEAR, seed=0), whole, rtol=1e-12)


def test_events_of_a_card_are_drawn_together_so_that_its_rows_do_not_make_it_surer() -> None:
    """The same events, once as cards of six and once as if each were a card: the latter looks surer than it is."""
    of_cards = np.ptp(np.quantile(precision_draws(GROUP, POSITIVE, CLEAR, 0), [0.025, 0.975]))
    alone = np.ptp(np.quantile(precision_draws(np.full(len(GROUP), -1), POSITIVE, CLEAR, 0), [0.025, 0.975]))
    assert of_cards > 1.5 * alone


def test_a_draw_without_a_positive_is_left_out() -> None:
    group, positive = np.array([0, 1, 2, 3]), np.array([True, False, False, False])
    draws = precision_draws(group, positive, np.array([0.9, 0.8, 0.7, 0.6]), seed=0)
    assert 0 < np.isnan(draws).sum() < DRAWS
    assert set(draws[~np.isnan(draws)].tolist()) == {1.0}


# --- the gate -------------------------------------------------------------------------------------------------------


def test_a_first_model_that_is_surely_above_its_first_input_is_let_through() -> None:
    verdict = gate([AMOUNT, judged("model", CLEAR)], SETTINGS)
    assert verdict.promoted, verdict.reason
    assert "there is no champion yet" in verdict.reason


def test_a_model_that_is_above_its_first_input_only_by_luck_is_not() -> None:
    lucky = judged("model", np.random.default_rng(3).random(len(POSITIVE)) + 0.02 * POSITIVE)
    verdict = gate([replace(AMOUNT, metrics={"ap": lucky.metrics["ap"] - 0.001}), lucky], SETTINGS)
    assert not verdict.promoted
    assert "not surely above" in verdict.reason


def test_a_model_as_good_as_the_champion_but_for_noise_takes_its_place() -> None:
    noise = np.random.default_rng(4).normal(0, 0.02, len(CLEAR))
    verdict = gate([AMOUNT, judged("model", CLEAR + noise), judged("champion", CLEAR)], SETTINGS)
    assert verdict.promoted, verdict.reason
    assert "the champion has" in verdict.reason


def test_a_model_that_is_surely_worse_than_is_allowed_stays_with_the_interval_as_its_reason() -> None:
    worse = np.where(POSITIVE & (GROUP % 3 == 0), -1.0, CLEAR)
    verdict = gate([AMOUNT, judged("model", worse), judged("champion", CLEAR)], SETTINGS)
    assert not verdict.promoted
    assert "may be below the champion's" in verdict.reason
    assert "between -" in verdict.reason


def test_a_model_that_may_be_much_worse_waits_though_it_is_better_on_the_test() -> None:
    """Of twenty cards ten are positive; the champion misses five of them, and the model four others."""
    group = GROUP[: 20 * A_CARD]
    positive = group < 10
    scores = {
        "champion": positive & (group >= 5),
        "model": positive & ((group < 5) | (group == 9)),
        "amount": group % 2,
    }
    champion, model, amount = (judged(name, one.astype(float), positive, group) for name, one in scores.items())
    assert model.metrics["ap"] > champion.metrics["ap"]
    assert difference(model, amount).low > 0
    verdict = gate([amount, model, champion], SETTINGS)
    assert not verdict.promoted
    assert "may be below the champion's" in verdict.reason
