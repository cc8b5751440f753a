"""Online against offline: the rows of a store and the archive's events, as of the same instant and the same offsets.

A row contains the events that its generation folded up to some batch, and the number of the batch that wrote it last.
The generation's markers, read before and after the rows, give the end offsets of that batch: the events before them,
and no others, must give the same features. So a lagging stream explains no difference, and the stream may go on.

Features that are exact on every path must be the same to the bit. Others must be within a few ulps; if they are not,
the oracle (oracle.py) decides.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Bools, Int64s
from features.checks.naive_aggregations import is_exact
from features.checks.oracle import excess_of, oracle
from features.definitions import Feature, FeatureView, evaluate
from features.errors import StateError
from features.events import entity_keys
from features.history import Spine, point_in_time
from features.online_store import Marker, Offsets
from features.rows import HEADER, FeatureMatrix, PackedRows, Status, finalize

CLOSE = 1e-12
"""Two floats with a smaller relative difference are equal without asking the oracle."""

KINDS = ("mismatch", "missing", "extra")

WORST = 20
"""The number of examples in a report."""


@dataclass(frozen=True)
class Difference:
    """A value that differs: kind is 'mismatch', 'missing' (not online) or 'extra' (not offline).

    ``feature`` is 'status' if the statuses differ, and 'the row' if it cannot be read.
    """

    kind: str
    view: str
    entity: str
    feature: str
    as_of: int
    online: Any
    offline: Any
    excess: float = math.inf


@dataclass
class Findings:
    """The results of a comparison so far: values compared, differences by feature and kind, the worst differences."""

    view: str
    entities: int = 0
    compared: int = 0
    by_feature: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    worst: list[Difference] = field(default_factory=list)

    @property
    def kinds(self) -> Counter[str]:
        """The number of differences of each kind."""
        return sum(self.by_feature.values(), Counter[str]())

    def add(self, differences: Sequence[Difference]) -> None:
        """Counts the differences and keeps the worst; each entity keeps at least its worst while there is room."""
        for difference in differences:
            self.by_feature.setdefault(difference.feature, Counter())[difference.kind] += 1
            if difference.entity not in self.wrong or len(self.worst) < WORST:
                self.worst.append(difference)
            self.wrong.add(difference.entity)
        self.worst = _worst_first(self.worst)[:WORST]


def _worst_first(differences: Iterable[Difference]) -> list[Difference]:
    return sorted(differences, key=lambda difference: -difference.excess)


@dataclass(frozen=True)
class HeldRows:
    """Rows read from a store, of one generation, all folded up to the same offsets (``end``)."""

    keys: pa.Array
    values: pa.Array
    stream_id: int
    end: Offsets


def ends_of_rows(values: pa.Array, before: Marker, after: Marker) -> list[Offsets | None]:
    """For each row, the offsets up to which it was folded; None if neither marker has them (read the row again).

    Args:
        values: read between the two markers.
    """
    done = before.end if before.done == before.batch_id else before.start
    ends = {after.batch_id - 1: after.start, before.batch_id: before.end, after.batch_id: after.end}
    batches = batch_ids(values).tolist()
    return [done if batch is None or batch <= before.done else ends.get(batch) for batch in batches]


def batch_ids(values: pa.Array) -> NDArray[np.object_]:
    """The batch that wrote each row last; None for a row that is missing, or shorter than its header."""
    headers = [_header(value) for value in values.to_pylist()]
    return np.array([None if header is None else int(header["batch_id"]) for header in headers], dtype=object)


def _header(value: bytes | None) -> np.void | None:
    if value is None or len(value) < HEADER.itemsize:
        return None
    header: np.void = np.frombuffer(value[: HEADER.itemsize], HEADER)[0]
    return header


def compare(
    findings: Findings, view: FeatureView, held: HeldRows, events: Mapping[str, pa.Table], as_of: int, clock: int
) -> None:
    """Adds the differences at the clock of each row, when it has most, and at ``as_of`` (ms; the clock if later).

    Args:
        events: by stream, the deduplicated events before ``held.end`` of at least these entities.
        clock: the newest known_at of the archive, in ms: the instant of reads of missing rows, as the row of an entity
            that is NOT_FOUND by then may have been swept.
    """
    clocks = _clocks(held, clock)
    findings.entities += len(held.keys)
    for at in (clocks, np.maximum(clocks, as_of)):
        offline = point_in_time(view, Spine(held.keys, at), events)
        damaged, online = _finalized(view, held, at)
        damaged_entities = {difference.entity for difference in damaged}
        findings.compared += len(held.keys) * len(view.features)
        findings.add([*damaged, *_compared(view, held.keys, online, offline, events, damaged_entities)])


def _clocks(held: HeldRows, clock: int) -> Int64s:
    """The clock of each row; that of the archive for a missing row."""
    headers = [_header(value) for value in held.values.to_pylist()]
    clocks = [clock if header is None else int(header["clock"]) for header in headers]
    # The clock of a damaged row may be any number: it is clipped to times that kernels can compute with.
    return np.clip(np.array(clocks, dtype=np.int64), 0, 1 << 52)


def _finalized(view: FeatureView, held: HeldRows, at: Int64s) -> tuple[list[Difference], FeatureMatrix]:
    """Differences for rows that cannot be read, and the features of all rows, null for those."""
    reasons = dict(_unreadable(view, held, at, 0, len(held.keys)))
    readable = np.ones(len(held.keys), dtype=bool)
    readable[list(reasons)] = False
    values = pc.if_else(pa.array(readable), held.values, None) if reasons else held.values
    matrix = finalize(view, PackedRows(held.keys, values), at, held.stream_id)
    keys = held.keys.to_pylist()
    return [
        Difference("mismatch", view.name, keys[row], "the row", int(at[row]), reason, "a whole row")
        for row, reason in reasons.items()
    ], matrix


def _unreadable(view: FeatureView, held: HeldRows, at: Int64s, start: int, stop: int) -> list[tuple[int, str]]:
    """Indices and reasons of the rows that cannot be read, found by bisection."""
    if start == stop:
        return []
    try:
        rows = PackedRows(held.keys.slice(start, stop - start), held.values.slice(start, stop - start))
        finalize(view, rows, at[start:stop], held.stream_id)
    except StateError as error:
        if stop - start == 1:
            return [(start, str(error))]
        middle = (start + stop) // 2
        return [*_unreadable(view, held, at, start, middle), *_unreadable(view, held, at, middle, stop)]
    return []


def _compared(
    view: FeatureView,
    keys: pa.Array,
    online: FeatureMatrix,
    offline: FeatureMatrix,
    events: Mapping[str, pa.Table],
    damaged: set[str],
) -> list[Difference]:
    texts = keys.to_pylist()
    differences = []
    for row in np.flatnonzero(online.status != offline.status).tolist():
        status, expected = Status(int(online.status[row])), Status(int(offline.status[row]))
        if texts[row] not in damaged:
            kind = {status: "missing", expected: "extra"}.get(Status.NOT_FOUND, "mismatch")
            at = int(offline.as_of[row])
            differences.append(Difference(kind, view.name, texts[row], "status", at, status.name, expected.name))
    both = (online.status == Status.PRESENT) & (offline.status == Status.PRESENT)
    tolerances = _Tolerances(view, events)
    for column, feature in enumerate(view.features):
        ours, theirs = online.columns[column], offline.columns[column]
        for row in np.flatnonzero(both & ~_equal(ours, theirs, feature)).tolist():
            values = ours[row].as_py(), theirs[row].as_py()
            at = int(offline.as_of[row])
            excess = tolerances.excess(feature, texts[row], at, *values)
            if excess > 1:
                differences.append(
                    Difference(kind_of(*values), view.name, texts[row], feature.name, at, *values, excess)
                )
    return [*differences, *_underived(view, texts, online)]


def kind_of(online: object, offline: object) -> str:
    """The kind of a difference between two values, one of which may be None."""
    return "missing" if online is None else "extra" if offline is None else "mismatch"


def _equal(online: pa.Array, offline: pa.Array, feature: Feature) -> Bools:
    """True where both have the same value, close floats of a feature that is not exact, or no value."""
    if pa.types.is_list(online.type):
        return np.array([a == b for a, b in zip(online.to_pylist(), offline.to_pylist(), strict=True)], dtype=bool)
    nulls = [np.asarray(column.is_null().to_numpy(zero_copy_only=False), dtype=bool) for column in (online, offline)]
    if not pa.types.is_floating(online.type):
        equal = pc.fill_null(pc.equal(online, offline), fill_value=False)
        return np.asarray((nulls[0] & nulls[1]) | equal.to_numpy(zero_copy_only=False), dtype=bool)
    first, second = (
        np.asarray(pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False)) for column in (online, offline)
    )
    close = first == second
    if not is_exact(feature):
        close |= np.abs(first - second) <= CLOSE * np.maximum(np.abs(first), np.abs(second))
    return np.asarray((nulls[0] == nulls[1]) & (close | nulls[0]), dtype=bool)


class _Tolerances:
    """The distance of values from the oracle's, in tolerances; the oracle runs once per entity and instant."""

    def __init__(self, view: FeatureView, events: Mapping[str, pa.Table]) -> None:
        self._view, self._events = view, events
        self._answers: dict[tuple[str, int], Any] = {}

    def excess(self, feature: Feature, key: str, as_of: int, online: Any, offline: Any) -> float:
        """0 for a derived feature, which is checked by its operands; inf if no difference is allowed."""
        if feature.expression is not None:
            return 0.0
        if is_exact(feature):
            return math.inf
        expected = self._expected(key, as_of)
        return math.inf if isinstance(expected, Status) else excess_of(online, expected[feature.name])

    def _expected(self, key: str, as_of: int) -> Any:
        if (key, as_of) not in self._answers:
            rows: dict[str, list[dict[str, Any]]] = {}
            for stream, table in self._events.items():
                texts = entity_keys({name: table[name] for name in self._view.entity.keys}, self._view.entity)
                rows[stream] = table.filter(pc.fill_null(pc.equal(texts, key), fill_value=False)).to_pylist()
            first = next(row for stream_rows in rows.values() for row in stream_rows)
            values = {name: first[name] for name in self._view.entity.keys}
            self._answers[key, as_of] = oracle(self._view, values, as_of, rows)
        return self._answers[key, as_of]


