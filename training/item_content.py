"""The fit of what a model knows of its items' attributes (see models/recommender/content.py)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from features.arrays import Bools, Floats, Int64s
from models.recommender import CandidateTables, Columns, Content, ContentEncoder, ContentRows, tables_with_items
from training.data import newest_attributes
from training.run import TrainingRun

RIDGE = 2.0
"""The regularisation of the projection, which is a row of length 1 an item."""

ROUNDS, NEAR_ENOUGH = 60, 1e-4
"""Conjugate gradients end after so many rounds, or when the residual has shrunk to this share."""


def content_before(run: TrainingRun, tables: CandidateTables, as_of_ms: int) -> Content | None:
    """The attributes of the tables' items that were known before ``as_of_ms``; None where no item has any."""
    views = [view for view in (run.domain.catalogue, run.domain.item) if view is not None]
    columns = newest_attributes(run.features.events, views, pa.array(tables.items, pa.string()), as_of_ms)
    known = {name: column for name, column in columns.items() if column.null_count < len(column)}
    return fit_content(known, tables) if known else None


@dataclass(frozen=True)
class PastTables(CandidateTables):
    """Tables with items of later: what retrieval names at a moment are the items that were known by then.

    Args:
        known_since: (n,) ms; 0 for the items of the fit.
        announced_ms: at this moment all items count as known: it is asked what is taken from then on, of items of
            which nothing but attributes is known.
    """

    known_since: Int64s | None = None
    announced_ms: int | None = None

    def known_at(self, as_of_ms: int) -> Bools | None:
        """(n,) the items that were known at this time; None for all."""
        return None if self.known_since is None or as_of_ms == self.announced_ms else self.known_since <= as_of_ms


def with_later_items(run: TrainingRun, tables: CandidateTables, as_of_ms: int, until_ms: int) -> CandidateTables:
    """The tables, of what was known before ``as_of_ms``, with the catalogue's items that came before ``until_ms``.

    Later items have the vectors that their attributes make likely, as in the service. Without a catalogue, or without
    items as vectors, the tables stay as they are.
    """
    catalogue, events, history = run.domain.catalogue, run.features.events, run.history
    catalogued = None if tables.factors is None else run.features.catalogued
    if catalogue is None or catalogued is None:
        return tables
    keys, since = catalogued
    taken = np.full(len(history.items), np.iinfo(np.int64).max)
    np.minimum.at(taken, history.item, history.known_at)
    code = np.asarray(pc.fill_null(pc.index_in(keys, value_set=history.items), -1), dtype=np.int64)
    since = np.minimum(since, np.where(code >= 0, taken[code], since)) if len(taken) else since
    later = (since < until_ms) & ~np.asarray(pc.is_in(keys, value_set=pa.array(tables.items, pa.string())))
    content = content_before(run, tables, as_of_ms) if later.any() else None
    if content is None:
        return tables
    keys, since = keys.filter(pa.array(later)), since[later]
    rows = content.encoder.rows(newest_attributes(events, [catalogue], keys, until_ms), len(keys))
    known = np.diff(rows.starts) > 0
    vectors = content.vectors(rows)
    if vectors is None or not known.any():
        return tables
    extended = tables_with_items(tables, tuple(keys.filter(pa.array(known)).to_pylist()), vectors[known])
    times = np.concatenate([np.zeros(len(tables.items), dtype=np.int64), since[known]])
    columns = {each.name: getattr(extended, each.name) for each in fields(extended)}
    return PastTables(**columns, known_since=times, announced_ms=as_of_ms - 1)


def fit_content(columns: Columns, tables: CandidateTables) -> Content | None:
    """The encoder, rows and projection of items with these attributes; None where no attribute can be encoded."""
    encoder = ContentEncoder.fit(columns, len(tables.items))
    if not encoder.texts and not encoder.numbers:
        return None
    own = ContentRows(encoder.rows(columns, len(tables.items)))
    content = Content(encoder, own)
    if tables.factors is None:
        return content
    row, token, weight = content.known_entries(own.rows)
    tokens = csr_array((weight, (row, token)), shape=(len(tables.items), len(encoder.tokens)))
    vectors = tables.factors.items.astype(np.float64)
    mean = vectors.mean(axis=0)
    projection = ridge(tokens, vectors - mean, RIDGE)
    return Content(encoder, own, projection.astype(np.float32), mean.astype(np.float32))


def ridge(rows: csr_array, targets: Floats, regularization: float) -> Floats:
    """(columns, targets) weights W of the least |rows @ W − targets|² + regularization · |W|², by conjugate gradients.

    The memory is that of the sparse rows and of four times the answer.
    """
    residual = np.asarray(rows.T @ targets)
    weights, direction = np.zeros_like(residual), residual.copy()
    squares = (residual**2).sum(axis=0)
    enough = NEAR_ENOUGH**2 * squares
    for _ in range(ROUNDS):
        if (squares <= enough).all():
            break
        image = rows.T @ (rows @ direction) + regularization * direction
        step = _over(squares, (direction * image).sum(axis=0))
        weights += step * direction
        residual -= step * image
        before, squares = squares, (residual**2).sum(axis=0)
        direction = residual + _over(squares, before) * direction
    return weights


def _over(value: Floats, by: Floats) -> Floats:
    return np.divide(value, by, out=np.zeros_like(value), where=by > 0)
