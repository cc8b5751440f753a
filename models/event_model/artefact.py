"""The artefact of an event model: training writes it, the stream and the service load it. A folder of two files.

manifest.json       the model's name, inputs in order, schema hashes, threshold, metrics, digests
classifier.skops    the classifier, of types that stand in our own list and of no others
own.zip             instead of it, a user's own MLflow model (see models/user_model.py)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from features.arrays import Floats
from features.definitions import EventModel, FeatureView
from features.errors import ArtefactError
from models.artefact import check_views, load_classifier, read_manifest, save_artefact
from models.classifier_file import Scorer, scorer
from models.event_model.columns import EventModelColumns, filled, rounded
from models.folder import MANIFEST, FileEntry, ViewInputs
from models.golden import TOLERANCE, made_up
from models.registry import LoadedVersion
from models.user_model import OWN, OwnRanker

CLASSIFIER = "classifier.skops"

LAYOUTS = ((CLASSIFIER,), (OWN,))
"""The sets of files beside the manifest."""

GOLDEN_EVENTS = 16
"""The number of made-up events with golden scores in the manifest; their inputs are from a formula and name nobody."""


class EventManifest(BaseModel):
    """The manifest of an event model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    """The layout of the folder."""
    kind: Literal["events"] = "events"
    """A classifier of events."""
    name: str
    """The registered model's name."""
    created_ms: int
    """When training ended, epoch ms."""
    as_of_ms: int
    """The model knows what was known before this time, epoch ms."""
    stream: str
    """The stream whose events it classifies."""
    inputs: tuple[str, ...]
    """Its inputs, in the order of a row."""
    typical: tuple[float, ...]
    """The median of each input in training."""
    views: tuple[ViewInputs, ...]
    """The views that inputs are features of, with the schema hashes of training."""
    threshold: float
    """An event of this score or a higher one alerts."""
    metrics: dict[str, float] = {}
    """Held-out metrics, such as ap and baseline_ap."""
    settings: dict[str, Any] = {}
    """Settings of the training."""
    golden: tuple[float, ...] = ()
    """Its scores of GOLDEN_EVENTS made-up events when it was made."""
    files: dict[str, FileEntry] = {}
    """The other files; ``save_event_model`` fills it in."""


@dataclass(frozen=True)
class EventClassifier:
    """A loaded event model: pure functions over arrays in memory, safe to call from several threads."""

    manifest: EventManifest
    classifier: Any

    @property
    def own(self) -> bool:
        """True for a user's own model: it gets NaN where there is no value, and its files run their own code."""
        return isinstance(self.classifier, OwnRanker)

    @cached_property
    def chances(self) -> Scorer:
        """The classifier's answers, compiled where training fitted it (see classifier_file.scorer)."""
        return scorer(self.classifier)

    def scores(self, inputs: Floats) -> Floats:
        """(n,) the probability that each event is a positive, 0 to 1; ValueError for another score of an own model.

        Args:
            inputs: (n, manifest.inputs), NaN for no value.
        """
        if not len(inputs):
            return np.empty(0)
        if not self.own:
            return self.chances(filled(inputs))
        scores = self.chances(rounded(inputs))
        if not ((scores >= 0) & (scores <= 1)).all():
            message = f"scores must be from 0 to 1; got {scores[~((scores >= 0) & (scores <= 1))][0]}"
            raise ValueError(message)
        return scores

    def effects(self, inputs: Floats, usual: Floats) -> Floats:
        """(n, inputs) each score less the score with that input at its usual value."""
        n, width = inputs.shape
        changed = np.repeat(inputs[:, np.newaxis, :], width, axis=1)
        diagonal = np.arange(width)
        changed[:, diagonal, diagonal] = usual
        return self.scores(inputs)[:, np.newaxis] - self.scores(changed.reshape(n * width, width)).reshape(n, width)

    def check(self, columns: EventModelColumns) -> None:
        """Passes when the definitions are those of its training; ArtefactError names the difference."""
        where = f"model '{self.manifest.name}'"
        got = columns.model.input_names
        if (columns.model.stream.name, got) != (self.manifest.stream, self.manifest.inputs):
            required = f"inputs {', '.join(self.manifest.inputs)} of stream '{self.manifest.stream}'"
            raise ArtefactError(where, required, ", ".join(got), "Train anew.")
        check_views(self.manifest.name, self.manifest.views, {view.name: view for view, _ in _input_views(columns)})