def _underived(view: FeatureView, keys: Sequence[str], online: FeatureMatrix) -> list[Difference]:
    """Derived features that differ from their expression of the row's other features."""
    columns = dict(zip(online.names, online.columns, strict=True))
    numeric = [feature.name for feature in view.features if feature.dtype in ("int64", "float64")]
    floats = {name: columns[name].cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) for name in numeric}
    present = online.status == Status.PRESENT
    differences = []
    for feature in view.features:
        if feature.expression is not None:
            expected = evaluate(feature.expression, floats)
            both_null = np.isnan(expected) & np.isnan(floats[feature.name])
            is_equal = (floats[feature.name] == expected) | both_null
            differences += [
                Difference(
                    "mismatch",
                    view.name,
                    keys[row],
                    feature.name,
                    int(online.as_of[row]),
                    columns[feature.name][row].as_py(),
                    None if np.isnan(expected[row]) else float(expected[row]),
                )
                for row in np.flatnonzero(present & ~is_equal).tolist()
            ]
    return differences


def report(comparisons: Sequence[Findings], features: Mapping[str, int]) -> dict[str, Any]:
    """The output of `features verify --json`.

    Args:
        features: view → its number of features.
    """
    kinds = sum((findings.kinds for findings in comparisons), Counter[str]())
    worst = _worst_first(difference for findings in comparisons for difference in findings.worst)[:WORST]
    return {
        "entities": sum(findings.entities for findings in comparisons),
        "features": sum(features.values()),
        "compared": sum(findings.compared for findings in comparisons),
        **_by_kind(kinds),
        "wrong_entities": sum(len(findings.wrong) for findings in comparisons),
        "worst": [_example(difference) for difference in worst],
        "views": {
            findings.view: {
                "entities": findings.entities,
                "compared": findings.compared,
                **_by_kind(findings.kinds),
                "wrong_entities": len(findings.wrong),
                "by_feature": {feature: _by_kind(kinds) for feature, kinds in _most_first(findings.by_feature)},
            }
            for findings in comparisons
        },
    }


def _by_kind(kinds: Counter[str]) -> dict[str, int]:
    return {kind: kinds[kind] for kind in KINDS}


def _most_first(by_feature: Mapping[str, Counter[str]]) -> list[tuple[str, Counter[str]]]:
    return sorted(by_feature.items(), key=lambda entry: -entry[1].total())


def _example(difference: Difference) -> dict[str, Any]:
    return {
        "kind": difference.kind,
        "view": difference.view,
        "entity": difference.entity,
        "feature": difference.feature,
        "as_of": difference.as_of,
        "online": difference.online,
        "offline": difference.offline,
        "tolerances": None if math.isinf(difference.excess) else difference.excess,
    }
