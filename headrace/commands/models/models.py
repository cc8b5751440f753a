"""`headrace models`: the registered versions, and the one that serves. Imports wait for a command."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from features.errors import ArtefactError, UsageError
from headrace.commands.models.options import FORMAT, FROM, NAME, SET, model_name, opened
from headrace.console import JSON, ROOT, echo, figure, print_report, say
from models.tags import CHAMPION

if TYPE_CHECKING:
    from headrace.commands.models.project import ModelProject
    from headrace.project import Project
    from training.judging import GateVerdict
    from training.registry import ModelRegistry, Version


@click.group()
def models() -> None:
    """Show the registered models, and say which of them serves.

    The service follows the alias champion within seconds, wherever it is moved: here, in MLflow's pages, by its client.
    A version answers only when the gate let its files through, or when they were champion before.

    \b
    Examples:
      headrace models list
      headrace models promote 7
      headrace models rollback
    """


@models.command("list")
@click.argument("argument", metavar="[NAME]", required=False)
@click.option("--name", "--model", "name", help="The same as NAME.")
@click.option("--limit", default=200, show_default=True, type=click.IntRange(min=1), help="The newest so many.")
@ROOT
@JSON
def list_models(argument: str | None, name: str | None, limit: int, root: Path, as_json: bool) -> None:
    """Show versions, the newest first: their aliases, how they did, and why one must not serve where it must not.

    \b
    Examples:
      headrace models list
      headrace models list shop-recommender --json
    """
    versions = registry_of(opened(root)).versions(argument or name, limit + 1)
    if len(versions) > limit:
        say(f"the {limit} newest; there are older ones: --limit shows more")
    report = {"models": [described(version) for version in versions[:limit]]}
    print_report(report, as_json, lambda _: "\n".join(map(_line, versions[:limit])) or "none")


@models.command()
@click.argument("version")
@NAME
@FROM
@FORMAT
@SET
@ROOT
@JSON
def promote(
    version: str,
    name: str | None,
    path: str | None,
    kind: str | None,
    changed: Sequence[str],
    root: Path,
    as_json: bool,
) -> None:
    """Make VERSION the champion; the gate judges it on the newest events first, unless it has let it through already.

    VERSION is a number or an alias. Exit 1 where the gate refuses; the reason is kept with the version.

    \b
    Examples:
      headrace models promote 7
      headrace models promote challenger --json
      headrace models promote 3 --model cards
    """
    project = opened(root)
    registry, name = registry_of(project), model_name(project, name)
    named = registry.get(name, version)
    if named.refusal is not None:
        say(f"version {named.version}: {named.refusal}; judging it on the newest events")
        verdict = model_of(project, named.name, (path, kind), changed).verdict(named)
        named = registry.judge(named, verdict.promoted, verdict.reason)
        refuse(named, verdict)
    done = registry.promote(named, int(time.time() * 1000))
    tell(done, as_json, f"{name} version {done.version} is the champion")


def refuse(version: Version, verdict: GateVerdict) -> None:
    """Nothing where the gate lets the version through. Raises ArtefactError with its reason where it does not."""
    if not verdict.promoted:
        where = f"champion of model '{version.name}'"
        raise ArtefactError(where, "a version that the gate lets through", f"version {version.version}", verdict.reason)


@models.command()
@click.argument("version", required=False)
@click.option("--share", type=float, help="Of the users; serving.canary_share of the settings unless given.")
@click.option("--stop", is_flag=True, help="The champion answers everybody again.")
@NAME
@ROOT
@JSON
def canary(version: str | None, share: float | None, stop: bool, name: str | None, root: Path, as_json: bool) -> None:
    """Let VERSION, which the gate let through, answer a share of the users beside the champion: always the same ones.

    A service stops it by itself when its answers surely fail more often, or take longer, than the champion's lately;
    'headrace models list' then says why, and this command begins anew. 'headrace models promote canary' ends it well.

    \b
    Examples:
      headrace models canary 7 --share 0.1
      headrace models canary --stop
    """
    from models.tags import CANARY

    project = opened(root)
    registry, name = registry_of(project), model_name(project, name)
    if stop or version is None:
        if not stop:
            raise UsageError("headrace models canary", "VERSION, or --stop", "neither")
        done = registry.get(name, CANARY)
        registry.drop_alias(name, CANARY)
        tell(registry.get(name, done.version), as_json, f"{name} version {done.version} is the canary no more")
        return
    done = registry.begin_canary(registry.get(name, version), share, int(time.time() * 1000))
    of = "the setting's share" if share is None else f"{share:.0%}"
    tell(done, as_json, f"{name} version {done.version} is the canary, for {of} of the users")


@models.command()
@NAME
@ROOT
@JSON
def rollback(name: str | None, root: Path, as_json: bool) -> None:
    """Make the version champion that was it before the one that is; once more goes one further back.

    That is by promotions, of training or 'headrace models promote': from a version that the alias was moved to by hand,
    and that was never promoted, it goes to the last that was. A service has it in memory still, and loses no request.

    \b
    Examples:
      headrace models rollback
    """
    project = opened(root)
    name = model_name(project, name)
    done = registry_of(project).rollback(name)
    tell(done, as_json, f"{name} version {done.version} is the champion again")


@models.command()
@click.argument("one")
@click.argument("other")
@NAME
@FROM
@FORMAT
@SET
@ROOT
@JSON
def compare(
    one: str,
    other: str,
    name: str | None,
    path: str | None,
    kind: str | None,
    changed: Sequence[str],
    root: Path,
    as_json: bool,
) -> None:
    """Test two versions on the same newest events: their metrics, and the interval of the difference.

    ONE and OTHER are numbers or aliases. Of recommenders it is NDCG, list by list; of event models average precision
    or the error of a Regressor, by draws of whole groups, such as cards. Where the test is too small to judge by
    (least_test_users and least_test_positives of the training settings), there are the metrics that can be computed,
    and the reason.

    \b
    Examples:
      headrace models compare 7 champion
      headrace models compare 7 6 --from online-retail.parquet --format online-retail --json
      headrace models compare challenger champion --model cards
    """
    project = opened(root)
    name = model_name(project, name)
    model = model_of(project, name, (path, kind), changed)
    pair = model.registry.get(name, one), model.registry.get(name, other)
    print_report(model.compared(pair), as_json, _comparison)


@models.command()
@NAME
@FROM
@FORMAT
@SET
@ROOT
@JSON
def drift(
    name: str | None,
    path: str | None,
    kind: str | None,
    changed: Sequence[str],
    root: Path,
    as_json: bool,
) -> None:
    """Show how far the newest events are from those that the champion was tested on, input by input.

    The population stability index of each input of the ranker and of its score: above 0.25 it is time to train anew,
    and the exit code is 1, unless there are fewer than 100 examples to judge by. 'headrace status' shows what was found
    last. Of an event model the newest events are those of the last test_ms, with labels or without.

    \b
    Examples:
      headrace models drift
      headrace models drift --model cards
      headrace models drift --json
    """
    project = opened(root)
    name = model_name(project, name)
    model = model_of(project, name, (path, kind), changed)
    report = model.drift(model.registry.get(name, CHAMPION))
    lines = [f"{value:8.3f}  {key}" for key, value in report["psi"].items()]
    print_report(report, as_json, lambda _: lines)
    if report["not_judged"] is not None:
        say(report["not_judged"])
    if report["alarming"]:
        of = "" if model.is_default else f" {name}"
        echo(f"drifted: {', '.join(report['alarming'])}. Train anew: headrace train{of}.", err=True)
        sys.exit(1)


def described(version: Version) -> dict[str, Any]:
    """The version as JSON."""
    from dataclasses import asdict

    fields = {key: value for key, value in asdict(version).items() if key != "tags"}
    return {**fields, "may_serve": version.refusal is None, "reason": reason_of(version), "since_ms": version.since_ms}


def reason_of(version: Version) -> str:
    """The reason of the gate, and those of services that refused the version or stopped it as the canary."""
    from models.tags import CANARY_STOPPED, GATE_REASON, SERVING_REFUSED

    reason = version.refusal or version.tags.get(GATE_REASON, "")
    refusal, stopped = version.tags.get(SERVING_REFUSED, ""), version.tags.get(CANARY_STOPPED, "")
    refused = f"; a service refused it: {refusal}" if refusal and refusal not in reason else ""
    return f"{reason}{refused}" + (f"; a service stopped it as the canary: {stopped}" if stopped else "")


def model_of(
    project: Project, name: str, source: tuple[str | None, str | None], changed: Sequence[str]
) -> ModelProject:
    """The project's event model or recommender of this name.

    Args:
        source: a file and its format, instead of the offline store.
    """
    from headrace.commands.models.project import RecommenderProject, Source
    from headrace.commands.models.train_events import EventProject

    if name in project.repo.models:
        return EventProject(project, Source(*source), name, changed)
    return RecommenderProject.of(project, Source(*source), name, changed)


def registry_of(project: Project) -> ModelRegistry:
    """The registry that the project's settings name."""
    from training.registry import ModelRegistry

    return ModelRegistry(project.settings.mlflow.tracking_uri, project.root)


