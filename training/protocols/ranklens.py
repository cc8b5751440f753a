"""RankLens (and any file of Metarank's events): rank the items that were shown; Metarank's split and metric.

Lists with clicks in the order of time, the first 80 % to learn from, the rest to test on; NDCG@10 of binary clicks.
A plain running click-through of each item stands beside: most of what there is to know is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from features.arrays import Bools, Floats
from features.definitions import FeatureRepo
from features.errors import UsageError
from features.events import integers
from features.formats import InputFile, Refused, read_events
from training.progress import Log, silent
from training.protocols.impressions import POSITION, ImpressionLists, Metadata, inputs, rank_in_list
from training.protocols.report import ProtocolResult, report_rows, values_of

PROTOCOL, BASELINE, CLICK_THROUGH = "ranklens", "popular", "item_click_through"

TRAIN_SHARE = 0.8

K = 10

FIRST = 1.0
"""The position that every item is scored at: the same for all, so that it has no effect."""

SETTINGS = {
    "max_iter": 200,
    "learning_rate": 0.03,
    "max_leaf_nodes": 16,
    "min_samples_leaf": 50,
    "l2_regularization": 1.0,
}
"""Chosen on the last fifth of the training part."""

PROSE = ("title", "description")
"""Fields that are sentences, not words of a vocabulary."""


@dataclass(frozen=True)
class Impressions:
    """A file's lists, and its metadata of the items."""

    shown: ImpressionLists
    about: Metadata
    train_lists: int | None = None
    """The number of lists, the first, to learn from; None for a share of those with clicks."""


def read(paths: Sequence[Path], repo: FeatureRepo, log: Log = silent) -> Impressions:
    """The lists of files in Metarank's format, of which a second has those to test on; bad lines are logged.

    Raises UsageError where one has none, none was clicked, or those to test on did not come after the others.
    """
    tables = [_activity(path, repo, log) for path in paths]
    events = pa.concat_tables(tables)
    items = pc.unique(events["item_id"]).sort()
    shown = shown_of(events, items)
    if not shown.clicked.any():
        where = f"file '{paths[-1]}'"
        raise UsageError(where, "rankings of which items were clicked", f"{shown.lists} of no click")
    if len(paths) == 1:
        return Impressions(shown, metadata(paths, items))
    earlier, later = (table.filter(pc.equal(table["event_type"], "impression")) for table in tables)
    last = int(integers(earlier["event_time"]).max(initial=0))
    first = int(integers(later["event_time"]).min(initial=np.iinfo(np.int64).max))
    if not last <= first:
        required = f"rankings of {last} ms or later, as '{paths[0]}' ends there"
        raise UsageError(f"file '{paths[1]}'", required, f"{first} ms at first")
    # Of the same millisecond, lists of the first file stand before those of the second.
    return Impressions(shown, metadata(paths, items), len(pc.unique(earlier["recommendation_id"])))


def _activity(path: Path, repo: FeatureRepo, log: Log) -> pa.Table:
    records = Refused().watched(read_events(path, "ranklens", repo.streams, keys=repo.keys_of), log)
    tables = [parsed.events for name, parsed in records if name == "activity"]
    if not tables:
        raise UsageError(f"file '{path}'", "rankings and clicks", "none")
    return pa.concat_tables(tables)


def shown_of(events: pa.Table, items: pa.Array) -> ImpressionLists:
    """The impressions and clicks of our activity events; lists are recommendation ids."""
    who = pc.coalesce(events["user_id"], events["session_id"], events["recommendation_id"])
    users = pc.unique(who)
    table = pa.table(
        {
            "list": _codes(events["recommendation_id"], pc.unique(events["recommendation_id"])),
            "user": _codes(who, users),
            "item": _codes(events["item_id"], items),
            "position": pc.fill_null(events["position"], 0),
            "ms": events["event_time"].cast(pa.int64()),
            "kind": events["event_type"],
        }
    )
    seen = table.filter(pc.equal(table["kind"], "impression"))
    clicks = table.filter(pc.equal(table["kind"], "click"))
    seen_list, seen_item, seen_ms, seen_user, position = (
        _numbers(seen, name) for name in ("list", "item", "ms", "user", "position")
    )
    click_list, click_item, click_ms, click_user = (_numbers(clicks, name) for name in ("list", "item", "ms", "user"))
    order = np.lexsort((position, seen_list, seen_ms))
    lists, first, number = np.unique(seen_list[order], return_index=True, return_inverse=True)
    by_time = np.argsort(first, kind="stable")
    position_of_list = np.empty(len(lists), dtype=np.int64)
    position_of_list[by_time] = np.arange(len(lists))
    pair = seen_list * len(items) + seen_item
    clicked = np.isin(pair, click_list * len(items) + click_item)
    return ImpressionLists(
        items=len(items),
        list_of=position_of_list[number],
        item=seen_item[order],
        position=position[order],
        clicked=clicked[order],
        list_ms=seen_ms[order][first[by_time]],
        list_user=seen_user[order][first[by_time]],
        click_item=click_item,
        click_ms=click_ms,
        click_user=click_user,
    )


