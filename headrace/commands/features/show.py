"""`headrace features`: the definitions, and their values online or computed from a file.

Only click is imported here: the rest is when a command runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import click

from features.errors import UsageError
from headrace.console import JSON, aligned, echo, print_json, print_report, say

if TYPE_CHECKING:
    from features.checks import EntityInFile
    from features.definitions import FeatureRepo, FeatureView
    from features.events import Parsed

EVENTS_SHOWN = 20

CLOCKS = ("wall", "stream")

LIST_COLUMNS = ("feature", "dtype", "stream", "window", "tile", "meaning")

Command = Callable[..., Any]

Read = Callable[..., "Iterator[tuple[str, Parsed]]"]


@click.group()
def features() -> None:
    """Show what is defined and its values, compute them from a file, and check the laws on a file.

    \b
    Examples:
      headrace features list
      headrace features show user u1
      headrace features show user 12747 --from online-retail.parquet --format online-retail
      headrace features check --from online-retail.parquet --format online-retail
    """


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """The options as one decorator, the first shown first in --help."""

    def decorated(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorated


REPO = click.option("--repo", "folder", metavar="FOLDER", help="Folder with your definitions, if not the settings'.")

VIEW = click.option("--view", "view_name", metavar="VIEW", help="Only this feature view.")

FILE = options(
    click.option("--from", "path", metavar="FILE", help="Read events from this file."),
    click.option("--format", "kind", metavar="FORMAT", help="Such as online-retail, cards, jsonl, csv."),
    click.option("--stream", "stream", metavar="STREAM", help="For csv, parquet, jsonl: the stream of the rows."),
    click.option(
        "--column", "renamed", multiple=True, metavar="OURS=THEIRS", help="For csv, parquet: a column's name."
    ),
)


@features.command("list")
@options(REPO, VIEW, JSON)
def list_features(folder: str | None, view_name: str | None, as_json: bool) -> None:
    """Show every feature: its name, dtype, stream, window, tile, and what it means; and the recommenders.

    \b
    Examples:
      headrace features list
      headrace features list --view user_activity --json
    """
    from features.definitions import recommender_summary, view_summary

    repo = repo_of_settings(folder)
    views = [view_summary(view) for view in _views(repo, view_name)]
    default = repo.chosen_recommenders().default
    shown = repo.recommenders.values() if view_name is None else ()
    recommenders = [recommender_summary(one, one == default) for one in shown]
    lines = [*map(_listed, views), *map(_listed_recommender, recommenders)]
    print_report({"views": views, "recommenders": recommenders}, as_json, lambda _: "\n\n".join(lines))


def repo_of_settings(folder: str | None) -> FeatureRepo:
    """The definitions in the folder, or in the one that the settings name."""
    from features.definitions import load_repo
    from headrace.project import Project

    return Project.open().repo if folder is None else load_repo(folder)


def _views(repo: FeatureRepo, name: str | None) -> list[FeatureView]:
    if name is not None and name not in repo.views:
        raise UsageError("--view", f"one of {', '.join(repo.views) or 'no views'}", repr(name))
    return [view for view in repo.views.values() if name in (None, view.name)]


def _listed(view: Mapping[str, Any]) -> str:
    title = click.style(view["view"], bold=True)
    keys = ", ".join(f"{key} {dtype}" for key, dtype in view["keys"].items())
    about = f"{view['entity']} ({keys}) from {', '.join(view['streams'])} · version {view['version']}"
    head = f"{title} · {about} · schema {view['schema_hash']} · ttl {view['ttl']}"
    lines = [head, view["description"]] if view["description"] else [head]
    return "\n".join(
        [*lines, *_table(LIST_COLUMNS, [[row[name] for name in LIST_COLUMNS] for row in view["features"]])]
    )


def _listed_recommender(recommender: Mapping[str, Any]) -> str:
    title = click.style(recommender["recommender"], bold=True)
    kind, weights = recommender["kind"], recommender["weights"].items()
    about = f"recommender of {recommender['item_view']} to {recommender['user_view']} from {recommender['stream']}"
    counts = ", ".join(f"{name} {weight:g}" for name, weight in weights)
    lines = [f"{title} · {about}{' · default' if recommender['default'] else ''}"]
    lines.append(f"predicts {', '.join(recommender['targets'])}{f' by {kind}' if kind else ''} · counts {counts}")
    lines.append(f"inputs: {recommender['user_inputs']} of the user, {recommender['item_inputs']} of the item")
    if recommender["catalogue"] is not None:
        available = f", where {' and '.join(recommender['available'])}" if recommender["available"] else ""
        lines.append(f"only items of {recommender['catalogue']}{available}")
    return "\n".join(lines)


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    """Lines of aligned columns under their names; None is empty."""
    head, *lines = aligned(names, [["" if cell is None else str(cell) for cell in row] for row in rows])
    yield from (click.style(head, dim=True), *lines)


@dataclass(frozen=True)
class File:
    """The options that name a file."""

    path: str | None
    kind: str | None
    stream: str | None
    renamed: Sequence[str]

    def reader(self, repo: FeatureRepo, what: str) -> Read:
        """A function that starts reading the file at each call. Raises UsageError for invalid options."""
        from features.formats import FORMATS, read_events
        from features.rows import foldable

        if self.path is None:
            raise UsageError(what, "--from FILE and --format FORMAT", "no --from")
        if self.kind is None:
            raise UsageError(what, f"--format, one of {', '.join(FORMATS)}", "none")
        columns = dict(map(_renaming, self.renamed)) or None
        parts = partial(
            read_events,
            self.path,
            self.kind,
            repo.streams,
            repo.horizon_ms,
            repo.keys_of,
            stream=self.stream,
            columns=columns,
        )

        def read(**options: Any) -> Iterator[tuple[str, Parsed]]:
            records = parts(**options)
            return ((name, foldable(parsed, repo.streams[name], repo.reading(name))) for name, parsed in records)

        read()  # generators do not start by themselves: this only looks at the options
        return read

    def fills(self, repo: FeatureRepo) -> set[str]:
        """The repo's streams that the file can fill."""
        from features.formats import find_format

        streams = find_format(str(self.kind)).streams or ([self.stream] if self.stream else repo.streams)
        return {name for name in streams if name in repo.streams}


