"""JSON messages → typed columns: a fast reader for messages that match a shape, the exact reader for the rest.

Measured and argued in docs/adr/0002-one-parser-for-events.md.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Bools, Int64s
from features.definitions import Stream, keys_of
from features.events.decoded import Column, Decoded, columns_of, from_objects
from features.events.json import shapes as json_shapes
from features.events.json.shapes import Path, Shape
from features.events.values import exact_json
from features.events.values.conversion import converted
from features.events.values.lookup import Envelopes
from features.events.values.reasons import ARROW, Problems, RefusedError, add_bad_times
from features.events.values.times import epoch_ms

if TYPE_CHECKING:
    import polars as pl

FEW_MESSAGES = 256
"""Fewer messages than this are read exactly: compiling a pattern for them would take longer."""

MAX_SHAPES = 4

SAMPLES = 24

LEAST_SHARE = 0.1
"""The search for shapes ends with a shape that matches a smaller share of the remaining messages than this."""


def decode(values: pa.Array, stream: Stream, only: Int64s | None = None, envelopes: Envelopes | None = None) -> Decoded:
    """The typed columns of the messages (binary), and the problems of those that are refused.

    Args:
        only, envelopes: as from_objects() takes them.
    """
    if stream.each is not None or any(keys_of(path) is None for column in columns_of(stream) for path in column.paths):
        objects, problems = _read_exactly(values, np.arange(len(values)))
        return from_objects(objects, stream, problems, only, envelopes)
    rest, parts = _fast(values, stream)
    objects, problems = _read_exactly(values, rest)
    slow = from_objects(objects, stream, problems)
    parts.append((rest, Decoded(slow.columns, slow.problems)))
    return _in_order([(rows, part) for rows, part in parts if rows.size] or parts)


def _read_exactly(values: pa.Array, rows: Int64s) -> tuple[list[dict[str, Any] | None], Problems]:
    objects: list[dict[str, Any] | None] = []
    problems: Problems = {}
    for row, message in enumerate(values.take(pa.array(rows)).to_pylist()):
        objects.append(None)
        try:
            objects[row] = exact_json.read(message) if message is not None else None
        except RefusedError as refused:
            problems[row] = str(refused)
    return objects, problems


def _fast(values: pa.Array, stream: Stream) -> tuple[Int64s, list[tuple[Int64s, Decoded]]]:
    """(remaining rows, decoded parts): messages that match a shape are decoded, the others remain."""
    rest: Int64s = np.arange(len(values))
    parts: list[tuple[Int64s, Decoded]] = []
    if len(values) < FEW_MESSAGES:
        return rest, parts
    import polars as pl

    columns = columns_of(stream)
    alternatives = [each for column in columns for each in column.alternatives]
    texts = pl.Series(pl.from_arrow(_text(values)))
    for _ in range(MAX_SHAPES):
        shape = _learn(values, rest, alternatives)
        matching = _matching(texts if rest.size == len(values) else texts.gather(rest), shape)
        rows, size = rest[matching], rest.size
        frame = None
        if shape is not None and rows.size:
            frame = read_lines(texts if rows.size == len(values) else texts.gather(rows), shape.dtypes)
        if shape is not None and frame is not None:
            parts.append((rows, _typed(frame, shape, columns, stream)))
            rest = rest[~matching]
        if rest.size < FEW_MESSAGES or rows.size < LEAST_SHARE * size:
            break
    return rest, parts


def _text(values: pa.Array) -> pa.Array:
    """The messages as strings; null for those that are not UTF-8."""
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        suspects = np.flatnonzero(~np.asarray(pc.string_is_ascii(values.view(pa.string())).fill_null(fill_value=True)))
    invalid = np.zeros(len(values), dtype=bool)
    invalid[suspects] = [not _is_utf8(message) for message in values.take(pa.array(suspects)).to_pylist()]
    return pc.if_else(pa.array(invalid), None, values).cast(pa.string())


def _is_utf8(message: bytes) -> bool:
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True


def _learn(values: pa.Array, rows: Int64s, columns: Sequence[Column]) -> Shape | None:
    sample = rows[np.linspace(0, rows.size - 1, SAMPLES).astype(np.int64)]
    objects, _ = _read_exactly(values, sample)
    return json_shapes.learn([value for value in objects if value], columns)


def _matching(texts: pl.Series, shape: Shape | None) -> Bools:
    """True for each text that matches the shape; none does if its pattern is too large to compile."""
    import polars as pl

    none = np.zeros(len(texts), dtype=bool)
    if shape is None:
        return none
    try:
        return texts.str.contains(shape.pattern).fill_null(value=False).to_numpy()
    except pl.exceptions.PolarsError:
        return none


def read_lines(texts: pl.Series, dtypes: dict[Path, str]) -> pl.DataFrame | None:
    """The mapped paths of each text; None unless every text is exactly one object, so that no record is lost."""
    import polars as pl

    lines = io.BytesIO(texts.str.join("\n")[0].encode())
    try:
        frame = pl.read_ndjson(lines, schema=_polars_schema(dtypes))
    except pl.exceptions.PolarsError:
        return None
    return frame if frame.height == len(texts) else None


def _typed(frame: pl.DataFrame, shape: Shape, columns: Sequence[Column], stream: Stream) -> Decoded:
    problems: Problems = {}
    typed = {column.name: _first(frame, column, shape, stream, problems) for column in columns}
    return Decoded(pa.table(typed), problems)


def _first(frame: pl.DataFrame, column: Column, shape: Shape, stream: Stream, problems: Problems) -> pa.Array:
    """The column: of each message the value of the first path that has one."""
    first, *others = column.alternatives
    found = _at(frame, first, shape)
    typed = _column(found, first, stream, problems)
    present = found.is_valid()
    for other in others:
        values = _at(frame, other, shape)
        free = pc.if_else(present, pa.scalar(None, values.type), values)
        typed = pc.coalesce(typed, _column(free, other, stream, problems))
        present = pc.or_(present, values.is_valid())
    return typed


def _polars_schema(dtypes: dict[Path, str]) -> dict[str, Any]:
    """Nested dicts of path → dtype as the schema of a frame with structs."""
    import polars as pl

    simple = {"string": pl.String, "int64": pl.Int64, "float64": pl.Float64, "fraction": pl.Float64, "bool": pl.Boolean}
    tops = dict.fromkeys(path[0] for path in dtypes)
    return {
        top: simple[dtypes[(top,)]]
        if (top,) in dtypes
        else pl.Struct(_polars_schema({path[1:]: dtype for path, dtype in dtypes.items() if path[0] == top}))
        for top in tops
    }


def _at(frame: pl.DataFrame, column: Column, shape: Shape) -> pa.Array:
    """The values at the column's path, as the shape types them."""
    series = reduce(lambda struct, key: struct.struct.field(key), column.path[1:], frame[column.path[0]])
    dtype = shape.dtypes[column.path]
    return series.to_arrow().cast(ARROW["float64" if dtype == "fraction" else dtype])


def _column(array: pa.Array, column: Column, stream: Stream, problems: Problems) -> pa.Array:
    if column.field is not None:
        return converted(array, column.field, column.name, problems)
    if column.dtype == "id":
        return array.cast(pa.string())
    if column.dtype != "time":
        return array
    times = epoch_ms(array, stream.time)
    add_bad_times(times, array, column.name, problems, stream.time.required)
    return times


def _in_order(parts: list[tuple[Int64s, Decoded]]) -> Decoded:
    """The parts joined, in the order of the messages."""
    if len(parts) == 1:
        return parts[0][1]
    rows = np.concatenate([rows for rows, _ in parts])
    table = pa.concat_tables([part.columns for _, part in parts]).combine_chunks()
    problems = {int(rows[row]): text for rows, part in parts for row, text in part.problems.items()}
    return Decoded(table.take(pa.array(np.argsort(rows))), problems)
