"""What protocols about lists share: reading who took what, models by name, and how their lists are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Bools, Floats, Int64s
from features.definitions import FeatureRepo
from features.errors import UsageError
from features.events import EventColumns
from features.formats import read_events
from training.data import Interactions, coded
from training.protocols.report import ProtocolResult, values_of
from training.recommender import Recommender, Scorer, Taken, metrics

Say = Callable[[str], None]

BASELINE = "popular"

METRICS = ("ndcg", "recall", "precision", "map", "hit_rate", "mrr")

BATCH_CELLS = 20_000_000
"""Scores that are held at once."""


def read_interactions(path: Path, kind: str, repo: FeatureRepo, keys: Sequence[str] = ("user_id",)) -> Interactions:
    """The file's events of the activity stream that have an item, a type and one of the keys: the first that is there.

    Raises UsageError where there is none.
    """
    parts = [parsed.events for name, parsed in read_events(path, kind, repo.streams) if name == "activity"]
    if not sum(part.num_rows for part in parts):
        raise UsageError(f"file '{path}'", "events of stream 'activity'", "none")
    events = pa.concat_tables(parts)
    columns = EventColumns(events, repo.streams["activity"])
    who = pc.coalesce(*(events[key] for key in keys)).combine_chunks()
    texts = [who, events["item_id"].combine_chunks(), events["event_type"].combine_chunks()]
    order = np.flatnonzero(np.logical_and.reduce([np.asarray(one.is_valid()) for one in texts]))
    order = order[np.lexsort((columns.seq[order], columns.known_at[order]))]
    if not len(order):
        raise UsageError(f"file '{path}'", f"events with an item and {' or '.join(keys)}", "none")
    (user, users), (item, items), (code, kinds) = (coded(one.take(pa.array(order))) for one in texts)
    return Interactions(users, items, tuple(kinds.to_pylist()), user, item, code, columns.known_at[order])


def configured(models: Mapping[str, Recommender], changed: Sequence[str]) -> dict[str, Recommender]:
    """The models with these model.setting=value; UsageError names the one that cannot be."""
    every = dict(models)
    for text in changed:
        name, value = text.partition("=")[::2]
        model, _, setting = name.partition(".")
        known = {one.name for one in fields(every[model])} if model in every else set()  # type: ignore[arg-type]
        if setting not in known:
            several = [f"{one}.{f.name}" for one, config in every.items() for f in fields(config)]  # type: ignore[arg-type]
            raise UsageError("--set", f"one of {', '.join(several)} = a number", repr(text))
        every[model] = replace(every[model], **{setting: _number(text, value, getattr(every[model], setting))})  # type: ignore[type-var]
    return every


def _number(text: str, value: str, now: object) -> float:
    try:
        return int(value) if isinstance(now, int) else float(value)
    except ValueError as error:
        raise UsageError("--set", "a number after =", repr(text)) from error


@dataclass(frozen=True)
class EvaluatedUsers:
    """m users to recommend to: what they took until then, what may not be listed, and what was right."""

    taken: Taken
    hidden: Bools | None
    """(m, items) what is left out of lists; None for nothing."""
    relevant: Bools
    """(m, items)."""


def listed(scorer: Scorer, asked: EvaluatedUsers, k: int) -> Int64s:
    """(m, k) the items with the best scores, -1 where there are no more."""
    size = max(1, BATCH_CELLS // max(asked.taken.items, 1))
    tops = [np.empty((0, k), dtype=np.int64)]
    for start in range(0, asked.taken.users, size):
        users = np.arange(start, min(start + size, asked.taken.users))
        scores = scorer(asked.taken.of(users))
        if asked.hidden is not None:
            scores = np.where(asked.hidden[users], -np.inf, scores)
        tops.append(metrics.top_k(scores, k))
    return np.concatenate(tops)


def judged(top: Int64s, asked: EvaluatedUsers, names: Sequence[str] = METRICS) -> dict[str, Floats]:
    """The metrics of each list."""
    hits = metrics.hits_at_k(top, asked.relevant)
    return values_of(hits, asked.relevant.sum(axis=1).astype(np.int64), names)


@dataclass(frozen=True)
class Fitted:
    """A model by name, what it answers with, and how long its fit took."""

    name: str
    scorer: Scorer
    fit_s: float


def fitted(models: Mapping[str, Recommender], taken: Taken, as_of_ms: int, say: Say) -> list[Fitted]:
    """Each model fitted to the same."""
    several = []
    for name, model in models.items():
        say(f"fitting {name} to {len(taken):,} interactions of {taken.users:,} users with {taken.items:,} items")
        started = perf_counter()
        scorer = model.fit(taken, as_of_ms)
        several.append(Fitted(name, scorer, perf_counter() - started))
    return several


def tested(several: Sequence[Fitted], asked: EvaluatedUsers, k: int) -> list[ProtocolResult]:
    """What each model's lists are worth."""
    rows = []
    for one in several:
        top = listed(one.scorer, asked, k)
        catalogue = metrics.coverage([top[top >= 0]], asked.taken.items)
        rows.append(ProtocolResult(one.name, judged(top, asked), {f"coverage_at_{k}": catalogue}, one.fit_s))
    return rows


def report_json(protocol: str, rows: list[dict[str, Any]], **about: object) -> dict[str, Any]:
    """The report as JSON has it."""
    return {"protocol": protocol, "baseline": BASELINE, **about, "rows": rows}
