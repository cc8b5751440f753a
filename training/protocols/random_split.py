"""random-75-25: of each user's items a random quarter is hidden; every item that the user has not taken is ranked.

As Microsoft's recommenders test on MovieLens-100K (examples/06_benchmarks/movielens.ipynb: BiVAE .475, SAR .382, and
.044 of an ALS that predicts ratings, in NDCG@10).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data import Interactions
from training.progress import Log, silent
from training.protocols.lists import BASELINE, EvaluatedUsers, evaluated, fitted, report_json
from training.protocols.report import report_rows
from training.recommender import Als, CoVisited, Ease, Popular, RankingMethod, taken_of

PROTOCOL = "random-75-25"
TRAIN_SHARE, K = 0.75, 10
NEVER_FADES = float("inf")


def models() -> dict[str, RankingMethod]:
    """The compared models, by name; their settings are those for ten million cells or fewer."""
    return {
        "popular": Popular(),
        "co_visited": CoVisited(half_life_days=NEVER_FADES),
        "ease": Ease(l2=500.0),
        "als": Als(factors=32, regularization=10.0, alpha=3.0),
    }


def run(
    history: Interactions, recommenders: Mapping[str, RankingMethod], seed: int = 42, log: Log = silent
) -> dict[str, Any]:
    """The report: a row a model, with the interval of its NDCG and of how far it is above popularity."""
    every = taken_of(history, dict.fromkeys(history.kinds, 1.0))
    first = np.unique(every.user * every.items + every.item, return_index=True)[1]
    every = every.only(np.isin(np.arange(len(every)), first))
    learnt = stratified(every.user, TRAIN_SHARE, seed)
    train, rest = every.only(learnt), every.only(~learnt)
    users = EvaluatedUsers(train, train.had, rest.ones.toarray() > 0)
    as_of_ms = int(every.time_ms.max(initial=0)) + 1
    rows = report_rows(evaluated(fitted(recommenders, train, as_of_ms, log), users, K), f"ndcg_at_{K}", [BASELINE])
    return report_json(
        PROTOCOL, rows, seed=seed, train=len(train), test=len(rest), users=every.users, items=every.items
    )


def stratified(user: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """(n,) whether each row is drawn: of each user this share, to the nearest row."""
    order = np.lexsort((np.random.default_rng(seed).random(len(user)), user))
    counts = np.bincount(user)
    rank = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    drawn = np.zeros(len(user), dtype=bool)
    drawn[order] = rank < np.round(counts * share)[user[order]]
    return drawn
