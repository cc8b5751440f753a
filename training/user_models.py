"""A model that somebody fitted elsewhere, registered as the ranker behind this project's candidates, and judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from features.errors import ArtefactError
from models.recommender import Artefact, Manifest
from models.user_model import OwnRanker, pack, wanted
from training.data import Domain
from training.judging import Ask, Judge, Verdict, asked_parity, files_of, input_names, settle
from training.progress import Say
from training.recommender import (
    Checked,
    Examples,
    Stopwatch,
    examples_of,
    fit_candidates,
    manifest_of,
    metrics_of,
    target_of,
)
from training.registry import Registry, Version
from training.settings import TrainingSettings


def learning_examples(judge: Judge, say: Say = lambda text: None) -> pa.Table:
    """What training's own ranker learns from: its inputs by name, double, null where missing, and whether ``taken``."""
    rows, _ = examples_of(judge.history, judge.of, judge.split, judge.settings, Stopwatch(say))
    return frame_of(rows, input_names(manifest_for(judge, 0)))


def frame_of(rows: Examples, names: tuple[str, ...]) -> pa.Table:
    """The examples as a table."""
    columns = {name: pa.array(rows.inputs[:, place], from_pandas=True) for place, name in enumerate(names)}
    return pa.table({**columns, "taken": pa.array(rows.taken)})


def manifest_for(judge: Judge, now_ms: int) -> Manifest:
    """What a model of the judge's events is, without items and metrics yet."""
    target = target_of(judge.history, judge.settings)
    return manifest_of(judge.of.domain, judge.settings, target, judge.split.end, now_ms)


def fetched(registry: Registry, uri: str, folder: Path) -> Path:
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
    wanted(model, input_names(manifest_of(domain, settings, (), 0, 0)))


def register(
    model: Path,
    judge: Judge,
    registry: Registry,
    now_ms: int,
    tags: Mapping[str, str],
    ask_parity: Ask | None = None,
) -> tuple[Version, Verdict]:
    """The model is a version that ranks this project's candidates, trusted, with a verdict; champion where that passed.

    Args:
        model: its folder; loading it runs what it holds.
        ask_parity: as of refresh().

    Raises ArtefactError for what is no ranker over our features, or does not answer.
    """
    manifest = manifest_for(judge, now_ms)
    tables = fit_candidates(judge.history, manifest.target, judge.split.end, judge.settings)
    artefact = Artefact(manifest, tables, OwnRanker(pack(model), input_names(manifest)))
    rows = [judge.row(artefact, "popular"), judge.row(artefact)]
    champion = registry.find(manifest.name)
    rows += [] if champion is None else judge.champion_rows(registry, champion, manifest)
    verdict = asked_parity(judge.verdict(artefact, rows), ask_parity, judge.settings.parity)
    metrics = metrics_of(rows)
    artefact = replace(artefact, manifest=manifest.model_copy(update={"items": len(tables.items), "metrics": metrics}))
    files = files_of(artefact, rows, judge.held_out(artefact), Checked(), judge.settings.seed)
    tags = {"target": ",".join(manifest.target), **tags}
    version = registry.register(artefact, judge.settings.model_dump(mode="json"), tags, files)
    return settle(registry, registry.trust(version), verdict, now_ms), verdict
