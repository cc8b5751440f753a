"""History straight into the archive, without Kafka: a file's records, each once however often it is imported.

A commit holds events together with the number of the file's records read up to it, so that a crash leaves the table
between two commits, and the next import goes on there. Imported events stand in topics that no broker has
('import:<digest>:<name>'), in a partition that no topic has; they are known when they happened, unless the format says
later. They end at a cut-off (cutoff.py); a later import with a later cut-off picks up the rest (passes.py). A file of
the same name with another content brings what is new in it (earlier.py), and undo.py takes out what a file brought.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Int64s
from features.definitions import Stream
from features.errors import LeaseError
from features.events import Parsed, Verdict
from features.formats import Refused
from features.history import IMPORT_PARTITION
from features.machine import LEAVING_S, locked
from features.rows import foldable
from streaming.archive.appending import append_rows, opened
from streaming.archive.cutoff import CutOffs
from streaming.archive.earlier import EarlierRows, import_topic
from streaming.archive.passes import WRITER, ImportProgress, in_round, round_id
from streaming.archive.sink import Archive
from streaming.archive.undo import REJECTS, remove_import

COMMIT_ROWS = 250_000
"""Records that are held at once, which a crash costs to read again."""

OFFSETS = WRITER
"""The writer whose version is the next free offset of a table's imported events."""


@dataclass
class ImportCounts:
    """Counts of a file's records of one stream, by their end.

    Args:
        already: imported or refused before, from this file or an earlier version of it.
        after_cut: after the cut-off, so left to the topic.
        until_ms: the cut-off; None: there is none.
        until_by: its source: --until, the archive or Kafka.
        refused: refused records and their reasons; the table has all.
        gone: events that earlier versions of the file brought, and that it has no more; they stay.
    """

    records: int = 0
    imported: int = 0
    already: int = 0
    after_cut: int = 0
    until_ms: int | None = None
    until_by: str | None = None
    refused: Refused = field(default_factory=Refused)
    gone: int = 0

    @property
    def rejected(self) -> int:
        """The number of refused records."""
        return self.refused.reasons.total()


@dataclass(frozen=True)
class ImportSource:
    """A file, its digest, and its records in order: (stream name, events with their verdicts), in chunks.

    A file of the same name and another digest is another version of it.
    """

    name: str
    digest: str
    records: Iterable[tuple[str, Parsed]]


