"""The formats of history by name, and ``read_events``: a file of any of them as events with their verdicts.

A reader yields (stream name, table of our columns) in the file's order and in bounded chunks. Defaults of columns that
a file does not have:

* ``event_id`` is the first 8 hex digits of the file's SHA-256, '-', the row;
* ``known_at`` is the event's time, except for labels, which become known later;
* ``offset`` is the row in the file, from 0.

The verdicts are those of the topic: every reader ends in ``from_columns``, or in ``parse`` if lines are messages.
``docs/data.md`` lists each format's columns.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Int64s, plain_array, single_array
from features.definitions import Stream, Time
from features.errors import FormatError, UsageError
from features.events import (
    Parsed,
    Problems,
    Records,
    Verdict,
    bad_time,
    epoch_ms,
    from_columns,
    is_time,
    parse,
    parse_objects,
    reason_text,
    typed,
)
from features.formats import datasets, measurements
from features.formats.cells import converted_cells, csv_ms, fitted, is_text
from features.formats.columns import OR, OURS, check_keys, mapping, names_of_lines, stream_of, their_names
from features.formats.csv_rows import csv_cells, csv_header
from features.formats.files import (
    CHUNK_ROWS,
    PROBLEM,
    Columns,
    InputFile,
    file_digest,
    numbered,
    parquet_columns,
    read_lines,
    read_parquet,
    row_ids,
    with_problems,
)
from features.times import now_ms

Tables = Iterator[tuple[str, pa.Table]]
Events = Iterator[tuple[str, Parsed]]
Horizon = Callable[[str], int | None]
Keys = Callable[[str], Collection[str]]

TIMES = {"event_time", "known_at"}
FIELD = re.compile(r"\w+: field '([^']*)'")
"""The beginning of a reason that names our field."""


@dataclass(frozen=True)
class Format:
    """A reader of files and its streams; none if a stream of the caller maps the columns."""

    name: str
    streams: tuple[str, ...]
    read: Callable[[InputFile, Mapping[str, Stream], Horizon, Keys], Events]
    folder: bool = False


def nothing_is_late(stream: str) -> int | None:
    """None, the horizon for which no event is late."""
    return None


def no_keys(stream: str) -> Collection[str]:
    """No fields: those of events that describe no entity."""
    return ()


def read_events(
    path: str | Path,
    format: str,  # noqa: A002  (the option's name on the command line)
    streams: Mapping[str, Stream],
    horizon_ms: Horizon = nothing_is_late,
    keys: Keys = no_keys,
    *,
    stream: str | None = None,
    columns: Mapping[str, str] | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> Events:
    """(stream name, events with their verdicts) of a file, chunk by chunk, in its order.

    Args:
        path: a file, ``.gz`` or not (for movielens, the folder).
        format: a name in FORMATS.
        streams: the feature repo's streams by name; events of other streams are left out.
        horizon_ms: stream name → the horizon of the views that read it: FeatureRepo.horizon_ms.
        keys: stream name → its fields that are keys of entities: FeatureRepo.keys_of.
        stream: for csv, parquet and jsonl, the stream of the rows; optional if the repo has only one.
        columns: for csv and parquet, our column → the file's, if that is not the stream's own path.
        chunk_rows: rows in memory at once, approximately.

    Raises:
        UsageError: at once, for a path, format or stream that does not exist.
        FormatError: while reading, for a file that is damaged or not of that format, or that has none of the keys.
    """
    file_format = find_format(format)
    source = InputFile(_existing(Path(path), file_format), None, columns, chunk_rows)
    if not file_format.streams:
        target = _target(file_format, streams, stream)
        source = replace(source, target=target, keys=frozenset(keys(target.name)))
    elif not set(file_format.streams) & set(streams):
        required = f"a stream called {' or '.join(map(repr, file_format.streams))} in the feature repo"
        next_step = "Define it, or read the file as csv or parquet."
        raise UsageError(f"format '{file_format.name}'", required, _names(streams), next_step)
    return file_format.read(source, streams, horizon_ms, keys)


def find_format(name: str) -> Format:
    """The format of that name. Raises UsageError if there is none."""
    if name not in FORMATS:
        raise UsageError("a file's format", f"one of {', '.join(FORMATS)}", repr(name))
    return FORMATS[name]


def _existing(path: Path, file_format: Format) -> Path:
    required = "a folder" if file_format.folder else "a file"
    if not path.exists():
        raise UsageError(f"path '{path}'", f"{required} that exists", "nothing there")
    if path.is_dir() != file_format.folder:
        got = "a file" if file_format.folder else "a folder"
        raise UsageError(f"path '{path}'", f"{required} for format '{file_format.name}'", got)
    return path


def _target(file_format: Format, streams: Mapping[str, Stream], name: str | None) -> Stream:
    if name is None and len(streams) == 1:
        return next(iter(streams.values()))
    if name is None or name not in streams:
        got = "none" if name is None else repr(name)
        next_step = f"The feature repo has {_names(streams)}."
        raise UsageError(f"format '{file_format.name}'", "the name of the stream that the rows are of", got, next_step)
    return streams[name]


def _names(streams: Iterable[str]) -> str:
    return ", ".join(streams) or "no streams"


# --- tables with our column names -------------------------------------------------------------------------------------


def _with_verdicts(
    tables: Callable[[InputFile], Tables],
) -> Callable[[InputFile, Mapping[str, Stream], Horizon, Keys], Events]:
    """A reader of events, made of a reader of tables."""

    def read(source: InputFile, streams: Mapping[str, Stream], horizon_ms: Horizon, keys: Keys) -> Events:
        theirs = their_names(source)
        for name, table in tables(source):
            if name in streams and table.num_rows:
                problems = _problems(table)
                ours = conformed(table, streams[name], source.where, problems)
                parsed = from_columns(
                    ours, streams[name], horizon_ms(name), keys=keys(name), problems=problems, clock_ms=now_ms()
                )
                yield name, _with_places(parsed, np.asarray(table["offset"]), theirs)

    return read


def _problems(table: pa.Table) -> Problems:
    """The reasons for rows that the reader refused."""
    if PROBLEM not in table.column_names or table[PROBLEM].null_count == table.num_rows:
        return {}
    return {row: text for row, text in enumerate(table[PROBLEM].to_pylist()) if text}


def conformed(table: pa.Table, stream: Stream, where: str, problems: Problems) -> pa.Table:
    """The table with the stream's columns only, as from_columns takes them.

    A cell that is refused is null, with its reason in ``problems``. Raises FormatError without a required column.
    """
    columns = {name: table[name] for name in OURS if name in table.column_names}
    for name, field in stream.mapped.items():
        if name in table.column_names:
            columns[name] = fitted(table[name], field.dtype, name, problems)
        elif field.required:
            required = f"a column for '{name}', which stream '{stream.name}' requires"
            raise FormatError(where, required, _names(table.column_names))
    return pa.table(columns)


def _with_places(parsed: Parsed, offsets: Int64s, theirs: Mapping[str, str]) -> Parsed:
    """Dead letters' reasons with their row, from 1, and the file's own name of the column.

    Args:
        offsets: the row of each record, from 0.
        theirs: our column → the file's.
    """
    dead = np.flatnonzero(parsed.verdicts == Verdict.DEAD_LETTER)
    if not len(dead):
        return parsed
    reasons, records = parsed.reasons.to_pylist(), parsed.records
    for row in dead.tolist():
        field = FIELD.match(reasons[row])
        column = theirs.get(field[1]) if field else None
        place = f"row {offsets[records[row]] + 1:,}" + (f", column '{column}'" if column else "")
        reasons[row] = f"{reasons[row]} ({place})"
    return replace(parsed, reasons=pa.array(reasons, pa.string()))


# --- any table, mapped by a stream ------------------------------------------------------------------------------------


def _mapped_parquet(source: InputFile) -> Tables:
    names = mapping(source, parquet_columns(source).names)
    return _named(read_parquet(source, itertools.chain(*names.values())), names, source)


def _mapped_csv(source: InputFile) -> Tables:
    names = mapping(source, csv_header(source))
    return _named(csv_cells(source, itertools.chain(*names.values())), names, source)


def _named(tables: Iterable[pa.Table], names: Mapping[str, Sequence[str]], source: InputFile) -> Tables:
    stream = stream_of(source)
    ours = (_with_our_names(table, names, source) for table in tables)
    return ((stream.name, table) for table in numbered(ours, source.path))


def _with_our_names(table: pa.Table, names: Mapping[str, Sequence[str]], source: InputFile) -> pa.Table:
    """The table with our column names and PROBLEM, its times as from_columns takes them."""
    problems: Problems = {}
    columns = {name: _first_of(table, theirs, name, source, problems) for name, theirs in names.items()}
    known = table[PROBLEM] if PROBLEM in table.column_names else pa.nulls(table.num_rows, pa.string())
    return pa.table({**columns, PROBLEM: with_problems(known, problems)})


def _first_of(table: pa.Table, theirs: Sequence[str], name: str, source: InputFile, problems: Problems) -> Columns:
    """Our column: in each row the value of the first of theirs that has one."""
    if len(theirs) == 1:
        return _read(table[theirs[0]], name, source, problems)
    found = pa.nulls(table.num_rows)
    present = found.is_valid()
    for column in theirs:
        cells = plain_array(table[column])
        values = _read(pc.if_else(present, pa.scalar(None, cells.type), cells), name, source, problems)
        if name in stream_of(source).mapped:
            values = fitted(values, stream_of(source).mapped[name].dtype, name, problems)
        if not pa.types.is_null(found.type) and values.type != found.type:
            required = f"columns {OR.join(map(repr, theirs))} of one type"
            raise FormatError(source.where, required, f"{found.type} and {values.type}", f"Map one of them to {name}.")
        found = values if pa.types.is_null(found.type) else pc.coalesce(found, values)
        present = pc.or_(present, cells.is_valid())
    return found


def _read(column: Columns, name: str, source: InputFile, problems: Problems) -> Columns:
    """A file's column; an id as text, and times as from_columns takes them."""
    if name == "event_id":
        return fitted(column, "string", name, problems)
    stream = stream_of(source)
    if name in TIMES:
        return _times(column, name, stream.time, problems)
    if stream.mapped[name].is_converted:
        return converted_cells(column, stream.mapped[name], name, problems)
    return column


