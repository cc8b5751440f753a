"""One entity as stored: its features from the online store, and the events behind them from the offline store."""

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
from features.history import open_table, open_tables
from features.online_store import FeatureReader, age_ms, read_status, sentence, store_of
from features.rows import Status
from features.times import moment_text, now_ms

STREAM = "stream"
"""Reads as of the newest event of the streams, instead of an instant."""


def as_stored(
    repo: FeatureRepo,
    home: Path,
    offline: Path,
    views: Sequence[FeatureView],
    key: Mapping[str, Any],
    clock: int | str,
    explained: int | None,
) -> tuple[dict[str, Any], list[str]]:
    """The views' features of an entity as readers of the online store get them, and notes for a person.

    Args:
        clock: the instant of the read (ms); 'wall' is now, and 'stream' the newest known_at of the views' streams.
        explained: the number of events behind each view to list; None leaves them out.
    """
    now = now_ms()
    reader = FeatureReader(store_of(repo.path, home).open(), repo)
    at = clock if isinstance(clock, int) else now
    if clock == STREAM:
        at = _stream_clock(reader, offline, views, key) or now
    answers = [stored_answer(reader, view, key, at) for view in views]
    notes = [_later_note(answer) for answer in answers if answer["as_of"] > at]
    option = "--as-of shows it" if clock == STREAM else "--clock stream or --as-of shows it"
    old = (_old_note(reader, view, key, answer) for view, answer in zip(views, answers, strict=True))
    notes += [f"{note}; {option} as of then" for note in old if note]
    if explained is not None:
        answers = events_stored(answers, views, key, offline, repo, explained)
    status = read_status(home, now)
    return {"as_of": at, "age_ms": age_ms(status, now), "views": answers}, [*notes, sentence(status, now)]


def _stream_clock(reader: FeatureReader, folder: Path, views: Sequence[FeatureView], key: Mapping[str, Any]) -> int:
    """The newest known_at (ms) of the views' streams in the archive, or in the entity's rows, which may be newer."""
    tables = (open_table(folder, stream) for view in views for stream in view.streams)
    archived = max((table.newest_ms for table in tables if table is not None), default=0)
    rows = (stored_answer(reader, view, key, max(archived, 0)) for view in views)
    return max(0, archived, *(int(row["as_of"]) for row in rows))


def _old_note(reader: FeatureReader, view: FeatureView, key: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    """A note if the row's newest event is older than the ttl, or than every window; empty otherwise.

    A row can be read as of its own clock: that is the result of an ``as_of`` of 0.
    """
    newest = answer["newest_event"] or stored_answer(reader, view, key, 0)["newest_event"]
    if newest is None or (answer["status"] == Status.PRESENT.name and answer["idle_ms"] <= view.horizon_ms):
        return ""
    ttl = duration_text(view.ttl_ms)
    limits = {
        Status.PRESENT.name: f"its longest window, {duration_text(view.horizon_ms)}",
        Status.OUTSIDE_MAX_AGE.name: f"its ttl, {ttl}",
        Status.NOT_FOUND.name: f"twice its ttl, {ttl}",
    }
    age = f"{age_text(answer['as_of'] - newest)} old: more than {limits[answer['status']]}"
    return f"{view.name}: the row's newest event, of {moment_text(newest)}, is {age}"


def _later_note(answer: Mapping[str, Any]) -> str:
    until = moment_text(answer["as_of"])
    return f"{answer['view']}: the row has events up to {until} and is shown as of then; --from FILE goes back further"


def stored_answer(reader: FeatureReader, view: FeatureView, key: Mapping[str, Any], as_of: int) -> dict[str, Any]:
    """The view's features of the entity in the online store.

    ``as_of`` is the requested one (ms), or the row's clock if that is later: a row cannot be read before it.
    ``idle_ms`` is the time from the entity's newest event to ``as_of``.
    """
    matrix = reader.read(view.name, pa.array([encode_key(key, view.entity)], pa.string()), as_of)
    status, at = Status(int(matrix.status[0])), int(matrix.as_of[0])
    newest = None if status == Status.NOT_FOUND else int(matrix.newest_event[0])
    (values,) = matrix.to_table().to_pylist()
    answer = {"view": view.name, "status": status.name, "as_of": at, "newest_event": newest}
    return answer | {"idle_ms": None if newest is None else max(0, at - newest), "features": values}


def events_stored(
    answers: Sequence[Mapping[str, Any]],
    views: Sequence[FeatureView],
    key: Mapping[str, Any],
    folder: Path,
    repo: FeatureRepo,
    most: int,
) -> list[dict[str, Any]]:
    """The views' answers with the events behind each, see events_behind().

    The offline store gets its events later than the online store: the newest may be missing here.

    Raises:
        HeadraceError: the offline store has none of the views' streams.
    """
    in_file = find_entity(archived(folder, repo, views), repo.streams, views[0].entity, key)
    explained = []
    for answer, view in zip(answers, views, strict=True):
        events, more = events_behind(view, answer["as_of"], in_file, most)
        explained.append({**answer, "events": events, "more_events": more})
    return explained


def archived(folder: Path, repo: FeatureRepo, views: Sequence[FeatureView]) -> Read:
    """A reader of the offline tables of the views' streams, used as a reader of a file.

    Raises:
        HeadraceError: the offline store has none of them.
    """
    streams = {stream.name: stream for view in views for stream in view.streams}
    tables = open_tables(folder, streams.values(), repo)
    if not tables:
        next_step = "'headrace stream' archives events; --from FILE --format F explains from a file."
        raise HeadraceError(f"offline store '{folder}'", f"a table of {', '.join(streams)}", "none", next_step)

    def read() -> Iterator[tuple[str, Parsed]]:
        for name, table in tables.items():
            for batch in table.batches(event_schema(table.stream).names):
                yield name, _valid(batch)

    return read


def _valid(events: pa.Table) -> Parsed:
    """Archived events as parsed ones, all VALID: the table leaves out late ones."""
    count = events.num_rows
    verdicts = np.full(count, Verdict.VALID, np.int8)
    return Parsed(events, np.arange(count), verdicts, pa.nulls(count, pa.string()))
