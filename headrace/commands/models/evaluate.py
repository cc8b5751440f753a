"""`headrace evaluate PROTOCOL`: published protocols on a file, each a command with options of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from features.errors import UsageError
from headrace.commands.models.evaluate_events import durations, incidents
from headrace.commands.models.evaluate_lists import (
    chosen,
    leave_one_out_99,
    new_items,
    random_75_25,
    ranklens,
    session,
    time_split,
)
from headrace.console import JSON, metrics_table, print_report, say


@click.group()
def evaluate() -> None:
    """Follow a published protocol on a file of yours: its split, its models and its metrics.

    \b
    Examples:
      headrace evaluate fraud-handbook --data card-transactions.parquet --train-start 2018-07-04
      headrace evaluate time-split --data online-retail.parquet --format online-retail --test-days 30
    """


for protocol in (random_75_25, leave_one_out_99, time_split, new_items, session, ranklens, durations, incidents):
    evaluate.add_command(protocol)


@evaluate.command("fraud-handbook")
@click.option("--data", required=True, metavar="FILE", help="Card payments and their frauds.")
@click.option("--format", "kind", default="cards", show_default=True, metavar="FORMAT", help="Of the file.")
@click.option(
    "--train-start", "starts", multiple=True, metavar="DATE", help="The first day; again for another. Else the last."
)
@click.option("--train-days", default=7, show_default=True, type=click.IntRange(min=1), help="To train on.")
@click.option("--delay-days", default=7, show_default=True, type=click.IntRange(min=1), help="To skip.")
@click.option("--test-days", default=7, show_default=True, type=click.IntRange(min=1), help="To test on.")
@click.option("--model", "names", multiple=True, metavar="MODEL", help="Only this one; again for another.")
@click.option("--before", is_flag=True, help="Features do not count the payment itself, as when it comes in.")
@click.option("--repo", "folder", metavar="FOLDER", help="Folder with your definitions, if not the settings'.")
@JSON
def fraud_handbook(  # noqa: PLR0913, PLR0917  # one parameter an option
    data: str,
    kind: str,
    starts: Sequence[str],
    train_days: int,
    delay_days: int,
    test_days: int,
    names: Sequence[str],
    before: bool,
    folder: str | None,
    as_json: bool,
) -> None:
    """The Fraud Detection Handbook's: AUC, average precision and card precision of models that flag card payments.

    Train some days, skip those in which frauds are not known yet, test the days after; cards that are known to be
    compromised leave the test. The features are those of your definitions, as of each payment.

    \b
    Examples:
      headrace evaluate fraud-handbook --data card-transactions.parquet --train-start 2018-07-04
      headrace evaluate fraud-handbook --data card-transactions.parquet --model logistic_regression --json
    """
    from features.definitions import load_repo
    from headrace.project import Project
    from training.protocols import fraud_handbook as protocol

    models = chosen(protocol.models(), names)
    lengths = (train_days, delay_days, test_days)
    days_ms = [_midnight(start) for start in starts]
    repo = Project.open().repo if folder is None else load_repo(folder)
    say(f"reading {data}")
    history = protocol.read_history(Path(data), kind, repo, say)
    report: dict[str, Any] = {"protocol": "fraud-handbook", "baseline": protocol.BASELINE, "before": before}
    report |= {"inputs": protocol.INPUTS, "parts": [], "rows": []}
    for start in days_ms or [protocol.last_start(history, protocol.Days(0, *lengths))]:
        days = protocol.Days(start, *lengths)
        say("features as of each payment")
        payments = protocol.payments_of(history, repo, days, before=before)
        part = protocol.run(payments, days, models, say)
        about = {"train_start": _date(start), "test_start": _date(days.test_start)}
        report["rows"] += [about | row for row in part.pop("rows")]
        report["parts"].append(about | part)
    print_report(report, as_json, lambda report: metrics_table(report["rows"]))


def _midnight(date: str) -> int:
    """Epoch ms of the beginning of this day of UTC."""
    from features.events import parsed_time

    try:
        return parsed_time(f"{date}T00:00:00Z")
    except UsageError as error:
        raise UsageError("--train-start", "a date, such as 2018-07-04", repr(date)) from error


def _date(epoch_ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(epoch_ms / 1_000, UTC).date().isoformat()
