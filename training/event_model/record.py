"""The record of an event model's training: the signature, the reference of its drift, pictures of its test."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from features.arrays import Bools, Floats
from features.history import open_table
from models.event_model import EventClassifier, EventModelColumns
from training.data import streams_of
from training.event_model.gate import MODEL, EventJudge, EventModelResult
from training.judging import (
    REFERENCE,
    columns_of,
    draw_importance,
    importance_of,
    origin,
    png,
    reference_of,
    signature_of,
)
from training.recommender import calibration, calibration_error
from training.registry import SIGNATURE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def provenance(columns: EventModelColumns, folder: Path | None, root: Path) -> dict[str, str]:
    """Tags: the version of the code, of the definitions, and of each Delta table that was read (none for a file)."""
    tables = (
        {} if folder is None else {name: open_table(folder, stream) for name, stream in streams_of(columns).items()}
    )
    versions = {name: table.version for name, table in tables.items() if table is not None}
    return origin(columns.source.views, versions, root)


def files_of(judge: EventJudge, model: EventClassifier, rows: Sequence[EventModelResult]) -> Mapping[str, bytes]:
    """The files of a run's record: the signature, the reference of its drift, and pictures of the test as PNG."""
    names, test = judge.columns.model.input_names, judge.test
    inputs = judge.columns.inputs(test.matrix)
    scores = next(row.scores for row in rows if row.model == MODEL)
    drops = importance_of(names, inputs, test.positive, model.scores, judge.settings.seed)
    return {
        SIGNATURE: json.dumps(signature_of(names), indent=1).encode(),
        REFERENCE: reference_of(columns_of(names, inputs, scores)).model_dump_json().encode(),
        "precision_recall.png": png(lambda axes: _precision_recall(axes, rows, test.positive)),
        "calibration.png": png(lambda axes: _calibration(axes, scores, test.positive)),
        "importance.png": png(lambda axes: draw_importance(axes, drops)),
    }


def _precision_recall(axes: Axes, rows: Sequence[EventModelResult], positive: Bools) -> None:
    from sklearn.metrics import precision_recall_curve  # type: ignore[import-untyped]

    for row in rows:
        precision, recall, _ = precision_recall_curve(positive, row.scores)
        about = f"{row.model}: {row.metrics['ap']:.3f}, {row.metrics['ap_low']:.3f} … {row.metrics['ap_high']:.3f}"
        axes.plot(recall, precision, label=about, lw=2 if row.model == MODEL else 1, drawstyle="steps-post")
    axes.set(xlabel="share of the positives found", ylabel="share of the found that is positive", ylim=(0, 1.02))
    axes.legend(title="average precision, 95 % interval")


def _calibration(axes: Axes, scores: Floats, positive: Bools) -> None:
    mean, share = calibration(scores, positive)
    axes.plot(mean, share, "o-", label=f"error {calibration_error(scores, positive):.4f}")
    highest = float(np.max([*mean, *share]))
    axes.plot([0, highest], [0, highest], "k:", lw=1)
    axes.set(xlabel="score", ylabel="share that was positive")
    axes.legend()
