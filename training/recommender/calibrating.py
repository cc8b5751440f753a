"""The calibration of a ranker: fitted on the earlier half of the test's moments, measured on the later half."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from features.arrays import Bools, Floats
from models.recommender import Calibration, log_odds

BINS = 10

POSITIVES = 20
"""The least taken examples that a calibration is fitted to."""


@dataclass(frozen=True)
class CalibrationCheck:
    """A calibration (None of too few examples), and n later candidates: their chances without it and by it."""

    calibration: Calibration | None = None
    before: Floats = field(default_factory=lambda: np.empty(0))
    chances: Floats = field(default_factory=lambda: np.empty(0))
    taken: Bools = field(default_factory=lambda: np.empty(0, dtype=bool))
    """(n,) whether each was taken."""

    @property
    def metrics(self) -> dict[str, float]:
        """The errors with and without it, by name; none where there were no later candidates."""
        if not len(self.taken):
            return {}
        before, after = (calibration_error(chances, self.taken) for chances in (self.before, self.chances))
        return {"calibration_error": after, "calibration_error_before": before}


def check_calibration(scores: list[Floats], taken: list[Bools], as_of: NDArray[np.int64]) -> CalibrationCheck:
    """A calibration of the earlier half of the moments, and its result on the later half.

    Args:
        scores: for each moment the ranker's answers about all its candidates.
        taken: aligned with them.
        as_of: (m,) the time of each moment, ms.
    """
    order = np.argsort(as_of, kind="stable")
    early, late = order[: len(order) // 2], order[len(order) // 2 :]
    fitted = fit_calibration(*_joined(scores, taken, early))
    before, later = _joined(scores, taken, late)
    return CalibrationCheck(fitted, before, before if fitted is None else fitted.calibrated(before), later)


def _joined(scores: list[Floats], taken: list[Bools], moments: NDArray[np.int64]) -> tuple[Floats, Bools]:
    chosen = moments.tolist()
    floats = np.concatenate([np.empty(0), *(scores[moment] for moment in chosen)])
    return floats, np.concatenate([np.empty(0, dtype=bool), *(taken[moment] for moment in chosen)])


def fit_calibration(chances: Floats, taken: Bools) -> Calibration | None:
    """The sigmoid of the highest likelihood; None of fewer than POSITIVES, or where it would not rise."""
    if int(taken.sum()) < POSITIVES or taken.all():
        return None
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    model = LogisticRegression(C=1e6, max_iter=1_000).fit(log_odds(chances)[:, None], taken)
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    return Calibration(slope=slope, intercept=intercept) if slope > 0 else None


def calibration(chances: Floats, taken: Bools) -> tuple[Floats, Floats]:
    """(b,) the mean chance and the share that was taken, in at most BINS bins of as many examples each."""
    parts = [part for part in np.array_split(np.argsort(chances, kind="stable"), BINS) if len(part)]
    return (np.array([chances[part].mean() for part in parts]), np.array([taken[part].mean() for part in parts]))


def calibration_error(chances: Floats, taken: Bools) -> float:
    """The mean distance between chance and share over those bins (ECE; Naeini et al., AAAI 2015); NaN of nothing."""
    if not len(taken):
        return float("nan")
    sizes = [len(part) for part in np.array_split(np.arange(len(taken)), BINS) if len(part)]
    mean, share = calibration(chances, taken)
    return float(np.average(np.abs(mean - share), weights=sizes))
