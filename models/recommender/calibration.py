"""From a ranker's answer to a probability: Platt's sigmoid (1999) over its log odds, which changes no order."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from features.arrays import Floats

NEAREST = 1e-9
"""How near to 0 and 1 an answer is taken to be, at most."""


class Calibration(BaseModel):
    """The sigmoid of slope · log odds + intercept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slope: float = Field(gt=0, allow_inf_nan=False)
    intercept: float = Field(allow_inf_nan=False)

    def of(self, chances: Floats) -> Floats:
        """The probabilities of these answers; the higher of two answers has no lower one."""
        calibrated: Floats = 1 / (1 + np.exp(-(self.slope * log_odds(chances) + self.intercept)))
        return calibrated


def log_odds(chances: Floats) -> Floats:
    """ln(p / (1 − p)), with p kept NEAREST off 0 and 1."""
    kept = np.clip(chances, NEAREST, 1 - NEAREST)
    return np.asarray(np.log(kept) - np.log1p(-kept), dtype=np.float64)