def views_of(columns: EventModelColumns) -> tuple[ViewInputs, ...]:
    """The views of the model's inputs (those of rules alone can change without training), as they are defined now."""
    return tuple(ViewInputs.of(view, names) for view, names in _input_views(columns))


def _input_views(columns: EventModelColumns) -> list[tuple[FeatureView, list[str]]]:
    """Each view that an input of the classifier is a feature of, and those inputs."""
    model: EventModel = columns.model
    features = [name for name in model.input_names if name not in model.stream.dtypes]
    by_view = [(view, [name for name in features if name in view.names]) for view in columns.source.views]
    return [(view, names) for view, names in by_view if names]


def save_event_model(model: EventClassifier, directory: str | Path) -> str:
    """The model stands in a new folder, whole or not at all; returns the hex SHA-256 of its manifest.json."""
    return save_artefact(directory, model.manifest, model.classifier, CLASSIFIER)


def load_event_model(directory: str | Path, digest: str | None = None, *, trusted: bool = False) -> EventClassifier:
    """The event model of a folder, after every byte of it was checked against its manifest; else ArtefactError.

    Args:
        digest: hex SHA-256 that manifest.json must have (the DIGEST_TAG of the model version).
        trusted: whether a user's own model may run its code; one of training's runs none.
    """
    directory = Path(directory)
    manifest = read_manifest(directory, digest, EventManifest.model_validate_json, LAYOUTS)
    inputs = manifest.inputs
    if len(manifest.typical) != len(inputs):
        where, got = f"artefact file '{directory / MANIFEST}'", str(len(manifest.typical))
        raise ArtefactError(where, f"{len(inputs)} typical values, one for each input", got, "Train anew.")
    model = EventClassifier(manifest, load_classifier(directory, manifest, CLASSIFIER, inputs, trusted=trusted))
    _ = model.chances  # ready before the first event
    return model


def golden_scores(model: EventClassifier) -> tuple[float, ...]:
    """Its scores of GOLDEN_EVENTS made-up events. Raises ArtefactError where it fails or a score is not in 0 to 1."""
    where = f"model '{model.manifest.name}'"
    try:
        scores = model.scores(made_up(np.arange(GOLDEN_EVENTS), len(model.manifest.inputs)))
    except Exception as error:  # a model may fail in any way
        raise ArtefactError(where, "an answer", f"{type(error).__name__}: {error}", "Train anew.") from error
    if scores.shape != (GOLDEN_EVENTS,) or not ((scores >= 0) & (scores <= 1)).all():
        raise ArtefactError(where, f"{GOLDEN_EVENTS} scores from 0 to 1", str(scores.tolist()), "Train anew.")
    return tuple(scores.tolist())


def open_event_model(folder: Path, digest: str | None, *, trusted: bool) -> EventClassifier:
    """The event model of a folder, verified and tried out; ArtefactError otherwise (see ``load_event_model``)."""
    model = load_event_model(folder, digest, trusted=trusted)
    try_out(model)
    return model


def try_out(model: EventClassifier) -> None:
    """Passes when its golden scores are those of the manifest, to TOLERANCE; ArtefactError otherwise.

    A library of another version that scores differently, or a classifier that fails, is found before the first event.
    """
    got, wanted = golden_scores(model), model.manifest.golden
    if wanted and not (len(got) == len(wanted) and np.allclose(got, wanted, rtol=TOLERANCE, atol=TOLERANCE)):
        required = f"the scores that it gave when it was made: {_text(wanted)}"
        raise ArtefactError(f"model '{model.manifest.name}'", required, _text(got), "Train anew.")


def _text(scores: tuple[float, ...]) -> str:
    return ", ".join(f"{score:.12g}" for score in scores[:3]) + ", …"


LoadedEventModel = LoadedVersion[EventClassifier]
