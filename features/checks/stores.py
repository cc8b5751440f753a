"""The two stores of a verification: rows with their end offsets, and the archive's events before those offsets."""

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
from features.epochs import broker_offsets
from features.errors import StoreError, UsageError
from features.events import entity_keys
from features.history import ArchiveTable, deduplicated, open_tables
from features.online_store import Offsets, ReadableStore, of_schema, read_status
from features.times import now_ms

KEYS_AT_ONCE = 4_096

ATTEMPTS = 20

POLL_S = 0.2

ARCHIVED_WITHIN_S = 60.0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class VerifyRequest:
    """The parameters of a verification.

    Args:
        sample: number of entities of each view; None for all.
        as_of: instant in ms at which rows are compared, besides their own clock.
        seed: that of the sample.
    """

    sample: int | None
    as_of: int
    seed: int


class Verifier:
    """Compares the views of a project's repo, entity by entity.

    Args:
        offline: the folder of the archive's tables.
        home: the project's home, with the stream's status.
        log: called with each line of progress.
    """

    def __init__(self, rows: ReadableStore, repo: FeatureRepo, offline: Path, home: Path, log: Progress) -> None:
        self._rows, self._repo, self._offline, self._home, self._log = rows, repo, offline, home, log

    def verify(self, view: FeatureView, request: VerifyRequest) -> Findings:
        """The differences of the requested entities.

        Raises:
            UsageError: the store has no rows of this definition of the view.
            StoreError: a store does not answer, or the archive does not reach as far as the rows.
        """
        findings = Findings(view.name)
        self._stream_id(view)
        keys = self._chosen(view, request)
        for start in range(0, len(keys), KEYS_AT_ONCE):
            batch = keys.slice(start, KEYS_AT_ONCE)
            for held in self._held(view, batch, findings, request.as_of):
                self._wait_for_archive(held.end)
                events = events_of(self._tables(view, held.end), view, held.keys)
                compare(findings, view, held, events, request.as_of, self._clock(view))
            self._log(f"{view.name}: {start + len(batch):,} of {len(keys):,} entities")
        return findings

    def _stream_id(self, view: FeatureView) -> int:
        stream_id = self._rows.current(of_schema(view.name, view.schema_hash))
        if stream_id is None:
            required = f"rows of its definition of today (schema {view.schema_hash:016x})"
            next_step = "Run 'headrace features plan' to see what a change means, 'headrace stream' to make the rows."
            raise UsageError(f"feature view '{view.name}' in the online store", required, "none", next_step)
        return stream_id

    # --- entities ---

    def _chosen(self, view: FeatureView, request: VerifyRequest) -> pa.Array:
        """Keys of both stores: all, or half of the sample from each."""
        online, offline = self._rows.keys(view.name), self._archived_keys(view)
        if request.sample is not None:
            rng = np.random.default_rng(request.seed)
            online = _sampled(online, request.sample - min(request.sample // 2, len(offline)), rng)
            offline = _sampled(offline, request.sample - len(online), rng)
        return pc.unique(pa.concat_arrays([online.cast(pa.string()), offline]))

    def _archived_keys(self, view: FeatureView) -> pa.Array:
        chunks = [pa.array([], pa.string())]
        for table in self._tables(view).values():
            for batch in table.batches(list(view.entity.keys)):
                keys = entity_keys({name: batch[name] for name in view.entity.keys}, view.entity)
                chunks.append(pc.unique(keys).drop_null())
        return pc.unique(pa.concat_arrays(chunks))

    # --- rows ---

    def _held(self, view: FeatureView, keys: pa.Array, findings: Findings, as_of: int) -> Iterator[HeldRows]:
        """The keys' rows, grouped by the offsets that they contain; a row of an unknown batch is a difference."""
        for _ in range(ATTEMPTS):
            stream_id = self._stream_id(view)
            generation = self._rows.generation(stream_id)
            before = generation.marker()
            values, read_stream_id = self._rows.read(view.name, keys, view.schema_hash)
            after = generation.marker()
            if read_stream_id != stream_id or before is None or after is None:
                continue  # readers have another generation now
            ends = ends_of_rows(values, before, after)
            texts = [None if end is None else json.dumps(dict(end), sort_keys=True) for end in ends]
            for end in sorted({text for text in texts if text is not None}):
                mask = pa.array([text == end for text in texts])
                yield HeldRows(keys.filter(mask), values.filter(mask), stream_id, json.loads(end))
            keys = keys.filter(pa.array([text is None for text in texts]))
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
        return open_tables(self._offline, view.streams, self._repo, end)

    def _clock(self, view: FeatureView) -> int:
        """The newest known_at of the view's streams in the archive (ms)."""
        return max([0, *(table.newest_ms for table in self._tables(view).values())])

    def _wait_for_archive(self, end: Offsets) -> None:
        """Waits until the archive has every record before ``end``. Raises StoreError if it does not get there."""
        deadline, end = time.monotonic() + ARCHIVED_WITHIN_S, broker_offsets(end)  # as the status has them
        while True:
            status = read_status(self._home, now_ms())
            archived = status.get("queries", {}).get("archive", {}).get("end", {})
            behind = {partition: offset for partition, offset in end.items() if archived.get(partition, 0) < offset}
            if not behind:
                return
            if status["state"] != "running" or time.monotonic() > deadline:
                got = ", ".join(f"{partition} up to {archived.get(partition, 0)}" for partition in behind)
                next_step = "Start 'headrace stream': it archives what it has folded within stream.archive_trigger_s."
                raise StoreError("the offline store", f"the records before {behind}, as the rows", got, next_step)
            time.sleep(POLL_S)


def _sampled(keys: pa.Array, count: int, rng: np.random.Generator) -> pa.Array:
    if len(keys) <= count:
        return keys.cast(pa.string())
    return keys.take(pa.array(np.sort(rng.choice(len(keys), max(count, 0), replace=False)))).cast(pa.string())


def events_of(tables: Mapping[str, ArchiveTable], view: FeatureView, entities: pa.Array) -> dict[str, pa.Table]:
    """By stream, the deduplicated events of these entities (keys as text); memory is bounded by those events.

    A table is read twice: which of two records with one event id counts depends on both, and the other may be another
    entity's.
    """
    events = {}
    for name, table in tables.items():
        stream = table.stream
        ids = [pa.array([], pa.string())]
        for batch in table.batches([*view.entity.keys, "event_id"]):
            keys = entity_keys({column: batch[column] for column in view.entity.keys}, view.entity)
            own = pc.fill_null(pc.is_in(keys, value_set=entities), fill_value=False)
            ids.append(pc.unique(batch["event_id"].filter(own)))
        wanted = table.only(pc.field("event_id").isin(pc.unique(pa.concat_arrays(ids))))
        events[name] = deduplicated(wanted.events(used_columns(view, stream)), stream)
    return events
