"""A model that somebody fitted elsewhere, registered as a version of an event model of this project, and judged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from features.arrays import Floats
from models.event_model import EventClassifier, EventColumnsOfModel, rounded
from models.user_model import OwnRanker, pack
from training.data import EventTrainingSettings, Source
from training.event_model import Divided, EventJudge, TrainedEvents, divided, manifest_of, put_forward
from training.judging import Ask
from training.progress import Say
from training.registry import Registry

POSITIVE = "positive"


def learning_examples(
    events: Source, asked: EventColumnsOfModel, settings: EventTrainingSettings, say: Say = lambda text: None
) -> pa.Table:
    """What our own classifier learns from: its inputs by name, double, null where missing, and whether POSITIVE."""
    learned = divided(events, asked, settings, say).learned
    inputs: Floats = rounded(asked.inputs(learned.matrix))
    columns = {name: pa.array(inputs[:, place], from_pandas=True) for place, name in enumerate(asked.model.input_names)}
    return pa.table({**columns, POSITIVE: pa.array(learned.positive)})


def register(
    model: Path,
    on: Divided,
    judge: EventJudge,
    registry: Registry,
    now_ms: int,
    say: Say,
    ask_parity: Ask | None,
    about: Mapping[str, str],
) -> TrainedEvents:
    """The model is a trusted version of the event model, with a verdict; champion where that passed.

    Args:
        model: its folder; loading it runs what it holds.
        judge: of the test part.
        ask_parity, about: as of train_events().

    Raises ArtefactError for what is no classifier over our inputs, or does not answer from 0 to 1.
    """
    classifier = OwnRanker(pack(model), judge.asked.model.input_names)
    made = EventClassifier(manifest_of(judge.asked, on, judge.settings, now_ms), classifier)
    return put_forward(made, on, judge, registry, now_ms, say, ask_parity, about)
