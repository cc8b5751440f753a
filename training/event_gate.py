"""Whether an event model may serve: it answers, and is above its first input alone and not below the champion."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import ArtefactError
from features.event_artefact import EventClassifier, load_event_model
from features.event_inputs import Events
from features.event_rules import EventColumnsOfModel, filled
from features.event_trial import try_out
from training.event_examples import DAY_MS, EventTrainingSettings, Examples, examples_between, parts_of, with_both
from training.event_metrics import Floats, group_precision, ranking_metrics
from training.gate import Verdict
from training.registry import Registry, Version

TOP = 100
Row = dict[str, Any]


def judged(test: Examples, scores: Floats) -> dict[str, float]:
    """AUC, average precision, and the precision among the groups that there is time for."""
    precision = group_precision(test.time // DAY_MS, test.group, test.positive, scores, TOP)
    return {**ranking_metrics(test.positive, scores), f"group_precision_at_{TOP}": precision}


@dataclass(frozen=True)
class EventJudge:
    """The newest events whose labels are known: every version is tested on them alike.

    None has learned from them: what a training learns from ends a label's delay before its own test.
    """

    asked: EventColumnsOfModel
    test: Examples
    settings: EventTrainingSettings

    @classmethod
    def of_events(cls, events: Events, asked: EventColumnsOfModel, settings: EventTrainingSettings) -> EventJudge:
        """The test that a training on these events would have. Raises UsageError where it has no positives."""
        parts = parts_of(events, asked.model, settings)
        return cls(asked, with_both(examples_between(events, asked, parts.test, parts.end)), settings)

    def scores(self, model: EventClassifier) -> Floats:
        """(n,) of the test's events."""
        return model.scores(self.asked.inputs(self.test.matrix))

    def rows(self, model: EventClassifier, champion: EventClassifier | None) -> list[Row]:
        """The first input alone, the model, and the champion where there is one."""
        first = filled(self.test.matrix)[:, 0]
        rows = [{"model": self.asked.model.input_names[0], **judged(self.test, first)}]
        rows += [{"model": "model", **judged(self.test, self.scores(model))}]
        return rows if champion is None else [*rows, {"model": "champion", **judged(self.test, self.scores(champion))}]

    def champion(self, registry: Registry, but: str | None = None) -> EventClassifier | None:
        """The champion, unless it is this version; None where it must not serve, or cannot."""
        version = registry.find(self.asked.model.name)
        if version is None or version.version == but or version.refusal is not None:
            return None
        try:
            return self.fetched(registry, version)
        except ArtefactError:
            return None

    def fetched(self, registry: Registry, version: Version) -> EventClassifier:
        """The version's model, whole, of these definitions, and one that answers. Raises ArtefactError."""
        with tempfile.TemporaryDirectory() as scratch:
            model = load_event_model(registry.download(version, Path(scratch)), version.digest)
        model.check(self.asked)
        try_out(model)
        return model

    def registered(self, registry: Registry, version: Version) -> Verdict:
        """The verdict on a registered version."""
        try:
            model = self.fetched(registry, version)
        except ArtefactError as error:
            return Verdict(False, str(error))
        return gate(self.rows(model, self.champion(registry, version.version)), self.settings)


def gate(rows: list[dict[str, Any]], settings: EventTrainingSettings) -> Verdict:
    """Whether the model serves, and why: above its first input alone, not below the champion but for a tolerance."""
    by_name = {row["model"]: row["ap"] for row in rows[1:]}
    baseline, model, champion = rows[0]["ap"], by_name["model"], by_name.get("champion")
    alone = f"{baseline:.4f}, that of {rows[0]['model']} alone"
    if not model > baseline:
        return Verdict(False, f"average precision {model:.4f} is not above {alone}")
    if champion is not None and not model >= champion * (1 - settings.tolerance):
        return Verdict(False, f"average precision {model:.4f} is below the champion's {champion:.4f}")
    return Verdict(True, f"average precision {model:.4f} is above {alone}")
