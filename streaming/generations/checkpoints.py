"""Generations and their checkpoints, stored together: neither is of use without the other.

    checkpoints/fold/current.json       {"stream_id", "first", "schemas", "definitions"}
    checkpoints/fold/older.json         earlier generations that are still folded on, oldest first
    checkpoints/fold/building.json      the number of a generation that is being built
    checkpoints/fold/<stream_id>/       Spark's checkpoint
    checkpoints/archive/current.json    the same for the archive

Without its checkpoint, a generation is not continued. The next generation has another number and starts where the
archive ends, with rows made from the archive, so that nothing is folded twice and nothing is missing.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.definitions import FeatureRepo, FeatureView, duration_ms, views_of_text, views_text
from features.events import Decision, Prior, event_schema
from features.history import ROWS_IN_MEMORY, ArchiveReader, ArchiveTable, Span, columns_of, first_known
from features.machine import write_json
from features.online_store import Marker, Offsets, Store, build_generation, write_rows
from features.rows import BatchKey
from streaming.archive import Archive
from streaming.spark import OffsetLog

STREAM_ID_BITS = 63

REMEMBERED_MS = 24 * 60 * 60 * 1000
"""No store remembers an id for longer than this and two horizons (online_store/seen_ids/memory.py)."""


@dataclass(frozen=True)
class Generation:
    """A generation and the start of its checkpoint.

    Args:
        stream_id: its number, which no other has.
        first: the offsets at which its batch 0 starts.
        schemas: view → schema_hash of its rows.
        definitions: its views as text (definitions/serialized.py).
        superseded_at: when readers were switched to another, in ms; 0 before that.
        is_stopped: its rows and the archive lack different records: it is read until another is built, not folded on.
    """

    stream_id: int
    first: Offsets
    schemas: Mapping[str, int]
    definitions: str = ""
    superseded_at: int = 0
    is_stopped: bool = False

    def repo(self) -> FeatureRepo:
        """The definitions that it was built with; DefinitionError where this version does not take them."""
        views = views_of_text(self.definitions)
        streams = {stream.name: stream for view in views for stream in view.streams}
        entities = {view.entity.name: view.entity for view in views}
        return FeatureRepo(Path("the generation's own"), entities, streams, {view.name: view for view in views})


@dataclass(frozen=True)
class Checkpoints:
    """The folder of a query's checkpoints, of which one is current."""

    folder: Path

    def current(self) -> Generation | None:
        """The generation to continue; None where there is none, or its checkpoint is gone."""
        try:
            generation = Generation(**json.loads(self._file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        return generation if self.path(generation).is_dir() else None

    def start(self, generation: Generation) -> None:
        """Make the generation current, with an empty checkpoint; the previous one joins the older generations."""
        self.path(generation).mkdir(parents=True)
        before = self.current()
        if before is not None:
            self._write_older([*self.older(), before])
        self.write(generation)

    def write(self, generation: Generation) -> None:
        """Replace the current generation's file."""
        write_json(self._file, asdict(generation))

    def stop(self, generations: Sequence[Generation]) -> None:
        """Mark these as stopped, if they are not."""
        stopped = {each.stream_id: replace(each, is_stopped=True) for each in generations if not each.is_stopped}
        if not stopped:
            return
        current = self.current()
        self._write_older([stopped.get(each.stream_id, each) for each in self.older()])
        if current is not None and current.stream_id in stopped:
            self.write(stopped[current.stream_id])

    def older(self) -> list[Generation]:
        """The older generations that have not been dropped, oldest first."""
        try:
            older = [Generation(**values) for values in json.loads(self._older.read_text(encoding="utf-8"))]
        except FileNotFoundError:
            return []
        current = self.current()
        number = None if current is None else current.stream_id
        return [each for each in older if each.stream_id != number and self.path(each).is_dir()]

    def numbers(self) -> list[int]:
        """The stream_id of every generation that this home continues."""
        current = self.current()
        return [each.stream_id for each in [*self.older(), *([current] if current is not None else [])]]

    def take_back(self, generation: Generation) -> None:
        """Make an older generation current again, and the current one older."""
        before = self.current()
        rest = [other for other in self.older() if other.stream_id != generation.stream_id]
        self._write_older([*rest, *([before] if before is not None else [])])
        self.write(replace(generation, superseded_at=0))

    def superseded_since(self, generation: Generation, now: int) -> int:
        """The time (ms) at which readers were switched to another: now, if it was not recorded before."""
        older = self.older()
        (stored,) = [each for each in older if each.stream_id == generation.stream_id] or [generation]
        if not stored.superseded_at:
            superseded = replace(stored, superseded_at=now)
            self._write_older([superseded if each.stream_id == stored.stream_id else each for each in older])
        return stored.superseded_at or now

    def drop(self, generation: Generation) -> None:
        """Delete an older generation with its checkpoint."""
        self._write_older([other for other in self.older() if other.stream_id != generation.stream_id])
        shutil.rmtree(self.path(generation), ignore_errors=True)
        self.counts(generation).unlink(missing_ok=True)

    def _write_older(self, generations: Sequence[Generation]) -> None:
        write_json(self._older, [asdict(generation) for generation in generations])

    def counts(self, generation: Generation) -> Path:
        """The file of its record counts."""
        return self.folder / f"{generation.stream_id}.counts.json"

    @property
    def building(self) -> Path:
        """The file with the number of a generation that is being built; at a start, of an unfinished build."""
        return self.folder / "building.json"

    def path(self, generation: Generation) -> Path:
        """The folder of Spark's checkpoint of the generation."""
        return self.folder / str(generation.stream_id)

    def log(self, generation: Generation) -> OffsetLog:
        """The offsets of the generation's batches."""
        return OffsetLog(self.path(generation), generation.first)

    @property
    def _file(self) -> Path:
        return self.folder / "current.json"

    @property
    def _older(self) -> Path:
        return self.folder / "older.json"


def schemas_of(repo: FeatureRepo) -> dict[str, int]:
    """view → schema_hash."""
    return {view.name: view.schema_hash for view in repo.views.values()}


def new_generation(first: Offsets, repo: FeatureRepo | None = None) -> Generation:
    """A generation of the repo's views (None: without rows) with a number that no other has."""
    number = secrets.randbits(STREAM_ID_BITS)
    if repo is None:
        return Generation(number, dict(first), {})
    return Generation(number, dict(first), schemas_of(repo), views_text(repo.views.values()))


def build_from_archive(
    store: Store,
    repo: FeatureRepo,
    archive: Archive,
    generation: Generation,
    written_at: int,
    rows_in_memory: int = ROWS_IN_MEMORY,
) -> None:
    """Make the generation's rows from the archive, up to where its batch 0 will start.

    Only events that some row or the memory of ids can still show are read: files of older ones are passed over.

    Args:
        rows_in_memory: with more events, the rows are made one hash partition of entities at a time, to the same bytes.
    """
    views = list(repo.views.values())
    streams = {stream.name: stream for view in views for stream in view.streams}
    read = {name: archive.read(stream, generation.first) for name, stream in streams.items()}
    tables = {name: table for name, table in read.items() if table is not None}
    seen_since = {view.name: _seen_since(view, tables, written_at) for view in views}
    reading = ArchiveReader(tables, _span_of_rows(views, tables, seen_since), rows_in_memory)
    at = Marker(-1, generation.first, generation.first, -1)
    if not reading.fits():
        _build_by_parts(store, views, generation.stream_id, reading, at, written_at, seen_since)
        return
    empty = {name: event_schema(stream).empty_table() for name, stream in streams.items()}
    events = {name: table.events(columns_of(views, table), reading.span) for name, table in tables.items()}
    build_generation(store, views, generation.stream_id, empty | events, at, written_at, seen_since)


def _seen_since(view: FeatureView, tables: Mapping[str, ArchiveTable], now: int) -> int:
    """The time (ms) before which an entity's newest event makes it NOT_FOUND to every reader (by sweep.py's rule)."""
    clock = max((tables[stream.name].newest_ms for stream in view.streams if stream.name in tables), default=now)
    return min(clock, now) - 2 * view.ttl_ms


def _span_of_rows(
    views: Sequence[FeatureView], tables: Mapping[str, ArchiveTable], seen_since: Mapping[str, int]
) -> Span:
    """The span of the events that the rows and the memory of ids are made of: older ones change nothing."""
    rows = [seen_since[view.name] - view.horizon_ms for view in views]
    ids = [table.newest_ms - _remembered_ms(table) for table in tables.values()]
    return Span(first_known(views, min([*rows, *ids]))) if tables else Span()


def _build_by_parts(
    store: Store,
    views: list[FeatureView],
    stream_id: int,
    reading: ArchiveReader,
    at: Marker,
    written_at: int,
    seen_since: Mapping[str, int],
) -> None:
    """As build_generation() of all events at once."""
    store.begin()
    decided: dict[str, list[Decision]] = {name: [] for name in reading.tables}
    repeated = reading.repeated(lambda name, decision: decided[name].append(_recent(decision, reading.tables[name])))
    for name, decisions in decided.items():
        store.remember(name, _concatenated(decisions), at.batch_id)
    for view in views:
        for part in reading.parts(view, repeated):
            write_rows(store, view, part.events, BatchKey(stream_id, at.batch_id, written_at), seen_since[view.name])
    store.publish(at)


def _recent(decision: Decision, table: ArchiveTable) -> Decision:
    """The decisions about the ids that a store would still remember."""
    recent = decision.last.known_at >= table.newest_ms - _remembered_ms(table)
    last = Prior(decision.last.seq[recent], decision.last.known_at[recent])
    return Decision(decision.accepted, decision.ids.filter(pa.array(recent)), last)


def _remembered_ms(table: ArchiveTable) -> int:
    return REMEMBERED_MS + 2 * duration_ms(table.stream.dedupe_horizon)


def _concatenated(decisions: list[Decision]) -> Decision:
    """The decisions about different ids, joined."""
    ids = pa.concat_arrays([pa.array([], pa.string()), *(decision.ids for decision in decisions)])
    accepted = np.concatenate([np.empty(0, dtype=bool), *(decision.accepted for decision in decisions)])
    seq, known_at = (
        np.concatenate([np.empty(0, dtype=np.int64), *(getattr(decision.last, name) for decision in decisions)])
        for name in ("seq", "known_at")
    )
    return Decision(accepted, ids, Prior(seq, known_at))
