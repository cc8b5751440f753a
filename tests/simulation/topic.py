"""The topic of the simulator's stories: its records, what is wrong with some of them, and the verdict each must get."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from outages import Lost

from features.definitions import Entity, FeatureSet, FeatureView, Stream
from features.definitions.aggregations import Count, LastK, Sum
from features.definitions.expressions import Compare, above, conditions
from features.definitions.windows import Window
from features.events.parsing import Parsed, Records, Verdict, parse
from features.online_store.port import Offsets

REPEATED_SHARE, POISON_SHARE = 0.2, 0.06

T0 = 1_700_000_000_000

KEYS = ("a", "b", "c")

STREAM = Stream("s", topic="t", fields={"key": "string", "label": "string", "value": "int64"}, dedupe_horizon="30s")

ENTITY = Entity("e", keys={"key": "string"})

WINDOWS = [Window("10s", tile="1s"), Window("1m", tile="5s")]

VIEW = FeatureView(
    "v",
    sets=[
        FeatureSet(ENTITY, STREAM, [Count(), Sum("value"), LastK("label", 2)], WINDOWS, name="all"),
        FeatureSet(ENTITY, STREAM, [Count()], WINDOWS[:1], where={"value": above(0.5)}, name="some"),
    ],
)

BREAKS = 2**53 + 1
"""A value with which breaking_comparison() raises an error."""


@contextmanager
def breaking_comparison() -> Iterator[None]:
    """Numbers are compared as they once were: by a kernel of Arrow that raises an error for one integer in a million.

    No content of an event is known to make the kernels of today raise.
    """
    honest = conditions._compared

    def compared(column: pa.ChunkedArray, compare: Compare) -> Any:
        return pc.call_function(Compare.KERNELS[compare.relation], [column, pa.scalar(compare.value)])

    conditions._compared = compared
    try:
        yield
    finally:
        conditions._compared = honest


@dataclass(frozen=True)
class Log:
    """The records of a topic of two partitions, what the parser makes of them, and the verdict that each must get.

    Args:
        lost: records that are said to be lost: they do not count.
        passed_over: records that neither batches nor the archive have; the same, if all is well.
    """

    records: list[dict[str, Any]]
    parsed: Parsed
    verdicts: NDArray[np.int8]
    lost: Lost = frozenset()
    passed_over: Lost = frozenset()

    @property
    def clock(self) -> int:
        """``known_at`` of the last record."""
        return int(max(record["known_at"] for record in self.records))

    def between(self, start: Offsets, end: Offsets) -> Parsed:
        """The records between these offsets, as a batch gets them: those that no fold can take are among them."""
        chosen = [
            index
            for index, record in enumerate(self.records)
            if is_between(record, start, end) and (record["partition"], record["offset"]) not in self.passed_over
        ]
        rows = np.array(chosen, dtype=np.int64)
        events = np.flatnonzero(np.isin(self.parsed.rows, rows))
        return Parsed(
            self.parsed.events.take(pa.array(events)),
            np.searchsorted(rows, self.parsed.rows[events]),
            self.parsed.verdicts[rows],
            self.parsed.reasons.take(pa.array(rows)),
        )

    def archived(self, start: Offsets, end: Offsets) -> pa.Table:
        """The events between these offsets in the archive of somebody whose definitions could fold them all."""
        parsed = self.between(start, end)
        return parsed.events.filter(pa.array(parsed.verdicts[parsed.rows] == Verdict.VALID))

    def valid(self) -> list[dict[str, Any]]:
        """The records that count."""
        return [
            record
            for record, verdict in zip(self.records, self.verdicts, strict=True)
            if verdict == Verdict.VALID and (record["partition"], record["offset"]) not in self.lost
        ]

    def counts(self, start: Offsets, end: Offsets) -> list[int]:
        """The number of records between these offsets that are to be valid, late and refused; lost ones too."""
        inside = np.array([is_between(record, start, end) for record in self.records])
        return [int((self.verdicts[inside] == verdict).sum()) for verdict in Verdict]

    def ends(self) -> Offsets:
        """The end offset of each partition."""
        return {f"t/{p}": sum(record["partition"] == p for record in self.records) for p in (0, 1)}


def is_between(record: dict[str, Any], start: Offsets, end: Offsets) -> bool:
    """Whether the record is at one of these offsets, [start, end)."""
    place = f"t/{record['partition']}"
    return start[place] <= int(record["offset"]) < end[place]


def make_log(rng: Random, size: int, poison: Random) -> Log:
    """Records in the order of ``known_at``; some are repeated, late or in the future, or nothing that can be folded."""
    now, offsets = T0, [0, 0]
    records: list[dict[str, Any]] = []
    for number in range(size):
        now += rng.choice([0, 1, 300, 2_000, 9_000])
        repeated = rng.choice(records) if records and rng.random() < REPEATED_SHARE else None
        key = repeated["key"] if repeated else rng.choice(KEYS)
        partition = KEYS.index(key) % 2
        ago = rng.choice([0, 0, 1, 1_000, 7_000, 59_000, 70_000, -4_000, -400_000])
        content = {
            "event_id": repeated["event_id"] if repeated else f"id{number}",
            "event_time": now - ago,
            "key": key,
            "label": rng.choice(["x", "y", "z", None]),
            "value": rng.randint(-5, 5),
        }
        is_poison = poison.random() < POISON_SHARE
        # Of a repetition, the driver does not look at what it would break: it is a duplicate there.
        is_taken = repeated is None and ago in range(60_000)
        message = poisoned(poison, content, is_taken=is_taken) if is_poison else json.dumps(content).encode()
        place = {"known_at": now, "partition": partition, "offset": offsets[partition]}
        records.append(content | place | {"message": message, "is_poison": is_poison})
        offsets[partition] += 1
    healthy = np.array([not record["is_poison"] for record in records])
    verdicts = np.full(size, Verdict.DEAD_LETTER, dtype=np.int8)
    verdicts[healthy] = _parsed([record for record in records if not record["is_poison"]]).verdicts
    return Log(records, _parsed(records), verdicts)


def poisoned(rng: Random, content: dict[str, Any], *, is_taken: bool) -> bytes:
    """A message in the record's place that the parser refuses, or, if it would take it, that the fold cannot take."""
    if is_taken and rng.random() < 0.5:
        return json.dumps(content | {"value": BREAKS}).encode()
    text = json.dumps(content).encode()
    return rng.choice(
        [
            text[: rng.randrange(len(text))],
            text.replace(b'"key"', b'"k\xff\xfe"'),
            json.dumps(content | {"value": 2**70}).encode(),
            json.dumps(content | {"value": "five"}).encode(),
            json.dumps(content | {"event_time": 99}).encode(),
            b'{"x":' * 3_000 + text + b"}" * 3_000,
            b"null",
        ]
    )


def _parsed(records: list[dict[str, Any]]) -> Parsed:
    messages = pa.array([record["message"] for record in records], pa.binary())
    known_at, offset = (np.array([record[name] for record in records], np.int64) for name in ("known_at", "offset"))
    partition = np.array([record["partition"] for record in records], np.int32)
    return parse(Records(messages, known_at, partition, offset), STREAM, VIEW.horizon_ms)
