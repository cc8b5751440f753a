"""`headrace features backfill`: a file's rows with the features of their times, from the offline store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from features.errors import UsageError
from headrace.console import JSON, echo, print_report, say

if TYPE_CHECKING:
    import pyarrow as pa

    from features.arrays import Int64s
    from features.definitions import FeatureRepo, FeatureView
    from features.formats import Refused
    from features.history import SpineRequest

TIME = "event_timestamp"


@click.command()
@click.argument("spine", metavar="SPINE")
@click.option("--out", required=True, metavar="FILE", help="The Parquet file to write.")
@click.option("--view", "names", multiple=True, metavar="VIEW", help="Only this view; again for another.")
@JSON
def backfill(spine: str, out: str, names: Sequence[str], as_json: bool) -> None:
    """Write the features of each row of SPINE as they were at its event_timestamp, from the offline store.

    SPINE is a Parquet or CSV file with key columns (user_id) and event_timestamp: RFC 3339, epoch ms, or a timestamp,
    UTC where it has no zone. Its rows and columns come back as they are, features beside them: those of the views whose
    keys it has. Nothing that became known after a row's time counts; features of unknown entities are null. Rows
    without a time that can be read, and those of a CSV file that are broken or whose key is not of its dtype, are left
    out, and said with their reasons.

    \b
    Examples:
      headrace features backfill spine.parquet --out training.parquet
      headrace features backfill orders.csv --out training.parquet --view user_activity --json
    """
    from features.history import ArchiveReader, history, open_tables
    from headrace.project import Project

    began, project = time.monotonic(), Project.open()
    repo = project.repo
    table, views = read_spine(Path(spine), repo, names)
    table, refused = accepted(table)
    for line in refused.lines():
        say(line)
    if refused.reasons and not table.num_rows:
        raise UsageError(f"file '{spine}'", "at least one row that can be read", "none")
    streams = {stream.name: stream for view in views for stream in view.streams}
    tables = open_tables(project.offline, streams.values(), repo)
    for name in sorted(streams.keys() - tables.keys()):
        echo(f"the offline store has nothing of stream '{name}'", err=True)
    requests = spine_requests(table, views, f"file '{spine}'")
    for matrix in history(requests, ArchiveReader(tables, rows_in_memory=project.settings.offline.rows_in_memory)):
        for name, column in zip(matrix.names, matrix.columns, strict=True):
            table = table.append_column(name, column)
    write(table, Path(out))
    counts = {view.name: len(view.features) for view in views}
    report = {"out": out, "rows": table.num_rows, "views": counts, "took_s": round(time.monotonic() - began, 3)}
    report |= {"refused": refused.reasons.total(), "examples": refused.examples}
    features = ", ".join(f"{count} features of {name}" for name, count in counts.items())
    print_report(report, as_json, lambda _: f"{out}: {table.num_rows:,} rows with {features}")


def read_spine(path: Path, repo: FeatureRepo, names: Sequence[str]) -> tuple[pa.Table, list[FeatureView]]:
    """The file's rows with PROBLEM, and the views to read: those named, or all whose keys are columns.

    Raises:
        UsageError: there is no such file or view, a column is missing, or has the name of a feature.
        FormatError: the file is not of the format of its name.
    """
    import pyarrow as pa

    from features.events import arrow_type
    from features.formats import PROBLEM, InputFile, csv_header, parquet_columns, read_csv, read_parquet

    if not path.is_file():
        raise UsageError(f"spine '{path}'", "a Parquet or CSV file", "nothing there")
    source, is_csv = InputFile(path), path.suffix == ".csv"
    columns = csv_header(source) if is_csv else parquet_columns(source).names
    views = _views(repo, names, columns, source.where)
    if not is_csv:
        return _timed(_whole(parquet_columns(source), read_parquet(source, columns))), views
    keys = {key: dtype for view in views for key, dtype in view.entity.keys.items()}
    dtypes = {name: keys.get(name, "string") for name in columns}
    schema = pa.schema([*((name, arrow_type(dtype)) for name, dtype in dtypes.items()), (PROBLEM, pa.string())])
    return _timed(_whole(schema, read_csv(source, dtypes))), views


def _timed(table: pa.Table) -> pa.Table:
    """The rows with PROBLEM, which also says where a time is missing or no time."""
    import pyarrow as pa

    from features.definitions import Time
    from features.events import bad_time, reason_text
    from features.formats import PROBLEM, csv_ms, with_problems

    column = table[TIME].combine_chunks()
    times = csv_ms(column, Time()) if column.type == pa.string() else column
    missing = reason_text("missing_field", TIME, "a time", "nothing")
    rows = times.is_null().to_numpy(zero_copy_only=False).nonzero()[0].tolist()
    texts = {row: missing if (text := column[row].as_py()) is None else bad_time(TIME, text) for row in rows}
    known = table[PROBLEM] if PROBLEM in table.column_names else pa.nulls(table.num_rows, pa.string())
    rest = table.drop_columns([PROBLEM]) if PROBLEM in table.column_names else table
    return rest.append_column(PROBLEM, with_problems(known, texts))


def accepted(table: pa.Table) -> tuple[pa.Table, Refused]:
    """The rows that are not refused, without PROBLEM, and what is to be said of the others."""
    from features.formats import PROBLEM, Refused

    refused = Refused(table.num_rows)
    reasons, rows = table[PROBLEM], table.drop_columns([PROBLEM])
    if reasons.null_count == len(reasons):
        return rows, refused
    refused.add(0, (f"{text} (row {row:,})" for row, text in enumerate(reasons.to_pylist(), 1) if text))
    return rows.filter(reasons.is_null()), refused


def _whole(schema: pa.Schema, batches: Iterable[pa.Table]) -> pa.Table:
    """The batches as one table; without batches, an empty one."""
    import pyarrow as pa

    return pa.concat_tables(
        [schema.remove_metadata().empty_table(), *(batch.replace_schema_metadata() for batch in batches)]
    )


def _views(repo: FeatureRepo, names: Sequence[str], columns: Sequence[str], where: str) -> list[FeatureView]:
    from features.formats import nearest

    unknown = [name for name in names if name not in repo.views]
    if unknown:
        raise UsageError("--view", f"one of {', '.join(repo.views) or 'no views'}", ", ".join(unknown))
    able = [view.name for view in repo.views.values() if set(view.entity.keys) <= set(columns)]
    views = [view for view in repo.views.values() if view.name in (names or able)]
    needed = [TIME, *(key for name in names for key in repo.views[name].entity.keys)]
    if not views or not set(needed) <= set(columns):
        keys = ", ".join(dict.fromkeys(needed[1:])) or "the keys of a feature view"
        every_key = {key for view in repo.views.values() for key in view.entity.keys}
        near = {name: found for name in sorted({TIME} | every_key) if (found := nearest(name, set(columns) - {name}))}
        hints = " ".join(f"'{found}' is nearly '{name}'." for name, found in near.items() if name not in columns)
        raise UsageError(where, f"columns {TIME} and {keys}", ", ".join(columns), hints)
    every = [*columns, *(name for view in views for name in view.names)]
    twice = sorted({name for name in every if every.count(name) > 1})
    if twice:
        raise UsageError(where, "columns and features of different names", ", ".join(twice), "Name views with --view.")
    return views


def spine_requests(table: pa.Table, views: Sequence[FeatureView], where: str) -> list[SpineRequest]:
    """A request for each view: the rows' entities as of their times."""
    from features.events import entity_keys, key_column
    from features.history import Spine, SpineRequest

    times = times_of(table[TIME], f"{where}: column '{TIME}'")
    requests = []
    for view in views:
        entity = view.entity
        keys = {key: key_column(table[key], dtype, f"{where}: column '{key}'") for key, dtype in entity.keys.items()}
        requests.append(SpineRequest(view, Spine(entity_keys(keys, entity), times)))
    return requests


def times_of(column: pa.ChunkedArray, where: str) -> Int64s:
    """Epoch ms of numbers, timestamps or text. Raises UsageError where a row has none, or an implausible one."""
    import pyarrow as pa

    from features.definitions import Time
    from features.events import integers, plausible_times
    from features.formats import csv_ms, to_ms

    times = to_ms(column, "ms", where)
    times = csv_ms(times, Time()) if times.type == pa.string() else times
    if times.null_count:
        required = "in every row a time: RFC 3339 with its zone, epoch ms or a timestamp"
        raise UsageError(where, required, f"{times.null_count:,} without")
    plausible_times(where, integers(times))
    return integers(times)


def write(table: pa.Table, path: Path) -> None:
    """The file has the table, whole. Raises UsageError where it cannot be written."""
    import pyarrow.parquet as pq

    from features.machine import replaced

    try:
        with replaced(path) as fresh:
            pq.write_table(table, fresh)
    except OSError as error:
        raise UsageError(f"--out '{path}'", "a file that can be written", str(error).rstrip(".")) from None
