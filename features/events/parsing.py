"""The event contract: bytes or columns of a stream → typed events, and a verdict on every record.

Every input (JSON, Avro, columns of files) gets its verdicts from the same function, so that the stream, imports and
HTTP cannot disagree. A verdict depends on its record alone: never on its neighbours, nor on how it was read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Bools, Floats, Int64s, single_array
from features.definitions import FUTURE_TOLERANCE_MS, PARTITIONS_OF_A_TOPIC, FeatureRepo, Stream, evaluate
from features.events import split_columns
from features.events.avro import messages as avro
from features.events.bisecting import NOT_OF_A_RECORD, errors_alone
from features.events.decoded import Decoded
from features.events.ids import IDENTIFIER, unusable
from features.events.json import messages as json_messages
from features.events.timestamps import implausible
from features.events.values.reasons import ARROW, Problems, implausible_reason, reason_text, show

CANNOT_BE_READ, CANNOT_BE_FOLDED = "cannot_be_read", "cannot_be_folded"
"""Codes of records with which a kernel or a library raises an error."""


class Verdict(IntEnum):
    """The outcome of a record: folded and archived (VALID), archived only (LATE), or neither (DEAD_LETTER)."""

    VALID = 0
    LATE = 1
    DEAD_LETTER = 2


@dataclass(frozen=True)
class Records:
    """Raw messages of a stream, in any order.

    Args:
        values: binary; null for a tombstone.
        known_at: epoch ms at which each became known; None if each did at its event time.
        partition: with ``offset``, the position of each in the topic; numbered across the topics of a stream
            (PARTITIONS_OF_A_TOPIC for each).
        first_places: of records that were sent again, the topic-partition-offset at which each stood first; else null.
            None: none was sent again.
    """

    values: pa.Array
    known_at: Int64s | None
    partition: NDArray[np.int32]
    offset: Int64s
    first_places: pa.Array | None = None


@dataclass(frozen=True)
class Parsed:
    """Events and verdicts of n records.

    Args:
        events: the valid and the late, in record order, with the columns of event_schema().
        rows: for each event the index of its record.
        verdicts: Verdict of each record, shape (n,).
        reasons: text for each record, "code: details"; null for the valid ones.
    """

    events: pa.Table
    rows: Int64s
    verdicts: NDArray[np.int8]
    reasons: pa.Array


def event_schema(stream: Stream) -> pa.Schema:
    """The columns of the stream's events: id, times and offset, then the stream's own in their order."""
    identity = {"event_id": pa.string(), "event_time": pa.int64(), "known_at": pa.int64()}
    position = {"partition": pa.int32(), "offset": pa.int64()}
    return pa.schema(identity | position | {name: ARROW[dtype] for name, dtype in stream.dtypes.items()})


def parse(
    records: Records,
    stream: Stream,
    horizon_ms: int | None = None,
    schemas: Callable[[int], str] | None = None,
    *,
    keys: Collection[str] = (),
    clock_ms: int | None = None,
) -> Parsed:
    """Typed events and a verdict for each record; no content of a record raises an error.

    Args:
        records: messages.
        stream: their definition.
        horizon_ms: an event older than this when it becomes known is late; None if no event is.
        schemas: Confluent schema id → the writer's schema as JSON text, KeyError for an unknown id; Avro only.
        keys: the fields that are keys of entities, FeatureRepo.keys_of: their texts are identifiers, as event_id is.
        clock_ms: the wall clock, for history: an event more than FUTURE_TOLERANCE_MS after it is a dead letter. None
            for records that a broker has dated.

    Raises:
        FormatError: ``stream.schema`` is not an Avro schema.
    """
    values = _binary(records.values)

    def judged(rows: Int64s | None) -> Parsed:
        some = _taken(replace(records, values=values), rows)
        is_avro = stream.format == "avro"
        decoded = avro.decode(some.values, stream, schemas) if is_avro else json_messages.decode(some.values, stream)
        for row in np.flatnonzero(np.asarray(some.values.is_null())).tolist():
            decoded.problems[row] = "null_value: a message is required; got null (a tombstone)"
        return _judge(decoded, some, stream, horizon_ms, keys, clock_ms)

    return _whole_or_alone(judged, len(values))


def parse_by(
    repo: FeatureRepo, records: Records, stream: Stream, schemas: Callable[[int], str] | None = None
) -> Parsed:
    """As parse(), by what the repo's views and entities say of the stream, or of a part of it."""
    return parse(records, stream, repo.horizon_ms(stream.name), schemas, keys=repo.keys_of(stream.name))


