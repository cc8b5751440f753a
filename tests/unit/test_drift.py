"""PSI: none where nothing changed, the textbook's value where it is known, and an alarm where much did."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.judging.psi import InputHistogram, Reference, alarming, columns_of, drifts, reference_of

RNG = np.random.default_rng(5)
BEFORE = RNG.normal(size=20_000)


def psi(before, now) -> float:
    return drifts(reference_of({"x": np.asarray(before, float)}), {"x": np.asarray(now, float)})["x"]


def test_the_same_numbers_have_none_and_a_new_sample_of_them_nearly_none():
    assert psi(BEFORE, BEFORE) == 0
    assert psi(BEFORE, RNG.normal(size=20_000)) < 0.01


def test_a_value_worked_out_by_hand():
    """Half below the edge before, a tenth now: (0.1 − 0.5) ln(0.1/0.5) + (0.9 − 0.5) ln(0.9/0.5)."""
    reference = Reference(examples=4, histograms={"x": InputHistogram(edges=(0.0,), shares=(0.5, 0.5, 0.0))})
    now = np.array([-1.0] + [1.0] * 9)
    expected = -0.4 * math.log(0.2) + 0.4 * math.log(1.8)
    assert drifts(reference, {"x": now})["x"] == pytest.approx(expected, abs=1e-9)


def test_a_shift_by_one_standard_deviation_is_alarming_and_one_by_a_tenth_is_not():
    columns = {"far": BEFORE, "near": BEFORE}
    found = drifts(reference_of(columns), {"near": BEFORE + 0.1, "far": BEFORE + 1})
    assert list(found) == ["far", "near"]
    assert alarming(found) == ["far"]


def test_values_that_go_missing_are_drift():
    gone = BEFORE.copy()
    gone[:10_000] = np.nan
    assert psi(BEFORE, gone) > 0.25
    assert psi(gone, gone) == 0


@pytest.mark.parametrize("column", [[], [1.0] * 5, [np.nan] * 5])
def test_columns_of_nothing_or_of_one_value_have_a_reference_too(column):
    assert psi(column, column) == 0


def test_a_reference_travels_as_json():
    reference = reference_of(columns_of(("a", "b"), RNG.random((50, 2)), RNG.random(50)))
    assert set(reference.histograms) == {"a", "b", "score"}
    assert Reference.model_validate_json(reference.model_dump_json()) == reference
