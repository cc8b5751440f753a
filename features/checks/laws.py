"""The laws that keep paths equal, checked on the user's events: each check is a function that returns a Report.

History and stream must agree with the oracle (oracle.py) for a sample of entities. Checks without the oracle cover
every entity: history against stream, one batch against many, rows through the codec.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Int64s
from features.checks.naive_aggregations import Expected, is_exact
from features.checks.oracle import Disagreement, EntityHistory, answers, compared, derived_disagreements, histories
from features.checks.reference_encoder import encode
from features.checks.sampling import EntitySample, moments_along, moments_around, records_of, sampled_entities
from features.definitions import FeatureView, Stream, duration_ms
from features.events import Parsed, Verdict, without_duplicates
from features.history import Spine, point_in_time
from features.rows import BatchKey, FeatureMatrix, Fold, PackedRows, Status, decode, finalize, layout_of
from features.times import moment_text

STREAM_ID = 1

EXAMPLES = 5

AGAIN = 0.3
"""Share of the batches that are torn and folded again."""

HISTORY_EVERY = 6
"""All entities are compared with history at every sixth moment of the stream."""

Progress = Callable[[str], None]

Violation = tuple[str, str, float]
"""(feature, example in words, distance in tolerances)."""

Answers = Sequence[dict[str, Expected] | Status]


@dataclass(frozen=True)
class Report:
    """Result of a law for a view ('': for the file): values compared, mismatches, and the worst of them."""

    view: str
    law: str
    compared: int
    mismatches: int = 0
    worst: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Sizes:
    """The number of entities of a view to compare with the oracle, and of times for each, on each path."""

    entities: int = 100
    times: int = 20


@dataclass
class _Tally:
    """The results of a check so far."""

    view: str
    law: str
    compared: int = 0
    wrong: list[Violation] = field(default_factory=list)

    def add(self, compared: int, wrong: Sequence[Violation] = ()) -> None:
        self.compared += compared
        self.wrong += wrong

    def expect(self, right: bool, otherwise: str) -> None:
        self.add(0, [] if right else [("", otherwise, math.inf)])

    def report(self, note: str = "") -> Report:
        """The report, with the worst example of each wrong feature, the worst first."""
        worst: dict[str, str] = {}
        for feature, text, _ in sorted(self.wrong, key=lambda violation: -violation[2]):
            worst.setdefault(feature, text)
        return Report(self.view, self.law, self.compared, len(self.wrong), tuple(worst.values())[:EXAMPLES], note)


def valid_events(parsed: Sequence[Parsed]) -> pa.Table:
    """The valid events of a stream, with duplicates."""
    return pa.concat_tables(
        [chunk.events.filter(pa.array(chunk.verdicts[chunk.rows] == Verdict.VALID)) for chunk in parsed]
    )


def verdicts_add_up(stream: Stream, parsed: Sequence[Parsed]) -> Report:
    """Each record of the stream has one verdict: it is an event or a dead letter, with a reason unless it is valid."""
    findings, counts = _Tally("", f"verdicts of {stream.name} add up"), Counter[str]()
    for chunk in parsed:
        events = chunk.verdicts != Verdict.DEAD_LETTER
        findings.add(len(chunk.verdicts))
        findings.expect(chunk.events.num_rows == events.sum(), "events are not the records that are valid or late")
        findings.expect(bool(np.array_equal(chunk.rows, np.flatnonzero(events))), "events are not in record order")
        reasons = np.asarray(chunk.reasons.is_valid())
        findings.expect(
            bool((reasons == (chunk.verdicts != Verdict.VALID)).all()), "reasons are not those of the refused"
        )
        counts.update(Verdict(verdict).name for verdict in chunk.verdicts.tolist())
    valid = valid_events(parsed)
    duplicates = valid.num_rows - without_duplicates(valid, duration_ms(stream.dedupe_horizon)).num_rows
    findings.expect(valid.num_rows == counts["VALID"], "valid events are not the valid records")
    ends = {"folded": counts["VALID"] - duplicates, "duplicate": duplicates}
    ends |= {"late": counts["LATE"], "dead letter": counts["DEAD_LETTER"]}
    return findings.report(", ".join(f"{number:,} {end}" for end, number in ends.items()) + _reason_codes(parsed))


def _reason_codes(parsed: Sequence[Parsed]) -> str:
    """The codes of the dead letters' reasons, the most frequent first."""
    codes = Counter[str]()
    for chunk in parsed:
        reasons = chunk.reasons.filter(pa.array(chunk.verdicts == Verdict.DEAD_LETTER))
        codes.update(reason.partition(":")[0] for reason in reasons.to_pylist())
    return f" ({', '.join(f'{number:,} {code}' for code, number in codes.most_common())})" if codes else ""


