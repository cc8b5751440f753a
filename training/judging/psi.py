"""The distance of the newest examples from those that a model was tested on: the population stability index of inputs.

PSI = Σ (p − q) · ln(p / q) over bins, here of as many examples each at training, and one for what is missing. By custom
(Siddiqi, Credit Risk Scorecards, 2006) below 0.1 is no change, and above 0.25 one that asks for a new model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from features.arrays import Floats

BINS = 10

LEAST = 1e-4
"""A bin's share is at least this, so that an empty one has a logarithm."""

ALARM = 0.25

SCORE = "score"
"""The name of the ranker's own answer among its inputs."""


class InputHistogram(BaseModel):
    """The histogram of an input: inner edges of its bins, rising, and the share of each bin, missing values last."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    edges: tuple[float, ...]
    shares: tuple[float, ...]


class Reference(BaseModel):
    """The histograms of the inputs when the model was tested."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    examples: int
    histograms: dict[str, InputHistogram]


def reference_of(columns: Mapping[str, Floats]) -> Reference:
    """The histograms of these columns, all (n,)."""
    sizes = {len(column) for column in columns.values()}
    return Reference(
        examples=max(sizes, default=0), histograms={name: _histogram(column) for name, column in columns.items()}
    )


def drifts(reference: Reference, columns: Mapping[str, Floats]) -> dict[str, float]:
    """The PSI of each column that the reference has too, the largest first; 0 where either has no examples."""
    both = [name for name in reference.histograms if name in columns]
    values = {name: _psi(reference.histograms[name], columns[name]) for name in both}
    return dict(sorted(values.items(), key=lambda item: -item[1]))


def alarming(psi: Mapping[str, float]) -> list[str]:
    """The names whose PSI is above ALARM."""
    return [name for name, value in psi.items() if value > ALARM]


def columns_of(names: Sequence[str], inputs: Floats, chances: Floats) -> dict[str, Floats]:
    """(n, len(names)) inputs by name, and the ranker's (n,) chances as SCORE."""
    return {**{name: inputs[:, index] for index, name in enumerate(names)}, SCORE: chances}


def _histogram(column: Floats) -> InputHistogram:
    there = column[~np.isnan(column)]
    quantiles = np.quantile(there, np.arange(1, BINS) / BINS) if len(there) else np.empty(0)
    edges = np.unique(quantiles)
    return InputHistogram(edges=tuple(edges.tolist()), shares=tuple(_shares(edges, column).tolist()))


def _shares(edges: Floats, column: Floats) -> Floats:
    missing = np.isnan(column)
    bins = np.where(missing, len(edges) + 1, np.searchsorted(edges, column, side="left"))
    return np.bincount(bins, minlength=len(edges) + 2) / max(len(column), 1)


def _psi(reference: InputHistogram, column: Floats) -> float:
    if not len(column) or not sum(reference.shares):
        return 0.0
    before = np.maximum(np.array(reference.shares), LEAST)
    now = np.maximum(_shares(np.array(reference.edges), column), LEAST)
    return float(((now - before) * np.log(now / before)).sum())
