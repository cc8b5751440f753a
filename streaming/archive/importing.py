"""History straight into the archive, without Kafka: a file's records, each once however often it is imported.

A commit holds events together with how many of the file's records it ends behind, so that a crash leaves the table
between two commits, and the next import goes on there. Imported events stand in topics that no broker has
('import:<digest>'), in a partition that no topic has; they are known when they happened, unless the format says later.
They end at a cut (cuts.py); what lies past it is not done, and a later one brings it (imported.py).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import Stream
from features.errors import LeaseError
from features.events import Parsed, Verdict
from features.history import IMPORT_PARTITION, IMPORTED
from features.machine import LEAVING_S, locked
from streaming.archive.cutoff import Cuts
from streaming.archive.passes import WRITER, Passes
from streaming.archive.sink import Archive, append_rows

COMMIT_ROWS = 250_000
"""Records that are held at once, and that a crash may cost to read again."""

OFFSETS = WRITER
"""The writer whose version is the next free offset of a table's imported events."""

REJECTS = "_import_rejects"
"""The table, beside those of the streams, of what was refused."""


@dataclass
class Counts:
    """What became of a file's records of one stream.

    Args:
        already: were in the table, or refused, before.
        after_cut: are the topic's.
        until_ms: the cut; None: there is none.
        until_by: who says so: --until, the archive or Kafka.
        reasons: how many were refused for which kind of reason.
    """

    records: int = 0
    imported: int = 0
    already: int = 0
    rejected: int = 0
    after_cut: int = 0
    until_ms: int | None = None
    until_by: str | None = None
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Source:
    """A file, its digest, and its records in order: (stream name, events with their verdicts), in chunks."""

    name: str
    digest: str
    records: Iterable[tuple[str, Parsed]]


def digest_of(path: Path) -> str:
    """The first 16 hex digits of a file's SHA-256; of a folder, of all its files' names and contents."""
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
        total.update(str(file.relative_to(path)).encode() if path.is_dir() else b"")
    return total.hexdigest()[:16]


