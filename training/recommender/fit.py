"""From events to a tested model, in memory: no files, no clock, no registry."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import UsageError
from models.recommender import Artefact, CandidateTables, Manifest
from training.data import (
    Domain,
    Events,
    Interactions,
    SampledEvents,
    Split,
    arrivals,
    drawn_moments,
    interactions_of,
    joined_moments,
    time_split,
    visits,
)
from training.progress import Say, Stage
from training.recommender.calibrating import Checked, checked
from training.recommender.candidates import fit_candidates
from training.recommender.co_occurrence import missing_library
from training.recommender.evaluate import Row, chances_of, compared, relevant_of
from training.recommender.ranker import Asked, Examples, Features, ask, examples, fit_ranker, told_of_items, view_inputs
from training.recommender.shown_items import shown_between
from training.recommender.user_histories import of_everybody
from training.resume import ARRAYS, NOWHERE, TABLES, Arrays, Stages, ranker_of
from training.settings import TrainingSettings


@dataclass(frozen=True)
class Learnt:
    """A ranker (None of too few examples), of how many examples it is, and how many of them were really shown."""

    ranker: Any
    examples: int
    shown: int = 0


@dataclass(frozen=True)
class Trained:
    """A model as it is to serve, and how it did on what it had not seen (with ``tested_tables`` for candidates)."""

    artefact: Artefact
    tested_tables: CandidateTables
    rows: list[Row]
    split: Split
    learnt: Learnt
    checked: Checked
    history: Interactions
    asked: Asked
    """The test's moments, with ``tested_tables``'s candidates: others are tested on the same."""
    took_s: dict[str, float] = field(default_factory=dict)


class Stopwatch:
    """Says what begins, and remembers how long each thing took."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self._since: tuple[str, float] | None = None
        self.took_s: dict[str, float] = {}

    def begin(self, what: str, about: str) -> None:
        """Ends what was going on, and begins this."""
        self.end()
        self.say(Stage(what, about))
        self._since = what, perf_counter()

    def end(self) -> None:
        """Ends what was going on."""
        if self._since is not None:
            what, started = self._since
            self.took_s[what] = round(perf_counter() - started, 3)


def target_of(history: Interactions, settings: TrainingSettings) -> tuple[str, ...]:
    """What is predicted: the first of settings.targets that is frequent enough, else the most frequent of them."""
    counts = {kind: int(history.of((kind,)).sum()) for kind in settings.targets}
    enough = [kind for kind in settings.targets if counts[kind] >= settings.target_events]
    return (enough[0] if enough else max(settings.targets, key=lambda kind: counts[kind]),)


def train(
    events: Events,
    domain: Domain,
    settings: TrainingSettings,
    now_ms: int,
    say: Say = lambda text: None,
    kept: Stages = NOWHERE,
) -> Trained:
    """A model of these events: ranker and test from the split's parts, candidates then made anew from everything.

    Args:
        kept: stages that are finished already are taken from there, and the others left there.

    Raises UsageError when there is too little to split.
    """
    watch = Stopwatch(say)
    watch.begin("dataset", "reading who did what")
    history, of = interactions_of(events, domain), Features(events, domain)
    target = target_of(history, settings)
    split = time_split(worth_splitting(history, target, settings), settings)
    learnt = learn(history, of, split, settings, watch, kept)
    ranker = learnt.ranker
    watch.begin("test", "testing on what came after")
    tables = kept.keep("tested", TABLES, lambda: fit_candidates(history, target, split.middle, settings))
    manifest = manifest_of(domain, settings, target, split.middle, now_ms)
    artefact = Artefact(manifest, tables, ranker)
    asked = tested(artefact, history, of, split, settings)
    if ranker is not None:
        asked = _told(asked, tables, of, kept)
    scores = chances_of(artefact, asked, of)
    rows = compared(artefact, asked, history, of, settings.k, scores=scores)
    looked = Checked() if ranker is None else checked(scores, taken_of(asked, tables, history), asked.moments.as_of)
    watch.begin("final", "similar items from everything")
    final = kept.keep("final", TABLES, lambda: _final(history, of, target, split.end, settings, say))
    watch.end()
    known = {"as_of_ms": split.end, "items": len(final.items), "calibration": looked.calibration}
    manifest = manifest.model_copy(update={**known, "metrics": metrics_of(rows) | looked.metrics})
    return Trained(Artefact(manifest, final, ranker), tables, rows, split, learnt, looked, history, asked, watch.took_s)


def _final(
    history: Interactions, of: Features, target: tuple[str, ...], end: int, settings: TrainingSettings, say: Say
) -> CandidateTables:
    """Candidates of everything, and what everybody took, whoever was drawn to learn from."""
    tables = fit_candidates(history, target, end, settings)
    if not isinstance(of.events, SampledEvents):
        return tables
    return of_everybody(tables, of.events, of.domain, target, end, settings, say)


def _told(asked: Asked, tables: CandidateTables, of: Features, kept: Stages) -> Asked:
    """The same with the item features of all candidates."""

    def make() -> Arrays:
        return {"rows": np.concatenate(told_of_items(asked, tables, of).item_rows or [np.empty((0, 0))])}

    rows = kept.keep("told", ARRAYS, make)["rows"]
    parts = np.split(rows, np.cumsum([len(one) for one in asked.candidates])[:-1]) if asked.candidates else []
    return replace(asked, item_rows=parts)


def taken_of(asked: Asked, tables: CandidateTables, history: Interactions) -> list[NDArray[np.bool_]]:
    """For each moment which of its candidates were taken then."""
    relevant = relevant_of(tables, asked, history)
    return [np.isin(one.places, wanted) for one, wanted in zip(asked.candidates, relevant, strict=True)]


