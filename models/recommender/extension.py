"""A model with items that came after its training: known by their attributes alone. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.recommender.artefact import Artefact
from models.recommender.content import ContentRows
from models.recommender.tables import CandidateTables, Sessions, SparseRows


def with_items(artefact: Artefact, items: Sequence[str], rows: ContentRows) -> Artefact:
    """The artefact with these items after its own: it answers for its own items as before.

    Later items have no interactions: their vectors are the likely ones of their attributes. Without a table of
    attributes the artefact stays as it is.

    Args:
        items: different ones that it does not know.
        rows: what is known of them (see ContentEncoder.rows).
    """
    content = artefact.content
    if content is None or not items:
        return artefact
    tables = tables_with_items(artefact.tables, tuple(items), content.vectors(rows.rows))
    extended = replace(artefact, tables=tables, content=replace(content, later=rows))
    keys = pa.concat_arrays([artefact.item_keys, pa.array(items, pa.string())])
    vars(extended).update(scorer=artefact.scorer, item_keys=keys)
    return extended


def tables_with_items(
    tables: CandidateTables, items: tuple[str, ...], vectors: NDArray[np.float32] | None
) -> CandidateTables:
    """The tables with items of no interactions. ``vectors`` None leaves out the vectors of all items."""
    n, m = len(tables.items), len(items)
    factors, together, sessions = tables.factors, tables.together, tables.sessions
    if factors is not None:
        later = np.zeros((m, factors.items.shape[1]), dtype=np.float32) if vectors is None else vectors
        factors = factors.with_items(later)
    extended = replace(
        tables,
        items=tables.items + items,
        neighbours=_longer(tables.neighbours, m),
        popular=_filled(tables.popular, m, 0.0),
        trending=_filled(tables.trending, m, 0.0),
        lasting=_filled(tables.lasting, m, 0.0),
        first=_filled(tables.first, m, 0.0),
        together=None if together is None else _longer(together, m),
        factors=factors,
        sessions=None if sessions is None else Sessions(sessions.items, _longer(sessions.of_item, m)),
        category=_filled(tables.category, m, -1),
        price=_filled(tables.price, m, np.nan),
    )
    # What the tables derive once is longer by the new items alone; at a million items it takes a second to derive.
    vars(extended).update(
        index={**tables.index, **{item: n + at for at, item in enumerate(items)}},
        popular_rank=np.concatenate([tables.popular_rank, np.arange(n, n + m, dtype=np.float64)]),
        popular_log=np.concatenate([tables.popular_log, np.zeros(m)]),
        lasting_log=np.concatenate([tables.lasting_log, np.full(m, np.nan if tables.lasting is None else 0.0)]),
        most_popular=np.concatenate([tables.most_popular, np.arange(n, n + m)]),
        most_trending=tables.most_trending,
        most_lasting=tables.most_lasting,
    )
    return extended


def _longer(rows: SparseRows, more: int) -> SparseRows:
    """The rows and then so many empty ones."""
    return SparseRows(np.concatenate([rows.starts, np.repeat(rows.starts[-1:], more)]), rows.column, rows.weight)


def _filled(values: Any, more: int, value: float) -> Any:
    return None if values is None else np.concatenate([values, np.full(more, value, dtype=values.dtype)])
