"""`headrace evaluate` of recommendations: protocols about ranked lists. Only click is imported here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from features.errors import UsageError
from headrace.console import JSON, metrics_table, print_report, say

if TYPE_CHECKING:
    from features.definitions import FeatureRepo
    from training.run import TrainingRun

F = TypeVar("F", bound=Callable[..., Any])

MODEL = click.option("--model", "names", multiple=True, metavar="MODEL", help="Only this one; again for another.")

SET = click.option("--set", "changed", multiple=True, metavar="MODEL.SETTING=N", help="Such as ease.l2=500.")

SEED = click.option("--seed", default=42, show_default=True, help="Of what is drawn.")

TRAIN = click.option("--train", metavar="FILE", help="What came before, where the split is made already.")

TEST = click.option("--test", metavar="FILE", help="What came after it.")

LAST_PART = (
    click.option("--items", metavar="FILE", help="The catalogue, where the file of events has none."),
    click.option("--items-format", metavar="FORMAT", help="Of the catalogue, such as online-retail-items."),
    click.option(
        "--test-days", type=click.FloatRange(min=0, min_open=True), help="The last part; a fifth of the events."
    ),
    click.option("--as-of", metavar="T", help="As if the file ended then: to choose settings on an earlier part."),
    click.option("--train-set", "training", multiple=True, metavar="KEY=VALUE", help="A setting of `headrace train`."),
)

ENDS = ("_low", "_high")


def data(default: str | None = None, required: bool = True) -> Callable[[F], F]:
    """The options --data and --format, as parameters data and kind."""
    of_format = click.option(
        "--format", "kind", default=default, required=default is None, show_default=True, metavar="FORMAT"
    )
    of_data = click.option("--data", required=required, metavar="FILE", help="Events, as `headrace replay` reads them.")
    return lambda command: of_data(of_format(command))


def last_part(command: F) -> F:
    """The options of the part of time that is evaluated (see ``split_run``)."""
    for option in reversed(LAST_PART):
        command = option(command)
    return command


@click.command("random-75-25")
@data("movielens")
@MODEL
@SET
@SEED
@JSON
def random_75_25(data: str, kind: str, names: Sequence[str], changed: Sequence[str], seed: int, as_json: bool) -> None:
    """Hide a random quarter of each user's items, rank all that the user has not taken: NDCG@10 and more.

    \b
    Examples:
      headrace evaluate random-75-25 --data movielens-small
      headrace evaluate random-75-25 --data u.data --format movielens-100k --json
    """
    from training.protocols import lists
    from training.protocols import random_split as protocol

    models = chosen(lists.configured(protocol.models(), changed), names)
    history = lists.read_interactions(Path(data), kind, _repo(), log=say)
    show(protocol.run(history, models, seed, say), as_json)


@click.command("leave-one-out-99")
@data("movielens-100k", required=False)
@click.option("--train", metavar="FILE", help="NCF's .train.rating, where the split is made already.")
@click.option("--test", metavar="FILE", help="NCF's .test.rating; its items stand in the negatives too.")
@click.option("--negatives", metavar="FILE", help="NCF's .test.negative: (user,item) and 99 others a line.")
@MODEL
@SET
@SEED
@JSON
def leave_one_out_99(  # noqa: PLR0913, PLR0917  # one parameter an option
    data: str | None,
    kind: str,
    train: str | None,
    test: str | None,
    negatives: str | None,
    names: Sequence[str],
    changed: Sequence[str],
    seed: int,
    as_json: bool,
) -> None:
    """Rank each user's last item among 99 that the user has not taken: HR@10 and NDCG@10, as NCF and its critics do.

    \b
    Examples:
      headrace evaluate leave-one-out-99 --data movielens-small --format movielens
      headrace evaluate leave-one-out-99 --train ml-1m.train.rating --test ml-1m.test.rating \\
        --negatives ml-1m.test.negative --json
    """
    from training.protocols import leave_one_out as protocol
    from training.protocols import lists

    split_files = {"--train": train, "--negatives": negatives, "--test": test}
    if (data is None and (train is None or negatives is None)) or (data is not None and any(split_files.values())):
        got = ", ".join(name for name, path in {"--data": data, **split_files}.items() if path) or "none of them"
        raise UsageError("headrace evaluate leave-one-out-99", "--data, or --train and --negatives", got)
    models = chosen(lists.configured(protocol.models(), changed), names)
    history = lists.read_interactions(Path(data or train or ""), kind, _repo(), log=say)
    tests = lists.read_interactions(Path(test), kind, _repo(), log=say) if test else None
    split = protocol.left_out(history, seed) if negatives is None else protocol.from_files(history, Path(negatives))
    if tests is not None and len(tests) != len(split.user):
        raise UsageError(f"file '{test}'", f"the {len(split.user)} users of the negatives", f"{len(tests)} lines")
    show(protocol.run(split, models, say), as_json)


@click.command("time-split")
@data(required=False)
@TRAIN
@TEST
@last_part
@MODEL
@SET
@JSON
def time_split(  # noqa: PLR0913, PLR0917  # one parameter an option
    data: str | None,
    kind: str,
    train: str | None,
    test: str | None,
    items: str | None,
    items_format: str | None,
    test_days: float | None,
    as_of: str | None,
    training: Sequence[str],
    names: Sequence[str],
    changed: Sequence[str],
    as_json: bool,
) -> None:
    """What users take in the last part of time, recommended from what was known before it.

    The model that `headrace train` fits, two_stage, stands beside simpler ones: for users who are known and who are
    not, in lists with repeats and of what is new to the user only; and below, by how much it is above them. --json has
    that of every model. Popularity, item_click_through (where there are views) and two_stage always stand there.

    \b
    Examples:
      headrace evaluate time-split --data online-retail.parquet --format online-retail --test-days 30
      headrace evaluate time-split --train until-june.parquet --test july.parquet --format online-retail --json
    """
    from training.protocols import lists
    from training.protocols import time_split as protocol

    files = parts_of("time-split", data, train, test)
    if test_days is not None and len(files) > 1:
        raise UsageError("headrace evaluate time-split", "--test-days, or --train and --test", "both")
    models = chosen(lists.configured(protocol.models(), changed), names, (protocol.TWO_STAGE, protocol.CLICK_THROUGH))
    run = split_run(files, kind, items, items_format, test_days, as_of, training)
    show(protocol.run(run, models), as_json)


@click.command("new-items")
@data()
@last_part
@JSON
def new_items(  # one parameter an option
    data: str,
    kind: str,
    items: str | None,
    items_format: str | None,
    test_days: float | None,
    as_of: str | None,
    training: Sequence[str],
    as_json: bool,
) -> None:
    """Items that nobody had taken before the last part of time, recommended by their attributes alone.

    The model that `headrace train` fits stands beside the popularity of each item's category, in lists of all items and
    of new ones only.

    \b
    Examples:
      headrace evaluate new-items --data movielens-small --format movielens
      headrace evaluate new-items --data online-retail.parquet --format online-retail --test-days 30 \\
        --items online-retail.parquet --items-format online-retail-items
    """
    from training.protocols import new_items as protocol

    run = split_run([Path(data)], kind, items, items_format, test_days, as_of, training)
    show(protocol.run(run), as_json)


def split_run(
    files: Sequence[Path],
    kind: str,
    items: str | None,
    items_format: str | None,
    test_days: float | None,
    as_of: str | None,
    changed: Sequence[str],
) -> TrainingRun:
    """The training on the events of the files, whose test part is evaluated: the second file where there are two.

    Args:
        items: a file with the items, and its format; that of the events unless given.
        test_days: the length of the test part; None for what the settings say.
        as_of: the time at which the files are said to end; None for where they do.
        changed: KEY=VALUE of settings.
    """
    from features.definitions import replaced_names
    from features.events import parsed_time
    from headrace.commands.models.options import chosen_training
    from headrace.project import Project
    from training.data import Domain, EventFile, joined_events, read_file
    from training.protocols import time_split as protocol

    project = Project.open()
    days = [] if test_days is None else [f"test_ms={round(test_days * 86_400_000)}"]
    recommender, settings = chosen_training(project, None, [*days, *changed], replaced_names(project.settings.training))
    domain = Domain.of(recommender)
    end_ms = None if as_of is None else parsed_time(as_of)
    parts = [read_file(EventFile(path, kind, project.repo, say), domain, end_ms) for path in files]
    since_ms = protocol.first_ms(parts[1], domain) if len(parts) > 1 else None
    if items is not None:
        catalogue = EventFile(Path(items), items_format or kind, project.repo, say)
        parts.append(catalogue.read(domain.streams, end_ms, None))
    return protocol.training_of(joined_events(parts), domain, settings, since_ms, say)


@click.command("session")
@data("yoochoose")
@click.option("--test-share", default=0.2, show_default=True, type=click.FloatRange(0.01, 0.9), help="Of the sessions.")
@MODEL
@SET
@JSON
def session(
    data: str, kind: str, test_share: float, names: Sequence[str], changed: Sequence[str], as_json: bool
) -> None:
    """Each next click of the newest sessions from those before it: HR@20 and MRR@20.

    \b
    Examples:
      headrace evaluate session --data yoochoose-clicks.parquet
    """
    from training.protocols import lists
    from training.protocols import session as protocol

    models = chosen(lists.configured(protocol.models(), changed), names)
    history = lists.read_interactions(Path(data), kind, _repo(), by_session=True, log=say)
    show(protocol.run(history, models, test_share, say), as_json)


@click.command("ranklens")
@click.option("--data", metavar="FILE", help="Items, rankings and clicks, as Metarank has them.")
@TRAIN
@TEST
@SEED
@JSON
def ranklens(data: str | None, train: str | None, test: str | None, seed: int, as_json: bool) -> None:
    """Rank the items that were shown by what was known of them just before: NDCG@10 on the last fifth of the lists.

    Or on the lists of a file of their own, which came after those of another.

    \b
    Examples:
      headrace evaluate ranklens --data ranklens.jsonl.gz
      headrace evaluate ranklens --train first.jsonl.gz --test last.jsonl.gz --json
    """
    from training.protocols import ranklens as protocol

    files = parts_of("ranklens", data, train, test)
    say(f"reading {', '.join(map(str, files))}")
    show(protocol.run(protocol.read(files, _repo(), say), seed, say), as_json)


def parts_of(protocol: str, data: str | None, train: str | None, test: str | None) -> list[Path]:
    """The file to split, or the files of a split: training, test. Raises UsageError where both or neither are named."""
    parts = [path for path in (train, test) if path is not None]
    if (data is None) != (len(parts) == 2) or (data is not None and parts):  # noqa: PLR2004
        got = ", ".join(name for name, path in (("--data", data), ("--train", train), ("--test", test)) if path)
        raise UsageError(f"headrace evaluate {protocol}", "--data, or --train and --test", got or "none of them")
    return [Path(path) for path in (parts or [str(data)])]


def chosen(models: Mapping[str, Any], names: Sequence[str], always: Sequence[str] = ()) -> dict[str, Any]:
    """The models of these names, and popularity where there is one; all without names.

    Args:
        always: further names that are valid: models that always run.
    """
    unknown = [name for name in names if name not in (*models, *always)]
    if unknown:
        raise UsageError("--model", f"one of {', '.join((*models, *always))}", ", ".join(unknown))
    return {name: model for name, model in models.items() if not names or name in (*names, "popular")}


def _repo() -> FeatureRepo:
    from headrace.project import Project

    return Project.open().repo


def show(report: Mapping[str, Any], as_json: bool) -> None:
    """The report is on stdout: JSON, or a table and the differences of the models with their intervals.

    Where the report names the model that is ``tested``, only its differences are there.
    """
    print_report(report, as_json, _lines)


def _lines(report: Mapping[str, Any]) -> list[str]:
    rows = [{name: "-" if value is None else value for name, value in row.items()} for row in report["rows"]]
    ours = {name.partition("_above_")[0] for row in rows for name in row if "_above_" in name}
    hidden = {name + end for row in rows for name in row for end in ENDS if name not in ours}
    shown = [{k: v for k, v in row.items() if "_above_" not in k and k not in hidden} for row in rows]
    tested = [row for row in report["rows"] if report.get("tested") in (None, row["model"])]
    return [*metrics_table(shown), "", *_differences(tested)]


def _differences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of the differences between models, with their intervals."""
    lines = []
    for row in rows:
        for name in (key for key in row if "_above_" in key and not key.endswith(ENDS)):
            if row[name] is not None and not name.endswith(f"_above_{row['model']}"):
                about = " ".join(str(row[key]) for key in ("users", "lists") if key in row)
                low, high = (row[name + end] for end in ENDS)
                lines.append(f"{about} {row['model']}: {name} {row[name]:+.4f} ({low:+.4f} to {high:+.4f})".strip())
    return lines
