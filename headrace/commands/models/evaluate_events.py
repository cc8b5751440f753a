"""`headrace evaluate` of event models: durations, incidents. Only click is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from features.errors import UsageError
from headrace.commands.models.evaluate_lists import TEST, TRAIN, data, parts_of
from headrace.console import JSON, metrics_table, print_report, say

if TYPE_CHECKING:
    from features.definitions import FeatureRepo

MODEL = click.option("--model", "name", metavar="NAME", help="One of your definitions, if not their only one.")

REPO = click.option("--repo", "folder", metavar="FOLDER", help="Folder with your definitions, if not the settings'.")


@click.command("durations")
@data("green-taxi", required=False)
@TRAIN
@TEST
@click.option("--test-start", metavar="DATE", help="The first day of the test; of one file, else its last month.")
@click.option("--zone", default="America/New_York", show_default=True, help="Where days and months begin.")
@MODEL
@REPO
@JSON
def durations(  # noqa: PLR0913, PLR0917  # one parameter an option
    data: str | None,
    kind: str,
    train: str | None,
    test: str | None,
    test_start: str | None,
    zone: str,
    name: str | None,
    folder: str | None,
    as_json: bool,
) -> None:
    """Numbers that become known later, such as a journey's minutes: the mean error of a Regressor of your definitions.

    Trained on the months before the last of the file, or on a file of their own. The mean and the median by the fields
    that the definition names stand beside it.

    \b
    Examples:
      headrace evaluate durations --data green-taxi.parquet
      headrace evaluate durations --train january.parquet --test march.parquet --json
    """
    from features.definitions import Regressor
    from models.event_model import EventModelColumns
    from training.protocols.events import event_models as protocol

    repo = _repo(folder)
    columns = EventModelColumns.of(repo, protocol.chosen_model(repo, Regressor, name))
    paths = parts_of("durations", data, train, test)
    if test_start is not None and len(paths) > 1:
        raise UsageError("headrace evaluate durations", "--test-start, or --train and --test", "both")
    files = protocol.read_events_of(paths, kind, repo, columns, say)
    split = protocol.split_by_month(files, columns, zone, test_start)
    show(protocol.run("durations", protocol.joined(files, columns), columns, split, say), as_json)


@click.command("incidents")
@data("nab", required=False)
@TRAIN
@TEST
@MODEL
@REPO
@JSON
def incidents(
    data: str | None,
    kind: str,
    train: str | None,
    test: str | None,
    name: str | None,
    folder: str | None,
    as_json: bool,
) -> None:
    """Alerts about what is unusual, beside labelled windows: precision, recall and F1 over incidents.

    An Anomaly of your definitions learns from the first readings of every series, or from a file of their own, and is
    tested on the others; it sees no label and has no setting by series. A band of three standard deviations and
    isolation forests on the values alone stand beside it.

    \b
    Examples:
      headrace evaluate incidents --data machines.parquet
      headrace evaluate incidents --train machines.parquet --test others.parquet --json
    """
    from features.definitions import Anomaly
    from models.event_model import EventModelColumns
    from training.protocols.events import event_models
    from training.protocols.events import incidents as protocol

    repo = _repo(folder)
    columns = EventModelColumns.of(repo, event_models.chosen_model(repo, Anomaly, name))
    files = event_models.read_events_of(parts_of("incidents", data, train, test), kind, repo, columns, say)
    show(protocol.run(files[-1], columns, files[0] if len(files) > 1 else None, say), as_json)


def _repo(folder: str | None) -> FeatureRepo:
    from features.definitions import load_repo
    from headrace.project import Project

    return Project.open().repo if folder is None else load_repo(folder)


def show(report: Mapping[str, Any], as_json: bool) -> None:
    """The report is on stdout: JSON, or a table."""
    print_report(report, as_json, lambda report: metrics_table(report["rows"]))