def verdicts_are_the_records_own(stream: str, first: Sequence[Parsed], second: Sequence[Parsed]) -> Report:
    """Two readings of a file in chunks of different sizes give each record the same verdict and reason."""
    findings = _Tally("", f"verdicts of {stream} are the same in other chunks")
    (verdicts, reasons), (again, reasons_again) = _verdicts(first), _verdicts(second)
    findings.add(len(verdicts))
    same_length = len(verdicts) == len(again)
    findings.expect(same_length, f"{len(verdicts):,} records in one reading, {len(again):,} in the other")
    if same_length:
        wrong = np.flatnonzero((verdicts != again) | ~np.asarray(pc.equal(reasons, reasons_again)))
        findings.add(
            0,
            [("", f"record {row}: '{reasons[row]}', then '{reasons_again[row]}'", math.inf) for row in wrong.tolist()],
        )
    return findings.report()


def _verdicts(parsed: Sequence[Parsed]) -> tuple[NDArray[np.int8], pa.Array]:
    """All verdicts and reasons; the reason of a valid record is empty."""
    reasons = pa.chunked_array([chunk.reasons for chunk in parsed], pa.string())
    return np.concatenate([chunk.verdicts for chunk in parsed]), pc.fill_null(reasons, "").combine_chunks()


def check_view(
    view: FeatureView,
    events: Mapping[str, pa.Table],
    sizes: Sizes,
    rng: np.random.Generator,
    progress: Progress = lambda _: None,
) -> Iterator[Report]:
    """A Report for each law of a view on the valid events of its streams (by name, duplicates among them)."""
    recorded = {stream.name: events[stream.name] for stream in view.streams if stream.name in events}
    if not sum(table.num_rows for table in recorded.values()):
        return
    unique = {
        s.name: without_duplicates(recorded[s.name], duration_ms(s.dedupe_horizon))
        for s in view.streams
        if s.name in recorded
    }
    sample = sampled_entities(view, recorded, sizes.entities, rng)
    if not len(sample):
        yield Report(view.name, "history = oracle", 0, note=f"these events name no {view.entity.name}")
        return
    entity_histories = histories(view, sample.keys, records_of(view, recorded, sample))
    progress(f"{view.name}: {len(sample)} entities x {sizes.times} times of history")
    yield history_is_the_oracle(view, unique, sample, entity_histories, sizes.times, rng)
    progress(f"{view.name}: {sum(len(table) for table in unique.values()):,} events in batches")
    moments = moments_along(view, recorded, sizes.times, rng)
    stream = Streamed(view, unique, rng)
    yield from stream_agrees(stream, unique, sample, entity_histories, moments)
    yield stream.again.report()
    progress(f"{view.name}: {len(stream.store.values):,} rows again, from one batch")
    yield one_batch_is_many(stream, unique, sample, entity_histories, _lifetime(unique)[1])
    yield codec_keeps_rows(view, stream.store.rows())


