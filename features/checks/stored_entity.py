"""One entity as it stands: its rows in the online store, and the events behind them in the offline store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from features.checks.entity import Read, events_behind, find_entity
from features.definitions import FeatureRepo, FeatureView, age_text, duration_text
from features.errors import HeadraceError
from features.events import Parsed, Verdict, encode_key, event_schema
from features.history import open_table
from features.online_store import FeatureReader, age_ms, read_status, sentence, store_of
from features.rows import Status
from features.times import moment_text, now_ms

STREAM = "stream"
"""In place of an instant: what is read is as of the newest event of the streams."""


def as_stored(
    repo: FeatureRepo,
    home: Path,
    offline: Path,
    views: Sequence[FeatureView],
    key: Mapping[str, Any],
    asked: int | str,
    explained: int | None,
) -> tuple[dict[str, Any], list[str]]:
    """What readers of the online store get of the views of one entity, and what a person should know of it.

    Args:
        asked: as of when (ms); 'wall' is now, and 'stream' the newest known_at of the views' streams.
        explained: how many events behind each view are told; None is not to.
    """
    now = now_ms()
    reader = FeatureReader(store_of(repo.path, home).open(), repo)
    at = asked if isinstance(asked, int) else now
    if asked == STREAM:
        at = _stream_clock(reader, offline, views, key) or now
    answers = [stored_answer(reader, view, key, at) for view in views]
    notes = [_later(answer) for answer in answers if answer["as_of"] > at]
    ways = "--as-of shows it" if asked == STREAM else "--clock stream or --as-of shows it"
    old = (_old(reader, view, key, answer) for view, answer in zip(views, answers, strict=True))
    notes += [f"{told}; {ways} as of then" for told in old if told]
    if explained is not None:
        answers = events_stored(answers, views, key, offline, repo, explained)
    status = read_status(home, now)
    return {"as_of": at, "age_ms": age_ms(status, now), "views": answers}, [*notes, sentence(status, now)]


def _stream_clock(reader: FeatureReader, folder: Path, views: Sequence[FeatureView], key: Mapping[str, Any]) -> int:
    """The newest known_at (ms) of the views' streams in the archive, or in the entity's rows, which have it sooner."""
    tables = (open_table(folder, stream) for view in views for stream in view.streams)
    archived = max((table.newest_ms() for table in tables if table is not None), default=0)
    rows = (stored_answer(reader, view, key, max(archived, 0)) for view in views)
    return max(0, archived, *(int(row["as_of"]) for row in rows))


def _old(reader: FeatureReader, view: FeatureView, key: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    """That the row's newest event is too old to be read, or for every window; empty where it is not, or there is none.

    Each row can be read as of its own clock, which an ``as_of`` of 0 comes to.
    """
    newest = answer["newest_event"] or stored_answer(reader, view, key, 0)["newest_event"]
    if newest is None or (answer["status"] == Status.PRESENT.name and answer["idle_ms"] <= view.horizon_ms):
        return ""
    ttl = duration_text(view.ttl_ms)
    than = {
        Status.PRESENT.name: f"its longest window, {duration_text(view.horizon_ms)}",
        Status.OUTSIDE_MAX_AGE.name: f"its ttl, {ttl}",
        Status.NOT_FOUND.name: f"twice its ttl, {ttl}",
    }
    age = f"{age_text(answer['as_of'] - newest)} old: more than {than[answer['status']]}"
    return f"{view.name}: the row's newest event, of {moment_text(newest)}, is {age}"


def _later(answer: Mapping[str, Any]) -> str:
    until = moment_text(answer["as_of"])
    return f"{answer['view']}: the row has events up to {until} and is shown as of then; --from FILE goes back further"


def stored_answer(reader: FeatureReader, view: FeatureView, key: Mapping[str, Any], as_of: int) -> dict[str, Any]:
    """The view's features of the entity in the online store.

    ``as_of`` is the one asked for (ms), or the row's clock where that is later: a row knows nothing of before it.
    ``idle_ms`` is how long before that the entity's newest event was.
    """
    matrix = reader.read(view.name, pa.array([encode_key(key, view.entity)], pa.string()), as_of)
    status, at = Status(int(matrix.status[0])), int(matrix.as_of[0])
    newest = None if status == Status.NOT_FOUND else int(matrix.newest_event[0])
    (values,) = matrix.to_table().to_pylist()
    told = {"view": view.name, "status": status.name, "as_of": at, "newest_event": newest}
    return told | {"idle_ms": None if newest is None else max(0, at - newest), "features": values}


def events_stored(
    answers: Sequence[Mapping[str, Any]],
    views: Sequence[FeatureView],
    key: Mapping[str, Any],
    folder: Path,
    repo: FeatureRepo,
    most: int,
) -> list[dict[str, Any]]:
    """The views' answers with the events behind each, as inspection.events_behind() has them.

    The offline store gets its events later than the online store: the newest may be missing here.

    Raises:
        HeadraceError: it has none of the views' streams.
    """
    found = find_entity(archived(folder, repo, views), repo.streams, views[0].entity, key)
    told = []
    for answer, view in zip(answers, views, strict=True):
        events, more = events_behind(view, answer["as_of"], found, most)
        told.append({**answer, "events": events, "more_events": more})
    return told


def archived(folder: Path, repo: FeatureRepo, views: Sequence[FeatureView]) -> Read:
    """Reads the offline tables of the views' streams, as a file with them would be read.

    Raises:
        HeadraceError: none of them is there.
    """
    streams = {stream.name: stream for view in views for stream in view.streams}
    tables = {name: open_table(folder, stream, repo.horizon_ms(name)) for name, stream in streams.items()}
    found = {name: table for name, table in tables.items() if table is not None}
    if not found:
        next_step = "'headrace stream' archives events; --from FILE --format F explains from a file."
        raise HeadraceError(f"offline store '{folder}'", f"a table of {', '.join(streams)}", "none", next_step)

    def read() -> Iterator[tuple[str, Parsed]]:
        for name, table in found.items():
            for batch in table.batches(event_schema(table.stream).names):
                yield name, _valid(batch)

    return read


def _valid(events: pa.Table) -> Parsed:
    """Archived events that are not late: each was valid."""
    count = events.num_rows
    verdicts = np.full(count, Verdict.VALID, np.int8)
    return Parsed(events, np.arange(count), verdicts, pa.nulls(count, pa.string()))
