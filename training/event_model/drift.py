"""The drift of an event model: how far its inputs and scores have moved from those that it was tested on.

It waits for no label: drift shows a label's delay before the gate could see that a model has become worse. Scores are
those of the version on the archive's events, which are what it said of them in the stream (0025, 0030).
"""

from __future__ import annotations

from typing import Any

from training.event_model.gate import EventJudge
from training.judging import columns_of, drift_report, recorded_reference
from training.registry import ModelRegistry, Version


def measure_drift(judge: EventJudge, registry: ModelRegistry, version: Version) -> dict[str, Any]:
    """The PSI of the version's inputs and of its score on the judge's events.

    Raises:
        UsageError: the version was not recorded with a reference.
        ArtefactError: it does not answer.
    """
    reference, model = recorded_reference(registry, version), judge.fetched(registry, version)
    model.check(judge.columns)
    inputs = judge.columns.inputs(judge.test.matrix)
    columns = columns_of(model.manifest.inputs, inputs, judge.scores(model))
    return drift_report(version, reference, columns, kind="events")
