"""Models that a user fitted elsewhere: registered as this project's ranker or event model, and judged like its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from features.arrays import Floats
from features.errors import ArtefactError
from models.event_model import rounded
from models.recommender import Artefact, Manifest
from models.user_model import OwnRanker, pack, signature_inputs
from training.data import Domain
from training.event_model import (
    EventJudge,
    EventTraining,
    SplitExamples,
    TrainedEvents,
    evaluate_and_register,
    event_manifest,
    scorer_of,
)
from training.item_content import content_before
from training.judging import GateVerdict, Judge, Registration, files_of, input_names
from training.progress import Log, StageTimer, silent
from training.recommender import CalibrationCheck, candidates_for_everybody, examples_of, manifest_of, metrics_of
from training.registry import ModelRegistry, Version
from training.settings import TrainingSettings

TAKEN = "taken"
"""The label's column among examples of a ranker."""


def ranker_examples(judge: Judge, log: Log = silent) -> pa.Table:
    """The examples of training's own ranker: inputs by name, double, null where missing, and whether TAKEN."""
    rows, _ = examples_of(replace(judge.run, timer=StageTimer(log)))
    return _table(input_names(ranker_manifest(judge, 0)), rows.inputs, {TAKEN: rows.taken})


def event_examples(training: EventTraining) -> pa.Table:
    """The examples of training's own event model: inputs by name, double, null where missing, and the kind's label."""
    learned = training.split_examples().learned
    inputs: Floats = rounded(training.columns.inputs(learned.matrix))
    return _table(training.columns.model.input_names, inputs, {training.kind.label: training.kind.labels(learned)})


def _table(names: Sequence[str], inputs: Floats, label: Mapping[str, NDArray[Any]]) -> pa.Table:
    columns = {name: pa.array(inputs[:, index], from_pandas=True) for index, name in enumerate(names)}
    return pa.table({**columns, **{name: pa.array(values) for name, values in label.items()}})


def ranker_manifest(judge: Judge, now_ms: int) -> Manifest:
    """The manifest of a model of the judge's events, without items and metrics yet."""
    run = judge.run
    return manifest_of(run.domain, run.settings, run.target, run.split.end, now_ms)


def fetched(registry: ModelRegistry, uri: str, folder: Path) -> Path:
    """The MLflow model of this URI, or in this folder. Raises ArtefactError where it cannot be had."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    if Path(uri).is_dir():
        return Path(uri)
    try:
        where = {
            "artifact_uri": uri,
            "dst_path": str(folder),
            "tracking_uri": registry.uri,
            "registry_uri": registry.uri,
        }
        return Path(download_artifacts(**where))
    except (MlflowException, OSError) as error:
        raise ArtefactError(f"model '{uri}'", "an MLflow model, or a folder with one", str(error)) from error


def check_inputs(model: Path, domain: Domain, settings: TrainingSettings) -> None:
    """Passes where the signature of the model in this folder names inputs of the ranker; none of its code runs.

    Raises ArtefactError.
    """
    signature_inputs(model, input_names(manifest_of(domain, settings, (), 0, 0)))


def register_ranker(model: Path, judge: Judge, registration: Registration) -> tuple[Version, GateVerdict]:
    """A version that ranks this project's candidates by the model, trusted, judged; champion where that passed.

    Args:
        model: its folder; loading it runs what it holds.

    Raises ArtefactError for what is no ranker over our features, or does not answer.
    """
    registry, run, manifest = registration.registry, judge.run, ranker_manifest(judge, registration.now_ms)
    tables = candidates_for_everybody(run, run.split.end)
    ranker, content = OwnRanker(pack(model), input_names(manifest)), content_before(run, tables, run.split.end)
    artefact = Artefact(manifest, tables, ranker, content)
    rows = [judge.row(artefact, "popular"), judge.row(artefact)]
    champion = registry.find(manifest.name)
    rows += [] if champion is None else judge.champion_rows(registry, champion, manifest)
    verdict = registration.with_parity(judge.verdict(artefact, rows), run.settings.parity)
    known = {"items": len(tables.items), "metrics": metrics_of(rows)}
    artefact = replace(artefact, manifest=manifest.model_copy(update=known))
    files = files_of(artefact, rows, judge.held_out(artefact), CalibrationCheck(), run.settings.seed)
    tags = {"target": ",".join(manifest.target), **registration.tags}
    version = registry.register(artefact, run.settings.model_dump(mode="json"), tags, files)
    return registration.promote_or_challenge(registry.trust(version), verdict), verdict


def register_event_model(
    model: Path, examples: SplitExamples, judge: EventJudge, registration: Registration
) -> TrainedEvents:
    """The model is a trusted version of the event model, with a verdict; champion where that passed.

    Args:
        model: its folder; loading it runs what it holds.
        judge: of the test part.

    Raises ArtefactError for what is no classifier over our inputs, or does not answer from 0 to 1.
    """
    classifier = OwnRanker(pack(model), judge.columns.model.input_names)
    made = scorer_of(judge.columns)(event_manifest(judge, examples, registration.now_ms), classifier)
    return evaluate_and_register(made, examples, judge, registration)