def _taken(records: Records, rows: Int64s | None) -> Records:
    """The messages of these rows; all for None."""
    if rows is None:
        return records
    index = pa.array(rows, pa.int64())
    known_at = None if records.known_at is None else records.known_at[rows]
    first_places = None if records.first_places is None else records.first_places.take(index)
    return Records(records.values.take(index), known_at, records.partition[rows], records.offset[rows], first_places)


def _whole_or_alone(judged: Callable[[Int64s | None], Parsed], count: int, known: Problems | None = None) -> Parsed:
    """The verdicts on all records (None); those that raise an error alone are dead letters, as ``known`` are."""
    try:
        return judged(None)
    except NOT_OF_A_RECORD:
        raise
    except BaseException:
        errors = errors_alone(count, lambda start, stop: judged(np.arange(start, stop)))
        if not errors:
            raise
    kept = np.setdiff1d(np.arange(count), list(errors))
    part = judged(kept)
    verdicts, reasons = np.full(count, Verdict.DEAD_LETTER, dtype=np.int8), np.full(count, None, dtype=object)
    verdicts[kept], reasons[kept] = part.verdicts, part.reasons.to_pylist()
    for row, error in errors.items():
        reasons[row] = (known or {}).get(row, f"{CANNOT_BE_READ}: {error}")
    return Parsed(part.events, kept[part.rows], verdicts, pa.array(reasons, pa.string()))


def with_dead_letters(parsed: Parsed, reasons: Mapping[int, str]) -> Parsed:
    """The same records, of which those of these events (index → reason) are dead letters."""
    if not reasons:
        return parsed
    events = np.array(list(reasons), dtype=np.int64)
    verdicts, texts = parsed.verdicts.copy(), np.array(parsed.reasons.to_pylist(), dtype=object)
    verdicts[parsed.rows[events]] = Verdict.DEAD_LETTER
    texts[parsed.rows[events]] = list(reasons.values())
    kept = np.setdiff1d(np.arange(len(parsed.rows)), events)
    return Parsed(parsed.events.take(pa.array(kept)), parsed.rows[kept], verdicts, pa.array(texts, pa.string()))


def joined(parts: Sequence[Parsed]) -> Parsed:
    """The records of a stream's topics, concatenated in the order of ``parts``."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(part.verdicts) for part in parts[:-1])])
    return Parsed(
        pa.concat_tables([part.events for part in parts]),
        np.concatenate([part.rows + start for part, start in zip(parts, starts, strict=True)]),
        np.concatenate([part.verdicts for part in parts]),
        pa.concat_arrays([part.reasons for part in parts]),
    )


def _binary(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The messages as a single binary array, from any of Arrow's layouts."""
    return single_array(values).cast(pa.binary())


