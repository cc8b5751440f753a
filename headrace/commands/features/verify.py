"""`headrace features verify`: online features compared with offline ones, as of the same instant and offsets."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from features.errors import UsageError
from headrace.console import JSON, echo, print_report

if TYPE_CHECKING:
    from features.checks import VerifyRequest
    from features.definitions import FeatureRepo, FeatureView
    from headrace.settings import Settings


@click.command()
@click.option("--view", "view_name", metavar="VIEW", help="Only this feature view.")
@click.option("--sample", default=1_000, show_default=True, type=click.IntRange(1), help="Entities of each view.")
@click.option("--all", "everybody", is_flag=True, help="Every entity of both stores.")
@click.option("--as-of", "as_of", metavar="T", help="RFC 3339 or epoch ms; now unless given.")
@click.option("--threshold", default=0.0, show_default=True, type=click.FloatRange(0, 1), help="Share that may differ.")
@click.option("--seed", type=click.IntRange(0), help="Chooses the entities; a new one unless given.")
@click.option("--served", is_flag=True, help="Also the inputs of answers, by the served log.")
@click.option(
    "--settle-s", default=10.0, show_default=True, type=click.FloatRange(0), help="The stream's largest lag then."
)
@JSON
def verify(  # noqa: PLR0913  # one parameter an option
    view_name: str | None,
    sample: int,
    everybody: bool,
    as_of: str | None,
    threshold: float,
    seed: int | None,
    *,
    served: bool,
    settle_s: float,
    as_json: bool,
) -> None:
    """Compare the online store with the offline store; exit 1 where more than the threshold differs.

    Each row is compared with the events that had been folded when it was read, at the time of its newest event and
    now: a stream that runs, or lags, explains no difference. History that was imported since the rows were made does:
    run 'headrace features rebuild' first.

    With --served, also the users' features in the served log with history as of the instant of each answer; answers
    within --settle-s of another event of the user are left out, as the stream may have been behind it, and so are those
    by a version that the registry has no more.

    \b
    Examples:
      headrace features verify
      headrace features verify --all --json
      headrace features verify --served
    """
    from features.checks import Verifier, VerifyRequest, report
    from features.events import parsed_time
    from features.online_store import store_of
    from features.times import now_ms
    from headrace.project import Project

    project = Project.open()
    repo = project.repo
    if view_name is not None and view_name not in repo.views:
        raise UsageError("--view", f"one of {', '.join(repo.views) or 'no views'}", repr(view_name))
    views = [view for view in repo.views.values() if view_name in (None, view.name)]
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    request = VerifyRequest(None if everybody else sample, now_ms() if as_of is None else parsed_time(as_of), seed)
    home = project.home
    rows = store_of(repo.path, home).open()
    verifier = Verifier(rows, repo, project.offline, home, lambda line: echo(line, err=True))
    findings = [verifier.verify(view, request) for view in views]
    result = report(findings, {view.name: len(view.features) for view in views})
    if served:
        settle_ms = round(1_000 * settle_s)
        result["served"] = report_of_the_log(project.root, project.settings, repo, views, request, settle_ms)
    print_report(result, as_json, _lines)
    counts = [result, *result.get("served", [])]
    wrong = sum(count["mismatch"] + count["missing"] + count["extra"] for count in counts)
    click.get_current_context().exit(1 if wrong > threshold * sum(count["compared"] for count in counts) else 0)


def report_of_the_log(
    root: Path,
    settings: Settings,
    repo: FeatureRepo,
    views: Sequence[FeatureView],
    request: VerifyRequest,
    settle_ms: int,
) -> list[dict[str, Any]]:
    """A report of the differences between each served log and history, for the view of each recommender's users."""
    from features.checks import LogVerifier, report
    from models.needs import ranker_inputs_of

    inputs_of = partial(ranker_inputs_of, settings.mlflow.tracking_uri, root)
    verifier = LogVerifier(repo, root / settings.offline.path, inputs_of, settle_ms)
    every = repo.chosen_recommenders(settings.training).by_name.values()
    logged = [(one.user_view, one.served) for one in every if one.served is not None and one.user_view in views]
    pairs = [(view, log) for view, log in dict.fromkeys(logged) if len(view.entity.keys) == 1]
    if not pairs:
        logs = ", ".join(dict.fromkeys(one.served.name for one in every if one.served is not None)) or "none"
        got = f"{logs} for {', '.join(view.name for view in views)}"
        next_step = "A recommender has a log by served=served_log(TOPIC)."
        raise UsageError("--served", "a recommender with a log of answers, and its view of users", got, next_step)
    reports = []
    for view, log in pairs:
        result = verifier.verify(view, log, request.sample, request.seed)
        counts = report([result.findings], {view.name: len(view.features)})
        about = {"log": log.name, "view": view.name, "answers": result.answers, "unsettled": result.unsettled}
        reports.append(about | {"gone": dict(result.gone)} | counts)
    return reports


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    served = result.get("served", [])
    for name, view in result["views"].items():
        yield f"{name}: {view['entities']:,} entities · {view['compared']:,} values compared · {_kinds(view)}"
        yield from _by_feature(view)
    for log in served:
        about = f"{log['answers']:,} answers, {log['unsettled']:,} of them unsettled"
        yield f"{log['log']} → {log['view']}: {about} · {log['compared']:,} values compared · {_kinds(log)}"
        yield from (
            f"    {count:,} answers by {name}, which the registry has no more" for name, count in log["gone"].items()
        )
    for example in [example for part in (result, *served) for example in part["worst"][:10]]:
        values = f"{example['online']!r} online, {example['offline']!r} offline, as of {example['as_of']}"
        yield f"  {example['kind']}: {example['view']} {example['entity']} {example['feature']}: {values}"


def _kinds(counts: Mapping[str, int]) -> str:
    return " · ".join(f"{counts[kind]:,} {kind}" for kind in ("mismatch", "missing", "extra"))


def _by_feature(view: Mapping[str, Any]) -> Iterator[str]:
    """Lines of the features that differ most."""
    yield from (f"    {feature}: {_kinds(kinds)}" for feature, kinds in list(view["by_feature"].items())[:5])
