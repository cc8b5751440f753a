"""`headrace import`: files into the offline store, without Kafka. Only click is imported before it runs."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from features.errors import UsageError
from headrace.console import JSON, echo, print_json

if TYPE_CHECKING:
    from features.definitions import FeatureRepo
    from headrace.settings import Settings
    from streaming.archive import ImportCounts, Importer, ImportSource, TopicStarts

PROGRESS_S = 1.0

COUNTED = ("records", "imported", "already", "rejected", "after_cut", "gone")

UNDONE = (
    "online rows and models have them still: make rows anew with 'headrace features rebuild', and train with "
    "'headrace train'"
)

Read = Callable[[str], "ImportSource"]


@click.command("import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--format", "kind", metavar="FORMAT", help="Such as parquet, csv, jsonl, online-retail, cards.")
@click.option("--stream", metavar="STREAM", help="For csv, parquet, jsonl: the stream of the rows.")
@click.option("--column", "renamed", multiple=True, metavar="OURS=THEIRS", help="For csv, parquet: a column's name.")
@click.option("--until", metavar="T", help="Only what was known before: RFC 3339 or epoch ms.")
@click.option("--undo", is_flag=True, help="Take out again what these files brought; they need not exist any more.")
@click.option("--repo", "folder", metavar="FOLDER", help="Folder with your definitions, if not the settings'.")
@JSON
def import_files(
    files: Sequence[str],
    kind: str | None,
    stream: str | None,
    renamed: Sequence[str],
    until: str | None,
    undo: bool,
    folder: str | None,
    as_json: bool,
) -> None:
    """Import the events of files into the offline store, each file once: a second import adds nothing.

    A file that grew or was mended under its name brings only the rows that are new in it, compared by content. Rows
    that it has no more stay, and are said: --undo FILE takes out all that a file brought, whatever it holds now.

    Events become known at their event time. They end where the stream's topic begins, by the archive and by Kafka where
    there is one, or at --until; later ones are left to the topic, until a later --until includes them. Records that are
    no events go to the table _import_rejects, with their reasons.

    \b
    Examples:
      headrace import history-2023.parquet history-2024.parquet --format parquet --stream activity
      headrace import card-transactions.parquet --format cards
      headrace import old.csv --format csv --stream activity --column user_id=customer --until 2024-05-01T00:00:00Z
      headrace import --undo old.csv
    """
    from features.events import parsed_time

    until_ms = None if until is None else parsed_time(until)
    if undo:
        _undo(files, folder, as_json)
        return
    read, importer = _project(folder, kind, stream, renamed, until_ms)
    sources = {file: read(file) for file in files}
    began = time.monotonic()
    results = {file: importer.run(source) for file, source in sources.items()}
    totals = report(results, time.monotonic() - began)
    if as_json:
        print_json(totals)
    else:
        echo("\n".join(line for name, counts in results.items() for line in _lines(name, counts)))
        every = [counts for parts in results.values() for counts in parts.values()]
        for text in (text for counts in every for text in counts.refused.examples):
            echo(f"  refused: {text}", err=True)
    if totals["imported"]:
        echo("make online rows of it with 'headrace features rebuild'", err=True)


def _project(
    folder: str | None, kind: str | None, stream: str | None, renamed: Sequence[str], until_ms: int | None
) -> tuple[Read, Importer]:
    """A reader of the files, which raises for invalid options when it is called, and the project's importer."""
    from features.definitions import load_repo
    from features.formats import FORMATS, read_events
    from headrace.commands.stream.produce import renaming
    from headrace.project import Project
    from streaming.archive import Archive, CutOffs, Importer, ImportSource, digest_of
    from streaming.fold import crash_point

    if kind is None:
        raise UsageError("import", f"--format, one of {', '.join(FORMATS)}", "none")
    project = Project.open()
    repo = load_repo(folder or project.settings.stream.repo)
    columns = dict(map(renaming, renamed)) or None

    def read(file: str) -> ImportSource:
        records = read_events(file, kind, repo.streams, repo.horizon_ms, repo.keys_of, stream=stream, columns=columns)
        return ImportSource(_name(file, project.root), digest_of(Path(file)), records)

    reached = crash_point(os.environ) or (lambda _: None)
    return read, Importer(
        Archive(project.offline, repo),
        CutOffs(until_ms, _topic_starts(project.settings, repo)),
        progress=_progress(),
        reached=reached,
        log=lambda line: echo(line, err=True),
    )