def from_columns(
    table: pa.Table,
    stream: Stream,
    horizon_ms: int | None = None,
    *,
    keys: Collection[str] = (),
    problems: Problems | None = None,
    clock_ms: int | None = None,
) -> Parsed:
    """Typed events and a verdict for each row of columns: Parquet, CSV, batches of HTTP.

    Args:
        table: our field names (a missing column is all null), ``event_time`` (int64 ms, a timestamp: UTC if it has no
            zone, or RFC 3339 text), and optionally ``event_id`` (default: topic-partition-offset), ``known_at``
            (default: the event time), ``partition`` (default: 0), ``offset`` (default: the row number).
        stream: the dtypes and rules of the fields; its paths and time unit are for messages and not used.
        horizon_ms, keys, clock_ms: as in parse().
        problems: rows that are refused already, with their reasons.

    Raises:
        FormatError: there is no column ``event_time``, or known_at, partition or offset has a wrong type.
    """
    numbered = table if "offset" in table.column_names else table.append_column("offset", [np.arange(table.num_rows)])

    def judged(rows: Int64s | None) -> Parsed:
        some, their_problems = numbered, problems
        if rows is not None:
            some = numbered.take(pa.array(rows, pa.int64()))
            their_problems = {
                row: problems[old] for row, old in enumerate(rows.tolist()) if problems and old in problems
            }
        decoded = split_columns.decode(some, stream, their_problems)
        records = Records(None, *split_columns.positions(some, decoded, stream))
        return _judge(decoded, records, stream, horizon_ms, keys, clock_ms)

    return _whole_or_alone(judged, table.num_rows, problems)


def _judge(
    decoded: Decoded,
    records: Records,
    stream: Stream,
    horizon_ms: int | None,
    keys: Collection[str],
    clock_ms: int | None,
) -> Parsed:
    """The verdict on every record, and the events of the records that are not dead letters."""
    ids = _ids(decoded.columns, records, stream)
    times = np.asarray(single_array(decoded.columns["event_time"]).fill_null(0))
    known_at = times if records.known_at is None else records.known_at
    problems = decoded.problems
    is_file = records.values is None
    units = {"event_time": stream.time_unit, "known_at": stream.time_unit if is_file else "ms"}
    time_checks = _time_checks({"event_time": times, "known_at": known_at}, units, clock_ms)
    for mask, reason in itertools.chain(_checks(decoded.columns, ids, stream, keys), time_checks):
        for row in np.flatnonzero(mask).tolist():
            problems.setdefault(row, reason(row))
    verdicts = np.zeros(len(times), dtype=np.int8)
    if horizon_ms is not None:
        verdicts[times < known_at - horizon_ms] = Verdict.LATE
    verdicts[list(problems)] = Verdict.DEAD_LETTER
    rows = np.flatnonzero(verdicts != Verdict.DEAD_LETTER)
    events = _events(decoded.columns, ids, replace(records, known_at=known_at), stream)
    accepted = events if rows.size == len(times) else events.take(pa.array(rows))
    return Parsed(accepted, rows, verdicts, _reasons(verdicts, problems, horizon_ms))


def _ids(columns: pa.Table, records: Records, stream: Stream) -> pa.Array:
    """The messages' own ids, or topic-partition-offset: of a record that was sent again, where it stood first."""
    if "event_id" in columns.column_names:
        return single_array(columns["event_id"])
    partition = records.partition % PARTITIONS_OF_A_TOPIC
    position = (pa.array(numbers).cast(pa.string()) for numbers in (partition, records.offset))
    own = pc.binary_join_element_wise(pa.scalar(stream.topic), *position, "-")
    return own if records.first_places is None else pc.coalesce(records.first_places, own)


Checks = Iterator[tuple[Bools, Callable[[int], str]]]
"""(mask of the records that break it, row → reason) of each rule, in order of precedence."""


def _checks(columns: pa.Table, ids: pa.Array, stream: Stream, keys: Collection[str]) -> Checks:
    absent = pc.fill_null(pc.equal(ids, ""), fill_value=True)
    yield np.asarray(absent), lambda _: reason_text("missing_field", "event_id", "a string or int64", "nothing")
    if "event_id" in columns.column_names:
        yield unusable(ids), _unusable("event_id", ids)
    timeless = np.asarray(single_array(columns["event_time"]).is_null())
    yield timeless, lambda _: reason_text("missing_field", "event_time", "a time", "nothing")
    for name, field in stream.mapped.items():
        column = single_array(columns[name])
        if field.required:
            yield np.asarray(column.is_null()), _missing(name, field.dtype)
        if field.enum is not None:
            known = pc.or_(pc.is_in(column, value_set=pa.array(field.enum, pa.string())), column.is_null())
            yield ~np.asarray(known), _outside(name, field.enum, column)
        if name in keys and field.dtype == "string":
            yield unusable(column), _unusable(name, column)


