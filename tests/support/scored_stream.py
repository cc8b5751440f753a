"""A stream in memory whose batches are cut at random: what it decides about the events of one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from memory_store import MemoryStore

from features.definitions import FeatureRepo
from features.events.parsing import Parsed, Verdict
from features.online_store.batch_step import Batch, BatchStep
from features.online_store.port import Marker
from models.event_model import EventModelColumns, LoadedEventModel
from streaming.fold.sink import FoldTarget
from streaming.scoring.decision_log import DecisionLog
from streaming.scoring.scoring import EventScoring, ModelScoring

Events = Mapping[str, pa.Table]
STREAM_ID = 5


class Always:
    """A champion that is this version."""

    def __init__(self, columns: EventModelColumns, loaded: LoadedEventModel | None) -> None:
        self.columns, self.problem, self._loaded = columns, None, loaded

    def current(self) -> LoadedEventModel | None:
        return self._loaded


def decided_by_stream(
    repo: FeatureRepo,
    columns: EventModelColumns,
    loaded: LoadedEventModel | None,
    events: Events,
    folder: Path,
    seed: int,
    count: int = 9,
) -> pa.Table:
    """The decisions about the model's events, in the order in which they became known."""
    told: list[pa.Table] = []
    handle = MemoryStore().handle(STREAM_ID)
    handle.begin()
    first = {f"{repo.streams[name].topic}/0": 0 for name in events}
    handle.publish(Marker(-1, first, first, -1))
    model = ModelScoring(Always(columns, loaded), DecisionLog(folder, columns.model.stream), told.append)
    asking = EventScoring([model]).of_generation(FoldTarget(repo, handle, STREAM_ID))
    assert asking is not None
    step = BatchStep(handle, list(repo.views.values()), STREAM_ID, asking.here)
    for batch in _batches(repo, events, count, np.random.default_rng(seed)):
        step.run(batch)
    return pa.concat_tables(told)


def _batches(repo: FeatureRepo, events: Events, count: int, rng: np.random.Generator) -> Iterator[Batch]:
    known = {name: table["known_at"].to_numpy() for name, table in events.items()}
    every = np.unique(np.concatenate(list(known.values())))
    cuts = [int(every[0]), *np.sort(rng.choice(every[1:], count - 1, replace=False)).tolist(), int(every[-1]) + 1]
    for number, (low, high) in enumerate(pairwise(cuts)):
        parsed, start, end = {}, {}, {}
        for name, table in events.items():
            part = table.filter(pa.array((known[name] >= low) & (known[name] < high)))
            verdicts = np.full(part.num_rows, Verdict.VALID, np.int8)
            parsed[name] = Parsed(part, np.arange(part.num_rows), verdicts, pa.nulls(part.num_rows, pa.string()))
            place = f"{repo.streams[name].topic}/0"
            start[place], end[place] = (int(np.searchsorted(known[name], time)) for time in (low, high))
        yield Batch(number, start, end, parsed, high)
