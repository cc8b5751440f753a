"""time-split: what users took after a moment, recommended from what was known before it; on any file of events.

Everybody is asked for at the moment at which the last part begins. Users who had been seen before (warm) and those who
had not (cold) are told apart, and so are lists that may repeat what a user took already (with repeats) and those
of what is new to the user (only new), for which only what is new is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from features.arrays import Int64s
from features.events import integers
from models.recommender import Artefact
from training.data import Domain, Events, Interactions, Moments, Split, interactions_of, time_split
from training.protocols.impressions import PRIOR_CLICKS, PRIOR_SHOWN
from training.protocols.lists import BASELINE, Asked, Fitted, Say, fitted, judged, listed, said
from training.protocols.report import Judged, report_rows
from training.recommender import (
    Als,
    Blend,
    CoVisited,
    Ease,
    Features,
    Own,
    Popular,
    Recommender,
    Stopwatch,
    Taken,
    ask,
    chances_of,
    fit_candidates,
    learn,
    manifest_of,
    metrics,
    taken_of,
    target_of,
    worth_splitting,
)
from training.recommender import Asked as AskedMoments
from training.settings import TrainingSettings

PROTOCOL, TWO_STAGE, CLICK_THROUGH = "time-split", "two_stage", "item_click_through"

OTHERS = (BASELINE, "own", "blend", "blend_of_new")
"""What every model's distance to is said."""

METRICS = ("ndcg", "recall", "precision", "hit_rate", "mrr")

SHOWN = ("view", "click")
"""Types of events by which an item was before a user's eyes."""


def models() -> dict[str, Recommender]:
    """Those that stand beside the two-stage model, by name; both blends are plain sums of three of them."""
    own, ease, trending = Own(), Ease(), Popular(half_life_days=14.0)
    parts = ((own, 1.0), (ease, 1.0), (trending, 1.0))
    return {
        BASELINE: Popular(),
        "trending": trending,
        "own": own,
        "co_visited": CoVisited(),
        "ease": ease,
        "als": Als(),
        "blend": Blend(parts),
        "blend_of_new": Blend(parts, only_new=True),
    }


@dataclass(frozen=True)
class Question:
    """Whom to recommend to, of what was known before ``as_of_ms``, and what they took from then on."""

    as_of_ms: int
    before: Taken
    users: Int64s
    warm: NDArray[np.bool_]
    relevant: NDArray[np.bool_]
    """(users, items) what each took later."""
    had: NDArray[np.bool_]
    """(users, items) what each had taken before."""


def run(
    events: Events,
    domain: Domain,
    settings: TrainingSettings,
    several: Mapping[str, Recommender],
    say: Say = lambda text: None,
    since_ms: int | None = None,
) -> dict[str, Any]:
    """The report: for warm and cold users, with repeats and only new, a row a model.

    Args:
        since_ms: when the last part begins; None for what the settings say.
    """
    history, of = interactions_of(events, domain), Features(events, domain)
    target = target_of(history, settings)
    known_at = worth_splitting(history, target, settings)
    if since_ms is not None and len(known_at):
        settings = settings.model_copy(update={"test_ms": int(known_at[-1]) + 1 - since_ms})
    split = time_split(known_at, settings)
    question = asked_at(history, split, target, settings)
    every = [*fitted(several, question.before, question.as_of_ms, say)]
    every += item_click_through(history.between(0, split.middle), target)
    every.append(two_stage(history, of, split, settings, question, say))
    rows = []
    for group, chosen in (("warm", question.warm), ("cold", ~question.warm)):
        for lists, new in (("with_repeats", False), ("only_new", True)):
            about = {"users": group, "lists": lists}
            rows += _rows(every, part_of(question, chosen, new), question.before, settings.k, about)
    said_of = {"as_of_ms": split.middle, "end_ms": split.end, "target": list(target)}
    counts = {"warm_users": int(question.warm.sum()), "cold_users": int((~question.warm).sum())}
    return said(PROTOCOL, rows, tested=TWO_STAGE, **said_of, **counts, items=question.before.items)


def item_click_through(history: Interactions, target: tuple[str, ...]) -> list[Fitted]:
    """The item's targets over its views, with a prior, for everybody alike; none where the history has no views."""
    shown = history.of(SHOWN) & ~history.of(target)
    if not shown.any():
        return []
    counts = [np.bincount(history.item[of], minlength=len(history.items)) for of in (history.of(target), shown)]
    rate = (counts[0] + PRIOR_CLICKS) / (counts[1] + PRIOR_SHOWN)
    return [Fitted(CLICK_THROUGH, lambda taken: np.tile(rate, (taken.users, 1)), 0.0)]


