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
from models.recommender import Artefact, first_scores
from training.data import Domain, Events, Interactions, asked_at, interactions_of
from training.progress import Log, silent
from training.protocols.impressions import PRIOR_CLICKS, PRIOR_SHOWN
from training.protocols.lists import BASELINE, EvaluatedUsers, Fitted, fitted, judged, listed, report_json
from training.protocols.report import ProtocolResult, report_rows
from training.recommender import (
    Als,
    Blend,
    CoVisited,
    Ease,
    Popular,
    RankingMethod,
    RetrievedMoments,
    Taken,
    UserFrequency,
    candidates_for_everybody,
    chances_of,
    learn,
    manifest_of,
    metrics,
    retrieve_at,
    taken_of,
)
from training.run import TrainingRun, split_times, target_of
from training.settings import TrainingSettings

PROTOCOL, TWO_STAGE, CLICK_THROUGH = "time-split", "two_stage", "item_click_through"

OTHERS = (BASELINE, "own", "blend", "blend_of_new")
"""The models that every other is compared with."""

METRICS = ("ndcg", "recall", "precision", "hit_rate", "mrr")


def models() -> dict[str, RankingMethod]:
    """The models beside the two-stage one, by name; both blends are plain sums of three of them."""
    own, ease, trending = UserFrequency(), Ease(), Popular(half_life_days=14.0)
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
class HeldOutUsers:
    """The users of the test part, what was known before ``as_of_ms``, and what they took from then on."""

    as_of_ms: int
    before: Taken
    users: Int64s
    warm: NDArray[np.bool_]
    relevant: NDArray[np.bool_]
    """(users, items) what each took later."""
    had: NDArray[np.bool_]
    """(users, items) what each had taken before."""


def run(training: TrainingRun, recommenders: Mapping[str, RankingMethod]) -> dict[str, Any]:
    """The report: for warm and cold users, with repeats and only new, a row a model."""
    split = training.split
    held_out = held_out_users(training)
    every = [*fitted(recommenders, held_out.before, held_out.as_of_ms, training.log)]
    seen = least_kinds(training.settings.weights)
    every += item_click_through(training.history.between(0, split.middle), training.target, seen)
    every.append(two_stage(training, held_out))
    rows = []
    for group, chosen in (("warm", held_out.warm), ("cold", ~held_out.warm)):
        for lists, new in (("with_repeats", False), ("only_new", True)):
            about = {"users": group, "lists": lists}
            users = users_of(held_out, chosen, new)
            rows += [about | row for row in _rows(every, users, held_out.before, training.settings.k)]
    times = {"as_of_ms": split.middle, "end_ms": split.end, "target": list(training.target)}
    counts = {"warm_users": int(held_out.warm.sum()), "cold_users": int((~held_out.warm).sum())}
    return report_json(PROTOCOL, rows, tested=TWO_STAGE, **times, **counts, items=held_out.before.items)


def training_of(
    events: Events, domain: Domain, settings: TrainingSettings, since_ms: int | None = None, log: Log = silent
) -> TrainingRun:
    """The training whose test part is evaluated.

    Args:
        since_ms: the start of the test part; None for what the settings say.
    """
    if since_ms is not None:
        history = interactions_of(events, domain)
        known_at = split_times(history, target_of(history, settings), settings)
        if len(known_at):
            settings = settings.model_copy(update={"test_ms": int(known_at[-1]) + 1 - since_ms})
    return TrainingRun.of(events, domain, settings, log)


def least_kinds(weights: Mapping[str, float]) -> tuple[str, ...]:
    """The kinds that count least, but above 0: they say that a user saw an item."""
    least = min((weight for weight in weights.values() if weight > 0), default=0.0)
    return tuple(kind for kind, weight in weights.items() if weight == least)


def item_click_through(history: Interactions, target: tuple[str, ...], seen: tuple[str, ...]) -> list[Fitted]:
    """The item's targets over its views, with a prior, for everybody alike; none where the history has no views.

    Args:
        seen: kinds of events that say that a user saw an item.
    """
    shown = history.of(seen) & ~history.of(target)
    if not shown.any():
        return []
    clicks, views = (
        np.bincount(history.item[rows], minlength=len(history.items)) for rows in (history.of(target), shown)
    )
    rate = (clicks + PRIOR_CLICKS) / (views + PRIOR_SHOWN)
    return [Fitted(CLICK_THROUGH, lambda taken: np.tile(rate, (taken.users, 1)), 0.0)]


