"""A ranker's answers become the shares that they say, and no order changes by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from small_shop import model

from models.recommender.calibration import Calibration, log_odds
from training.recommender.calibrating import (
    POSITIVES,
    CalibrationCheck,
    calibration,
    calibration_error,
    check_calibration,
    fit_calibration,
)


def overconfident(seed: int, n: int = 40_000):
    """Answers whose log odds are twice and 1 above those by which things are taken."""
    rng = np.random.default_rng(seed)
    true = rng.normal(-1.0, 1.0, n)
    said = 1 / (1 + np.exp(-(2 * true + 1)))
    return said, rng.random(n) < 1 / (1 + np.exp(-true))


def test_chances_that_come_true_as_often_as_they_say_are_on_the_diagonal(seed):
    rng = np.random.default_rng(seed)
    chances = rng.random(20_000)
    taken = rng.random(20_000) < chances
    mean, share = calibration(chances, taken)
    assert len(mean) == 10
    np.testing.assert_allclose(mean, share, atol=0.07)
    assert calibration_error(chances, taken) < 0.03
    assert calibration(np.array([0.5]), np.array([True]))[1].tolist() == [1.0]


def test_the_error_is_the_mean_distance_of_the_bins():
    chances = np.repeat([0.25, 0.75], 50)
    assert calibration_error(chances, np.zeros(100, dtype=bool)) == pytest.approx(0.5)
    assert calibration_error(chances, np.ones(100, dtype=bool)) == pytest.approx(0.5)
    assert np.isnan(calibration_error(np.empty(0), np.empty(0, dtype=bool)))


def test_the_sigmoid_that_made_the_answers_too_sure_is_found(seed):
    said, taken = overconfident(seed)
    fitted = fit_calibration(said, taken)
    assert fitted is not None
    assert fitted.slope == pytest.approx(0.5, abs=0.08)
    assert fitted.intercept == pytest.approx(-0.5, abs=0.12)
    assert calibration_error(fitted.calibrated(said), taken) < calibration_error(said, taken) / 3


def test_the_earlier_moments_fit_and_the_later_ones_are_looked_at(seed):
    said, taken = overconfident(seed, 4_000)
    late = np.ones(1_000, dtype=bool)
    found = check_calibration([late * 0.5, said], [late, taken], np.array([2, 1]))
    assert found.calibration == fit_calibration(said, taken)
    np.testing.assert_array_equal(found.taken, late)
    assert found.calibration is not None
    np.testing.assert_array_equal(found.chances, found.calibration.calibrated(late * 0.5))
    assert found.metrics["calibration_error_before"] == pytest.approx(0.5)


def test_no_order_changes_not_even_of_answers_near_certain():
    answers = np.array([0.0, 1e-6, 0.2, 0.2000001, 0.999, 1.0])
    order = np.diff(Calibration(slope=0.4, intercept=-3).calibrated(answers))
    assert (order > 0).all()


def test_too_few_that_were_taken_or_answers_that_are_upside_down_are_left_as_they_are():
    chances, taken = np.linspace(0.1, 0.9, 400), np.arange(400) >= 200
    assert fit_calibration(chances, taken) is not None
    assert fit_calibration(chances, ~taken) is None
    assert fit_calibration(chances, np.arange(400) > 400 - POSITIVES) is None
    assert check_calibration([], [], np.empty(0, dtype=np.int64)).metrics == CalibrationCheck().metrics == {}


def test_a_models_answers_are_calibrated_as_its_manifest_says():
    class Half:
        def predict_proba(self, inputs):
            return np.full((len(inputs), 2), 0.5)

    plain = replace(model(), ranker=Half())
    manifest = plain.manifest.model_copy(update={"calibration": Calibration(slope=1, intercept=-1)})
    inputs = np.zeros((3, 2))
    assert plain.chances(inputs).tolist() == [0.5] * 3
    np.testing.assert_allclose(replace(plain, manifest=manifest).chances(inputs), 1 / (1 + np.e))
    assert log_odds(np.array([0.5])).tolist() == [0.0]


@pytest.mark.parametrize("slope", [0.0, -1.0, float("nan"), float("inf")])
def test_a_calibration_that_would_turn_lists_around_cannot_be(slope):
    with pytest.raises(ValidationError):
        Calibration(slope=slope, intercept=0.0)