def digest_of(path: Path) -> str:
    """The first 16 hex digits of a file's SHA-256; of a folder, of all its files' names and contents."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
        total.update(str(file.relative_to(path)).encode() if path.is_dir() else b"")
    return total.hexdigest()[:16]


class Importer:
    """Writes files into the archive; a lock file lets only one importer run.

    Args:
        cut_offs: of the streams; None: where their topics begin, by the archive.
        commit_rows: records that go into one commit.
        progress: called with the counts by stream after every chunk.
        log: takes a line for a person.
        reached: called before and after every effect (fold/crash_points.py).
    """

    def __init__(
        self,
        archive: Archive,
        cut_offs: CutOffs | None = None,
        commit_rows: int = COMMIT_ROWS,
        progress: Callable[[Mapping[str, ImportCounts]], object] = lambda _: None,
        reached: Callable[[str], object] = lambda _: None,
        log: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._archive = archive
        self._cut_offs = cut_offs or CutOffs()
        self._commit_rows = commit_rows
        self._progress = progress
        self._reached = reached
        self._log = log

    def run(self, source: ImportSource) -> dict[str, ImportCounts]:
        """Import what the source has before the cut-offs, each record once; returns what became of it, by stream.

        Raises:
            LeaseError: another import is running.
            StoreError: Kafka does not answer when a topic begins; nothing of that stream was written.
        """
        with locked(self._archive.folder / ".import.lock", self._refusal, LEAVING_S):
            return self._run(source)

    def undo(self, name: str, digest: str | None = None) -> dict[str, int]:
        """Take out what files of this name brought, and their refused records; returns the events by stream.

        Args:
            digest: the file's, if it is still there.

        Raises:
            LeaseError: an import is running.
            UsageError: no file of that name was imported.
        """
        with locked(self._archive.folder / ".import.lock", self._refusal, LEAVING_S):
            return remove_import(self._archive, name, digest)

    def _refusal(self, holder: str) -> LeaseError:
        where, got = f"offline store '{self._archive.folder}'", f"{holder}, which imports now"
        return LeaseError(where, "one import at a time", got, "Wait for its end.")

    def _run(self, source: ImportSource) -> dict[str, ImportCounts]:
        parts: dict[str, _Part] = {}
        for name, parsed in source.records:
            stream = self._archive.repo.streams[name]
            if name not in parts:
                parts[name] = self._part(stream, source)
            parts[name].take(foldable(parsed, stream, self._archive.repo.reading(name)))
            self._progress({stream: part.counts for stream, part in parts.items()})
        for part in parts.values():
            part.commit()
            part.counts.gone = part.earlier.left
        return {name: part.counts for name, part in parts.items()}

    def _part(self, stream: Stream, source: ImportSource) -> _Part:
        cut_off = self._cut_offs.of(stream, self._archive)
        progress = ImportProgress(self._archive, stream, source.digest, cut_off.until_ms)
        if cut_off.message and (cut_off.until_ms is not None or not progress.seen):
            self._log(cut_off.message)
        earlier = EarlierRows(self._archive, stream, source.digest, source.name)
        rejects = Rejects.of(self._archive.folder / REJECTS, source, stream)
        counts = ImportCounts(until_ms=cut_off.until_ms, until_by=cut_off.by)
        return _Part(
            self._archive, stream, source, progress, earlier, rejects, self._reached, self._commit_rows, counts
        )


@dataclass
class _Part:
    """A file's records of one stream on their way into its table.

    ``progress`` knows which of them are there, and ``earlier`` what other versions of the file brought.
    """

    archive: Archive
    stream: Stream
    source: ImportSource
    progress: ImportProgress
    earlier: EarlierRows
    rejects: Rejects
    reached: Callable[[str], object]
    commit_rows: int
    counts: ImportCounts
    waiting: list[pa.Table] = field(default_factory=list)
    refused: list[pa.Table] = field(default_factory=list)
    held: int = 0

    def take(self, parsed: Parsed) -> None:
        """Take the next records; those that are in the table already are skipped."""
        start, number = self.counts.records, len(parsed.verdicts)
        self.counts.records += number
        refused, fresh = self._refuse(start, parsed), self._before_cut_off(start, parsed)
        self.waiting.append(fresh)
        self.held += refused + len(fresh)
        if self.held >= self.commit_rows:
            self.commit()

    def _refuse(self, start: int, parsed: Parsed) -> int:
        """Queue the records that are no events for their table; returns how many no import has read before."""
        dead = np.flatnonzero(parsed.verdicts == Verdict.DEAD_LETTER)
        fresh = dead[start + dead >= self.progress.seen]
        reasons = parsed.reasons.take(pa.array(fresh))
        self.refused.append(self.rejects.table(start + fresh, reasons))
        self.counts.refused.add(len(fresh), reasons.to_pylist())
        self.counts.already += len(dead) - len(fresh)
        return len(fresh)

    def _before_cut_off(self, start: int, parsed: Parsed) -> pa.Table:
        """The events that are not in the table yet and are known before the cut-off."""
        known = np.asarray(parsed.events["known_at"])
        imported = self.progress.is_imported(start + parsed.rows, known) | self.earlier.met_by(parsed.events)
        later = np.zeros(len(known), dtype=bool) if self.counts.until_ms is None else known >= self.counts.until_ms
        self.counts.already += int(imported.sum())
        self.counts.after_cut += int((later & ~imported).sum())
        return parsed.events.filter(pa.array(~imported & ~later))

    def commit(self) -> None:
        """Write what waits: first the refused records, then the events, whose commit has the progress."""
        if not self.waiting:
            return
        self.rejects.append(pa.concat_tables(self.refused), self.counts.records)
        self.reached("before import")
        events = pa.concat_tables(self.waiting)
        if len(events):
            self.archive.write(self.stream, *self._numbered(events))
            self.reached("after import")
        self.counts.imported += len(events)
        self.waiting, self.refused, self.held = [], [], 0

    def _numbered(self, events: pa.Table) -> tuple[pa.Table, pa.Array, dict[str, int]]:
        """The events at the next free offsets, their topics, and the versions that their commit sets."""
        first = self.archive.transaction(self.stream, OFFSETS) or 0
        positions = {
            "partition": pa.array(np.full(len(events), IMPORT_PARTITION, dtype=np.int32)),
            "offset": pa.array(np.arange(first, first + len(events))),
        }
        for name, column in positions.items():
            events = events.set_column(events.schema.get_field_index(name), name, column)
        versions = {OFFSETS: first + len(events)} | self.progress.versions(self.counts.records)
        topic = import_topic(self.source.digest, self.source.name)
        return events, pa.repeat(pa.scalar(topic), len(events)), versions


@dataclass(frozen=True)
class Rejects:
    """The table of refused records, written for a file and a stream."""

    path: Path
    app_id: str
    file: str
    stream: str

    @classmethod
    def of(cls, path: Path, source: ImportSource, stream: Stream) -> Rejects:
        """The table of the file's records of the stream."""
        table = opened(path)
        undone = (table.transaction_version(round_id(source.digest)) if table else None) or 0
        return cls(path, in_round(f"{OFFSETS}-{source.digest}-{stream.name}", undone), source.name, stream.name)

    def table(self, records: Int64s, reasons: pa.Array) -> pa.Table:
        """A row for each refused record: its number among the file's records of the stream, from 0, and the reason."""
        constants = {"file": self.file, "stream": self.stream}
        columns = {name: pa.repeat(pa.scalar(value), len(records)) for name, value in constants.items()}
        return pa.table({**columns, "record": pa.array(records, pa.int64()), "reason": reasons.cast(pa.string())})

    def append(self, refused: pa.Table, upto: int) -> None:
        """Append these, each once: they are all refused records before ``upto`` that are not in the table yet."""
        table = opened(self.path)
        done = (table.transaction_version(self.app_id) if table else None) or 0
        fresh = refused.filter(pc.greater_equal(refused["record"], done))
        if len(fresh):
            append_rows(self.path, fresh, {self.app_id: upto})
