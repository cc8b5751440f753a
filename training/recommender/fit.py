"""From a run's interactions and features to a tested model, in memory: no files, no clock, no registry."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from features.arrays import Bools
from features.errors import UsageError
from models.recommender import Artefact, CandidateTables, Manifest
from training.data import Domain, SampledEvents, arrivals, drawn_moments, joined_moments, visits
from training.evidence import Evidence
from training.item_content import content_before, with_later_items
from training.recommender.calibrating import CalibrationCheck, check_calibration
from training.recommender.candidates import first_half_life, fit_candidates
from training.recommender.co_occurrence import missing_library
from training.recommender.evaluate import ModelResult, chances_of, compared, relevant_of
from training.recommender.ranker import (
    RankerExamples,
    RetrievedMoments,
    examples,
    fit_ranker,
    retrieve_at,
    with_item_features,
)
from training.recommender.shown_items import shown_between
from training.recommender.user_histories import with_everybody
from training.resume import ARRAYS, TABLES, Arrays, ranker_of
from training.run import TrainingRun
from training.settings import TrainingSettings


@dataclass(frozen=True)
class LearntRanker:
    """A ranker (None of too few examples), its examples, how many of them were really shown, and how many taken."""

    ranker: Any
    examples: int
    shown: int = 0
    positives: int = 0


@dataclass(frozen=True)
class JudgedUsers:
    """The users of a test: those with a list, those without one as they are new, and what the former took.

    Nobody knows what to recommend to a new user but what is popular, so that a model is not tested on them.
    """

    users: int
    new_users: int
    positives: int

    def report(self) -> dict[str, int]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Trained:
    """A model as it is to serve, and its results on what it had not seen."""

    artefact: Artefact
    tested_tables: CandidateTables
    """The candidates that it was tested with: made of what was known before the test."""
    rows: list[ModelResult]
    learnt: LearntRanker
    calibration: CalibrationCheck
    retrieved: RetrievedMoments
    """The test's moments, with the candidates of ``tested_tables``: other versions are tested on the same."""
    run: TrainingRun

    @property
    def row(self) -> ModelResult:
        """The row of the new model: that of a champion may come after it."""
        return next(row for row in self.rows if row.model == "model")

    @cached_property
    def tested(self) -> JudgedUsers:
        """The users of the test."""
        return tested_users(self.run, self.artefact.manifest.target, self.row)

    @property
    def not_computed(self) -> dict[str, str]:
        """The reasons by name: of metrics of the model that are NaN, of no ranker, and of no measure of calibration."""
        new = f"; {self.tested.new_users:,} who did are new" if self.tested.new_users else ""
        nobody = f"no user of the test who had been seen before it took anything{new}"
        reasons = {
            name: "the model knows no items" if name.startswith("coverage") else nobody
            for name, value in self.row.metrics.items()
            if np.isnan(value)
        }
        if self.learnt.ranker is None:
            least = self.run.settings.ranker_positives
            taken = Evidence("examples that were taken (ranker_positives)", self.learnt.positives, least)
            reasons["ranker"] = taken.text
            reasons["calibration_error"] = "there is no ranker"
        elif not self.calibration.metrics:
            reasons["calibration_error"] = nobody
        return reasons


def tested_users(run: TrainingRun, target: tuple[str, ...], row: ModelResult) -> JudgedUsers:
    """The users of the run's test of this target, by a row of it."""
    part = run.history.between(run.split.middle, run.split.end)
    took = np.unique(part.user[part.of(target)])
    new = np.setdiff1d(took, run.history.between(0, run.split.middle).user)
    return JudgedUsers(row.users, len(new), row.positives)


