"""Which of a file's records are in a stream's table, through crashes and whatever cut they were imported with.

Each import with a cut of its own is a pass over the file. A pass has taken what became known before its cut of the
records that it has come past; both stand in the table as versions of Delta, in the commit of the rows that they speak
of. So what lies past a cut is not done, and a pass with a later one brings it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.arrays import Int64s
from features.definitions import Stream
from streaming.archive.sink import Archive

WRITER = "headrace-import"

NO_CUT = np.iinfo(np.int64).max
"""Later than every cut; also of a pass of before cuts were kept."""


@dataclass(frozen=True)
class Pass:
    """The first ``records`` of the file's records of the stream were taken where known before ``until_ms``."""

    number: int
    records: int
    until_ms: int


class Passes:
    """What earlier imports of a file took of a stream, and what this one, with the cut ``until_ms``, adds to it."""

    def __init__(self, archive: Archive, stream: Stream, digest: str, until_ms: int | None) -> None:
        self._app_id = f"{WRITER}-{digest}"
        self._made = list(self._read(archive, stream))
        self._until_ms = NO_CUT if until_ms is None else until_ms
        same = (one.number for one in self._made if one.until_ms == self._until_ms)
        self._number = next(same, len(self._made))

    def _read(self, archive: Archive, stream: Stream) -> Iterator[Pass]:
        number = 0
        while (records := archive.transaction(stream, self._name(number))) is not None:
            until_ms = archive.transaction(stream, self._cut_of(number))
            yield Pass(number, records, NO_CUT if until_ms is None else until_ms)
            number += 1

    def _name(self, number: int) -> str:
        return f"{self._app_id}-{number}" if number else self._app_id

    def _cut_of(self, number: int) -> str:
        return f"{self._name(number)}-until"

    @property
    def seen(self) -> int:
        """So many of the first records were looked at by some pass: what is no event among them was refused then."""
        return max((one.records for one in self._made), default=0)

    def taken(self, record: Int64s, known_at: Int64s) -> NDArray[np.bool_]:
        """Which events are in the table, by the number of their record and when they became known."""
        found = np.zeros(len(record), dtype=bool)
        for one in self._made:
            found |= (record < one.records) & (known_at < one.until_ms)
        return found

    def versions(self, records: int) -> dict[str, int]:
        """What a commit says: this import has come past so many of the file's records, with its cut."""
        return {self._name(self._number): records, self._cut_of(self._number): self._until_ms}
