"""The event contract: bytes or columns of a stream → typed events, and a verdict on every record.

Every input (JSON, Avro, columns of files) gets its verdicts from the same function, so that the stream, imports and
HTTP cannot disagree. A verdict depends on its record alone: never on its neighbours, nor on how it was read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Floats, Int64s, single_array
from features.definitions import (
    PARTITIONS_OF_A_TOPIC,
    FeatureRepo,
    Stream,
    evaluate,
    path_text,
    step_paths,
)
from features.events import split_columns
from features.events.avro import messages as avro
from features.events.bisecting import NOT_OF_A_RECORD, errors_alone
from features.events.columns import element_offsets
from features.events.decoded import Decoded, from_objects
from features.events.json import messages as json_messages
from features.events.values import rules
from features.events.values.elements import WHOLE, Elements
from features.events.values.lookup import Envelopes
from features.events.values.reasons import ARROW, Problems

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
        elements: of each record the number of the element that alone is taken, WHOLE for all; None: all of all.
        envelopes: what the records have beside their messages; None where the stream takes nothing from it.
    """

    values: pa.Array
    known_at: Int64s | None
    partition: NDArray[np.int32]
    offset: Int64s
    first_places: pa.Array | None = None
    elements: Int64s | None = None
    envelopes: Envelopes | None = None


@dataclass(frozen=True)
class Parsed:
    """Events and verdicts of n records; where every element of a record is an event, "record" means an element below.

    Args:
        events: the valid and the late, in record order, with the columns of event_schema().
        rows: for each event the index of its record.
        verdicts: Verdict of each record, shape (n,).
        reasons: text for each record, "code: details"; null for the valid ones.
        elements: which element of which record each is; None: each is a record.
    """

    events: pa.Table
    rows: Int64s
    verdicts: NDArray[np.int8]
    reasons: pa.Array
    elements: Elements | None = None

    @property
    def records(self) -> Int64s:
        """The index of the record, as it was read, that each verdict is on."""
        return np.arange(len(self.verdicts)) if self.elements is None else self.elements.records

    @property
    def numbers(self) -> Int64s:
        """The number of the element that each verdict is on; WHOLE for a record as such."""
        return np.full(len(self.verdicts), WHOLE) if self.elements is None else self.elements.numbers


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
        decoded = (
            avro.decode(some.values, stream, schemas, some.elements, some.envelopes)
            if stream.format == "avro"
            else json_messages.decode(some.values, stream, some.elements, some.envelopes)
        )
        nulls = np.asarray(some.values.is_null())
        for row in np.flatnonzero(nulls if decoded.elements is None else nulls[decoded.elements.records]).tolist():
            decoded.problems[row] = "null_value: a message is required; got null (a tombstone)"
        return _judge(decoded, some, stream, horizon_ms, keys, clock_ms)

    return _whole_or_alone(judged, len(values))


def parse_objects(
    objects: Sequence[dict[str, Any] | None],
    records: Records,
    stream: Stream,
    *,
    keys: Collection[str] = (),
    clock_ms: int | None = None,
) -> Parsed:
    """As parse(), of messages that a library has decoded, such as rows of nested columns; ``records`` has no values."""

    def judged(rows: Int64s | None) -> Parsed:
        some = list(objects) if rows is None else [objects[row] for row in rows.tolist()]
        return _judge(from_objects(some, stream, {}), _taken(records, rows), stream, None, keys, clock_ms)

    return _whole_or_alone(judged, len(objects))


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
    values = None if records.values is None else records.values.take(index)
    elements = None if records.elements is None else records.elements[rows]
    envelopes = None if records.envelopes is None else records.envelopes.take(rows)
    partition, offset = records.partition[rows], records.offset[rows]
    return Records(values, known_at, partition, offset, first_places, elements, envelopes)


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
    reasons = [(known or {}).get(row, f"{CANNOT_BE_READ}: {error}") for row, error in errors.items()]
    return _with_refused(part, kept, np.array(list(errors), dtype=np.int64), pa.array(reasons, pa.string()))