def file_options(command: Command) -> Command:
    """The command with these options, as one argument ``file``."""

    @wraps(command)
    def collected(path: str | None, kind: str | None, stream: str | None, renamed: Sequence[str], **others: Any) -> Any:
        return command(file=File(path, kind, stream, renamed), **others)

    return FILE(collected)


def _renaming(text: str) -> tuple[str, str]:
    ours, sign, theirs = text.partition("=")
    if not (ours and sign and theirs):
        raise UsageError("--column", "OURS=THEIRS, such as user_id=CustomerID", repr(text))
    return ours, theirs


def _views_of(repo: FeatureRepo, name: str | None, entity: str | None) -> list[FeatureView]:
    """The views, of the entity and of the name that are not None. Raises UsageError where there are none."""
    views = [view for view in _views(repo, name) if entity in (None, view.entity.name)]
    if not views:
        required = ", ".join(view.name for view in repo.views.values() if view.entity.name == entity) or "none"
        raise UsageError(f"--view for entity '{entity}'", f"one of its views ({required})", repr(name))
    return views


def views_of_file(repo: FeatureRepo, name: str | None, entity: str | None, filled: set[str]) -> list[FeatureView]:
    """The views, of the entity if it is not None, that read one of the streams. Raises UsageError without any."""
    of_entity = _views_of(repo, name, entity)
    views = [view for view in of_entity if filled & {stream.name for stream in view.streams}]
    if not views:
        required = ", ".join(sorted({stream.name for view in of_entity for stream in view.streams}))
        raise UsageError("--format", f"a file with events of {required}", f"one with {', '.join(sorted(filled))}")
    return views