def train(run: TrainingRun, now_ms: int) -> Trained:
    """A model of the run: ranker and test from the split's parts, candidates then made anew from everything."""
    learnt = learn(run)
    run.timer.begin("test", "testing on what came after")
    tables = run.stages.keep("tested", TABLES, lambda: candidates_before(run, run.split.middle))
    tables = with_later_items(run, tables, run.split.middle, run.split.end)
    manifest = manifest_of(run.domain, run.settings, run.target, run.split.middle, now_ms)
    artefact = Artefact(manifest, tables, learnt.ranker)
    retrieved = _with_item_features(held_out_moments(artefact, run), tables, learnt, run)
    scores = chances_of(artefact, retrieved, run.features)
    rows = compared(artefact, retrieved, run, scores=scores)
    calibration = CalibrationCheck()
    if learnt.ranker is not None:
        calibration = check_calibration(scores, taken_of(retrieved, tables, run), retrieved.moments.as_of)
    run.timer.begin("final", "similar items from everything")
    final = run.stages.keep("final", TABLES, lambda: _final_candidates(run))
    content = content_before(run, final, run.split.end)
    run.timer.end()
    known = {"as_of_ms": run.split.end, "items": len(final.items), "calibration": calibration.calibration}
    manifest = manifest.model_copy(update={**known, "metrics": metrics_of(rows) | calibration.metrics})
    return Trained(Artefact(manifest, final, learnt.ranker, content), tables, rows, learnt, calibration, retrieved, run)


def candidates_before(run: TrainingRun, as_of_ms: int) -> CandidateTables:
    """The candidates for the run's target, from what was known before ``as_of_ms``: for users with a past."""
    return fit_candidates(run.history, run.target, as_of_ms, run.settings)


def candidates_for_everybody(run: TrainingRun, as_of_ms: int) -> CandidateTables:
    """Those of ``candidates_before``, and what new users are recommended first."""
    first = first_half_life(run.history, run.target, run.split, run.settings)
    return fit_candidates(run.history, run.target, as_of_ms, run.settings, first)


def _final_candidates(run: TrainingRun) -> CandidateTables:
    """Candidates of everything, and what everybody took, also where the users are a sample."""
    tables, events = candidates_for_everybody(run, run.split.end), run.features.events
    return with_everybody(tables, events, run) if isinstance(events, SampledEvents) else tables


def _with_item_features(
    retrieved: RetrievedMoments, tables: CandidateTables, learnt: LearntRanker, run: TrainingRun
) -> RetrievedMoments:
    """The same with the item features of all candidates, which nothing but a ranker reads."""
    if learnt.ranker is None:
        return retrieved

    def make() -> Arrays:
        rows = with_item_features(retrieved, tables, run.features).item_rows
        return {"rows": np.concatenate(rows or [np.empty((0, 0))])}

    rows = run.stages.keep("told", ARRAYS, make)["rows"]
    ends = np.cumsum([len(candidates) for candidates in retrieved.candidates])
    return replace(retrieved, item_rows=np.split(rows, ends[:-1]) if retrieved.candidates else [])


def taken_of(retrieved: RetrievedMoments, tables: CandidateTables, run: TrainingRun) -> list[Bools]:
    """For each moment which of its candidates were taken then."""
    relevant = relevant_of(tables, retrieved, run.history)
    pairs = zip(retrieved.candidates, relevant, strict=True)
    return [np.isin(candidates.indices, taken) for candidates, taken in pairs]


def learn(run: TrainingRun) -> LearntRanker:
    """A ranker of the examples of [split.start, split.middle)."""
    rows, shown = examples_of(run)
    count, taken = len(rows.taken), int(rows.taken.sum())
    run.timer.begin("ranker", f"a ranker from {count:,} examples, {taken:,} of them taken")
    if taken < run.settings.ranker_positives:
        return LearntRanker(None, count, shown, taken)
    form = ranker_of(rows.inputs.shape[1])
    return LearntRanker(run.stages.keep("ranker", form, lambda: fit_ranker(rows, run.settings)), count, shown, taken)


def examples_of(run: TrainingRun, stage: str = "examples") -> tuple[RankerExamples, int]:
    """The examples of [split.start, split.middle), and how many of them were really shown.

    Candidates are of what was known before the part, features of just then.

    Args:
        stage: the name that they are kept under.
    """
    arrays = run.stages.keep(stage, ARRAYS, lambda: _arrays_of(*_made_examples(run)))
    return RankerExamples(arrays["inputs"], arrays["taken"]), int(arrays["shown"][0])