def _times(column: Columns, name: str, time: Time, problems: Problems) -> Columns:
    """A time column in epoch ms, as the stream has its times; of another type than those, as it is or null."""
    column = plain_array(column)
    if is_text(column.type):
        values = typed(column, "string", name, problems)
        times = csv_ms(values, time)
    elif is_time(column.type, time):
        values, times = column, epoch_ms(column, time)
    else:
        return column if name == "event_time" else _no_times(column, name, problems)
    for row in np.flatnonzero(np.asarray(pc.and_(times.is_null(), values.is_valid()))).tolist():
        problems.setdefault(row, bad_time(name, values[row].as_py(), time.required))
    return times


def _no_times(column: Columns, name: str, problems: Problems) -> Columns:
    reason = reason_text("wrong_type", name, "a time", f"a column of {column.type}")
    problems.update((row, reason) for row in np.flatnonzero(np.asarray(single_array(column).is_valid())).tolist())
    return pa.nulls(len(column), pa.int64())


# --- lines that are messages of a topic -------------------------------------------------------------------------------


def _messages(source: InputFile, streams: Mapping[str, Stream], horizon_ms: Horizon, keys: Keys) -> Events:
    """Each line as a message that became known at its event time: none is late.

    Lines are JSON, whatever the stream's topic holds.
    """
    stream, digest, start = stream_of(source), file_digest(source.path), 0
    as_lines, theirs = replace(stream.without_records(), format="json", schema=None), their_names(source)
    for lines in read_lines(source):
        offsets = np.arange(start, start + len(lines), dtype=np.int64)
        start += len(lines)
        records = _unknown_when(pa.array(lines, pa.binary()), offsets)
        parsed = _with_places(parse(records, as_lines, keys=keys(stream.name), clock_ms=now_ms()), offsets, theirs)
        if offsets[0] == 0 and len(parsed.events):
            check_keys(source, names_of_lines(lines), f"Rename it, or map it in stream '{stream.name}'.")
        yield stream.name, parsed if stream.event_id else replace(parsed, events=_with_ids(parsed, offsets, digest))


