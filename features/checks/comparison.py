"""Online against offline: the rows of a store and the archive's events, as of the same instant and the same offsets.

A row holds what its generation folded up to some batch, and says which batch wrote it last. The generation's markers,
read before and after the rows, say where that batch ends: the events before it, and no others, must come to the same
features. So a stream that lags explains no difference, and one that is running is no obstacle.

Features that are exact on every path must be the same to the bit. Others must be within a few ulps; where they are not,
the oracle (testing.py) says what they may be.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Bools, Int64s
from features.checks.oracle import excess_of, is_exact, oracle
from features.definitions import Feature, FeatureView, evaluate
from features.errors import StateError
from features.events import entity_keys
from features.history import Spine, point_in_time
from features.online_store import Marker, Offsets
from features.rows import HEADER, FeatureMatrix, PackedRows, Status, finalize

CLOSE = 1e-12
"""Relative difference below which two floats are the same without asking the oracle."""

KINDS = ("mismatch", "missing", "extra")

WORST = 20
"""Examples that are kept."""


@dataclass(frozen=True)
class Difference:
    """One value that is not the same: kind is 'mismatch', 'missing' (not online) or 'extra' (not offline).

    ``feature`` is 'status' where there is nobody on one side, and 'the row' where it cannot be read.
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
    """What a comparison has found so far: values compared, differences by feature and kind, and the worst of them."""

    view: str
    entities: int = 0
    compared: int = 0
    by_feature: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    worst: list[Difference] = field(default_factory=list)

    @property
    def kinds(self) -> Counter[str]:
        """How many differences there are of each kind."""
        return sum(self.by_feature.values(), Counter[str]())

    def add(self, differences: Sequence[Difference]) -> None:
        """Count them, and keep the worst, of different entities first."""
        for one in differences:
            self.by_feature.setdefault(one.feature, Counter())[one.kind] += 1
            if one.entity not in self.wrong or len(self.worst) < WORST:
                self.worst.append(one)
            self.wrong.add(one.entity)
        self.worst = sorted(self.worst, key=lambda one: -one.excess)[:WORST]


@dataclass(frozen=True)
class HeldRows:
    """Rows as a store held them, of one generation, that had all been folded up to the same offsets."""

    keys: pa.Array
    values: pa.Array
    stream_id: int
    end: Offsets


def ends_of_rows(values: pa.Array, before: Marker, after: Marker) -> list[Offsets | None]:
    """For each row, the offsets up to which it was folded; None where neither marker knows (read such a row again).

    Args:
        values: read between the two markers.
    """
    done = before.end if before.done == before.batch_id else before.start
    known = {after.batch_id - 1: after.start, before.batch_id: before.end, after.batch_id: after.end}
    batches = batch_ids(values).tolist()
    return [done if batch is None or batch <= before.done else known.get(batch) for batch in batches]


def batch_ids(values: pa.Array) -> NDArray[np.object_]:
    """The batch that wrote each row last; None for one that is not there, or too short to say."""
    headers = [_header(value) for value in values.to_pylist()]
    return np.array([None if one is None else int(one["batch_id"]) for one in headers], dtype=object)


def _header(value: bytes | None) -> np.void | None:
    if value is None or len(value) < HEADER.itemsize:
        return None
    header: np.void = np.frombuffer(value[: HEADER.itemsize], HEADER)[0]
    return header


def compare(
    findings: Findings, view: FeatureView, held: HeldRows, events: Mapping[str, pa.Table], as_of: int, clock: int
) -> None:
    """Add what differs at the clock of each row, when it is richest, and at ``as_of`` (ms; the clock if that is later).

    Args:
        events: by stream, the deduplicated events before ``held.end`` of at least these entities.
        clock: the newest known_at of the archive, in ms: when a row that is not there is asked about, as a row whose
            entity is NOT_FOUND by then may have been taken out.
    """
    clocks = _clocks(held, clock)
    findings.entities += len(held.keys)
    for at in (clocks, np.maximum(clocks, as_of)):
        offline = point_in_time(view, Spine(held.keys, at), events)
        damaged, online = _finalized(view, held, at)
        findings.compared += len(held.keys) * len(view.features)
        findings.add([*damaged, *_compared(view, held.keys, online, offline, events, {one.entity for one in damaged})])


