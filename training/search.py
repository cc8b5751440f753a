"""A small search over the ranker's settings, on a part of time before the one that the model is tested on.

[ … history … | learn | look | test … ]      what is looked at here is what `train` learns from
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.artefact import Artefact
from training.candidates import fit_candidates
from training.dataset import Domain, Events, interactions_of
from training.evaluate import chances_by, compared, inputs_of
from training.fit import Say, Stopwatch, examples_of, manifest_of, target_of, tested, worth_splitting
from training.ranker import Features, fit_ranker
from training.settings import TrainingSettings
from training.split import time_split

SPACE: Mapping[str, Sequence[float]] = {
    "iterations": (40, 80, 120),
    "learning_rate": (0.05, 0.1, 0.2),
    "leaves": (6, 8, 12, 16),
    "smallest_leaf": (20, 40, 100),
    "l2": (1.0, 10.0, 50.0),
}
"""Setting → what is tried: such as leave what a request takes about as it is."""


@dataclass(frozen=True)
class Trial:
    """What was set otherwise, and the NDCG by it on the part that was looked at."""

    changed: Mapping[str, Any]
    ndcg: float


def search(
    events: Events, domain: Domain, settings: TrainingSettings, trials: int, say: Say = lambda text: None
) -> tuple[TrainingSettings, list[Trial]]:
    """The settings of the best of so many trials, of which the first changes nothing; and all of them, in their order.

    Of equally good ones the first is taken. The same events and seed give the same trials.

    Raises UsageError where there is too little history before the part that a training would be tested on.
    """
    every, of, watch = interactions_of(events, domain), Features(events, domain), Stopwatch(lambda text: None)
    target = target_of(every, settings)
    history = every.between(0, time_split(worth_splitting(every, target, settings), settings).middle)
    split = time_split(worth_splitting(history, target, settings), settings)
    say(f"searching: {trials} trials on the part before the newest")
    rows, _ = examples_of(history, of, split, settings, watch)
    tables = fit_candidates(history, target, split.middle, settings)
    artefact = Artefact(manifest_of(domain, settings, target, split.middle, 0), tables)
    asked = tested(artefact, history, of, split, settings)
    inputs, done = inputs_of(tables, asked, of), []
    for number, changed in enumerate(drawn(trials, settings.seed), start=1):
        chosen = settings.model_copy(update=dict(changed))
        tried = Artefact(artefact.manifest, tables, fit_ranker(rows, chosen))
        scores = None if tried.ranker is None else chances_by(tried, inputs)
        (row,) = compared(tried, asked, history, of, settings.k, "model", scores)
        done.append(Trial(changed, row.metrics[f"ndcg_at_{settings.k}"]))
        say(f"trial {number} of {trials}: {done[-1].ndcg:.4f} with {_told(changed)}")
    best = max(done, key=lambda trial: trial.ndcg)
    return settings.model_copy(update=dict(best.changed)), done


def drawn(trials: int, seed: int) -> list[Mapping[str, Any]]:
    """So many different changes, of which the first is none; fewer where the space has no more."""
    rng = np.random.default_rng(seed)
    found: list[Mapping[str, Any]] = [{}]
    most = int(np.prod([len(choices) for choices in SPACE.values()]))
    while len(found) < min(trials, most):
        one = {name: choices[int(rng.integers(len(choices)))] for name, choices in SPACE.items()}
        found += [one] if one not in found else []
    return found[:trials]


def _told(changed: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in changed.items()) or "the settings as they are"
