"""`headrace features backfill`: the features of a file's rows as they were, from the offline store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from features.errors import UsageError
from headrace.console import JSON, print_report

if TYPE_CHECKING:
    import pyarrow as pa

    from features.arrays import Int64s
    from features.definitions import FeatureRepo, FeatureView
    from features.history import SpineRequest

TIME = "event_timestamp"


@click.command()
@click.argument("spine", metavar="SPINE")
@click.option("--out", required=True, metavar="FILE", help="The Parquet file that is written.")
@click.option("--view", "names", multiple=True, metavar="VIEW", help="Only this view; again for another.")
@JSON
def backfill(spine: str, out: str, names: Sequence[str], as_json: bool) -> None:
    """Write the features of each row of SPINE as they were at its event_timestamp, from the offline store.

    SPINE is a Parquet or CSV file with key columns (user_id) and event_timestamp: RFC 3339, epoch ms, or a timestamp,
    UTC where it has no zone. Its rows and columns come back as they are, features beside them: those of the views whose
    keys it has. Nothing that became known after a row's time plays a part; of whom nobody knew, features are null.

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
    streams = {stream.name: stream for view in views for stream in view.streams}
    tables = open_tables(project.offline, streams.values(), repo)
    for name in sorted(streams.keys() - tables.keys()):
        click.echo(f"the offline store has nothing of stream '{name}'", err=True)
    asked = asked_of(table, views, f"file '{spine}'")
    for matrix in history(asked, ArchiveReader(tables, rows_in_memory=project.settings.offline.rows_in_memory)):
        for name, column in zip(matrix.names, matrix.columns, strict=True):
            table = table.append_column(name, column)
    written(table, Path(out))
    found = {view.name: len(view.features) for view in views}
    told = {"out": out, "rows": table.num_rows, "views": found, "took_s": round(time.monotonic() - began, 3)}
    several = ", ".join(f"{count} features of {name}" for name, count in found.items())
    print_report(told, as_json, lambda _: f"{out}: {table.num_rows:,} rows with {several}")


def read_spine(path: Path, repo: FeatureRepo, names: Sequence[str]) -> tuple[pa.Table, list[FeatureView]]:
    """The file's rows, and the views whose features they can have: those named, or all whose keys are columns.

    Raises:
        UsageError: there is no such file or view, a column is missing, or has the name of a feature.
        FormatError: the file is not what it is called.
    """
    import pyarrow as pa

    from features.events import arrow_type
    from features.formats import InputFile, csv_header, parquet_columns, read_csv, read_parquet

    if not path.is_file():
        raise UsageError(f"spine '{path}'", "a Parquet or CSV file", "nothing there")
    source, is_csv = InputFile(path), path.suffix == ".csv"
    columns = csv_header(source) if is_csv else parquet_columns(source).names
    views = _views(repo, names, columns, source.where)
    if not is_csv:
        return _whole(parquet_columns(source), read_parquet(source, columns)), views
    keys = {key: dtype for view in views for key, dtype in view.entity.keys.items()}
    dtypes = {name: keys.get(name, "string") for name in columns}
    schema = pa.schema([(name, arrow_type(dtype)) for name, dtype in dtypes.items()])
    return _whole(schema, read_csv(source, dtypes)), views


def _whole(schema: pa.Schema, batches: Iterable[pa.Table]) -> pa.Table:
    """The batches as one table, also where there is none."""
    import pyarrow as pa

    return pa.concat_tables(
        [schema.remove_metadata().empty_table(), *(one.replace_schema_metadata() for one in batches)]
    )


def _views(repo: FeatureRepo, names: Sequence[str], columns: Sequence[str], where: str) -> list[FeatureView]:
    unknown = [name for name in names if name not in repo.views]
    if unknown:
        raise UsageError("--view", f"one of {', '.join(repo.views) or 'no views'}", ", ".join(unknown))
    able = [view.name for view in repo.views.values() if set(view.entity.keys) <= set(columns)]
    views = [view for view in repo.views.values() if view.name in (names or able)]
    needed = [TIME, *(key for name in names for key in repo.views[name].entity.keys)]
    if not views or not set(needed) <= set(columns):
        keys = ", ".join(dict.fromkeys(needed[1:])) or "the keys of a feature view"
        raise UsageError(where, f"columns {TIME} and {keys}", ", ".join(columns))
    every = [*columns, *(name for view in views for name in view.names)]
    twice = sorted({name for name in every if every.count(name) > 1})
    if twice:
        raise UsageError(where, "columns and features of different names", ", ".join(twice), "Name views with --view.")
    return views


def asked_of(table: pa.Table, views: Sequence[FeatureView], where: str) -> list[SpineRequest]:
    """What each of the views is asked: the rows' entities, as of their times."""
    from features.events import entity_keys
    from features.formats import cast
    from features.history import Spine, SpineRequest

    times = times_of(table[TIME], f"{where}: column '{TIME}'")
    asked = []
    for view in views:
        entity = view.entity
        keys = {key: cast(table[key], dtype, f"{where}: column '{key}'") for key, dtype in entity.keys.items()}
        asked.append(SpineRequest(view, Spine(entity_keys(keys, entity), times)))
    return asked


def times_of(column: pa.ChunkedArray, where: str) -> Int64s:
    """Epoch ms of numbers, timestamps or text; UsageError where a row has none."""
    import pyarrow as pa

    from features.events import integers, ms_of_text
    from features.formats import csv_ms, to_ms

    found = to_ms(column, "ms", where).combine_chunks()
    found = csv_ms(found, "ms", where) if found.type == pa.string() else found
    found = ms_of_text(found) if found.type == pa.string() else found
    if found.null_count:
        required = "in every row a time: RFC 3339 with its zone, epoch ms or a timestamp"
        raise UsageError(where, required, f"{found.null_count:,} without")
    return integers(found)


def written(table: pa.Table, path: Path) -> None:
    """The file is there, whole. Raises UsageError where it cannot be."""
    import pyarrow.parquet as pq

    from features.machine import replaced

    try:
        with replaced(path) as fresh:
            pq.write_table(table, fresh)
    except OSError as error:
        raise UsageError(f"--out '{path}'", "a file that can be written", str(error).rstrip(".")) from None