def _codes(texts: pa.ChunkedArray, pool: pa.Array) -> pa.Array:
    return pc.fill_null(pc.index_in(texts, value_set=pool), -1).cast(pa.int64())


def _numbers(table: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(table[name].to_numpy(), dtype=np.int64)


def metadata(paths: Sequence[Path], items: pa.Array) -> Metadata:
    """The metadata of the files' item events: fields of numbers, and of texts or lists of them as sets of words."""
    from features.formats import item_fields

    known = {item: about for path in paths for item, about in item_fields(InputFile(path))}
    fields = [known.get(item, {}) for item in items.to_pylist()]
    names = sorted({name for item in fields for name in item if name not in PROSE})
    numeric = [name for name in names if all(isinstance(item.get(name, 0.0), int | float) for item in fields)]
    numbers = {name: np.array([float(item.get(name, np.nan)) for item in fields]) for name in numeric}
    return Metadata(numbers, {name: _words(fields, name) for name in names if name not in numeric})


def _words(fields: list[Mapping[str, Any]], name: str) -> csr_array:
    values = [item.get(name, ()) for item in fields]
    sets = [{value} if isinstance(value, str) else {str(word) for word in value} for value in values]
    vocabulary = {word: index for index, word in enumerate(sorted(set().union(*sets)))}
    rows = np.repeat(np.arange(len(sets)), [len(words) for words in sets])
    columns = [vocabulary[word] for words in sets for word in sorted(words)]
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(sets), len(vocabulary)))


def run(data: Impressions, seed: int = 0, log: Log = silent) -> dict[str, Any]:
    """The report: the metrics of each way to rank the lists of the last fifth, or of the file to test on."""
    log(f"what was known before each of {data.shown.lists:,} lists")
    started = perf_counter()
    columns = inputs(data.shown, data.about)
    took_s = perf_counter() - started
    clicked = np.bincount(data.shown.list_of, data.shown.clicked, data.shown.lists) > 0
    chosen = np.flatnonzero(clicked)
    middle = int(len(chosen) * TRAIN_SHARE)
    if data.train_lists is not None:
        middle = int(np.searchsorted(chosen, data.train_lists))
    if not 0 < middle < len(chosen):
        got = f"{middle} and {len(chosen) - middle}"
        raise UsageError("protocol ranklens", "lists with clicks to learn from, and others to test on", got)
    train, test = (np.isin(data.shown.list_of, part) for part in (chosen[:middle], chosen[middle:]))
    log(f"a ranker from {int(train.sum()):,} shown items")
    started = perf_counter()
    scores = ranker_scores(columns, data.shown.clicked, train, test, seed)
    fit_s = perf_counter() - started + took_s
    about = data.shown
    baselines = {
        "random": np.random.default_rng(seed).random(int(test.sum())),
        "as_shown": -about.position[test].astype(np.float64),
        BASELINE: columns["clicks"][test],
        CLICK_THROUGH: columns["click_through"][test],
    }
    tested = [ProtocolResult(name, list_values(about, test, values)) for name, values in baselines.items()]
    tested.append(ProtocolResult("ranker", list_values(about, test, scores), fit_s=fit_s))
    lists = {"train_lists": middle, "test_lists": len(chosen) - middle, "inputs": len(columns)}
    rows = report_rows(tested, f"ndcg_at_{K}", [BASELINE, CLICK_THROUGH])
    return {"protocol": PROTOCOL, "baseline": BASELINE, **lists, "rows": rows}


def ranker_scores(columns: Mapping[str, Floats], clicked: Bools, train: Bools, test: Bools, seed: int) -> Floats:
    """The chance of a click on each test row, had it stood first.

    The position is an input when the ranker learns, so that it need not explain by the item what was due to the place.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    ranker = HistGradientBoostingClassifier(**SETTINGS, early_stopping=False, random_state=seed)
    at_first = {**columns, POSITION: np.full(len(clicked), FIRST)}
    with threadpool_limits(1):
        ranker.fit(_matrix(columns, train), clicked[train])
        return np.asarray(ranker.predict_proba(_matrix(at_first, test))[:, 1], dtype=np.float64)


def _matrix(columns: Mapping[str, Floats], rows: NDArray[np.bool_]) -> Floats:
    return np.column_stack([values[rows] for values in columns.values()])


def list_values(shown: ImpressionLists, rows: NDArray[np.bool_], scores: Floats) -> dict[str, Floats]:
    """Metrics of each list of these rows, the best scores first; equal scores in the order in which they were shown."""
    number = np.unique(shown.list_of[rows], return_inverse=True)[1].astype(np.int64)
    rank, clicked = rank_in_list(scores, number), shown.clicked[rows]
    hits = np.zeros((int(number.max(initial=-1)) + 1, K), dtype=bool)
    listed = (rank < K) & clicked
    hits[number[listed], rank[listed].astype(np.int64)] = True
    relevant = np.bincount(number, clicked, len(hits)).astype(np.int64)
    return values_of(hits, relevant, ("ndcg", "map", "mrr"))
