"""One refresh of a recommender, as `headrace train` runs it: train → test → gate → register → promote."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from features.machine import without_nan
from training.data import SampleSummary, sample_of
from training.judging import GateVerdict, Judge, Registration, difference, files_of
from training.progress import Stage
from training.recommender import ModelResult, Trained, train
from training.registry import Version
from training.run import TrainingRun


@dataclass(frozen=True)
class Refreshed:
    """The outcome of a refresh."""

    version: Version
    verdict: GateVerdict
    trained: Trained
    sample: SampleSummary | None = None
    """The sample of the events that it was trained on; None for all of them."""

    def report(self) -> dict[str, Any]:
        """The JSON that --json prints, and that the status file holds."""
        artefact = self.trained.artefact
        return {
            "model": self.version.name,
            "version": self.version.version,
            "promoted": self.verdict.promoted,
            "reason": self.verdict.reason,
            "judged": self.verdict.judged,
            "tested": self.trained.tested.report(),
            "target": list(artefact.manifest.target),
            "as_of_ms": artefact.manifest.as_of_ms,
            "created_ms": artefact.manifest.created_ms,
            "split": asdict(self.trained.run.split),
            "items": len(artefact.items),
            "users": len(artefact.tables.users),
            "sample": None if self.sample is None else self.sample.report(),
            "examples": self.trained.learnt.examples,
            "shown": self.trained.learnt.shown,
            **self.trained.calibration.metrics,
            "rows": [_plain(row) for row in self.trained.rows],
            "differences": self._differences(),
            "not_computed": self.trained.not_computed,
            "baseline": "popular",
            "took_s": self.trained.run.timer.took_s,
        }

    def _differences(self) -> dict[str, Any]:
        """Other row → the model's NDCG less its, over the same lists: mean and 95 % interval."""
        model, seed = self.trained.row, self.trained.run.settings.seed
        others = [row for row in self.trained.rows if row is not model]
        return {row.model: without_nan(asdict(difference(model, row, seed))) for row in others}


def refresh(run: TrainingRun, registration: Registration) -> Refreshed:
    """A newly trained version stands in the registry, and is the champion when the gate lets it.

    Raises ArtefactError for a model that does not answer; then nothing is registered.
    """
    trained = train(run, registration.now_ms)
    judge = Judge.of_trained(trained)
    rows = [*trained.rows, *_champion_rows(judge, trained, registration)]
    verdict = registration.with_parity(judge.verdict(trained.artefact, rows), run.settings.parity)
    run.log(Stage("registering", "registering"))
    version = _registered(judge, trained, rows, registration)
    version = registration.promote_or_challenge(version, verdict)
    return Refreshed(version, verdict, replace(trained, rows=rows), sample_of(run.features.events))


def _champion_rows(judge: Judge, trained: Trained, registration: Registration) -> list[ModelResult]:
    """The champion's row on the same test; none where there is no champion, or it cannot be tested."""
    champion = registration.registry.find(trained.artefact.manifest.name)
    if champion is None:
        return []
    trained.run.log(Stage("champion", f"testing version {champion.version}, which serves now, on the same"))
    return judge.champion_rows(registration.registry, champion, trained.artefact.manifest)


def _registered(judge: Judge, trained: Trained, rows: list[ModelResult], registration: Registration) -> Version:
    """The new version, with its settings, tags and record."""
    run, artefact = trained.run, trained.artefact
    sample = sample_of(run.features.events)
    sampled = {} if sample is None else {"sample": json.dumps(sample.report())}
    tags = {"target": ",".join(artefact.manifest.target), **sampled, **registration.tags}
    params = {**run.settings.model_dump(mode="json"), **asdict(run.split), "examples": trained.learnt.examples}
    files = files_of(artefact, rows, judge.held_out(artefact), trained.calibration, run.settings.seed)
    return registration.registry.register(artefact, params, tags, files)


def _plain(row: ModelResult) -> dict[str, Any]:
    """The row as JSON, with null for a metric that could not be computed (see Trained.not_computed)."""
    return {"model": row.model, **without_nan(row.metrics), "took_s": round(row.took_s, 3)}