def first_ms(events: Events, domain: Domain) -> int:
    """The known-at time of the first of these events."""
    return int(integers(events[domain.stream.name]["known_at"]).min())


def held_out_users(training: TrainingRun) -> HeldOutUsers:
    """The users who took a target in the split's last part."""
    history, split, target = training.history, training.split, training.target
    earlier = history.between(0, split.middle)
    before = taken_of(earlier, training.settings.counted(target))
    later = taken_of(history.between(split.middle, split.end), dict.fromkeys(target, 1.0))
    users = np.unique(later.user)
    return HeldOutUsers(
        as_of_ms=split.middle,
        before=before,
        users=users,
        warm=np.isin(users, np.unique(earlier.user)),
        relevant=later.of(users).ones.toarray() > 0,
        had=before.of(users).had,
    )


def users_of(held_out: HeldOutUsers, chosen: NDArray[np.bool_], new: bool) -> EvaluatedUsers:
    """Some of the users; where ``new``, only what is new to them counts, and only those who took such a thing stay."""
    relevant = held_out.relevant & ~held_out.had if new else held_out.relevant
    chosen = chosen & relevant.any(axis=1)
    hidden = held_out.had[chosen] if new else None
    return EvaluatedUsers(held_out.before.of(held_out.users[chosen]), hidden, relevant[chosen])


def _rows(every: Sequence[Fitted], users: EvaluatedUsers, before: Taken, k: int) -> list[dict[str, Any]]:
    if not users.taken.users:
        return []
    took = csr_array(before.ones.T)
    results = [_evaluated(model, users, took, k) for model in every]
    return [{"n": users.taken.users, **row} for row in report_rows(results, f"ndcg_at_{k}", OTHERS)]


def _evaluated(model: Fitted, users: EvaluatedUsers, took: csr_array, k: int) -> ProtocolResult:
    top = listed(model.scorer, users, k)
    share = np.asarray(took.sum(axis=1), dtype=np.float64) / max(took.shape[1], 1)
    beyond = {
        f"diversity_at_{k}": metrics.diversity(top, took),
        f"novelty_at_{k}": metrics.novelty(top, share),
        f"popularity_bias_at_{k}": metrics.popularity_bias(top, share),
    }
    covered = {f"coverage_at_{k}": metrics.coverage([top[top >= 0]], users.taken.items)}
    return ProtocolResult(model.name, judged(top, users, METRICS) | beyond, covered, model.fit_s)


def two_stage(training: TrainingRun, held_out: HeldOutUsers) -> Fitted:
    """The model of `headrace train`: candidates, and a ranker that learnt from the part of time before the test."""
    started = perf_counter()
    learnt = learn(training)
    middle, history = training.split.middle, training.history
    tables = candidates_for_everybody(training, middle)
    fit_s = perf_counter() - started
    manifest = manifest_of(training.domain, training.settings, training.target, middle, 0)
    artefact = Artefact(manifest, tables, learnt.ranker)
    training.log(f"asking for {len(held_out.users):,} users")
    retrieved = retrieve_at(tables, asked_at(held_out.users, middle - 1), history, training.features)
    codes = pc.index_in(pa.array(tables.items, pa.string()), value_set=history.items).to_numpy()
    chances = [
        scores if (first := first_scores(tables, candidates)) is None else first
        for candidates, scores in zip(
            retrieved.candidates, chances_of(artefact, retrieved, training.features), strict=True
        )
    ]
    scores = _score_table(retrieved, chances, codes, len(history.items))

    def scorer(taken: Taken) -> NDArray[np.float64]:
        users = np.arange(taken.users) if taken.codes is None else taken.codes
        rows: NDArray[np.float64] = scores[np.searchsorted(held_out.users, users)].toarray()
        return rows

    return Fitted(TWO_STAGE, scorer, fit_s)


def _score_table(
    retrieved: RetrievedMoments, scores: Sequence[NDArray[np.float64]], codes: NDArray[np.integer], items: int
) -> csr_array:
    """(moments, items) the scores, at the items' codes."""
    lengths = [len(candidates) for candidates in retrieved.candidates]
    indices = (codes[candidates.indices] for candidates in retrieved.candidates)
    column = np.concatenate([np.empty(0, np.int64), *indices])
    row = np.repeat(np.arange(len(lengths)), lengths)
    return csr_array((np.concatenate([np.empty(0), *scores]), (row, column)), shape=(len(lengths), items))
