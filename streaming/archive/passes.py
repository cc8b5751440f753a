"""The records of a file that are in a stream's table, across crashes and imports with different cut-offs.

Each import with a cut-off of its own is a pass over the file. A pass has imported what became known before its cut-off
of the records that it has read; both stand in the table as versions of Delta, in the commit of those rows. Records
after the cut-off are not marked as imported; a later import with a later cut-off picks them up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from features.arrays import Bools, Int64s
from features.definitions import Stream
from streaming.archive.sink import Archive

WRITER = "headrace-import"

NO_CUT_OFF = np.iinfo(np.int64).max
"""Later than every cut-off; also that of a pass from before cut-offs were stored."""


def round_id(digest: str) -> str:
    """The writer whose version says how often the file's import was undone."""
    return f"{WRITER}-{digest}-undone"


def in_round(app_id: str, undone: int) -> str:
    """The writer's id after so many undoings: nothing of what it did before counts."""
    return f"{app_id}-round-{undone}" if undone else app_id


@dataclass(frozen=True)
class Pass:
    """An import of those of the stream's first ``records`` records in the file that were known before ``until_ms``."""

    number: int
    records: int
    until_ms: int


class ImportProgress:
    """The progress of earlier imports of a file into a stream, and of this one, with the cut-off ``until_ms``."""

    def __init__(self, archive: Archive, stream: Stream, digest: str, until_ms: int | None) -> None:
        undone = archive.transaction(stream, round_id(digest)) or 0
        self._app_id = in_round(f"{WRITER}-{digest}", undone)
        self._passes = list(self._read(archive, stream))
        self._until_ms = NO_CUT_OFF if until_ms is None else until_ms
        same = (earlier.number for earlier in self._passes if earlier.until_ms == self._until_ms)
        self._number = next(same, len(self._passes))

    def _read(self, archive: Archive, stream: Stream) -> Iterator[Pass]:
        number = 0
        while (records := archive.transaction(stream, self._name(number))) is not None:
            until_ms = archive.transaction(stream, self._cut_off_name(number))
            yield Pass(number, records, NO_CUT_OFF if until_ms is None else until_ms)
            number += 1

    def _name(self, number: int) -> str:
        return f"{self._app_id}-{number}" if number else self._app_id

    def _cut_off_name(self, number: int) -> str:
        return f"{self._name(number)}-until"

    @property
    def seen(self) -> int:
        """The first records that some pass has read, their number; those that are no events were refused then."""
        return max((earlier.records for earlier in self._passes), default=0)

    def is_imported(self, record: Int64s, known_at: Int64s) -> Bools:
        """True for events in the table, by the number of their record and when they became known (ms)."""
        imported = np.zeros(len(record), dtype=bool)
        for earlier in self._passes:
            imported |= (record < earlier.records) & (known_at < earlier.until_ms)
        return imported

    def versions(self, records: int) -> dict[str, int]:
        """The versions that a commit sets: this import has read so many of the file's records, with its cut-off."""
        return {self._name(self._number): records, self._cut_off_name(self._number): self._until_ms}
