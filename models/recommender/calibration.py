"""Platt scaling (1999): a sigmoid over the log odds of a ranker's answers, which keeps their order."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from features.arrays import Floats

NEAREST = 1e-9
"""Answers are clipped to at least this far from 0 and 1."""


class Calibration(BaseModel):
    """The sigmoid of slope · log odds + intercept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slope: float = Field(gt=0, allow_inf_nan=False)
    intercept: float = Field(allow_inf_nan=False)

    def calibrated(self, chances: Floats) -> Floats:
        """The probabilities of these answers, in the same order of size."""
        probabilities: Floats = 1 / (1 + np.exp(-(self.slope * log_odds(chances) + self.intercept)))
        return probabilities


def log_odds(chances: Floats) -> Floats:
    """ln(p / (1 − p)), with p clipped to NEAREST from 0 and 1."""
    clipped = np.clip(chances, NEAREST, 1 - NEAREST)
    return np.asarray(np.log(clipped) - np.log1p(-clipped), dtype=np.float64)