def learn(
    history: Interactions,
    of: Features,
    split: Split,
    settings: TrainingSettings,
    watch: Stopwatch,
    kept: Stages = NOWHERE,
) -> Learnt:
    """A ranker of the examples of [split.start, split.middle)."""
    rows, shown = examples_of(history, of, split, settings, watch, kept)
    count, taken = len(rows.taken), int(rows.taken.sum())
    watch.begin("ranker", f"a ranker from {count:,} examples, {taken:,} of them taken")
    if taken < settings.ranker_positives:
        return Learnt(None, count, shown)
    form = ranker_of(rows.inputs.shape[1])
    return Learnt(kept.keep("ranker", form, lambda: fit_ranker(rows, settings)), count, shown)


def examples_of(
    history: Interactions,
    of: Features,
    split: Split,
    settings: TrainingSettings,
    watch: Stopwatch,
    kept: Stages = NOWHERE,
    name: str = "examples",
) -> tuple[Examples, int]:
    """What to learn from in [split.start, split.middle), and how many of the examples were really shown.

    Candidates are of what was known before the part, features of just then.

    Args:
        name: of the stage.
    """
    found = kept.keep(name, ARRAYS, lambda: _arrays_of(*_made_examples(history, of, split, settings, watch)))
    return Examples(found["inputs"], found["taken"]), int(found["shown"][0])


def _arrays_of(rows: Examples, shown: int) -> Arrays:
    return {"inputs": rows.inputs, "taken": rows.taken, "shown": np.array([shown])}


def _made_examples(
    history: Interactions, of: Features, split: Split, settings: TrainingSettings, watch: Stopwatch
) -> tuple[Examples, int]:
    target = target_of(history, settings)
    if (missing := missing_library(settings.sources)) is not None:
        watch.say(f"without items as vectors: {missing}")
    watch.begin("candidates", f"similar items from {len(history):,} interactions")
    tables = fit_candidates(history, target, split.start, settings)
    watch.begin("examples", "moments to learn from, with the features of then")
    part = history.between(split.start, split.middle)
    rng = np.random.default_rng(settings.seed)
    moments = drawn_moments(visits(part, part.of(target), settings.moments_per_user, rng), settings.moments, rng)
    # Between visits a user's newest features are of longer ago: as of the start, everybody is asked about at once.
    starts = drawn_moments(arrivals(part, part.of(target), split.start - 1), settings.moments, rng)
    asked = ask(tables, joined_moments(moments, starts), history, of.events, of.domain)
    rows = examples(asked, tables, history, of, settings)
    shown = shown_examples(history, of, split, target, settings, watch.say)
    if shown is not None:
        both = (rows, shown) if settings.impressions == "auto" else (shown,)
        rows = Examples(np.concatenate([one.inputs for one in both]), np.concatenate([one.taken for one in both]))
    return rows, 0 if shown is None else len(shown.taken)


def shown_examples(
    history: Interactions, of: Features, split: Split, target: tuple[str, ...], settings: TrainingSettings, say: Say
) -> Examples | None:
    """What was really shown in the part that the ranker learns from; None where that is not wanted, or too little.

    Raises UsageError where only that is wanted, and too little.
    """
    if settings.impressions == "split":
        return None
    log, least, got = of.events.get(settings.served_stream), settings.ranker_positives, "none"
    try:
        found = shown_between(log, history, of.domain, target, split, settings.taken_within_ms)
        taken = 0 if found is None else int(found.taken.sum())
        got = f"{taken} of {0 if found is None else len(found.taken)}"
    except UsageError as error:
        found, taken, got = None, 0, str(error)
    if taken >= least:
        say(f"and {got} items that were shown and then taken")
        return found
    if settings.impressions == "served":
        hint = "Let the service answer for a while (serving.served_log_share), or train with --impressions auto."
        raise UsageError("training from what was served", f"{least} shown items that were taken", got, hint)
    return None


def worth_splitting(history: Interactions, target: tuple[str, ...], settings: TrainingSettings) -> NDArray[np.int64]:
    """When the events became known by whose number the history is split."""
    return history.known_at[history.of((*settings.engaged, *target))]


def tested(artefact: Artefact, history: Interactions, of: Features, split: Split, settings: TrainingSettings) -> Asked:
    """The moments of the last part, of users who had been seen before it, with the artefact's candidates."""
    part = history.between(split.middle, split.end)
    before = np.unique(history.between(0, split.middle).user)
    part = part.only(np.isin(part.user, before))
    as_of = split.middle - 1 if settings.ask == "start" else None
    moments = arrivals(part, part.of(artefact.manifest.target), as_of)
    moments = drawn_moments(moments, settings.test_users, np.random.default_rng(settings.seed))
    return ask(artefact.tables, moments, history, of.events, of.domain)


def metrics_of(rows: list[Row]) -> dict[str, float]:
    """The model's metrics under their own names, the others' with the model's name before them; no NaN."""
    named = {
        name if row.model == "model" else f"{row.model}_{name}": value
        for row in rows
        for name, value in row.metrics.items()
    }
    return {name: value for name, value in named.items() if not np.isnan(value)}


def manifest_of(
    domain: Domain, settings: TrainingSettings, target: tuple[str, ...], as_of_ms: int, now_ms: int
) -> Manifest:
    """What a model of the domain is that knows what was known before as_of_ms; without items and metrics yet."""
    return Manifest(
        name=settings.name,
        created_ms=now_ms,
        as_of_ms=as_of_ms,
        target=target,
        items=0,
        user=view_inputs(domain.user),
        item=view_inputs(domain.item),
        recent_feature=domain.recent_feature,
        settings=settings.model_dump(mode="json"),
    )
