"""A small search over the ranker's settings, on a part of time before the one that the model is tested on.

[ … history … | learn | look | test … ]      trials are tested on "look", which `train` learns from
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from features.arrays import Floats
from models.recommender import Artefact
from training.evidence import NOT_ENOUGH, Evidence
from training.progress import Log, Stage, StageTimer, silent
from training.recommender.evaluate import chances_by, compared, inputs_of
from training.recommender.fit import candidates_before, examples_of, held_out_moments, manifest_of
from training.recommender.ranker import RankerExamples, RetrievedMoments, fit_ranker
from training.resume import ARRAYS
from training.run import TrainingRun
from training.settings import TrainingSettings

SPACE: Mapping[str, Sequence[float]] = {
    "iterations": (40, 80, 120),
    "learning_rate": (0.05, 0.1, 0.2),
    "leaves": (6, 8, 12, 16),
    "smallest_leaf": (20, 40, 100),
    "l2": (1.0, 10.0, 50.0),
}
"""Setting → the values that are tried: such as leave the time of a request about as it is."""


@dataclass(frozen=True)
class Trial:
    """The settings that were changed, and the NDCG with them on the part before the test."""

    changed: Mapping[str, Any]
    ndcg: float


def search(run: TrainingRun, trials: int, log: Log = silent) -> tuple[TrainingSettings, list[Trial]]:
    """The settings of the best of so many trials, of which the first changes nothing; and all of them, in their order.

    Of equally good ones the first is taken. The same run gives the same trials. With fewer users on that part than
    settings.least_test_users there is not enough to judge by: the settings stay as they are, and there are no trials.

    Args:
        log: takes a line about each trial.

    Raises UsageError where there is too little history before the part that a training would be tested on.
    """
    log(Stage("search", f"searching: {trials} trials on the part before the newest"))
    part, done = _SearchedPart(run), list[Trial]()
    users = Evidence("users", part.users, run.settings.least_test_users)
    if not users.suffices:
        log(Stage("search", f"{NOT_ENOUGH} trials by: {users.text}; the settings stay as they are"))
        return run.settings, done
    for number, changed in enumerate(drawn(trials, run.settings.seed), start=1):
        tried = partial(part.ndcg, run.settings.model_copy(update=dict(changed)))
        result = run.stages.keep(f"trial-{number}", ARRAYS, lambda tried=tried: {"ndcg": np.array([tried()])})  # type: ignore[misc]
        done.append(Trial(changed, float(result["ndcg"][0])))
        text = f"trial {number} of {trials}: {done[-1].ndcg:.4f} with {_settings_text(changed)}"
        log(Stage("search", text, number / trials))
    best = max(done, key=lambda trial: trial.ndcg)
    return run.settings.model_copy(update=dict(best.changed)), done


@dataclass(frozen=True)
class _SearchedPart:
    """The part that trials are tested on, and what they learn from; made when the first trial needs it."""

    whole: TrainingRun

    @property
    def users(self) -> int:
        """The users that a trial is tested on."""
        return len(self._retrieved.moments)

    def ndcg(self, settings: TrainingSettings) -> float:
        """The NDCG of a ranker of these settings."""
        tried = Artefact(self._artefact.manifest, self._artefact.tables, fit_ranker(self._rows, settings))
        scores = None if tried.ranker is None else chances_by(tried, self._inputs)
        (row,) = compared(tried, self._retrieved, self._run, "model", scores)
        return row.metrics[f"ndcg_at_{self._run.settings.k}"]

    @cached_property
    def _run(self) -> TrainingRun:
        """The training that ends where the other's test begins; it does not log."""
        return replace(self.whole.before_test(), timer=StageTimer())

    @cached_property
    def _rows(self) -> RankerExamples:
        return examples_of(self._run, "searched")[0]

    @cached_property
    def _artefact(self) -> Artefact:
        run = self._run
        manifest = manifest_of(run.domain, run.settings, run.target, run.split.middle, 0)
        return Artefact(manifest, candidates_before(run, run.split.middle))

    @cached_property
    def _retrieved(self) -> RetrievedMoments:
        return held_out_moments(self._artefact, self._run)

    @cached_property
    def _inputs(self) -> list[Floats]:
        return inputs_of(self._artefact.tables, self._retrieved, self._run.features)


def drawn(trials: int, seed: int) -> list[Mapping[str, Any]]:
    """So many different changes of settings, of which the first is none; fewer where the space has no more."""
    rng = np.random.default_rng(seed)
    drawn_changes: list[Mapping[str, Any]] = [{}]
    most = int(np.prod([len(choices) for choices in SPACE.values()]))
    while len(drawn_changes) < min(trials, most):
        change = {name: choices[int(rng.integers(len(choices)))] for name, choices in SPACE.items()}
        drawn_changes += [change] if change not in drawn_changes else []
    return drawn_changes[:trials]


def _settings_text(changed: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in changed.items()) or "the settings as they are"
