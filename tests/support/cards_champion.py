"""A quick champion of the cards' definitions, registered as `headrace train` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_cards import simulated

from features.definitions.repo import FeatureRepo
from models.event_model.artefact import save_event_model
from models.event_model.columns import EventModelColumns
from models.event_model.manifest import EventManifest
from models.event_model.scorers import EventClassifier, views_of
from training.data.labelled_events import EventTrainingSettings, examples_between
from training.event_model.fit import fit
from training.registry import ModelRegistry

TRACKING = "sqlite:///mlruns/mlflow.db"


def quick_model(repo: FeatureRepo, threshold: float) -> EventClassifier:
    """A classifier trained on simulated weeks; an event with at least the threshold's score alerts."""
    asked = EventModelColumns.of(repo, repo.models["cards"])
    events = simulated(repo, days=20, customers=40)
    last = int(events[asked.model.stream.name]["known_at"].to_numpy()[-1])
    classifier = fit(
        examples_between(events, asked, 0, last), asked, EventTrainingSettings(iterations=10, learning_rate=0.1)
    )
    return model_of(asked, classifier, threshold)


def model_of(asked: EventModelColumns, classifier: Any, threshold: float) -> EventClassifier:
    """An event model of these definitions with the classifier."""
    names = asked.model.input_names
    manifest = EventManifest(
        name=asked.model.name,
        created_ms=1,
        as_of_ms=1,
        stream=asked.model.stream.name,
        inputs=names,
        typical=(0.0,) * len(names),
        views=views_of(asked),
        threshold=threshold,
    )
    return EventClassifier(manifest, classifier)


def make_champion(root: Path, model: EventClassifier) -> str:
    """Registers the model and makes it champion of the project's registry; returns its version."""
    registry = ModelRegistry(TRACKING, root)
    version = registry.keep(model.manifest, lambda folder: save_event_model(model, folder), {}, {})
    return registry.promote(registry.judge(version, True, "made for a test"), 1).version
