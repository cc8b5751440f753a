"""new-items: items that nobody had taken before the last part of time, recommended by their attributes alone.

Everybody known is asked for at the moment at which the last part begins, as if the catalogue had its later items by
then; only what users then took of those is right. In the lists ``all`` new items compete with every other item; in the
lists ``new`` they are among themselves, as where a filter allows new items only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Bools, Floats, Int64s
from features.errors import UsageError
from models.recommender import PAIR_FEATURES, Artefact
from training.data import asked_at, newest_attributes
from training.item_content import PastTables, with_later_items
from training.protocols.report import ProtocolResult, report_rows, values_of
from training.recommender import candidates_before, chances_of, item_indices, learn, manifest_of, metrics, retrieve_at
from training.run import TrainingRun

PROTOCOL, TWO_STAGE, CATEGORY, CONTENT = "new-items", "two_stage", "category_popular", "content"

METRICS = ("ndcg", "recall", "hit_rate", "mrr")

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class NewItems:
    """The tables with the items of the last part, which of them are new, and what known users took of those.

    Args:
        new: (n,) the items of which nothing was known before the last part.
        relevant: (m, n) what each of the users took.
    """

    tables: PastTables
    new: Bools
    users: Int64s
    relevant: Bools


def run(training: TrainingRun) -> dict[str, Any]:
    """The report: a row a model and kind of list. Raises UsageError where no known user took a new item."""
    held_out = new_items(training)
    started = perf_counter()
    learnt = learn(training)
    manifest = manifest_of(training.domain, training.settings, training.target, training.split.middle, 0)
    artefact = Artefact(manifest, held_out.tables, learnt.ranker)
    fit_s = perf_counter() - started
    popular, named_by = category_popularity(training, held_out)
    rows: list[dict[str, Any]] = []
    for lists in ("all", "new"):
        training.log(f"asking for {len(held_out.users):,} users: {lists} items")
        scores = {CATEGORY: np.tile(popular, (len(held_out.users), 1)), **_scores(training, artefact, held_out, lists)}
        if lists == "new":
            scores = {name: np.where(held_out.new, values, -np.inf) for name, values in scores.items()}
        results = [_result(name, values, held_out, training.settings.k, fit_s) for name, values in scores.items()]
        rows += [{"lists": lists, **row} for row in report_rows(results, f"ndcg_at_{training.settings.k}", [CATEGORY])]
    counts = {"users": len(held_out.users), "new_items": int(held_out.new.sum()), "items": len(held_out.new)}
    times = {"as_of_ms": training.split.middle, "end_ms": training.split.end, "target": list(training.target)}
    about = {"tested": TWO_STAGE, "category": named_by, **times, **counts}
    return {"protocol": PROTOCOL, "baseline": CATEGORY, **about, "rows": rows}


def new_items(training: TrainingRun) -> NewItems:
    """The last part's new items of the catalogue, for the users who had been seen before it."""
    split, history = training.split, training.history
    tables = with_later_items(training, candidates_before(training, split.middle), split.middle, split.end)
    later = history.between(split.middle, split.end)
    later = later.only(later.of(training.target))
    index = item_indices(tables, history)[later.item]
    known = np.isin(later.user, np.unique(history.between(0, split.middle).user))
    new = np.zeros(len(tables.items), dtype=bool)
    if isinstance(tables, PastTables) and tables.known_since is not None:
        new = tables.known_since >= split.middle
    chosen = known & (index >= 0) & new[index]
    if not isinstance(tables, PastTables) or not chosen.any():
        required = "a catalogue with items that known users took and that came in the last part, and ALS"
        raise UsageError("protocol new-items", required, "none")
    users, user = np.unique(later.user[chosen], return_inverse=True)
    relevant = np.zeros((len(users), len(tables.items)), dtype=bool)
    relevant[user, index[chosen]] = True
    return NewItems(tables, new, users, relevant)


def category_popularity(training: TrainingRun, held_out: NewItems) -> tuple[Floats, str]:
    """(n,) how often the items of each item's category were taken before; and what a category is here.

    It is the category of the catalogue, or the last word of the title where it has none.
    """
    recommender, tables = training.domain.recommender, held_out.tables
    views = [view for view in (training.domain.catalogue,) if view is not None]
    items = pa.array(tables.items, pa.string())
    columns = newest_attributes(training.features.events, views, items, training.split.end)
    named_by = f"attribute '{recommender.category}'"
    category = columns.get(recommender.category or "")
    if category is None or category.null_count == len(category):
        named_by = f"last word of attribute '{recommender.title}'"
        titles = columns.get(recommender.title or "", pa.nulls(len(items), pa.string()))
        category = pc.struct_field(pc.extract_regex(pc.utf8_lower(titles), r"(?P<word>\S+)\s*$"), "word")
    encoded = category.dictionary_encode()
    code = np.asarray(pc.fill_null(encoded.indices, -1), dtype=np.int64)
    before = training.history.between(0, training.split.middle)
    taken = item_indices(tables, training.history)[before.item[before.of(training.target)]]
    counts = np.bincount(taken[taken >= 0], minlength=len(items)).astype(np.float64)
    sums = np.bincount(code[code >= 0], counts[code >= 0], minlength=len(encoded.dictionary) + 1)
    return np.where(code >= 0, sums[np.maximum(code, 0)], 0.0), named_by


def _scores(training: TrainingRun, artefact: Artefact, held_out: NewItems, lists: str) -> dict[str, Floats]:
    """(m, n) the scores of the content source, and of the two-stage model, of what retrieval names."""
    tables = held_out.tables
    if lists == "new":
        tables = replace(tables, known_since=np.where(held_out.new, 0, NEVER), announced_ms=None)
    moments = asked_at(held_out.users, training.split.middle - 1)
    retrieved = retrieve_at(tables, moments, training.history, training.features)
    content = [each.pairs[:, PAIR_FEATURES.index("factor_score")] for each in retrieved.candidates]
    two_stage = chances_of(artefact, retrieved, training.features)
    return {
        name: _table(retrieved.candidates, scores, len(tables.items))
        for name, scores in ((CONTENT, content), (TWO_STAGE, two_stage))
    }


def _table(candidates: Sequence[Any], scores: Sequence[Floats], items: int) -> Floats:
    """(m, items) the scores of the candidates, -inf for other items."""
    table = np.full((len(candidates), items), -np.inf)
    for row, (each, values) in enumerate(zip(candidates, scores, strict=True)):
        table[row, each.indices] = values
    return table


def _result(name: str, scores: Floats, held_out: NewItems, k: int, fit_s: float) -> ProtocolResult:
    top = metrics.top_k(scores, k)
    hits = metrics.hits_at_k(top, held_out.relevant)
    values = values_of(hits, held_out.relevant.sum(axis=1).astype(np.int64), METRICS)
    covered: NDArray[np.int64] = np.unique(top[(top >= 0) & held_out.new[np.maximum(top, 0)]])
    whole = {f"coverage_at_{k}": len(covered) / max(int(held_out.new.sum()), 1)}
    return ProtocolResult(name, values, whole, fit_s if name == TWO_STAGE else 0.0)