def _with_refused(part: Parsed, kept: Int64s, refused: Int64s, reasons: pa.Array) -> Parsed:
    """The verdicts on the records ``kept``, and between them dead letters for these records, in the records' order."""
    records = np.concatenate([kept[part.records], refused])
    order = np.argsort(records, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    dead = np.full(len(refused), Verdict.DEAD_LETTER, dtype=np.int8)
    numbers = np.concatenate([part.numbers, np.full(len(refused), WHOLE)])
    return Parsed(
        part.events,
        place[part.rows],
        np.concatenate([part.verdicts, dead])[order],
        pa.concat_arrays([part.reasons, reasons]).take(pa.array(order)),
        None if part.elements is None else Elements(records, numbers).take(order),
    )


def with_dead_letters(parsed: Parsed, reasons: Mapping[int, str]) -> Parsed:
    """The same records, of which those of these events (index → reason) are dead letters."""
    if not reasons:
        return parsed
    events = np.array(list(reasons), dtype=np.int64)
    verdicts, texts = parsed.verdicts.copy(), np.array(parsed.reasons.to_pylist(), dtype=object)
    verdicts[parsed.rows[events]] = Verdict.DEAD_LETTER
    texts[parsed.rows[events]] = list(reasons.values())
    kept = np.setdiff1d(np.arange(len(parsed.rows)), events)
    return replace(
        parsed,
        events=parsed.events.take(pa.array(kept)),
        rows=parsed.rows[kept],
        verdicts=verdicts,
        reasons=pa.array(texts, pa.string()),
    )


def joined(parts: Sequence[Parsed]) -> Parsed:
    """The records of a stream's topics, concatenated in the order of ``parts``; which was an element is not kept."""
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
    if decoded.elements is not None:
        records = _taken(records, decoded.elements.records)
    ids = _ids(decoded.columns, records, stream)
    if decoded.elements is not None:
        ids = _element_ids(ids, decoded.elements, stream)
        records = replace(records, offset=element_offsets(records.offset, decoded.elements.numbers))
    times = np.asarray(single_array(decoded.columns["event_time"]).fill_null(0))
    known_at = times if records.known_at is None else records.known_at
    problems = decoded.problems
    is_file = records.values is None
    units = {"event_time": stream.time_unit, "known_at": stream.time_unit if is_file else "ms"}
    time_checks = rules.of_times({"event_time": times, "known_at": known_at}, units, clock_ms)
    repeated = () if decoded.elements is None else rules.of_elements(ids, decoded.elements)
    for mask, reason in itertools.chain(rules.of_values(decoded.columns, ids, stream, keys), time_checks, repeated):
        for row in np.flatnonzero(mask).tolist():
            problems.setdefault(row, reason(row))
    verdicts = np.zeros(len(times), dtype=np.int8)
    if horizon_ms is not None:
        verdicts[times < known_at - horizon_ms] = Verdict.LATE
    verdicts[list(problems)] = Verdict.DEAD_LETTER
    rows = np.flatnonzero(verdicts != Verdict.DEAD_LETTER)
    events = _events(decoded.columns, ids, replace(records, known_at=known_at), stream)
    accepted = events if rows.size == len(times) else events.take(pa.array(rows))
    if decoded.elements is not None:
        problems = _with_places(problems, decoded.elements, stream)
    return Parsed(accepted, rows, verdicts, _reasons(verdicts, problems, horizon_ms), decoded.elements)


def _element_ids(ids: pa.Array, elements: Elements, stream: Stream) -> pa.Array:
    """The ids of the messages with the numbers of the elements, unless the elements have ids of their own."""
    if stream.has_element_ids:
        return ids
    numbers = pa.array(elements.numbers).cast(pa.string())
    joined_ids = pc.binary_join_element_wise(ids, numbers, "-")
    return pc.if_else(pa.array(elements.numbers != WHOLE), joined_ids, ids)


def _with_places(problems: Problems, elements: Elements, stream: Stream) -> Problems:
    """The reasons with the places of the elements, such as items[2]."""
    name = path_text(step_paths(stream.each or ())[0])
    places = {row: int(elements.numbers[row]) for row in problems}
    return {row: text if places[row] == WHOLE else f"{text} ({name}[{places[row]}])" for row, text in problems.items()}


def _ids(columns: pa.Table, records: Records, stream: Stream) -> pa.Array:
    """The messages' own ids, or topic-partition-offset: of a record that was sent again, where it stood first."""
    if "event_id" in columns.column_names:
        return single_array(columns["event_id"])
    partition = records.partition % PARTITIONS_OF_A_TOPIC
    position = (pa.array(numbers).cast(pa.string()) for numbers in (partition, records.offset))
    own = pc.binary_join_element_wise(pa.scalar(stream.topic), *position, "-")
    return own if records.first_places is None else pc.coalesce(records.first_places, own)


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
