"""How far the newest events are from those that an event model was tested on: its inputs, and what it says of them.

No label is waited for: drift is seen a label's delay before the gate could see that a model has become worse. Scores
are those of the version on the archive's events, which are what it said of them in the stream (0025, 0030).
"""

from __future__ import annotations

from typing import Any

from features.errors import UsageError
from models.event_model import EventColumnsOfModel
from training.data import EventTrainingSettings, Source, examples_between, source_of
from training.event_model.gate import EventJudge
from training.judging import REFERENCE, Reference, alarming, columns_of, drifts
from training.registry import Registry, Version


def newest(events: Source, asked: EventColumnsOfModel, settings: EventTrainingSettings) -> EventJudge:
    """The last ``test_ms`` of the events, as what models are asked about; that they are positive is not known yet."""
    end_ms = source_of(events, asked.model).known_between()[1] + 1
    return EventJudge(asked, examples_between(events, asked, end_ms - settings.test_ms, end_ms), settings)


def drifted(judge: EventJudge, registry: Registry, version: Version) -> dict[str, Any]:
    """The PSI of the version's inputs and of its score on the judge's events.

    Raises:
        UsageError: the version was not recorded with a reference.
        ArtefactError: it cannot be asked.
    """
    recorded = registry.recorded(version, REFERENCE)
    if recorded is None:
        where, required = f"drift of model '{version.name}'", f"a record with {REFERENCE}"
        raise UsageError(where, required, f"version {version.version} without", "Train anew.")
    model = judge.fetched(registry, version)
    model.check(judge.asked)
    inputs = judge.asked.inputs(judge.test.matrix)
    columns = columns_of(model.manifest.inputs, inputs, judge.scores(model))
    found = drifts(Reference.model_validate_json(recorded), columns)
    counted = {"model": version.name, "version": version.version, "kind": "events", "examples": len(judge.test)}
    return {**counted, "psi": found, "alarming": alarming(found)}
