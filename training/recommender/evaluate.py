"""The evaluation of a model on what came after it, beside recommendations that need no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from features.arrays import Floats, Int64s
from models.recommender import PAIR_FEATURES, Artefact, Candidates, CandidateTables, ranker_inputs, ranking_order
from training.data import Interactions
from training.recommender import metrics
from training.recommender.ranker import RetrievedMoments, item_indices, with_item_features
from training.run import Features, TrainingRun

Lists = list[Int64s]

METRICS = {
    "ndcg": metrics.ndcg_at_k,
    "recall": metrics.recall_at_k,
    "precision": metrics.precision_at_k,
    "hit_rate": metrics.hit_rate_at_k,
    "mrr": metrics.mrr_at_k,
}


@dataclass(frozen=True)
class ModelResult:
    """One model's line of a report: its metrics by name, and how long its lists took."""

    model: str
    metrics: Mapping[str, float]
    took_s: float
    ndcg: Floats = field(default_factory=lambda: np.empty(0), compare=False)
    """NDCG of each list, NaN for one without relevant items: two models are compared by it, list by list."""
    by_k: tuple[float, ...] = ()
    """Mean NDCG of the first, the first two, … the first k."""
    positives: int = 0
    """The items that were taken, over all lists."""

    @property
    def users(self) -> int:
        """The lists with relevant items, each of another user."""
        return int((~np.isnan(self.ndcg)).sum())


def compared(
    artefact: Artefact,
    retrieved: RetrievedMoments,
    run: TrainingRun,
    only: str | None = None,
    scores: list[Floats] | None = None,
) -> list[ModelResult]:
    """A row for each way to recommend (or ``only`` one), on the same moments: the artefact as 'model' last.

    Args:
        scores: what chances_of gives for artefact and moments, where it is known already.
    """
    tables, features, k = artefact.tables, run.features, run.settings.k
    relevant = relevant_of(tables, retrieved, run.history)
    blended = Artefact(artefact.manifest, tables)
    ways: dict[str, Callable[[], Lists]] = {
        "popular": lambda: [tables.most_popular[:k]] * len(retrieved.moments),
        "own_frequent": lambda: [own_frequent(tables, candidates, k) for candidates in retrieved.candidates],
        "ease": lambda: [_by_column(tables, candidates, "similar_score", k) for candidates in retrieved.candidates],
        "blend": lambda: _ranked(tables, retrieved, chances_of(blended, retrieved, None), k),
        "model": lambda: _ranked(tables, retrieved, scores or chances_of(artefact, retrieved, features), k),
    }
    return [_row(name, way, relevant, tables, k) for name, way in ways.items() if only in (None, name)]


def _row(model: str, way: Callable[[], Lists], relevant: Lists, tables: CandidateTables, k: int) -> ModelResult:
    started = perf_counter()
    lists = way()
    took_s = perf_counter() - started
    found, counts = found_in(lists, relevant, k)
    by_k = tuple(metrics.mean(metrics.ndcg_at_k(found[:, :first], counts)) for first in range(1, k + 1))
    ndcg, positives = metrics.ndcg_at_k(found, counts), int(counts.sum())
    values = judged(lists, relevant, len(tables.items), k) | of_new_items(lists, relevant, tables.fitted, k)
    return ModelResult(model, values, took_s, ndcg, by_k, positives)


def judged(lists: Lists, relevant: Lists, catalogue: int, k: int) -> dict[str, float]:
    """Every metric's mean over the lists.

    Args:
        lists: for each moment the indices of items, best first.
        relevant: for each moment the indices of what was taken; an item that the model does not know is -1, and counts
            as one that was not found.
    """
    found, counts = found_in(lists, relevant, k)
    values = {f"{name}_at_{k}": metrics.mean(function(found, counts)) for name, function in METRICS.items()}
    return values | {f"coverage_at_{k}": metrics.coverage((ranked[:k] for ranked in lists), catalogue)}


def of_new_items(lists: Lists, relevant: Lists, fitted: int, k: int) -> dict[str, float]:
    """NDCG where only items that came after the fit are right; nothing where none of them was taken.

    Args:
        fitted: the number of items of the fit, which are the first.
    """
    wanted = [items[items >= fitted] for items in relevant]
    if not any(len(items) for items in wanted):
        return {}
    return {f"new_items_ndcg_at_{k}": metrics.mean(metrics.ndcg_at_k(*found_in(lists, wanted, k)))}


def found_in(lists: Lists, relevant: Lists, k: int) -> tuple[NDArray[np.bool_], Int64s]:
    """(m, k) whether the item at each rank was taken, and (m,) how many were taken."""
    hits = [metrics.hits_of(ranked, wanted[wanted >= 0], k) for ranked, wanted in zip(lists, relevant, strict=True)]
    counts = np.array([len(wanted) for wanted in relevant], dtype=np.int64)
    return np.array(hits, dtype=bool).reshape(len(hits), k), counts


def own_frequent(tables: CandidateTables, candidates: Candidates, k: int) -> Int64s:
    """The user's most frequent items, the newest of equals first, then the most popular ones."""
    counts, age = (candidates.pairs[:, PAIR_FEATURES.index(name)] for name in ("own_count", "own_age_ms"))
    order = np.lexsort((age, -counts))
    own = candidates.indices[order[counts[order] > 0]]
    others = tables.most_popular[: k + len(own)]
    return np.concatenate([own, others[~np.isin(others, own)]])[:k]


def _by_column(tables: CandidateTables, candidates: Candidates, name: str, k: int) -> Int64s:
    return _best(tables, candidates, candidates.pairs[:, PAIR_FEATURES.index(name)], k)


def _best(tables: CandidateTables, candidates: Candidates, scores: Floats, k: int) -> Int64s:
    return candidates.indices[ranking_order(tables, candidates, scores)[:k]]


def _ranked(tables: CandidateTables, retrieved: RetrievedMoments, scores: list[Floats], k: int) -> Lists:
    """For each moment the indices of the candidates with the best scores."""
    pairs = zip(retrieved.candidates, scores, strict=True)
    return [_best(tables, candidates, part, k) for candidates, part in pairs]


def relevant_of(tables: CandidateTables, retrieved: RetrievedMoments, history: Interactions) -> Lists:
    """For each moment the indices of what was taken then, -1 for an item that the tables do not know."""
    index = item_indices(tables, history)
    return [index[retrieved.moments.taken(moment)] for moment in range(len(retrieved.moments))]


def chances_of(artefact: Artefact, retrieved: RetrievedMoments, features: Features | None) -> list[Floats]:
    """For each moment the artefact's scores of its candidates (c,), with features as of then."""
    if features is None or artefact.ranker is None:
        return [artefact.score(candidates, None, None) for candidates in retrieved.candidates]
    return chances_by(artefact, inputs_of(artefact.tables, retrieved, features))


def inputs_of(tables: CandidateTables, retrieved: RetrievedMoments, features: Features) -> list[Floats]:
    """For each moment the ranker's inputs of its candidates (c, inputs), with features as of then."""
    rows = with_item_features(retrieved, tables, features).item_rows or []
    moments = zip(retrieved.candidates, retrieved.user_rows, rows, strict=True)
    return [ranker_inputs(candidates, user, item) for candidates, user, item in moments]


def chances_by(artefact: Artefact, inputs: list[Floats]) -> list[Floats]:
    """For each moment the artefact's scores by these inputs."""
    # All at once: a call has a price of its own, which is high where other programs use the same cores.
    if not inputs:
        return []
    scores = artefact.chances(np.concatenate(inputs))
    return np.split(scores, np.cumsum([len(rows) for rows in inputs])[:-1])
