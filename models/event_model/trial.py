"""What an event model must answer before anybody else may ask it, and what it answered when it was made.

The questions are numbers that a formula gives: they name nobody. A library of another version that scores otherwise, or
a classifier that fails, is found before the first event.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from features.errors import ArtefactError
from models.event_model.artefact import EventClassifier, load_event_model
from models.golden import TOLERANCE, made_up

QUESTIONS = 16


def golden_scores(model: EventClassifier) -> tuple[float, ...]:
    """Its scores of QUESTIONS made-up events. Raises ArtefactError where it fails, or one is no number from 0 to 1."""
    where = f"model '{model.manifest.name}'"
    try:
        scores = model.scores(made_up(np.arange(QUESTIONS), len(model.manifest.inputs)))
    except Exception as error:  # a model may fail in any way at all
        raise ArtefactError(where, "an answer", f"{type(error).__name__}: {error}", "Train anew.") from error
    if scores.shape != (QUESTIONS,) or not ((scores >= 0) & (scores <= 1)).all():
        raise ArtefactError(where, f"{QUESTIONS} scores from 0 to 1", str(scores.tolist()), "Train anew.")
    return tuple(scores.tolist())


def open_event_model(folder: Path, digest: str | None, *, trusted: bool) -> EventClassifier:
    """The event model of a folder, whole and tried out; ArtefactError otherwise (see ``load_event_model``)."""
    model = load_event_model(folder, digest, trusted=trusted)
    try_out(model)
    return model


def try_out(model: EventClassifier) -> None:
    """Passes when it answers, and as on the day it was made, to TOLERANCE; ArtefactError says what does not."""
    got, wanted = golden_scores(model), model.manifest.golden
    if wanted and not (len(got) == len(wanted) and np.allclose(got, wanted, rtol=TOLERANCE, atol=TOLERANCE)):
        required = f"the scores that it gave when it was made: {_text(wanted)}"
        raise ArtefactError(f"model '{model.manifest.name}'", required, _text(got), "Train anew.")


def _text(scores: tuple[float, ...]) -> str:
    return ", ".join(f"{one:.12g}" for one in scores[:3]) + ", …"
