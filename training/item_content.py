"""The fit of what a model knows of its items' attributes (see models/recommender/content.py)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from features.arrays import Floats
from models.recommender import CandidateTables, Columns, Content, ContentEncoder, ContentRows
from training.data import newest_attributes
from training.run import TrainingRun

RIDGE = 2.0
"""The regularisation of the projection, which is a row of length 1 an item."""

ROUNDS, NEAR_ENOUGH = 60, 1e-4
"""Conjugate gradients end after so many rounds, or when the residual has shrunk to this share."""


def content_before(run: TrainingRun, tables: CandidateTables, as_of_ms: int) -> Content | None:
    """The attributes of the tables' items that were known before ``as_of_ms``; None where no item has any."""
    items = pa.array(tables.items, pa.string())
    columns = newest_attributes(run.features.events, run.domain, items, as_of_ms)
    known = {name: column for name, column in columns.items() if column.null_count < len(column)}
    return fit_content(known, tables) if known else None


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
