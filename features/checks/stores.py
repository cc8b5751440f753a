"""The two stores that a verification compares: rows with the offsets they stand for, and the events before those."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.checks.comparison import Difference, Findings, HeldRows, compare, ends_of_rows
from features.definitions import FeatureRepo, FeatureView, used_columns
from features.errors import StoreError, UsageError
from features.events import entity_keys
from features.history import ArchiveTable, deduplicated, open_table
from features.online_store import Offsets, ReadableStore, of_schema, read_status
from features.times import now_ms

KEYS_AT_ONCE = 4_096

ATTEMPTS = 20

POLL_S = 0.2

ARCHIVED_WITHIN_S = 60.0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class VerifyRequest:
    """What is to be compared.

    Args:
        sample: entities of each view; None is all of them.
        as_of: the instant, in ms, beside each row's own clock.
        seed: chooses the entities.
    """

    sample: int | None
    as_of: int
    seed: int


class Verifier:
    """Compares the views of a project's repo, entity by entity.

    Args:
        offline: the folder of the archive's tables.
        home: the project's, with the stream's status in it.
        say: takes a line of progress.
    """

    def __init__(self, rows: ReadableStore, repo: FeatureRepo, offline: Path, home: Path, say: Progress) -> None:
        self._rows, self._repo, self._offline, self._home, self._say = rows, repo, offline, home, say

    def verify(self, view: FeatureView, asked: VerifyRequest) -> Findings:
        """What differs for the entities asked about.

        Raises:
            UsageError: the store has no rows of this definition of the view.
            StoreError: a store does not answer, or the archive does not reach as far as the rows.
        """
        findings = Findings(view.name)
        self._stream_id(view)
        keys = self._chosen(view, asked)
        for start in range(0, len(keys), KEYS_AT_ONCE):
            some = keys.slice(start, KEYS_AT_ONCE)
            for held in self._held(view, some, findings, asked.as_of):
                self._wait_for_archive(held.end)
                events = events_of(self._tables(view, held.end), view, held.keys)
                compare(findings, view, held, events, asked.as_of, self._clock(view))
            self._say(f"{view.name}: {start + len(some):,} of {len(keys):,} entities")
        return findings

    def _stream_id(self, view: FeatureView) -> int:
        found = self._rows.current(of_schema(view.name, view.schema_hash))
        if found is None:
            required = f"rows of its definition of today (schema {view.schema_hash:016x})"
            next_step = "Run 'headrace features plan' to see what a change means, 'headrace stream' to make the rows."
            raise UsageError(f"feature view '{view.name}' in the online store", required, "none", next_step)
        return found

    # --- entities ---

    def _chosen(self, view: FeatureView, asked: VerifyRequest) -> pa.Array:
        """Entities of both stores: all, or half of the sample from each."""
        online, offline = self._rows.keys(view.name), self._archived_keys(view)
        if asked.sample is not None:
            rng = np.random.default_rng(asked.seed)
            online = _some(online, asked.sample - min(asked.sample // 2, len(offline)), rng)
            offline = _some(offline, asked.sample - len(online), rng)
        return pc.unique(pa.concat_arrays([online.cast(pa.string()), offline]))

    def _archived_keys(self, view: FeatureView) -> pa.Array:
        found = [pa.array([], pa.string())]
        for table in self._tables(view).values():
            for batch in table.batches(list(view.entity.keys)):
                keys = entity_keys({name: batch[name] for name in view.entity.keys}, view.entity)
                found.append(pc.unique(keys).drop_null())
        return pc.unique(pa.concat_arrays(found))

    # --- rows ---

    def _held(self, view: FeatureView, keys: pa.Array, findings: Findings, as_of: int) -> Iterator[HeldRows]:
        """The keys' rows, those together that stand for the same offsets; a row of no batch is a difference."""
        for _ in range(ATTEMPTS):
            stream_id = self._stream_id(view)
            generation = self._rows.generation(stream_id)
            before = generation.marker()
            values, found = self._rows.read(view.name, keys, view.schema_hash)
            after = generation.marker()
            if found != stream_id or before is None or after is None:
                continue  # readers have another generation now
            ends = ends_of_rows(values, before, after)
            known = [None if end is None else json.dumps(dict(end), sort_keys=True) for end in ends]
            for text in sorted({one for one in known if one is not None}):
                which = pa.array([one == text for one in known])
                yield HeldRows(keys.filter(which), values.filter(which), stream_id, json.loads(text))
            keys = keys.filter(pa.array([one is None for one in known]))
            if not len(keys):
                return
        findings.add(
            [
                Difference("mismatch", view.name, key, "the row", as_of, "of a batch that was not published", "")
                for key in keys.to_pylist()
            ]
        )

    # --- events ---

    def _tables(self, view: FeatureView, end: Offsets | None = None) -> dict[str, ArchiveTable]:
        found = {
            stream.name: open_table(self._offline, stream, self._repo.horizon_ms(stream.name), end=end)
            for stream in view.streams
        }
        return {name: table for name, table in found.items() if table is not None}

    def _clock(self, view: FeatureView) -> int:
        """The newest known_at of the view's streams in the archive (ms)."""
        return max([0, *(table.newest_ms() for table in self._tables(view).values())])

    def _wait_for_archive(self, end: Offsets) -> None:
        """The archive has all before the end: a stream that runs brings it there."""
        deadline = time.monotonic() + ARCHIVED_WITHIN_S
        while True:
            status = read_status(self._home, now_ms())
            archived = status.get("queries", {}).get("archive", {}).get("end", {})
            behind = {place: at for place, at in end.items() if archived.get(place, 0) < at}
            if not behind:
                return
            if status["state"] != "running" or time.monotonic() > deadline:
                got = ", ".join(f"{place} up to {archived.get(place, 0)}" for place in behind)
                next_step = "Start 'headrace stream': it archives what it has folded within stream.archive_trigger_s."
                raise StoreError("the offline store", f"the records before {behind}, as the rows", got, next_step)
            time.sleep(POLL_S)


def _some(keys: pa.Array, count: int, rng: np.random.Generator) -> pa.Array:
    if len(keys) <= count:
        return keys.cast(pa.string())
    return keys.take(pa.array(np.sort(rng.choice(len(keys), max(count, 0), replace=False)))).cast(pa.string())


def events_of(tables: Mapping[str, ArchiveTable], view: FeatureView, entities: pa.Array) -> dict[str, pa.Table]:
    """By stream, the deduplicated events of these entities (keys as text), in memory that they bound.

    A table is read twice: which of two records with one event id counts depends on both, and the other may be another
    entity's.
    """
    events = {}
    for name, table in tables.items():
        stream = table.stream
        ids = [pa.array([], pa.string())]
        for batch in table.batches([*view.entity.keys, "event_id"]):
            keys = entity_keys({one: batch[one] for one in view.entity.keys}, view.entity)
            mine = pc.fill_null(pc.is_in(keys, value_set=entities), fill_value=False)
            ids.append(pc.unique(batch["event_id"].filter(mine)))
        wanted = table.only(pc.field("event_id").isin(pc.unique(pa.concat_arrays(ids))))
        events[name] = deduplicated(wanted.events(used_columns(view, stream)), stream)
    return events
