"""Features of spines from the archive: what the online store would have said then, by the same kernels.

What fits is read once for all views; what does not is answered a bucket of entities at a time (accepted.py). The
numbers are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.compute as pc

from features.arrays import Int64s
from features.definitions import FUTURE_TOLERANCE_MS, FeatureView, duration_ms
from features.history.archive import ArchiveTable, Span
from features.history.point_in_time_join import Spine, in_order, point_in_time
from features.history.reading import Reading
from features.rows import FeatureMatrix

REPETITIONS = 24
"""So many horizons of repetitions before the first event that matters are read, to decide which repeat another."""


@dataclass(frozen=True)
class Asked:
    """A view, and the rows that want its features."""

    view: FeatureView
    spine: Spine


def history(
    asked: Sequence[Asked], reading: Reading, repeated: Mapping[str, Int64s] | None = None
) -> list[FeatureMatrix]:
    """The features of every spine, each in its own order; nothing that became known after as_of plays a part.

    Args:
        repeated: what Reading.repeated() found of all the streams, where that is known already.
    """
    reading = replace(reading, span=span_of(asked), tables=_tables_of(asked, reading))
    if reading.fits():
        events = reading.whole([one.view for one in asked])
        return [point_in_time(one.view, one.spine, events) for one in asked]
    repeated = reading.repeated() if repeated is None else repeated
    return [_by_parts(one, reading, repeated) for one in asked]


def _tables_of(asked: Sequence[Asked], reading: Reading) -> dict[str, ArchiveTable]:
    wanted = {stream.name for one in asked for stream in one.view.streams}
    return {name: table for name, table in reading.tables.items() if name in wanted}


def span_of(asked: Sequence[Asked]) -> Span:
    """Everything that can play a part: an entity's newest event until it is forgotten, and what it may repeat."""
    times = [one.spine.as_of for one in asked if len(one.spine.as_of)]
    if not times:
        return Span(0, 0)
    back = [2 * one.view.ttl_ms + FUTURE_TOLERANCE_MS for one in asked]
    repeated = [duration_ms(stream.dedupe_horizon) for one in asked for stream in one.view.streams]
    first = min(int(one.min()) for one in times) - max(back) - REPETITIONS * max(repeated)
    return Span(first, max(int(one.max()) for one in times) + 1)


def _by_parts(asked: Asked, reading: Reading, repeated: Mapping[str, Int64s]) -> FeatureMatrix:
    view, spine = asked.view, asked.spine
    answered, left = [], np.ones(len(spine.as_of), dtype=bool)
    for part in reading.parts(view, repeated, pc.drop_null(pc.unique(spine.keys))):
        places = part.holds(spine.keys)
        left[places] = False
        if len(places):
            answered.append((places, point_in_time(view, spine.take(places), part.events)))
    nobody = np.flatnonzero(left)
    if len(nobody) or not answered:
        answered.append((nobody, point_in_time(view, spine.take(nobody), {})))
    return in_order(answered, view, spine)
