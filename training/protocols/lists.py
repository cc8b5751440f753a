"""The shared part of protocols about lists: interactions of a file, models by name, and metrics of their lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from features.formats import Refused, read_events
from training.data import Interactions, interactions_by, kinds_of
from training.progress import Log, silent
from training.protocols.report import ProtocolResult, values_of
from training.recommender import RankingMethod, Scorer, Taken, metrics

BASELINE = "popular"

METRICS = ("ndcg", "recall", "precision", "map", "hit_rate", "mrr")

BATCH_CELLS = 20_000_000
"""Scores that are in memory at once."""


def read_interactions(
    path: Path, kind: str, repo: FeatureRepo, *, by_session: bool = False, log: Log = silent
) -> Interactions:
    """The file's events of the default recommender's stream that have an item, a kind and a user.

    Rows that are no events are logged. Raises UsageError where there is none.

    Args:
        by_session: a session stands for a user; where an event has none, its user does.
    """
    recommender = repo.chosen_recommenders().named(None, "headrace evaluate")
    stream, session = recommender.stream, recommender.session if by_session else None
    keys = [*([] if session is None else [session]), *recommender.user.keys]
    records = Refused().watched(read_events(path, kind, repo.streams, keys=repo.keys_of), log)
    parts = [parsed.events for name, parsed in records if name == stream.name]
    if not sum(part.num_rows for part in parts):
        raise UsageError(f"file '{path}'", f"events of stream '{stream.name}'", "none")
    events = pa.concat_tables(parts)
    columns = EventColumns(events, stream)
    who = columns.entity_keys(recommender.user)
    if session is not None:
        who = pc.coalesce(events[session].combine_chunks(), who)
    items, kinds = columns.entity_keys(recommender.item), kinds_of(events, recommender)
    found, _ = interactions_by(columns, who, items, kinds)
    if not len(found):
        raise UsageError(f"file '{path}'", f"events with an item and {' or '.join(keys)}", "none")
    return found


def configured(models: Mapping[str, RankingMethod], changed: Sequence[str]) -> dict[str, RankingMethod]:
    """The models with these model.setting=value; UsageError names the one that cannot be."""
    every = dict(models)
    for text in changed:
        name, value = text.partition("=")[::2]
        model, _, setting = name.partition(".")
        known = {field.name for field in fields(every[model])} if model in every else set()  # type: ignore[arg-type]
        if setting not in known:
            choices = [f"{key}.{f.name}" for key, config in every.items() for f in fields(config)]  # type: ignore[arg-type]
            raise UsageError("--set", f"one of {', '.join(choices)} = a number", repr(text))
        every[model] = replace(every[model], **{setting: _number(text, value, getattr(every[model], setting))})  # type: ignore[type-var]
    return every


def _number(text: str, value: str, now: object) -> float:
    try:
        return int(value) if isinstance(now, int) else float(value)
    except ValueError as error:
        raise UsageError("--set", "a number after =", repr(text)) from error


@dataclass(frozen=True)
class EvaluatedUsers:
    """m users to recommend to: what they took before, what may not be listed, and what is relevant."""

    taken: Taken
    hidden: Bools | None
    """(m, items) the items that are left out of lists; None for none."""
    relevant: Bools
    """(m, items)."""


def listed(scorer: Scorer, users: EvaluatedUsers, k: int) -> Int64s:
    """(m, k) the items with the best scores, -1 where there are no more."""
    size = max(1, BATCH_CELLS // max(users.taken.items, 1))
    tops = [np.empty((0, k), dtype=np.int64)]
    for start in range(0, users.taken.users, size):
        chunk = np.arange(start, min(start + size, users.taken.users))
        scores = scorer(users.taken.of(chunk))
        if users.hidden is not None:
            scores = np.where(users.hidden[chunk], -np.inf, scores)
        tops.append(metrics.top_k(scores, k))
    return np.concatenate(tops)


def judged(top: Int64s, users: EvaluatedUsers, names: Sequence[str] = METRICS) -> dict[str, Floats]:
    """The metrics of each list."""
    hits = metrics.hits_at_k(top, users.relevant)
    return values_of(hits, users.relevant.sum(axis=1).astype(np.int64), names)


@dataclass(frozen=True)
class Fitted:
    """A fitted model: its name, its scorer, and the seconds of its fit."""

    name: str
    scorer: Scorer
    fit_s: float


def fitted(models: Mapping[str, RankingMethod], taken: Taken, as_of_ms: int, log: Log) -> list[Fitted]:
    """Each of the models, fitted to the same interactions."""
    scorers = []
    for name, model in models.items():
        log(f"fitting {name} to {len(taken):,} interactions of {taken.users:,} users with {taken.items:,} items")
        started = perf_counter()
        scorer = model.fit(taken, as_of_ms)
        scorers.append(Fitted(name, scorer, perf_counter() - started))
    return scorers


def evaluated(models: Sequence[Fitted], users: EvaluatedUsers, k: int) -> list[ProtocolResult]:
    """The metrics of each model's lists."""
    rows = []
    for model in models:
        top = listed(model.scorer, users, k)
        catalogue = metrics.coverage([top[top >= 0]], users.taken.items)
        rows.append(ProtocolResult(model.name, judged(top, users), {f"coverage_at_{k}": catalogue}, model.fit_s))
    return rows


def report_json(protocol: str, rows: list[dict[str, Any]], **about: object) -> dict[str, Any]:
    """The report as JSON has it."""
    return {"protocol": protocol, "baseline": BASELINE, **about, "rows": rows}