def _time_checks(times: Mapping[str, Int64s], units: Mapping[str, str], clock_ms: int | None) -> Checks:
    for name, column in times.items():
        yield implausible(column), _implausible(name, column, units[name])
    event_time, known_at = times["event_time"], times["known_at"]
    yield event_time - FUTURE_TOLERANCE_MS > known_at, _ahead(event_time, known_at)
    if clock_ms is not None:
        yield event_time - FUTURE_TOLERANCE_MS > clock_ms, _after_now(event_time)


def _implausible(name: str, times: Int64s, unit: str) -> Callable[[int], str]:
    return lambda row: implausible_reason(name, int(times[row]), unit)


def _ahead(times: Int64s, known_at: Int64s) -> Callable[[int], str]:
    return lambda row: reason_text("future_time", "event_time", _bound(int(known_at[row])), f"{times[row]} ms")


def _after_now(times: Int64s) -> Callable[[int], str]:
    required = f"a time at most {FUTURE_TOLERANCE_MS} ms after now"
    return lambda row: reason_text("future_time", "event_time", required, f"{times[row]} ms")


def _missing(name: str, dtype: str) -> Callable[[int], str]:
    return lambda _: reason_text("missing_field", name, dtype, "nothing")


def _outside(name: str, allowed: Sequence[str], column: pa.Array) -> Callable[[int], str]:
    return lambda row: reason_text("unknown_value", name, f"one of {', '.join(allowed)}", show(column[row].as_py()))


def _unusable(name: str, column: pa.Array) -> Callable[[int], str]:
    return lambda row: reason_text("bad_id", name, IDENTIFIER, show(column[row].as_py()))


def _bound(known_at: int) -> str:
    return f"a time at most {FUTURE_TOLERANCE_MS} ms after its known_at ({known_at} ms)"


def _events(columns: pa.Table, ids: pa.Array, records: Records, stream: Stream) -> pa.Table:
    """The columns of event_schema() for every record, whatever its verdict."""
    arrays = [ids, columns["event_time"], records.known_at, records.partition, records.offset]
    arrays += [columns[name] for name in stream.mapped]
    numbers = {name: _floats(columns[name]) for name in _operands(stream)}
    for expression in (stream.computed or {}).values():
        value = evaluate(expression, numbers)
        arrays.append(pa.array(value, mask=np.isnan(value)))
    schema = event_schema(stream)
    return pa.table([_as(array, field.type) for array, field in zip(arrays, schema, strict=True)], schema=schema)


def _operands(stream: Stream) -> set[str]:
    return {operand for expression in (stream.computed or {}).values() for operand in expression.operands}


def _floats(column: pa.ChunkedArray) -> Floats:
    """The numbers as float64, nulls as NaN."""
    floats = single_array(column).cast(pa.float64(), safe=False)
    return np.asarray(floats.fill_null(float("nan")), dtype=np.float64)


def _as(values: pa.Array | pa.ChunkedArray | NDArray[np.generic], dtype: pa.DataType) -> pa.Array | pa.ChunkedArray:
    return pa.array(values, type=dtype) if isinstance(values, np.ndarray) else values


def _reasons(verdicts: NDArray[np.int8], problems: Problems, horizon_ms: int | None) -> pa.Array:
    late = f"late: event_time must be at most {horizon_ms} ms before known_at, the longest window and delay; got more"
    if not verdicts.any():
        return pa.nulls(len(verdicts), pa.string())
    texts = np.full(len(verdicts), None, dtype=object)
    texts[verdicts == Verdict.LATE] = late
    for row, text in problems.items():
        texts[row] = text
    return pa.array(texts, pa.string())
