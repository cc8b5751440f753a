"""durations: an event model of the definitions, learned from one part of time and tested on a later one.

What is fitted, and how it is judged, is what `headrace train` does with the same definition; only the split is the
protocol's. The simple models that its kind has to be better than stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa

from features.arrays import Int64s
from features.definitions import BaseEventModel, FeatureRepo, Stream, duration_ms
from features.errors import UsageError
from features.events import integers, without_duplicates
from models.event_model import EventModelColumns, Events
from training.data import EventFile, EventSplit, examples_between, joined_events, streams_of
from training.event_model import EventJudge, SplitExamples, event_manifest, kind_for, scorer_of
from training.progress import Log, silent

M = TypeVar("M", bound=BaseEventModel)

STRAY = 0.01
"""A month with a smaller share of the events than this is of clocks that were wrong."""


@dataclass(frozen=True)
class Part:
    """A part of time, [start, end) in ms."""

    start: int
    end: int


def chosen_model(repo: FeatureRepo, kind: type[M], name: str | None) -> M:
    """The repo's event model of this name, or its only one of the kind. Raises UsageError where there is none."""
    models = {model.name: model for model in repo.models.values() if isinstance(model, kind)}
    if name is None and len(models) == 1:
        return next(iter(models.values()))
    if name not in models:
        required = f"the name of a {kind.__name__} of the feature repo"
        got = f"{name!r}" if name else f"{len(models)} of them"
        raise UsageError("--model", required, got, f"'{repo.path}' has {', '.join(models) or 'none'}.")
    return models[name]


def read_events_of(
    files: Sequence[Path], kind: str, repo: FeatureRepo, columns: EventModelColumns, log: Log = silent
) -> list[Events]:
    """Of each file the events of the model's streams, each once. Raises UsageError for a file without any to score."""
    streams, read = streams_of(columns), list[Events]()
    for path in files:
        log(f"reading {path}")
        events = EventFile(path, kind, repo, log).read(streams, None, None)
        for stream in columns.model.streams:
            if not events.get(stream.name):
                raise UsageError(f"file '{path}'", f"events of stream '{stream.name}'", ", ".join(events) or "none")
        read.append({name: _once(table, streams[name]) for name, table in events.items()})
    return read


def joined(files: Sequence[Events], columns: EventModelColumns) -> Events:
    """The events of all files, each once."""
    streams = streams_of(columns)
    return {name: _once(table, streams[name]) for name, table in joined_events(files).items()}


def _once(events: pa.Table, stream: Stream) -> pa.Table:
    return without_duplicates(events.sort_by("known_at"), duration_ms(stream.dedupe_horizon))


def times_of(events: Events, columns: EventModelColumns) -> Int64s:
    """(n,) when each of the model's events became known, ms."""
    return integers(events[columns.model.stream.name]["known_at"])


def months(time: Int64s, zone: str) -> list[Part]:
    """The calendar months of the zone with at least STRAY of the events, in their order."""
    local = pd.DatetimeIndex(pd.to_datetime(time, unit="ms", utc=True)).tz_convert(_zone(zone))
    month = local.year.to_numpy() * 12 + local.month.to_numpy() - 1
    numbers, counts = np.unique(month, return_counts=True)
    return [Part(_month_ms(n, zone), _month_ms(n + 1, zone)) for n in numbers[counts >= STRAY * len(time)].tolist()]


def _month_ms(number: int, zone: str) -> int:
    return midnight_ms(f"{number // 12:04}-{number % 12 + 1:02}-01", zone)


def midnight_ms(date: str, zone: str) -> int:
    """Epoch ms of the beginning of this day in the zone. Raises UsageError for what is no date."""
    try:
        return int(pd.Timestamp(date).normalize().tz_localize(_zone(zone), ambiguous=True).timestamp() * 1_000)
    except ValueError as error:
        raise UsageError("a day of the split", "a date, such as 2022-02-01", repr(date)) from error


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise UsageError("--zone", "a time zone, such as America/New_York", repr(name)) from error


def split_by_month(
    files: Sequence[Events], columns: EventModelColumns, zone: str, test_start: str | None = None
) -> EventSplit:
    """Learn from all months but the last of one file, test on the last; of two files each is a part.

    Args:
        test_start: of one file, the first day of the test.

    Raises UsageError for one file of a single month.
    """
    spans = [months(times_of(events, columns), zone) for events in files]
    if len(spans) == 1 and test_start is not None:
        middle = midnight_ms(test_start, zone)
        return checked(EventSplit(spans[0][0].start, middle, middle, spans[0][-1].end))
    if len(spans) == 1 and len(spans[0]) == 1:
        next_step = "Name the days by --test-start, or give another file by --train and --test."
        raise UsageError("the file", "events of two months or more", "one month", next_step)
    learned, tested = (spans[0][:-1], spans[0][-1:]) if len(spans) == 1 else spans
    return checked(EventSplit(learned[0].start, learned[-1].end, tested[0].start, tested[-1].end))


def checked(split: EventSplit) -> EventSplit:
    """The split as it is. Raises UsageError where a part is empty, or the test begins before learning ends."""
    if not split.start < split.middle <= split.test < split.end:
        got = ", ".join(str(pd.Timestamp(ms, unit="ms", tz="UTC")) for ms in vars(split).values())
        required = "two parts of time, the one that is tested on after the one that is learned from"
        raise UsageError("the split", required, got)
    return split


def run(
    protocol: str, events: Events, columns: EventModelColumns, split: EventSplit, log: Log = silent
) -> Mapping[str, Any]:
    """The protocol's report: a row for each baseline of the model's kind, and one for the model.

    Raises UsageError for a part that cannot be learned from or tested on.
    """
    kind = kind_for(columns.model)
    settings = kind.settings.model_validate({})
    log("what was known just before each event")
    every = examples_between(events, columns, split.start, split.end)
    learned = kind.require(every.between(split.start, split.middle).known_before(split.test))
    test = kind.require(every.between(split.test, split.end))
    log(f"fitting {columns.model.name} to {len(learned):,} events")
    began = perf_counter()
    fitted = kind.fitted(learned, columns, settings)
    fit_s = perf_counter() - began
    judge = EventJudge(columns, test, settings, learned)
    manifest = event_manifest(judge, SplitExamples(split, learned, test, None), split.end)
    *baselines, ours = judge.rows(scorer_of(columns)(manifest, fitted), None)
    rows = [{**row.row, "fit_s": 0.0} for row in baselines]
    rows.append({**ours.row, "model": columns.model.name, "fit_s": round(fit_s, 3)})
    about = {"protocol": protocol, "baseline": rows[0]["model"], "metric": ours.metric.name}
    return {**about, "events": {"train": len(learned), "test": len(test)}, "split": vars(split), "rows": rows}
