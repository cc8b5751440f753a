"""leave-one-out-99: each user's last item is ranked among 99 that the user has not taken (He et al., WWW 2017).

Published for NCF's MovieLens-1M files by Ferrari Dacrema et al. (TOIS 2021, table 55), HR@10 / NDCG@10: EASE .7192 /
.4494, ItemKNN .6694 / .3979, popular .4533 / .2542. Sampled ranks are weak evidence, for comparing with those tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.arrays import Int64s
from features.errors import FormatError
from features.formats import InputFile, read_lines
from training.data import Interactions
from training.progress import Log, silent
from training.protocols.lists import BASELINE, Fitted, fitted, report_json
from training.protocols.report import ProtocolResult, report_rows, values_of
from training.recommender import Als, CoVisited, Ease, Popular, RankingMethod, Taken, taken_of

PROTOCOL, K, NEGATIVES = "leave-one-out-99", 10, 99

BATCH = 1_000

LINE = re.compile(rb"\(([^,()]+),([^,()]+)\)\s*((?:\t[^\t]+)*)\s*")


@dataclass(frozen=True)
class LeftOut:
    """The part to learn from; and for each of m users an item that was left out, and others not taken."""

    train: Taken
    user: Int64s
    item: Int64s
    others: Int64s
    """(m, others) item codes, -1 beyond the end of a shorter list."""


def models() -> dict[str, RankingMethod]:
    """The compared models, by name."""
    return {
        "popular": Popular(),
        "co_visited": CoVisited(half_life_days=float("inf")),
        "ease": Ease(l2=1320.0),
        "als": Als(factors=64, regularization=10.0, alpha=3.0),
    }


def left_out(history: Interactions, seed: int) -> LeftOut:
    """The split made of any history: each user's newest interaction, and 99 items drawn of those not taken."""
    every = taken_of(history, dict.fromkeys(history.kinds, 1.0))
    last = len(every) - 1 - np.unique(every.user[::-1], return_index=True)[1]
    again = every.user * every.items + every.item
    learnt = ~np.isin(again, again[last])
    had, rng = every.had, np.random.default_rng(seed)
    others = np.full((len(last), NEGATIVES), -1, dtype=np.int64)
    for row, user in enumerate(every.user[last].tolist()):
        free = np.flatnonzero(~had[user])
        drawn = rng.choice(free, min(NEGATIVES, len(free)), replace=False)
        others[row, : len(drawn)] = drawn
    return LeftOut(every.only(learnt), every.user[last], every.item[last], others)


def from_files(train: Interactions, negatives: Path) -> LeftOut:
    """The split of NCF's files: the interactions of .train.rating, and the lines of .test.negative.

    A line is ``(user,item)`` and the other items, with tabs between. What nobody took, no model knows.
    """
    lines = _lines(negatives)
    names = sorted({item for _, *items in lines for item in items} - set(train.items.to_pylist()))
    items = {item: code for code, item in enumerate([*train.items.to_pylist(), *names])}
    users = {user: code for code, user in enumerate(train.users.to_pylist())}
    for user, *_ in lines:
        users.setdefault(user, len(users))
    taken = taken_of(train, dict.fromkeys(train.kinds, 1.0))
    taken = Taken(len(users), len(items), taken.user, taken.item, taken.weight, taken.time_ms)
    others = np.full((len(lines), max(len(line) for line in lines) - 2), -1, dtype=np.int64)
    for row, (_, _, *negative_items) in enumerate(lines):
        others[row, : len(negative_items)] = [items[item] for item in negative_items]
    who = np.array([users[line[0]] for line in lines], dtype=np.int64)
    return LeftOut(taken, who, np.array([items[line[1]] for line in lines], dtype=np.int64), others)


def _lines(path: Path) -> list[list[str]]:
    """(user, item, others…) of each line."""
    parsed: list[list[str]] = []
    for lines in read_lines(InputFile(path)):
        for line in filter(None, (line.strip() for line in lines)):
            match = LINE.fullmatch(line)
            if match is None:
                got = f"line {len(parsed) + 1}: {line[:60].decode(errors='replace')!r}"
                raise FormatError(f"file '{path}'", "lines of (user,item) and other items, with tabs between", got)
            user, item, others = (part.decode() for part in match.groups())
            parsed.append([user, item, *others.split()])
    if not parsed:
        raise FormatError(f"file '{path}'", "a line for each user", "none")
    return parsed


def run(data: LeftOut, recommenders: Mapping[str, RankingMethod], log: Log = silent) -> dict[str, Any]:
    """The report: a row a model."""
    as_of_ms = int(data.train.time_ms.max(initial=0)) + 1
    tested = [_evaluated(model, data) for model in fitted(recommenders, data.train, as_of_ms, log)]
    rows = report_rows(tested, f"ndcg_at_{K}", [BASELINE])
    return report_json(PROTOCOL, rows, train=len(data.train), users=len(data.user), items=data.train.items)


def _evaluated(model: Fitted, data: LeftOut) -> ProtocolResult:
    rank = np.concatenate([_ranks(model, data, slice(at, at + BATCH)) for at in range(0, len(data.user), BATCH)])
    hits = rank[:, None] == np.arange(K)
    return ProtocolResult(
        model.name, values_of(hits, np.ones(len(rank), np.int64), ("hit_rate", "ndcg", "mrr")), fit_s=model.fit_s
    )


def _ranks(model: Fitted, data: LeftOut, rows: slice) -> Int64s:
    """The number of others that rank before the item that was left out; of equal scores the lower code is first.

    The item itself among the others, which NCF's file has for 156 users, does not count.
    """
    users, order = np.unique(data.user[rows], return_inverse=True)
    scores = model.scorer(data.train.of(users))[order]
    others, item = data.others[rows], data.item[rows, None]
    mine = np.take_along_axis(scores, item, axis=1)
    theirs = np.take_along_axis(scores, np.maximum(others, 0), axis=1)
    before = (theirs > mine) | ((theirs == mine) & (others < item))
    ahead: Int64s = (before & (others >= 0)).sum(axis=1)
    return ahead