def _clocks(held: HeldRows, clock: int) -> Int64s:
    """The clock of each row; that of the archive where there is none."""
    headers = [_header(value) for value in held.values.to_pylist()]
    clocks = [clock if header is None else int(header["clock"]) for header in headers]
    # A damaged clock may say anything: nothing is asked about times that numbers of ms do not reach.
    return np.clip(np.array(clocks, dtype=np.int64), 0, 1 << 52)


def _finalized(view: FeatureView, held: HeldRows, at: Int64s) -> tuple[list[Difference], FeatureMatrix]:
    """The rows' features; those that cannot be read are differences, and null in the matrix."""
    why = dict(_unreadable(view, held, at, 0, len(held.keys)))
    keep = np.ones(len(held.keys), dtype=bool)
    keep[list(why)] = False
    values = pc.if_else(pa.array(keep), held.values, None) if why else held.values
    matrix = finalize(view, PackedRows(held.keys, values), at, held.stream_id)
    keys = held.keys.to_pylist()
    return [
        Difference("mismatch", view.name, keys[place], "the row", int(at[place]), text, "a whole row")
        for place, text in why.items()
    ], matrix


def _unreadable(view: FeatureView, held: HeldRows, at: Int64s, start: int, stop: int) -> list[tuple[int, str]]:
    """Places and reasons of rows that cannot be read, by halves."""
    if start == stop:
        return []
    some = slice(start, stop)
    try:
        rows = PackedRows(held.keys.slice(start, stop - start), held.values.slice(start, stop - start))
        finalize(view, rows, at[some], held.stream_id)
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
    told: set[str],
) -> list[Difference]:
    texts = keys.to_pylist()
    found = []
    for place in np.flatnonzero(online.status != offline.status).tolist():
        one, other = Status(int(online.status[place])), Status(int(offline.status[place]))
        if texts[place] not in told:
            kind = {one: "missing", other: "extra"}.get(Status.NOT_FOUND, "mismatch")
            at = int(offline.as_of[place])
            found.append(Difference(kind, view.name, texts[place], "status", at, one.name, other.name))
    both = (online.status == Status.PRESENT) & (offline.status == Status.PRESENT)
    judge = _Tolerances(view, events)
    for number, feature in enumerate(view.features):
        one, other = online.columns[number], offline.columns[number]
        for place in np.flatnonzero(both & ~_same(one, other, feature)).tolist():
            values = one[place].as_py(), other[place].as_py()
            excess = judge.excess(feature, keys[place].as_py(), int(offline.as_of[place]), *values)
            if excess > 1:
                at = int(offline.as_of[place])
                kind = kind_of(*values)
                found.append(Difference(kind, view.name, texts[place], feature.name, at, *values, excess))
    return [*found, *_underived(view, texts, online)]


def kind_of(online: object, offline: object) -> str:
    """How two values differ, one of which may be none."""
    return "missing" if online is None else "extra" if offline is None else "mismatch"


def _same(one: pa.Array, other: pa.Array, feature: Feature) -> Bools:
    """Where both have the same value, or floats of a feature that is not exact are close, or both have none."""
    if pa.types.is_list(one.type):
        return np.array([a == b for a, b in zip(one.to_pylist(), other.to_pylist(), strict=True)], dtype=bool)
    nulls = [np.asarray(column.is_null().to_numpy(zero_copy_only=False), dtype=bool) for column in (one, other)]
    if not pa.types.is_floating(one.type):
        equal = pc.fill_null(pc.equal(one, other), fill_value=False)
        return np.asarray((nulls[0] & nulls[1]) | equal.to_numpy(zero_copy_only=False), dtype=bool)
    first, second = (np.asarray(pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False)) for column in (one, other))
    close = first == second
    if not is_exact(feature):
        close |= np.abs(first - second) <= CLOSE * np.maximum(np.abs(first), np.abs(second))
    return np.asarray((nulls[0] == nulls[1]) & (close | nulls[0]), dtype=bool)