def _unknown_when(values: pa.Array | None, offsets: Int64s) -> Records:
    """Messages that became known at their event times."""
    return Records(values, None, np.zeros(len(offsets), np.int32), offsets)


def _parquet(source: InputFile, streams: Mapping[str, Stream], horizon_ms: Horizon, keys: Keys) -> Events:
    """Rows of columns; or rows that are messages, where a path leads through a column that the file has."""
    through = frozenset[str]() if source.columns else stream_of(source).nested_columns
    if through.isdisjoint(parquet_columns(source).names):
        return _with_verdicts(_mapped_parquet)(source, streams, horizon_ms, keys)
    return _nested_rows(source, keys)


def _nested_rows(source: InputFile, keys: Keys) -> Events:
    """Each row as a message, as _messages() has lines."""
    stream, digest, start, theirs = stream_of(source), file_digest(source.path), 0, their_names(source)
    as_rows = stream.without_records()
    for table in read_parquet(source, parquet_columns(source).names):
        offsets = np.arange(start, start + table.num_rows, dtype=np.int64)
        start += table.num_rows
        records, fields = _unknown_when(None, offsets), keys(stream.name)
        parsed = parse_objects(table.to_pylist(), records, as_rows, keys=fields, clock_ms=now_ms())
        parsed = _with_places(parsed, offsets, theirs)
        yield stream.name, parsed if stream.event_id else replace(parsed, events=_with_ids(parsed, offsets, digest))


