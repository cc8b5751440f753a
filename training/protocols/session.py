"""session: the next click of a session from those before it; HR@20 and MRR@20, as session-rec has them.

Sessions that begin in the last part of time are the test; every click of theirs but the first is asked for, and ranked
among all items that anybody clicked before. Clicks on items that nobody had clicked before are left out, as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from features.arrays import Int64s
from features.errors import UsageError
from training.data import Interactions
from training.progress import Log, silent
from training.protocols.lists import BASELINE, EvaluatedUsers, fitted, listed, report_json
from training.protocols.report import ProtocolResult, report_rows, values_of
from training.recommender import CoVisited, Popular, RankingMethod, SessionNeighbours, Taken, metrics, taken_of

PROTOCOL, K = "session", 20

TEST_SHARE = 0.2

NEVER_FADES = float("inf")


def models() -> dict[str, RankingMethod]:
    """The compared models, by name."""
    return {
        "popular": Popular(),
        "co_visited": CoVisited(half_life_days=NEVER_FADES, shrink=2.0),
        "session_neighbours": SessionNeighbours(),
    }


def run(
    history: Interactions, recommenders: Mapping[str, RankingMethod], share: float = TEST_SHARE, log: Log = silent
) -> dict[str, Any]:
    """The report: a row a model, on the sessions that began last, this share of all."""
    every = taken_of(history, dict.fromkeys(history.kinds, 1.0))
    begins = np.full(every.users, np.iinfo(np.int64).max)
    np.minimum.at(begins, every.user, every.time_ms)
    start_ms = int(np.sort(begins)[int(every.users * (1 - share))])
    late = begins[every.user] >= start_ms
    train = every.only(~late & (every.time_ms < start_ms))
    known = np.bincount(train.item, minlength=every.items) > 0
    test = every.only(late & known[every.item])
    prefixes, wanted = questions(test)
    if not len(wanted) or not len(train):
        raise UsageError("protocol session", "sessions of two clicks and more, before and after", f"{every.users}")
    results = []
    for model in fitted(recommenders, train, start_ms, log):
        top = listed(model.scorer, EvaluatedUsers(prefixes, None, np.empty((0, 0), dtype=bool)), K)
        hits = top == wanted[:, None]
        values = values_of(hits, np.ones(len(wanted), np.int64), ("hit_rate", "mrr", "ndcg"))
        coverage = {f"coverage_at_{K}": _coverage(top, every.items)}
        results.append(ProtocolResult(model.name, values, coverage, model.fit_s))
    rows = report_rows(results, f"hit_rate_at_{K}", [BASELINE])
    return report_json(PROTOCOL, rows, start_ms=start_ms, train=len(train), clicks=len(wanted), items=every.items)


def _coverage(top: Int64s, items: int) -> float:
    return metrics.coverage([top[top >= 0]], items)


def questions(test: Taken) -> tuple[Taken, Int64s]:
    """For each click but a session's first: the clicks before it as a user of their own, and the item clicked."""
    order = np.lexsort((test.time_ms, test.user))
    user, item = test.user[order], test.item[order]
    counts = np.bincount(user, minlength=test.users)
    rank = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    later = np.flatnonzero(rank > 0)
    row = np.repeat(np.arange(len(later)), rank[later])
    back = np.arange(len(row)) - np.repeat(np.cumsum(rank[later]) - rank[later], rank[later])
    at = np.repeat(later - rank[later], rank[later]) + back
    times = test.time_ms[order][at]
    return Taken(len(later), test.items, row, item[at], test.weight[order][at], times), item[later]
