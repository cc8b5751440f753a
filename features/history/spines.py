"""Features of spines from the archive, as the online store had them then.

Events that fit into memory are read once for all views; else features are computed a bucket of entities at a time
(archive_reader.py). The numbers are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.compute as pc

from features.arrays import Int64s
from features.definitions import FUTURE_TOLERANCE_MS, FeatureView, duration_ms
from features.history.archive import ArchiveTable, Span
from features.history.archive_reader import ArchiveReader
from features.history.point_in_time_join import Spine, in_order, point_in_time
from features.rows import FeatureMatrix

REPETITIONS = 24
"""So many horizons of repetitions before the first event that matters are read, to decide which repeat another."""


@dataclass(frozen=True)
class SpineRequest:
    """A view, and the spine to which its features are joined."""

    view: FeatureView
    spine: Spine


def history(
    requests: Sequence[SpineRequest], archive: ArchiveReader, repeated: Mapping[str, Int64s] | None = None
) -> list[FeatureMatrix]:
    """The features of every spine, each in its own order; nothing that became known after as_of plays a part.

    Args:
        repeated: the result of ArchiveReader.repeated() for all the streams, where it is known already.
    """
    archive = replace(archive, span=span_of(requests), tables=_tables_of(requests, archive))
    if archive.fits():
        events = archive.whole([request.view for request in requests])
        return [point_in_time(request.view, request.spine, events) for request in requests]
    repeated = archive.repeated() if repeated is None else repeated
    return [_by_parts(request, archive, repeated) for request in requests]


def _tables_of(requests: Sequence[SpineRequest], archive: ArchiveReader) -> dict[str, ArchiveTable]:
    wanted = {stream.name for request in requests for stream in request.view.streams}
    return {name: table for name, table in archive.tables.items() if name in wanted}


def span_of(requests: Sequence[SpineRequest]) -> Span:
    """The span of all events that count: an entity's newest event until it is forgotten, and what it may repeat."""
    times = [request.spine.as_of for request in requests if len(request.spine.as_of)]
    if not times:
        return Span(0, 0)
    views = [request.view for request in requests]
    since = min(int(as_of.min()) for as_of in times) - max(2 * view.ttl_ms for view in views)
    return Span(first_known(views, since), max(int(as_of.max()) for as_of in times) + 1)


def first_known(views: Sequence[FeatureView], since_ms: int) -> int:
    """The known_at (ms) from which on events are read, so that those with an event time from ``since_ms`` on are right.

    Some events become known before their time, and what was known earlier decides which of them repeat another.
    """
    repeated = max(duration_ms(stream.dedupe_horizon) for view in views for stream in view.streams)
    return since_ms - FUTURE_TOLERANCE_MS - REPETITIONS * repeated


def _by_parts(request: SpineRequest, archive: ArchiveReader, repeated: Mapping[str, Int64s]) -> FeatureMatrix:
    view, spine = request.view, request.spine
    parts, left = [], np.ones(len(spine.as_of), dtype=bool)
    for part in archive.parts(view, repeated, pc.drop_null(pc.unique(spine.keys))):
        index = part.holds(spine.keys)
        left[index] = False
        if len(index):
            parts.append((index, point_in_time(view, spine.take(index), part.events)))
    without_events = np.flatnonzero(left)
    if len(without_events) or not parts:
        parts.append((without_events, point_in_time(view, spine.take(without_events), {})))
    return in_order(parts, view, spine)