def _with_ids(parsed: Parsed, offsets: Int64s, digest: str) -> pa.Table:
    """The events with ids of the file's digest and their row, and of their element in the row."""
    ids = row_ids(digest, pa.array(offsets[parsed.records[parsed.rows]]))
    if parsed.elements is not None:
        ids = row_ids(ids, pa.array(parsed.numbers[parsed.rows]))
    index = parsed.events.schema.get_field_index("event_id")
    return parsed.events.set_column(index, parsed.events.schema.field(index), ids)


def _ranklens(source: InputFile) -> Tables:
    from features.formats.metarank import ranklens

    return ranklens(source)


_ALL = (
    Format("online-retail", ("activity",), _with_verdicts(datasets.online_retail)),
    Format("online-retail-items", ("catalogue",), _with_verdicts(datasets.online_retail_items)),
    Format("taobao", ("activity",), _with_verdicts(datasets.taobao)),
    Format("rees46", ("activity",), _with_verdicts(datasets.rees46)),
    Format("movielens", ("catalogue", "activity"), _with_verdicts(datasets.movielens), folder=True),
    Format("movielens-100k", ("activity",), _with_verdicts(datasets.movielens_100k)),
    Format("yoochoose", ("activity",), _with_verdicts(datasets.yoochoose)),
    Format("ranklens", ("catalogue", "activity"), _with_verdicts(_ranklens)),
    Format("cards", ("transactions", "fraud_labels"), _with_verdicts(datasets.cards)),
    Format("nab", ("readings", "incidents"), _with_verdicts(measurements.nab)),
    Format("mentions", ("mentions", "mention_labels"), _with_verdicts(measurements.mentions)),
    Format("green-taxi", ("pickups", "dropoffs"), _with_verdicts(measurements.green_taxi)),
    Format("jsonl", (), _messages),
    Format("csv", (), _with_verdicts(_mapped_csv)),
    Format("parquet", (), _parquet),
)
FORMATS: Mapping[str, Format] = {file_format.name: file_format for file_format in _ALL}
"""Every format by its name for --format."""
