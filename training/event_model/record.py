"""The record of an event model's training: the signature, the reference of its drift, pictures of its test."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from features.history import open_table
from models.event_model import EventModelColumns, EventScorer
from training.data import streams_of
from training.event_model.gate import EventJudge
from training.event_model.metrics import EventModelResult
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
from training.registry import SIGNATURE


def provenance(columns: EventModelColumns, folder: Path | None, root: Path) -> dict[str, str]:
    """Tags: the version of the code, of the definitions, and of each Delta table that was read (none for a file)."""
    tables = (
        {} if folder is None else {name: open_table(folder, stream) for name, stream in streams_of(columns).items()}
    )
    versions = {name: table.version for name, table in tables.items() if table is not None}
    return origin(columns.source.views, versions, root)


def files_of(judge: EventJudge, model: EventScorer, rows: Sequence[EventModelResult]) -> Mapping[str, bytes]:
    """The files of a run's record: the signature, the reference of its drift, and pictures of the test as PNG."""
    names, test, kind = judge.columns.model.input_names, judge.test, judge.kind
    inputs = judge.columns.inputs(test.matrix)
    scores = judge.scores(model)
    drops = importance_of(names, inputs, kind.labels(test), model.scores, judge.settings.seed, kind.loss)
    return {
        SIGNATURE: json.dumps(signature_of(names), indent=1).encode(),
        REFERENCE: reference_of(columns_of(names, inputs, scores)).model_dump_json().encode(),
        **kind.pictures(rows, test, scores),
        "importance.png": png(lambda axes: draw_importance(axes, drops)),
    }