def _name(file: str, root: Path) -> str:
    """The name by which the archive knows the file: its path in the project's folder, or from the root."""
    path = Path(file).resolve()
    return str(path.relative_to(root.resolve()) if path.is_relative_to(root.resolve()) else path)


def _undo(files: Sequence[str], folder: str | None, as_json: bool) -> None:
    from features.definitions import load_repo
    from headrace.project import Project
    from streaming.archive import Archive, Importer, digest_of

    project = Project.open()
    importer = Importer(Archive(project.offline, load_repo(folder or project.settings.stream.repo)))
    undone = {}
    for file in files:
        digest = digest_of(Path(file)) if Path(file).exists() else None
        undone[file] = importer.undo(_name(file, project.root), digest)
    if as_json:
        print_json({"undone": undone})
    else:
        for file, streams in undone.items():
            parts = [f"{count:,} events taken out of {stream}" for stream, count in streams.items()]
            echo(f"{file}  {' · '.join(parts) or 'only refused records taken out'}")
    if any(undone.values()):
        echo(UNDONE, err=True)


def _topic_starts(settings: Settings, repo: FeatureRepo) -> TopicStarts | None:
    """A function for the times at which each stream's topics begin in Kafka; None where the project has no Kafka."""
    from headrace.cluster import cluster, has_cluster
    from streaming.archive import topic_starts

    if not has_cluster(settings, Path.cwd()):
        return None

    def starts() -> Mapping[str, int]:
        with cluster(settings, Path.cwd()) as bootstrap:
            return topic_starts(bootstrap, repo.streams.values(), settings.kafka.client)

    return starts


def _progress() -> Callable[[Mapping[str, ImportCounts]], None]:
    """A line on a terminal, once a second."""
    shown_s = time.monotonic()

    def show(counts: Mapping[str, ImportCounts]) -> None:
        nonlocal shown_s
        if sys.stderr.isatty() and time.monotonic() > shown_s + PROGRESS_S:
            shown_s = time.monotonic()
            click.echo(f"\r{sum(count.records for count in counts.values()):,} records read ", nl=False, err=True)

    return show


def report(results: Mapping[str, Mapping[str, ImportCounts]], took_s: float) -> dict[str, Any]:
    """The report of --json: totals, and the counts of each file by stream."""
    files = {name: {stream: _as_json(counts) for stream, counts in parts.items()} for name, parts in results.items()}
    every = [counts for parts in files.values() for counts in parts.values()]
    totals: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
    for counts in every:
        totals.update({name: counts[name] for name in COUNTED})
    per_s = round(totals["records"] / took_s, 1) if took_s else None
    return {**totals, "files": files, "took_s": round(took_s, 3), "per_s": per_s}


def _as_json(counts: ImportCounts) -> dict[str, Any]:
    plain = {name: getattr(counts, name) for name in (*COUNTED, "until_ms", "until_by")}
    return plain | {"reasons": dict(counts.refused.reasons), "examples": counts.refused.examples}


def _lines(file: str, parts: Mapping[str, ImportCounts]) -> list[str]:
    return [_line(file, stream, counts) for stream, counts in parts.items()] or [f"{file}  nothing in it"]


def _line(file: str, stream: str, counts: ImportCounts) -> str:
    from features.times import moment_text

    parts = [f"{counts.imported:,} of {counts.records:,} imported into {stream}"]
    parts += [f"{counts.already:,} there already"] if counts.already else []
    cut = "" if counts.until_ms is None else moment_text(counts.until_ms)
    parts += [f"{counts.after_cut:,} from {cut} on left to the topic"] if counts.after_cut else []
    reasons = ", ".join(f"{count:,} {code}" for code, count in counts.refused.reasons.most_common())
    parts += [f"{counts.rejected:,} refused ({reasons}), see the table _import_rejects"] if counts.rejected else []
    gone = f"{counts.gone:,} of earlier versions of the file are not in it any more and stay (--undo takes all out)"
    parts += [gone] if counts.gone else []
    return f"{file}  " + " · ".join(parts)