class _Tolerances:
    """Says by how many tolerances a value is off, of entities whose events are laid out when they are asked about."""

    def __init__(self, view: FeatureView, events: Mapping[str, pa.Table]) -> None:
        self._view, self._events = view, events
        self._known: dict[tuple[str, int], Any] = {}

    def excess(self, feature: Feature, key: str, as_of: int, online: Any, offline: Any) -> float:
        """0 for what may be; a derived feature follows its operands, which are judged themselves."""
        if feature.expression is not None:
            return 0.0
        if is_exact(feature) or online is None or offline is None:
            return math.inf
        expected = self._expected(key, as_of)
        return math.inf if isinstance(expected, Status) else excess_of(online, expected[feature.name])

    def _expected(self, key: str, as_of: int) -> Any:
        if (key, as_of) not in self._known:
            rows: dict[str, list[dict[str, Any]]] = {}
            for name, table in self._events.items():
                texts = entity_keys({one: table[one] for one in self._view.entity.keys}, self._view.entity)
                rows[name] = table.filter(pc.fill_null(pc.equal(texts, key), fill_value=False)).to_pylist()
            first = next(row for several in rows.values() for row in several)
            values = {name: first[name] for name in self._view.entity.keys}
            self._known[key, as_of] = oracle(self._view, values, as_of, rows)
        return self._known[key, as_of]


def _underived(view: FeatureView, keys: Sequence[str], online: FeatureMatrix) -> list[Difference]:
    """Derived features that are not their expression of the features beside them."""
    columns = dict(zip(online.names, online.columns, strict=True))
    numeric = [one.name for one in view.features if one.dtype in ("int64", "float64")]
    floats = {name: columns[name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in numeric}
    present = online.status == Status.PRESENT
    found = []
    for feature in view.features:
        if feature.expression is not None:
            right = evaluate(feature.expression, floats)
            is_right = (floats[feature.name] == right) | (np.isnan(right) & np.isnan(floats[feature.name]))
            found += [
                Difference(
                    "mismatch",
                    view.name,
                    keys[place],
                    feature.name,
                    int(online.as_of[place]),
                    columns[feature.name][place].as_py(),
                    None if np.isnan(right[place]) else float(right[place]),
                )
                for place in np.flatnonzero(present & ~is_right).tolist()
            ]
    return found


def report(several: Sequence[Findings], features: Mapping[str, int]) -> dict[str, Any]:
    """What `features verify --json` prints.

    Args:
        features: view → how many it has.
    """
    kinds = sum((one.kinds for one in several), Counter[str]())
    worst = sorted((one for each in several for one in each.worst), key=lambda one: -one.excess)[:WORST]
    return {
        "entities": sum(one.entities for one in several),
        "features": sum(features.values()),
        "compared": sum(one.compared for one in several),
        **_by_kind(kinds),
        "wrong_entities": sum(len(one.wrong) for one in several),
        "worst": [_example(one) for one in worst],
        "views": {
            one.view: {
                "entities": one.entities,
                "compared": one.compared,
                **_by_kind(one.kinds),
                "wrong_entities": len(one.wrong),
                "by_feature": {feature: _by_kind(kinds) for feature, kinds in _most_first(one.by_feature)},
            }
            for one in several
        },
    }


def _by_kind(kinds: Counter[str]) -> dict[str, int]:
    return {kind: kinds[kind] for kind in KINDS}


def _most_first(by_feature: Mapping[str, Counter[str]]) -> list[tuple[str, Counter[str]]]:
    return sorted(by_feature.items(), key=lambda one: -one[1].total())


def _example(one: Difference) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "view": one.view,
        "entity": one.entity,
        "feature": one.feature,
        "as_of": one.as_of,
        "online": one.online,
        "offline": one.offline,
        "tolerances": None if math.isinf(one.excess) else one.excess,
    }
