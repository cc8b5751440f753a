"""From stored rows to Arrow columns of features, by the compiled walk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.arrays import Int64s
from features.definitions import FeatureView, evaluate
from features.events import arrow_type
from features.rows import compiled
from features.rows.compiled import stored_rows
from features.rows.decoder import refused
from features.rows.kernels import Answers, Stored
from features.rows.matrix import FeatureMatrix, PackedRows, Status
from features.rows.programs import ListFeature, ReadProgram, read_program

ARROW = {"int64": pa.int64(), "float64": pa.float64()}


@dataclass(frozen=True)
class FeatureColumns:
    """The features of n rows as Arrow columns by name, and each row's status, as_of and newest event time (ms)."""

    columns: dict[str, pa.Array]
    status: NDArray[np.int8]
    as_of: Int64s
    newest: Int64s


def feature_columns(view: FeatureView, rows: pa.Array, as_of: int | Int64s, stream_id: int) -> FeatureColumns | None:
    """The features of the rows at as_of; None if any of them is no row of this view and stream."""
    program = read_program(view, stream_id)
    # A null may have bytes; without them it is as long as no row is.
    missing = rows.null_count
    stored = _stored(rows.fill_null(b"") if missing else rows, as_of)
    answers = _room(program, len(rows))
    bad = compiled.walk()(tuple(stored), tuple(program.arrays), tuple(answers))
    if bad >= 0 or _empty(stored) != missing:
        return None
    columns = _numbers(program, answers)
    for feature in program.lists:
        columns[feature.name] = _listed(view, feature, stored, answers)
    return FeatureColumns(columns | _later(program, columns), answers.status, answers.as_of, answers.newest)


def _stored(rows: pa.Array, as_of: int | Int64s) -> Stored:
    of_each_row = np.empty(len(rows), dtype=np.int64)
    of_each_row[:] = as_of
    return stored_rows(rows, of_each_row)


def _empty(stored: Stored) -> int:
    return int(np.count_nonzero(stored.offsets[1:] == stored.offsets[:-1]))


def _room(program: ReadProgram, n: int) -> Answers:
    count = len(program.numbers)
    return Answers(
        numbers=np.zeros((count, n), dtype=np.int64),
        valid=np.zeros((count * n + 7) // 8, dtype=np.uint8),
        counts=np.zeros((len(program.lists), n), dtype=np.int64),
        listed=np.empty((n, program.width), dtype=np.int64),
        lengths=np.empty((n, program.width), dtype=np.int64),
        status=np.zeros(n, dtype=np.int8),
        as_of=np.empty(n, dtype=np.int64),
        newest=np.zeros(n, dtype=np.int64),
    )


def _numbers(program: ReadProgram, answers: Answers) -> dict[str, pa.Array]:
    """Every column is a slice of a single array of its type: making an Arrow array for each costs a microsecond."""
    n = len(answers.status)
    buffers = [pa.py_buffer(answers.valid), pa.py_buffer(answers.numbers)]
    arrays = {
        dtype: pa.Array.from_buffers(dtype, answers.numbers.size, buffers) for dtype in (pa.int64(), pa.float64())
    }
    columns = {}
    for number, feature in enumerate(program.numbers):
        column = arrays[ARROW.get(feature.dtype, pa.int64())].slice(number * n, n)
        columns[feature.name] = column if feature.dtype in ARROW else column.cast(pa.bool_())
    return columns


def _listed(view: FeatureView, feature: ListFeature, stored: Stored, answers: Answers) -> pa.Array:
    dtype = arrow_type(next(f.dtype for f in view.features if f.name == feature.name))
    counts = answers.counts[feature.line]
    bounds = np.zeros(len(counts) + 1, dtype=np.int32)
    np.cumsum(counts, out=bounds[1:])
    values = (
        _texts(feature, stored, answers, counts)
        if feature.texts
        else _values(feature, answers, counts, dtype.value_type)
    )
    absent = answers.status != 0
    if dtype == pa.string():
        return values.take(pa.array(bounds[:-1], mask=counts == 0))
    if absent.any():
        mask = pa.array(absent)
        return pa.ListArray.from_arrays(pa.array(bounds), values, mask=mask)
    return pa.ListArray.from_arrays(pa.array(bounds), values)


def _texts(feature: ListFeature, stored: Stored, answers: Answers, counts: Int64s) -> pa.Array:
    inside = np.arange(feature.k) < counts[:, None]
    size = int(answers.lengths[:, feature.base : feature.base + feature.k][inside].sum())
    out, ends = np.empty(size, dtype=np.uint8), np.zeros(int(counts.sum()) + 1, dtype=np.int32)
    compiled.gather()(stored.data, answers.listed, answers.lengths, counts, feature.base, out, ends)
    return pa.Array.from_buffers(pa.string(), len(ends) - 1, [None, pa.py_buffer(ends), pa.py_buffer(out)])


def _values(feature: ListFeature, answers: Answers, counts: Int64s, dtype: pa.DataType) -> pa.Array:
    inside = np.arange(feature.k) < counts[:, None]
    values = answers.listed[:, feature.base : feature.base + feature.k][inside]
    return pa.array(values.view(np.float64)) if dtype == pa.float64() else pa.array(values).cast(dtype)


def _later(program: ReadProgram, columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
    """Derived features by numpy, from the others."""
    if not program.later:
        return {}
    floats = {
        f.name: columns[f.name].cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        for f in program.numbers
        if f.dtype in ARROW
    }
    later = {}
    for feature in program.later:
        if feature.expression is not None:
            floats[feature.name] = evaluate(feature.expression, floats)
            later[feature.name] = pa.array(floats[feature.name], from_pandas=True)
    return later


def finalize(view: FeatureView, rows: PackedRows, as_of: int | Int64s, stream_id: int) -> FeatureMatrix:
    """Every feature of the rows' entities at ``as_of`` (ms, for all rows or for each), in the order of the keys.

    A row can be read as of its clock (the newest known_at folded into it) or later: an earlier as_of reads as of the
    clock, and the matrix says so. Rows that are null are NOT_FOUND, as are those whose newest event is older than twice
    the view's ttl; older than the ttl is OUTSIDE_MAX_AGE; both have null for every feature.
    """
    features = feature_columns(view, rows.values, as_of, stream_id)
    if features is None:
        raise refused(view, rows, stream_id)
    columns = tuple(features.columns[name] for name in view.names)
    return FeatureMatrix(view.names, columns, features.status, features.as_of, features.newest)


def statuses(view: FeatureView, newest: Int64s, as_of: Int64s, known: NDArray[np.bool_]) -> NDArray[np.int8]:
    """The status of each entity by the age of its newest event."""
    age = as_of - newest
    status = np.where(age > view.ttl_ms, Status.OUTSIDE_MAX_AGE, Status.PRESENT)
    return np.where(known & (age <= 2 * view.ttl_ms), status, Status.NOT_FOUND).astype(np.int8)


def warm_up(view: FeatureView) -> None:
    """Load the read kernels, or compile them on a machine that never did, so that no read waits for that (20 s)."""
    nobody = pa.nulls(1, pa.binary())
    feature_columns(view, nobody, 0, 0)
    stored, answers = _stored(nobody, 0), _room(read_program(view, 0), 1)
    _texts(ListFeature("", 0, 0, 0, texts=True), stored, answers, np.zeros(1, dtype=np.int64))