class WithNegativeIds(click.Command):
    """A command whose arguments may be negative numbers, which click takes for options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.ignore_unknown_options = any(re.fullmatch(r"-[0-9]+", arg) for arg in args)
        return super().parse_args(ctx, args)


@features.command(cls=WithNegativeIds)
@click.argument("entity")
@click.argument("id_text", metavar="ID")
@options(file_options, REPO, VIEW, JSON)
@click.option(
    "--as-of", "as_of", metavar="T", help="RFC 3339 or epoch ms; now unless given, or the file's newest event."
)
@click.option("--clock", type=click.Choice(CLOCKS), help="What now is; stream for old data that kept its times.")
@click.option("--explain", is_flag=True, help=f"Show the events behind the values, the newest {EVENTS_SHOWN}.")
def show(
    file: File,
    entity: str,
    id_text: str,
    folder: str | None,
    view_name: str | None,
    as_of: str | None,
    clock: str | None,
    **flags: bool,
) -> None:
    """Show the features of one entity: from the online store as they are, or computed from a file as of any time.

    ID is the key's value, -5 as well; of a composite key, all of them: user_id=7,shop=3, or as JSON
    '{"user_id": 7, "shop": 3}'. An ID that begins with - and is no number comes after --. Where a row is older than its
    view lets it be read, that is said, with how old it is; --clock stream reads as of the newest event of the view's
    streams.

    \b
    Examples:
      headrace features show user u1 --explain
      headrace features show customer 596 --clock stream
      headrace features show user 12747 --from online-retail.parquet --format online-retail
      headrace features show customer 596 --from card-transactions.parquet --format cards --as-of 2018-07-01T00:00:00Z
      headrace features show user u1 --from my.csv --format csv --stream activity --column user_id=customer --explain
    """
    from features.events import parsed_key, parsed_time

    repo = repo_of_settings(folder)
    if entity not in repo.entities:
        raise UsageError("an entity", f"one of {', '.join(repo.entities)}", repr(entity))
    key = parsed_key(repo.entities[entity], id_text)
    as_of_ms = None if as_of is None else parsed_time(as_of)
    stored = file.path is None and file.kind is None
    if clock is not None and (as_of_ms is not None or not stored):
        raise UsageError("--clock", "a read of the online store without --as-of", "both" if stored else "--from")
    answer = partial(_from_store, clock or CLOCKS[0]) if stored else partial(_from_file, file)
    shown = {"entity": entity, "key": key, **answer(repo, view_name, entity, key, as_of_ms, explain=flags["explain"])}
    if flags["as_json"]:
        print_json(shown)
    else:
        texts = ("\n".join(_shown(entity, id_text, shown["as_of"], answer)) for answer in shown["views"])
        echo("\n\n".join(texts))


def _from_file(
    file: File,
    repo: FeatureRepo,
    view_name: str | None,
    entity: str,
    key: Mapping[str, Any],
    as_of_ms: int | None,
    *,
    explain: bool,
) -> dict[str, Any]:
    from features.checks import find_entity
    from features.formats import Refused

    read = file.reader(repo, "headrace features show")
    views = views_of_file(repo, view_name, entity, file.fills(repo))
    echo(f"reading {file.path}", err=True)
    refused = Refused()
    first = [refused.watched(read(), say)]  # a second reading is of the same rows
    history = find_entity(lambda: first.pop() if first else read(), repo.streams, repo.entities[entity], key)
    moment = history.clock if as_of_ms is None else as_of_ms
    if moment is None:
        raise UsageError(f"file '{file.path}'", "at least one valid event, or --as-of", "none")
    if history.clock is not None and not history.named:
        required = f"events with {' and '.join(key)}, the key of entity '{entity}'"
        next_step = "Name the column with --column, or show an entity that the file has."
        raise UsageError(f"file '{file.path}'", required, f"none in {refused.rows:,} rows", next_step)
    answers = [_answer(view, key, moment, history, explain=explain) for view in views]
    return {"as_of": moment, "clock": history.clock, "views": answers, "file": refused.as_json()}


def _from_store(
    clock: str,
    repo: FeatureRepo,
    view_name: str | None,
    entity: str,
    key: Mapping[str, Any],
    as_of_ms: int | None,
    *,
    explain: bool,
) -> dict[str, Any]:
    from features.checks import as_stored
    from headrace.project import Project

    project, views = Project.open(), _views_of(repo, view_name, entity)
    answer, notes = as_stored(
        repo,
        project.home,
        project.offline,
        views,
        key,
        clock if as_of_ms is None else as_of_ms,
        EVENTS_SHOWN if explain else None,
    )
    echo("\n".join(notes), err=True)
    return answer


def _answer(
    view: FeatureView, key: Mapping[str, Any], as_of: int, history: EntityInFile, *, explain: bool
) -> dict[str, Any]:
    from features.checks import events_behind, view_answer

    answer = view_answer(view, key, as_of, history)
    if explain:
        events, more = events_behind(view, as_of, history, EVENTS_SHOWN)
        answer |= {"events": events, "more_events": more}
    return answer


def _shown(entity: str, id_text: str, as_of: int, answer: Mapping[str, Any]) -> Iterator[str]:
    newest = "" if answer["newest_event"] is None else f" · newest event {_time(answer['newest_event'])}"
    title = click.style(f"{entity} {id_text} · {answer['view']}", bold=True)
    yield f"{title} · {answer['status']} as of {_time(answer.get('as_of', as_of))}{newest}"
    if answer["status"] == "PRESENT":
        yield from _table(("feature", "value"), [(name, _value(value)) for name, value in answer["features"].items()])
    if "events" in answer:
        yield from _shown_events(answer["events"], answer["more_events"])


def _time(ms: int) -> str:
    from features.times import moment_text

    return moment_text(ms)


def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return "null" if value is None else str(value)


def _shown_events(events: Sequence[Mapping[str, Any]], more: int) -> Iterator[str]:
    if not events:
        yield "no events in its windows"
        return
    names = list(dict.fromkeys(name for event in events for name in event if name != "event_id"))
    rows = [[_time(event[name]) if name == "event_time" else event.get(name) for name in names] for event in events]
    yield from ("", *_table(names, rows))
    if more:
        yield f"and {more:,} older"