def _arrays_of(rows: RankerExamples, shown: int) -> Arrays:
    return {"inputs": rows.inputs, "taken": rows.taken, "shown": np.array([shown])}


def _made_examples(run: TrainingRun) -> tuple[RankerExamples, int]:
    settings, split = run.settings, run.split
    if (missing := missing_library(settings.sources)) is not None:
        run.log(f"without items as vectors: {missing}")
    run.timer.begin("candidates", f"similar items from {len(run.history):,} interactions")
    tables = with_later_items(run, candidates_before(run, split.start), split.start, split.middle)
    run.timer.begin("examples", "moments to learn from, with the features of then")
    part = run.history.between(split.start, split.middle)
    predicted = part.of(run.target)
    rng = np.random.default_rng(settings.seed)
    moments = drawn_moments(visits(part, predicted, settings.moments_per_user, rng), settings.moments, rng)
    # Between visits a user's newest features are older: so everybody also has a moment at the part's start.
    starts = drawn_moments(arrivals(part, predicted, split.start - 1), settings.moments, rng)
    retrieved = retrieve_at(tables, joined_moments(moments, starts), run.history, run.features)
    rows = examples(retrieved, tables, run)
    shown = shown_examples(run)
    if shown is None:
        return rows, 0
    parts = (rows, shown) if settings.impressions == "auto" else (shown,)
    inputs, taken = [part.inputs for part in parts], [part.taken for part in parts]
    return RankerExamples(np.concatenate(inputs), np.concatenate(taken)), len(shown.taken)


def shown_examples(run: TrainingRun) -> RankerExamples | None:
    """The examples of items really shown in the part that the ranker learns from; None where not wanted, or too few.

    Raises UsageError where only they are wanted, and too few.
    """
    settings = run.settings
    if settings.impressions == "split":
        return None
    served = run.domain.recommender.served
    log = None if served is None else run.features.events.get(served.name)
    least, got = settings.ranker_positives, "none"
    try:
        shown = shown_between(log, run)
        taken = 0 if shown is None else int(shown.taken.sum())
        got = f"{taken} of {0 if shown is None else len(shown.taken)}"
    except UsageError as error:
        shown, taken, got = None, 0, str(error)
    if taken >= least:
        run.log(f"and {got} items that were shown and then taken")
        return shown
    if settings.impressions == "served":
        hint = "Let the service answer for a while (serving.served_log_share), or train with --impressions auto."
        raise UsageError("training from what was served", f"{least} shown items that were taken", got, hint)
    return None


def held_out_moments(artefact: Artefact, run: TrainingRun) -> RetrievedMoments:
    """The moments of the test part, of users who had been seen before it, with the artefact's candidates.

    They are of the target of the artefact, which for an older version may be another than the run's.
    """
    settings, split = run.settings, run.split
    part = run.history.between(split.middle, split.end)
    before = np.unique(run.history.between(0, split.middle).user)
    part = part.only(np.isin(part.user, before))
    as_of = split.middle - 1 if settings.ask == "start" else None
    moments = arrivals(part, part.of(artefact.manifest.target), as_of)
    moments = drawn_moments(moments, settings.test_users, np.random.default_rng(settings.seed))
    return retrieve_at(artefact.tables, moments, run.history, run.features)


def metrics_of(rows: list[ModelResult]) -> dict[str, float]:
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
    """The manifest of a model that knows what was known before as_of_ms; without items and metrics yet."""
    return Manifest(
        name=settings.name,
        created_ms=now_ms,
        as_of_ms=as_of_ms,
        target=target,
        items=0,
        user=domain.user_inputs,
        item=domain.item_inputs,
        recent_feature=domain.recommender.recent_feature,
        settings=settings.model_dump(mode="json"),
    )
