"""The rows of a protocol's report: means with intervals, and each model's difference to others on the same lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.arrays import Floats, Int64s
from features.machine import without_nan
from training.judging import bootstrap
from training.recommender import METRICS, metrics

PER_LIST = METRICS | {"map": metrics.average_precision_at_k}


@dataclass(frozen=True)
class ProtocolResult:
    """A model's metrics: a value for each list, NaN where a list has none; and those that are of all lists."""

    model: str
    values: Mapping[str, Floats]
    whole: Mapping[str, float] = field(default_factory=dict)
    fit_s: float = 0.0


def values_of(hits: NDArray[np.bool_], relevant: Int64s, names: Sequence[str]) -> dict[str, Floats]:
    """These metrics of (m, k) hits, as <metric>_at_<k>."""
    return {f"{name}_at_{hits.shape[1]}": PER_LIST[name](hits, relevant) for name in names}


def report_rows(results: Sequence[ProtocolResult], main: str, baselines: Sequence[str]) -> list[dict[str, Any]]:
    """A JSON object a model: means and intervals, also of its main metric less each baseline's."""
    by_name = {result.model: result for result in results}
    beside = [by_name[name] for name in baselines if name in by_name]
    return [_row(result, main, beside) for result in results]


def _row(result: ProtocolResult, main: str, baselines: Sequence[ProtocolResult]) -> dict[str, Any]:
    beside = {f"{main}_above_{other.model}": result.values[main] - other.values[main] for other in baselines}
    intervals = {name: bootstrap(values) for name, values in [*result.values.items(), *beside.items()]}
    row: dict[str, Any] = {"model": result.model} | {name: each.mean for name, each in intervals.items()}
    row |= {f"{name}_{end}": getattr(each, end) for name, each in intervals.items() for end in ("low", "high")}
    row |= {**result.whole, "fit_s": round(result.fit_s, 3)}
    plain: dict[str, Any] = without_nan(row)
    return plain