class Importer:
    """Writes files into the archive, one importer at a time.

    Args:
        cuts: where the history of each stream ends; None is where its topic begins, by the archive.
        commit_rows: records that go into one commit.
        progress: is told the counts after every chunk.
        say: takes a line for a person.
        reached: is told of every effect (crash_points.py).
    """

    def __init__(
        self,
        archive: Archive,
        folder: Path,
        streams: Mapping[str, Stream],
        cuts: Cuts | None = None,
        commit_rows: int = COMMIT_ROWS,
        progress: Callable[[Mapping[str, Counts]], object] = lambda _: None,
        reached: Callable[[str], object] = lambda _: None,
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._archive = archive
        self._folder = folder
        self._streams = streams
        self._cuts = cuts or Cuts()
        self._commit_rows = commit_rows
        self._progress = progress
        self._reached = reached
        self._say = say

    def run(self, source: Source) -> dict[str, Counts]:
        """Everything of the source that is before the cut is in the tables, once; what became of it, by stream.

        Raises:
            LeaseError: another import is running.
            StoreError: Kafka does not say when a topic begins; nothing of that stream was written.
        """
        with locked(self._folder / ".import.lock", self._refusal, LEAVING_S):
            return self._run(source)

    def _refusal(self, holder: str) -> LeaseError:
        where, got = f"offline store '{self._folder}'", f"{holder}, which imports now"
        return LeaseError(where, "one import at a time", got, "Wait for its end.")

    def _run(self, source: Source) -> dict[str, Counts]:
        parts: dict[str, _Part] = {}
        for name, parsed in source.records:
            if name not in parts:
                parts[name] = self._part(self._streams[name], source)
            parts[name].take(parsed)
            self._progress({one: part.counts for one, part in parts.items()})
        for part in parts.values():
            part.commit()
        return {name: part.counts for name, part in parts.items()}

    def _part(self, stream: Stream, source: Source) -> _Part:
        cut = self._cuts.of(stream, self._archive)
        passes = Passes(self._archive, stream, source.digest, cut.until_ms)
        if cut.sentence and (cut.until_ms is not None or not passes.seen):
            self._say(cut.sentence)
        writer = f"{OFFSETS}-{source.digest}-{stream.name}"
        refused = Rejects(self._folder / REJECTS, writer, source.name, stream.name)
        counts = Counts(until_ms=cut.until_ms, until_by=cut.by)
        return _Part(self._archive, stream, source, passes, refused, self._reached, self._commit_rows, counts)


@dataclass
class _Part:
    """A file's records of one stream on their way into its table; ``passes`` says which of them are there."""

    archive: Archive
    stream: Stream
    source: Source
    passes: Passes
    rejects: Rejects
    reached: Callable[[str], object]
    commit_rows: int
    counts: Counts
    waiting: list[pa.Table] = field(default_factory=list)
    refused: list[pa.Table] = field(default_factory=list)
    held: int = 0

    def take(self, parsed: Parsed) -> None:
        """The next records; those that are in the table already are passed over."""
        start, number = self.counts.records, len(parsed.verdicts)
        self.counts.records += number
        refused, fresh = self._refuse(start, parsed), self._before_cut(start, parsed)
        self.waiting.append(fresh)
        self.held += refused + len(fresh)
        if self.held >= self.commit_rows:
            self.commit()

    def _refuse(self, start: int, parsed: Parsed) -> int:
        """Those that are no events wait for their table; returns how many no import saw before."""
        bad = np.flatnonzero(parsed.verdicts == Verdict.DEAD_LETTER)
        fresh = bad[start + bad >= self.passes.seen]
        reasons = parsed.reasons.take(pa.array(fresh))
        self.refused.append(self.rejects.table(start + fresh, reasons))
        self.counts.reasons.update(text.partition(":")[0] for text in reasons.to_pylist())
        self.counts.rejected += len(fresh)
        self.counts.already += len(bad) - len(fresh)
        return len(fresh)

    def _before_cut(self, start: int, parsed: Parsed) -> pa.Table:
        """The events that are not in the table yet, and are not the topic's."""
        known = np.asarray(parsed.events["known_at"])
        there = self.passes.taken(start + parsed.rows, known)
        later = np.zeros(len(known), dtype=bool) if self.counts.until_ms is None else known >= self.counts.until_ms
        self.counts.already += int(there.sum())
        self.counts.after_cut += int((later & ~there).sum())
        return parsed.events.filter(pa.array(~there & ~later))

    def commit(self) -> None:
        """What waits is in the tables: first what was refused, then the events, which say how far this is."""
        if not self.waiting:
            return
        self.rejects.append(pa.concat_tables(self.refused), self.counts.records)
        self.reached("before import")
        events = pa.concat_tables(self.waiting)
        if len(events):
            self.archive.write(self.stream, *self._placed(events))
            self.reached("after import")
        self.counts.imported += len(events)
        self.waiting, self.refused, self.held = [], [], 0

    def _placed(self, events: pa.Table) -> tuple[pa.Table, pa.Array, dict[str, int]]:
        """The events at the next free offsets, their topics, and what the commit says of them."""
        first = self.archive.transaction(self.stream, OFFSETS) or 0
        places = {
            "partition": pa.array(np.full(len(events), IMPORT_PARTITION, dtype=np.int32)),
            "offset": pa.array(np.arange(first, first + len(events))),
        }
        for name, column in places.items():
            events = events.set_column(events.schema.get_field_index(name), name, column)
        versions = {OFFSETS: first + len(events)} | self.passes.versions(self.counts.records)
        return events, pa.repeat(pa.scalar(f"{IMPORTED}{self.source.digest}"), len(events)), versions


@dataclass(frozen=True)
class Rejects:
    """The table of what imports refused, as one file's and stream's writer of it."""

    path: Path
    app_id: str
    file: str
    stream: str

    def table(self, records: np.ndarray[tuple[int], np.dtype[np.int64]], reasons: pa.Array) -> pa.Table:
        """One row a refused record: its number among the file's records of the stream, from 0, and the reason."""
        same = {"file": self.file, "stream": self.stream}
        columns = {name: pa.repeat(pa.scalar(value), len(records)) for name, value in same.items()}
        return pa.table({**columns, "record": pa.array(records, pa.int64()), "reason": reasons.cast(pa.string())})

    def append(self, refused: pa.Table, upto: int) -> None:
        """These are in the table, each once; they are all of the records before ``upto`` that are not."""
        from deltalake import DeltaTable

        there = DeltaTable.is_deltatable(str(self.path))
        done = (DeltaTable(self.path).transaction_version(self.app_id) if there else None) or 0
        fresh = refused.filter(pc.greater_equal(refused["record"], done))
        if len(fresh):
            append_rows(self.path, fresh, {self.app_id: upto})
