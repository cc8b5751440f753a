"""A small search over the ranker's settings, on a part of time before the one that the model is tested on.

[ … history … | learn | look | test … ]      what is looked at here is what `train` learns from
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from features.arrays import Floats
from models.recommender import Artefact
from training.data import Domain, Events, Interactions, Split, interactions_of, time_split
from training.progress import Say, Stage
from training.recommender.candidates import fit_candidates
from training.recommender.evaluate import chances_by, compared, inputs_of
from training.recommender.fit import Stopwatch, examples_of, manifest_of, target_of, tested, worth_splitting
from training.recommender.ranker import Asked, Examples, Features, fit_ranker
from training.resume import ARRAYS, NOWHERE, Stages
from training.settings import TrainingSettings

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
    events: Events,
    domain: Domain,
    settings: TrainingSettings,
    trials: int,
    say: Say = lambda text: None,
    kept: Stages = NOWHERE,
) -> tuple[TrainingSettings, list[Trial]]:
    """The settings of the best of so many trials, of which the first changes nothing; and all of them, in their order.

    Of equally good ones the first is taken. The same events and seed give the same trials.

    Raises UsageError where there is too little history before the part that a training would be tested on.
    """
    say(Stage("search", f"searching: {trials} trials on the part before the newest"))
    look, done = _Look(events, domain, settings, kept), []
    for number, changed in enumerate(drawn(trials, settings.seed), start=1):
        tried = partial(look.ndcg, settings.model_copy(update=dict(changed)))
        found = kept.keep(f"trial-{number}", ARRAYS, lambda tried=tried: {"ndcg": np.array([tried()])})  # type: ignore[misc]
        done.append(Trial(changed, float(found["ndcg"][0])))
        text = f"trial {number} of {trials}: {done[-1].ndcg:.4f} with {_told(changed)}"
        say(Stage("search", text, number / trials))
    best = max(done, key=lambda trial: trial.ndcg)
    return settings.model_copy(update=dict(best.changed)), done


@dataclass(frozen=True)
class _Look:
    """The part that is looked at, and what trials learn from; made when the first trial asks."""

    events: Events
    domain: Domain
    settings: TrainingSettings
    kept: Stages

    def ndcg(self, chosen: TrainingSettings) -> float:
        """What a ranker of these settings comes to."""
        rows, artefact, history = self._rows, self._artefact, self._history
        tried = Artefact(artefact.manifest, artefact.tables, fit_ranker(rows, chosen))
        scores = None if tried.ranker is None else chances_by(tried, self._inputs)
        (row,) = compared(tried, self._asked, history, self._of, self.settings.k, "model", scores)
        return row.metrics[f"ndcg_at_{self.settings.k}"]

    @cached_property
    def _of(self) -> Features:
        return Features(self.events, self.domain)

    @cached_property
    def _target(self) -> tuple[str, ...]:
        return target_of(interactions_of(self.events, self.domain), self.settings)

    @cached_property
    def _history(self) -> Interactions:
        """What came before the part that a training is tested on."""
        every = interactions_of(self.events, self.domain)
        return every.between(0, time_split(worth_splitting(every, self._target, self.settings), self.settings).middle)

    @cached_property
    def _split(self) -> Split:
        return time_split(worth_splitting(self._history, self._target, self.settings), self.settings)

    @cached_property
    def _rows(self) -> Examples:
        watch = Stopwatch(lambda text: None)
        return examples_of(self._history, self._of, self._split, self.settings, watch, self.kept, "searched")[0]

    @cached_property
    def _artefact(self) -> Artefact:
        manifest = manifest_of(self.domain, self.settings, self._target, self._split.middle, 0)
        return Artefact(manifest, fit_candidates(self._history, self._target, self._split.middle, self.settings))

    @cached_property
    def _asked(self) -> Asked:
        return tested(self._artefact, self._history, self._of, self._split, self.settings)

    @cached_property
    def _inputs(self) -> list[Floats]:
        return inputs_of(self._artefact.tables, self._asked, self._of)


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