def tell(version: Version, as_json: bool, text: str) -> None:
    """The version is on stdout as JSON, or this text."""
    print_report(described(version), as_json, lambda _: text)


def _line(version: Version) -> str:
    shown = "  ".join(f"{key} {version.metrics[key]:.4f}" for key in sorted(version.metrics) if _is_main(key))
    mark = click.style("may serve", fg="green") if version.refusal is None else click.style("refused", fg="yellow")
    aliases = ",".join(version.aliases) or "-"
    head = f"{version.name} {version.version:>4}  {aliases:{len(CHAMPION) + 4}} {shown}".rstrip()
    return f"{head}\n      {mark}: {reason_of(version)}"


def _is_main(metric: str) -> bool:
    return metric.startswith(
        ("ndcg", "popular_ndcg", "champion_ndcg", "ap", "auc", "champion_ap", "mae", "rmse", "r2", "champion_mae")
    ) and not metric.endswith(("_low", "_high"))


def _comparison(report: Mapping[str, Any]) -> list[str]:
    first, second = report["rows"]
    lines = [f"{'version':18}{first['version']:>12}{second['version']:>12}"]
    lines += [f"{key:18}{figure(first[key]):>12}{figure(second[key]):>12}" for key in first if key != "version"]
    apart = report["difference"]
    if report["not_judged"] is not None:
        return [*lines, "", f"{report['not_judged']} ({_counted(report)})"]
    about = f"{apart['metric']} differs by {apart['mean']:+.4f}, between {apart['low']:+.4f} and {apart['high']:+.4f}"
    return [*lines, "", f"{about} (95 % of bootstrap draws over {_counted(report)})"]


def _counted(report: Mapping[str, Any]) -> str:
    if "lists" in report:
        return f"{report['lists']} lists"
    counted = f"{report['groups']:,} groups of {report['events']:,} events"
    if report["difference"]["metric"] != "ap":
        return counted
    return f"{counted}, {report['positives']:,} of them positive"