def first_ms(events: Events, domain: Domain) -> int:
    """When the first of these became known."""
    return int(integers(events[domain.stream.name]["known_at"]).min())


def asked_at(history: Interactions, split: Split, target: tuple[str, ...], settings: TrainingSettings) -> Question:
    """Who took a target in the split's last part."""
    weights = settings.counted(target)
    before = taken_of(history.between(0, split.middle), weights)
    later = taken_of(history.between(split.middle, split.end), dict.fromkeys(target, 1.0))
    users = np.unique(later.user)
    seen = np.unique(history.between(0, split.middle).user)
    return Question(
        as_of_ms=split.middle,
        before=before,
        users=users,
        warm=np.isin(users, seen),
        relevant=later.of(users).ones.toarray() > 0,
        had=before.of(users).had,
    )


def part_of(question: Question, chosen: NDArray[np.bool_], new: bool) -> Asked:
    """The question of some users; where ``new``, of what is new to them, and then of those who took such a thing."""
    relevant = question.relevant & ~question.had if new else question.relevant
    chosen = chosen & relevant.any(axis=1)
    hidden = question.had[chosen] if new else None
    return Asked(question.before.of(question.users[chosen]), hidden, relevant[chosen])


def _rows(
    every: Sequence[Fitted], asked: Asked, before: Taken, k: int, about: Mapping[str, str]
) -> list[dict[str, Any]]:
    if not asked.taken.users:
        return []
    took = csr_array(before.ones.T)
    rows = [_tested(one, asked, took, k) for one in every]
    return [{**about, "n": asked.taken.users, **row} for row in report_rows(rows, f"ndcg_at_{k}", OTHERS)]


def _tested(one: Fitted, asked: Asked, took: csr_array, k: int) -> Judged:
    top = listed(one.scorer, asked, k)
    share = np.asarray(took.sum(axis=1), dtype=np.float64) / max(took.shape[1], 1)
    beyond = {
        f"diversity_at_{k}": metrics.diversity(top, took),
        f"novelty_at_{k}": metrics.novelty(top, share),
        f"popularity_bias_at_{k}": metrics.popularity_bias(top, share),
    }
    covered = {f"coverage_at_{k}": metrics.coverage([top[top >= 0]], asked.taken.items)}
    return Judged(one.name, judged(top, asked, METRICS) | beyond, covered, one.fit_s)


def two_stage(
    history: Interactions, of: Features, split: Split, settings: TrainingSettings, question: Question, say: Say
) -> Fitted:
    """What `headrace train` fits: candidates, and a ranker that learnt from the part of time before the test."""
    started = perf_counter()
    learnt = learn(history, of, split, settings, Stopwatch(say))
    target = target_of(history, settings)
    tables = fit_candidates(history, target, split.middle, settings)
    fit_s = perf_counter() - started
    artefact = Artefact(manifest_of(of.domain, settings, target, split.middle, 0), tables, learnt.ranker)
    say(f"asking for {len(question.users):,} users")
    m = len(question.users)
    moments = Moments(question.users, np.full(m, split.middle - 1), np.zeros(m + 1, np.int64), np.empty(0, np.int64))
    asked = ask(tables, moments, history, of.events, of.domain)
    codes = pc.index_in(pa.array(tables.items, pa.string()), value_set=history.items).to_numpy()
    scores = _table(asked, chances_of(artefact, asked, of), codes, len(history.items))

    def scorer(taken: Taken) -> NDArray[np.float64]:
        codes = np.arange(taken.users) if taken.codes is None else taken.codes
        chosen: NDArray[np.float64] = scores[np.searchsorted(question.users, codes)].toarray()
        return chosen

    return Fitted(TWO_STAGE, scorer, fit_s)


def _table(
    asked: AskedMoments, scores: Sequence[NDArray[np.float64]], codes: NDArray[np.integer], items: int
) -> csr_array:
    """(moments, items) the scores, at the items' codes."""
    lengths = [len(one) for one in asked.candidates]
    column = np.concatenate([np.empty(0, np.int64), *(codes[one.places] for one in asked.candidates)])
    row = np.repeat(np.arange(len(lengths)), lengths)
    return csr_array((np.concatenate([np.empty(0), *scores]), (row, column)), shape=(len(lengths), items))
