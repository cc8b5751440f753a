"""What a model is told about an event: fields of it, and features of the entities that it names, as of an instant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.columns import EventColumns, Values
from features.definitions import FeatureView, Stream
from features.errors import UsageError
from features.expressions import NUMERIC
from features.point_in_time import Spine, point_in_time
from features.repo import FeatureRepo
from features.state import FeatureMatrix
from features.windows import Int64s

Floats = NDArray[np.float64]
Events = Mapping[str, pa.Table]
"""Stream name → its deduplicated events."""
Answering = Callable[[FeatureView, Spine], FeatureMatrix]
"""Says what was known of a spine's entities, in its order."""


@dataclass(frozen=True)
class EventInputs:
    """The inputs of a model of one stream's events, in order: where each name comes from follows from the definitions.

    Args:
        stream: the events that the model is asked about.
        names: numeric fields of the stream, and numeric features of ``views``.
        views: those whose features are named; the stream has the keys of their entities.
    """

    stream: Stream
    names: tuple[str, ...]
    views: tuple[FeatureView, ...]

    @classmethod
    def of(cls, repo: FeatureRepo, stream: str, names: Sequence[str]) -> EventInputs:
        """The inputs of these names; UsageError for a stream or a name that the repo lacks, or that is no number."""
        if stream not in repo.streams:
            got = ", ".join(repo.streams) or "none"
            raise UsageError(f"feature repo '{repo.path}'", f"a stream called '{stream}'", got)
        source = repo.streams[stream]
        dtypes = repo.columns_of(source)
        for name in names:
            if dtypes.get(name) not in NUMERIC:
                required = f"numeric fields of '{stream}', or features of what its events name"
                raise UsageError("a model's inputs", required, f"'{name}' ({dtypes.get(name, 'unknown')})")
        used = tuple(view for view in repo.views_of(source) if set(names) & set(view.names) - set(source.dtypes))
        return cls(source, tuple(names), used)

    def matrix(self, events: pa.Table, as_of: Int64s, history: Events) -> Floats:
        """(n, names): the inputs of each of the stream's events as of its instant (ms); NaN where there is no value.

        Args:
            events: of the stream.
            as_of: one for each event: a millisecond after its time counts the event itself, one before leaves it out
                (at its very time it counts unless that is where a tile starts).
            history: of every stream that the views read.
        """
        return self.matrix_by(events, as_of, lambda view, spine: point_in_time(view, spine, history))

    def matrix_by(self, events: pa.Table, as_of: Int64s, features: Answering) -> Floats:
        """The same, of features from wherever they come."""
        columns = EventColumns(events, self.stream)
        answers = {view.name: features(view, Spine(columns.entity_keys(view.entity), as_of)) for view in self.views}
        return self.matrix_of(events, answers)

    def matrix_of(self, events: pa.Table, answers: Mapping[str, FeatureMatrix]) -> Floats:
        """(n, names): the inputs of each of the stream's events; NaN where there is no value.

        Args:
            events: of the stream.
            answers: by view, what it says of the entity of each event, in their order.
        """
        columns = EventColumns(events, self.stream)
        found = {name: _floats(columns.values(name)) for name in self.names if name in self.stream.dtypes}
        for view in self.views:
            wanted = [name for name in self.names if name in view.names and name not in found]
            found |= dict(zip(wanted, answers[view.name].to_numpy(wanted).T, strict=True))
        return np.column_stack([found[name] for name in self.names])


def _floats(values: Values) -> Floats:
    return np.where(values.valid, values.numbers.astype(np.float64), np.nan)