def history_is_the_oracle(
    view: FeatureView,
    events: Mapping[str, pa.Table],
    sample: EntitySample,
    entity_histories: Sequence[EntityHistory],
    times: int,
    rng: np.random.Generator,
) -> Report:
    """point_in_time agrees with the oracle for each entity around its own events (ties, ± 1 ms, tile bounds)."""
    lifetime = _lifetime(events)
    moments = [moments_around(view, history, times, lifetime, rng) for history in entity_histories]
    as_of = np.array(moments, dtype=np.int64).ravel()
    spine = Spine(sample.texts.take(pa.array(np.repeat(np.arange(len(sample)), times))), as_of)
    order = rng.permutation(len(as_of))
    spine = Spine(spine.keys.take(pa.array(order)), as_of[order])
    expected = [answers(view, entity_histories[row // times], int(as_of[row])) for row in order.tolist()]
    findings = _Tally(view.name, "history = oracle")
    _compare(findings, view, expected, point_in_time(view, spine, events), spine)
    return findings.report()


def _lifetime(events: Mapping[str, pa.Table]) -> tuple[int, int]:
    known = np.concatenate([table["known_at"].to_numpy() for table in events.values()])
    return int(known.min()), int(known.max())


def _compare(findings: _Tally, view: FeatureView, expected: Answers, actual: FeatureMatrix, spine: Spine) -> None:
    wrong = [(value.feature, _example(value, spine), value.excess) for value in compared(view, expected, actual)]
    wrong += [(text, text, math.inf) for text in derived_disagreements(view, actual)]
    findings.add(len(expected) * len(view.features), wrong)


def _example(wrong: Disagreement, spine: Spine) -> str:
    moment = moment_text(int(spine.as_of[wrong.row]))
    return f"{spine.keys[wrong.row]} at {moment}: {wrong.feature} is {wrong.actual}, expected {wrong.expected}"


@dataclass
class MemoryRows:
    """Rows by key in memory, in place of an online store."""

    values: dict[str, bytes] = field(default_factory=dict)

    def get(self, keys: pa.Array) -> pa.Array:
        """The value of each key, null if there is none."""
        return pa.array([self.values.get(key) for key in keys.to_pylist()], type=pa.binary())

    def put(self, rows: PackedRows) -> None:
        """Writes the rows."""
        self.values.update(zip(rows.keys.to_pylist(), rows.values.to_pylist(), strict=True))

    def rows(self) -> PackedRows:
        """Every row."""
        return PackedRows(pa.array(list(self.values), pa.string()), pa.array(list(self.values.values()), pa.binary()))

    def read(self, view: FeatureView, keys: pa.Array, as_of: int) -> FeatureMatrix:
        """The features of these entities from their rows."""
        return finalize(view, PackedRows(keys, self.get(keys)), as_of, STREAM_ID)


class Streamed:
    """A view's rows while its events arrive in random batches, some of them torn and folded again.

    ``again`` has the results for these: a batch that is folded again changes only the rows that it had not written.
    """

    def __init__(self, view: FeatureView, events: Mapping[str, pa.Table], rng: np.random.Generator) -> None:
        self.view = view
        self.store = MemoryRows()
        self.again = _Tally(view.name, "a batch folded again changes nothing more")
        self._rng = rng
        self._events = {name: table.sort_by("known_at") for name, table in events.items()}
        self._known = {name: table["known_at"].to_numpy() for name, table in self._events.items()}
        self._end = dict.fromkeys(events, 0)
        self._batches: list[Mapping[str, pa.Table]] = []

    def advance(self, moment: int) -> None:
        """Folds the events that became known up to ``moment`` (ms), in random order, in up to three batches."""
        parts = int(self._rng.integers(1, 4))
        pieces: dict[str, list[Int64s]] = {}
        for name, known in self._known.items():
            start, self._end[name] = self._end[name], int(np.searchsorted(known, moment, side="right"))
            indices = self._rng.permutation(np.arange(start, self._end[name]))
            pieces[name] = np.split(indices, np.sort(self._rng.integers(0, len(indices) + 1, parts - 1)))
        for part in range(parts):
            self._fold({name: self._events[name].take(pa.array(split[part])) for name, split in pieces.items()})

    def _fold(self, batch: Mapping[str, pa.Table]) -> None:
        number = len(self._batches)
        self._batches.append(batch)
        changed = self._changed(number)
        if self._rng.random() >= AGAIN:
            self.store.put(changed)
            return
        written = int(self._rng.integers(0, len(changed) + 1))
        self.store.put(changed.slice(0, written))
        rest, unwritten = self._changed(number), changed.slice(written, len(changed) - written)
        torn = [("", f"batch {number}, torn after {written} rows: not exactly the rest changes", math.inf)]
        self.again.add(len(changed), [] if rest.keys.equals(unwritten.keys) else torn)
        self.store.put(rest)
        old = int(self._rng.integers(0, number + 1))
        replayed = self._changed(old)
        keys = replayed.keys.to_pylist()
        self.again.add(1, [("", f"batch {old} after {number}: row {key!r} changed", math.inf) for key in keys])

    def _changed(self, number: int) -> PackedRows:
        fold = Fold(self.view, self._batches[number])
        return fold.rows(self.store.get(fold.keys), BatchKey(STREAM_ID, number, 0))

    def read(self, keys: pa.Array, as_of: int) -> FeatureMatrix:
        """The features of these entities from their rows."""
        return self.store.read(self.view, keys, as_of)


def stream_agrees(
    stream: Streamed,
    events: Mapping[str, pa.Table],
    sample: EntitySample,
    entity_histories: Sequence[EntityHistory],
    moments: Sequence[int],
) -> tuple[Report, Report]:
    """At each moment, rows of the events known by then agree with the oracle (sample) and with history (every entity).

    The second comparison is of statuses and exact features, to the bit, at some of the moments.
    """
    view = stream.view
    oracle, history = (_Tally(view.name, f"stream in random batches = {law}") for law in ("oracle", "history"))
    for number, moment in enumerate(moments):
        stream.advance(moment)
        expected = [answers(view, entity_history, moment) for entity_history in entity_histories]
        spine = Spine(sample.texts, np.full(len(sample), moment))
        _compare(oracle, view, expected, stream.read(sample.texts, moment), spine)
        if number % HISTORY_EVERY == HISTORY_EVERY - 1:
            keys = stream.store.rows().keys
            from_events = point_in_time(view, Spine(keys, np.full(len(keys), moment)), events)
            _compare_bits(history, view, keys, stream.read(keys, moment), from_events)
    return oracle.report(), history.report()


def _compare_bits(
    findings: _Tally, view: FeatureView, keys: pa.Array, first: FeatureMatrix, second: FeatureMatrix
) -> None:
    """Adds differences of statuses and exact features, compared to the bit."""
    exact = {feature.name for feature in view.features if is_exact(feature)}
    pairs = {"status": (pa.array(first.status), pa.array(second.status))}
    pairs |= {
        name: (a, b) for name, a, b in zip(first.names, first.columns, second.columns, strict=True) if name in exact
    }
    for name, (left, right) in pairs.items():
        findings.add(len(keys), [] if left.equals(right) else _unequal(name, keys, left, right))


def _unequal(name: str, keys: pa.Array, left: pa.Array, right: pa.Array) -> list[Violation]:
    values = zip(keys.to_pylist(), left.to_pylist(), right.to_pylist(), strict=True)
    return [(name, f"{key}: {name} is {a!r} and {b!r}", math.inf) for key, a, b in values if a != b]


def one_batch_is_many(
    stream: Streamed,
    events: Mapping[str, pa.Table],
    sample: EntitySample,
    entity_histories: Sequence[EntityHistory],
    moment: int,
) -> Report:
    """All events in one batch give the features of many batches: exact ones of every entity, sums of the sample.

    Args:
        moment: not before any event is known; the stream may be at an earlier one.
    """
    view, findings = stream.view, _Tally(stream.view.name, "one batch = many batches")
    stream.advance(moment)
    one_batch = Streamed(view, events, np.random.default_rng(0))
    fold = Fold(view, events)
    one_batch.store.put(fold.rows(pa.nulls(len(fold.keys), pa.binary()), BatchKey(STREAM_ID, 0, 0)))
    keys = fold.keys.drop_null()
    _compare_bits(findings, view, keys, stream.read(keys, moment), one_batch.read(keys, moment))
    expected = [answers(view, history, moment) for history in entity_histories]
    _compare(
        findings,
        view,
        expected,
        one_batch.read(sample.texts, moment),
        Spine(sample.texts, np.full(len(sample), moment)),
    )
    return findings.report()


def codec_keeps_rows(view: FeatureView, rows: PackedRows) -> Report:
    """Decoding rows and encoding them again gives the same bytes."""
    findings, layout = _Tally(view.name, "rows survive the codec"), layout_of(view, STREAM_ID)
    again = encode(decode(rows.values, rows.keys, layout), layout)
    wrong = [] if again.equals(rows.values) else _unequal("the row", rows.keys, rows.values, again)
    findings.add(len(rows), wrong)
    return findings.report(f"{rows.values.nbytes / max(len(rows), 1):,.0f} bytes a row")
