"""The artefact of an event model: training writes it, the stream and the service load it. A folder of two files.

manifest.json       the model's name, inputs in order, schema hashes, threshold, metrics, digests
classifier.skops    the classifier, of types that stand in our own list and of no others
regressor.skops     of a regressor instead, by the same rule
habits.json         of an anomaly model instead, as numbers
classes.npz         of a classifier of several classes instead, as arrays
own.zip             instead of any of these, a user's own MLflow model (see models/user_model.py)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from features.errors import ArtefactError
from models.artefact import load_classifier, read_manifest, save_artefact
from models.event_model.habits import HABITS, FittedHabits, load_habits, save_habits
from models.event_model.manifest import EventManifest
from models.event_model.scorers import SCORERS, EventScorer
from models.event_model.texts import CLASSES, FittedClasses, load_classes, made_up_texts, save_classes
from models.folder import MANIFEST
from models.golden import TOLERANCE, made_up
from models.registry import LoadedVersion
from models.user_model import OWN

CLASSIFIER = "classifier.skops"

FITTED = {"events": CLASSIFIER, "regression": "regressor.skops", "anomaly": HABITS, "classes": CLASSES}
"""The kind of a manifest → the file of what training fitted."""

LAYOUTS = (*((file,) for file in FITTED.values()), (OWN,))
"""The sets of files beside the manifest."""

GOLDEN_EVENTS = 16
"""The number of made-up events with golden scores in the manifest; their inputs are from a formula and name nobody."""


def save_event_model(model: EventScorer, directory: str | Path) -> str:
    """The model stands in a new folder, whole or not at all; returns the hex SHA-256 of its manifest.json."""
    fitted, file = model.classifier, FITTED[model.manifest.kind]
    if isinstance(fitted, FittedHabits):
        return save_artefact(directory, model.manifest, None, file, lambda folder: save_habits(fitted, folder / file))
    if isinstance(fitted, FittedClasses):
        return save_artefact(directory, model.manifest, None, file, lambda folder: save_classes(fitted, folder / file))
    return save_artefact(directory, model.manifest, fitted, file)


def load_event_model(directory: str | Path, digest: str | None = None, *, trusted: bool = False) -> EventScorer:
    """The event model of a folder, after every byte of it was checked against its manifest; else ArtefactError.

    Args:
        digest: hex SHA-256 that manifest.json must have (the DIGEST_TAG of the model version).
        trusted: whether a user's own model may run its code; one of training's runs none.
    """
    directory = Path(directory)
    manifest = read_manifest(directory, digest, EventManifest.model_validate_json, LAYOUTS)
    inputs, kind, fitted = manifest.inputs, SCORERS[manifest.kind], FITTED[manifest.kind]
    if len(manifest.typical) != len(inputs):
        where, got = f"artefact file '{directory / MANIFEST}'", str(len(manifest.typical))
        raise ArtefactError(where, f"{len(inputs)} typical values, one for each input", got, "Train anew.")
    if set(manifest.files) not in ({fitted}, {OWN}):
        where, got = f"artefact file '{directory / MANIFEST}'", ", ".join(manifest.files)
        raise ArtefactError(where, f"{fitted} of a model of the kind '{manifest.kind}'", got, "Train anew.")
    if HABITS in manifest.files:
        return kind(manifest, load_habits(directory / HABITS, len(inputs)))
    if CLASSES in manifest.files:
        return kind(manifest, load_classes(directory / CLASSES, len(inputs)))
    model = kind(manifest, load_classifier(directory, manifest, fitted, inputs, trusted=trusted, answers=kind.ANSWERS))
    model.make_ready()
    return model


def golden_scores(model: EventScorer) -> tuple[float, ...]:
    """Its scores of GOLDEN_EVENTS made-up events. Raises ArtefactError where it fails or a score may not be."""
    where = f"model '{model.manifest.name}'"
    try:
        rows = np.arange(GOLDEN_EVENTS)
        scores = model.scores(made_up(rows, len(model.manifest.inputs)), made_up_texts(rows))
    except Exception as error:  # a model may fail in any way
        raise ArtefactError(where, "an answer", f"{type(error).__name__}: {error}", "Train anew.") from error
    if scores.shape != (GOLDEN_EVENTS,) or not model.allowed(scores).all():
        raise ArtefactError(where, f"{GOLDEN_EVENTS} scores {model.MAY_BE}", str(scores.tolist()), "Train anew.")
    return tuple(scores.tolist())


def open_event_model(folder: Path, digest: str | None, *, trusted: bool) -> EventScorer:
    """The event model of a folder, verified and tried out; ArtefactError otherwise (see ``load_event_model``)."""
    model = load_event_model(folder, digest, trusted=trusted)
    try_out(model)
    return model


def try_out(model: EventScorer) -> None:
    """Passes when its golden scores are those of the manifest, to TOLERANCE; ArtefactError otherwise.

    A library of another version that scores differently, or a classifier that fails, is found before the first event.
    """
    got, wanted = golden_scores(model), model.manifest.golden
    if wanted and not (len(got) == len(wanted) and np.allclose(got, wanted, rtol=TOLERANCE, atol=TOLERANCE)):
        required = f"the scores that it gave when it was made: {_text(wanted)}"
        raise ArtefactError(f"model '{model.manifest.name}'", required, _text(got), "Train anew.")


def _text(scores: tuple[float, ...]) -> str:
    return ", ".join(f"{score:.12g}" for score in scores[:3]) + ", …"


LoadedEventModel = LoadedVersion[EventScorer]
