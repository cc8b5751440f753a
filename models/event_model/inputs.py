"""Inputs of an event model: fields of the event, and features of the entities that it names, as of an instant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from features.arrays import Floats, Int64s
from features.definitions import NUMERIC, FeatureRepo, FeatureView, Stream
from features.errors import UsageError
from features.events import EventColumns, Values
from features.history import LedgerPositions, Spine, point_in_time
from features.rows import FeatureMatrix

Events = Mapping[str, pa.Table]
"""Stream name → its deduplicated events."""

Answering = Callable[[FeatureView, Spine], FeatureMatrix]
"""Answers with the features of a spine's entities, in its order."""


@dataclass(frozen=True)
class EventInputs:
    """The inputs of a model of one stream's events, in order; the definitions say whether a name is field or feature.

    Args:
        stream: the events that the model scores.
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
            as_of: (n,) what was known by then counts, which may include the event itself.
            history: of every stream that the views read.
        """
        return self._matrix(events, as_of, None, partial(_of_history, history))

    def matrix_before(self, events: pa.Table, features: Answering | Events) -> Floats:
        """(n, names): the inputs of each of the stream's events just before it, as when the stream scores it.

        As of the millisecond after its known_at, from the events before it in the ledger's order.

        Args:
            events: of the stream.
            features: the events of every stream that the views read, these included; or a function that answers.
        """
        columns = EventColumns(events, self.stream)
        positions = LedgerPositions(self.stream.name, columns.known_at, columns.seq)
        answering = features if callable(features) else partial(_of_history, features)
        return self._matrix(events, columns.known_at + 1, positions, answering)

    def _matrix(self, events: pa.Table, as_of: Int64s, before: LedgerPositions | None, features: Answering) -> Floats:
        columns = EventColumns(events, self.stream)
        spines = ((view, Spine(columns.entity_keys(view.entity), as_of, before)) for view in self.views)
        return self.matrix_of(events, {view.name: features(view, spine) for view, spine in spines})

    def matrix_of(self, events: pa.Table, answers: Mapping[str, FeatureMatrix]) -> Floats:
        """(n, names): the inputs of each of the stream's events; NaN where there is no value.

        Args:
            events: of the stream.
            answers: view → the features of each event's entity, in the order of the events.
        """
        columns = EventColumns(events, self.stream)
        by_name = {name: _floats(columns.values(name)) for name in self.names if name in self.stream.dtypes}
        for view in self.views:
            names = [name for name in self.names if name in view.names and name not in by_name]
            by_name |= dict(zip(names, answers[view.name].to_numpy(names).T, strict=True))
        return np.column_stack([by_name[name] for name in self.names])


def _of_history(history: Events, view: FeatureView, spine: Spine) -> FeatureMatrix:
    return point_in_time(view, spine, history)


def _floats(values: Values) -> Floats:
    return np.where(values.valid, values.numbers.astype(np.float64), np.nan)
