"""The drift of a model's inputs: measured on the newest events, written to a file, read by `headrace status`.

A champion without drift need not be trained anew (``skip_if_stable``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.arrays import Floats
from features.errors import ArtefactError, UsageError
from features.machine import write_json
from training.evidence import Evidence, not_enough
from training.judging.judge import Judge
from training.judging.psi import Reference, alarming, columns_of, drifts
from training.judging.record import REFERENCE, input_names
from training.progress import Log
from training.registry import ModelRegistry, Version

if TYPE_CHECKING:
    from prometheus_client.core import Metric

SHOWN = 3
"""So many inputs are named in a line."""

LEAST_EXAMPLES = 100
"""The fewest examples, now and when the version was tested, by which an input is said to have drifted: of fewer, ten
bins of equal distributions differ as much as those of different ones."""


# --- measured ---------------------------------------------------------------------------------------------------------


def measure_drift(judge: Judge, registry: ModelRegistry, version: Version) -> dict[str, Any]:
    """The PSI of the version's inputs and score. Raises UsageError for one that was not recorded with a reference."""
    reference, artefact = recorded_reference(registry, version), judge.fetched(registry, version)
    examples = judge.held_out(artefact)
    columns = columns_of(input_names(artefact.manifest), examples.inputs, artefact.chances(examples.inputs))
    return drift_report(version, reference, columns)


def recorded_reference(registry: ModelRegistry, version: Version) -> Reference:
    """The histograms of the version's test. Raises UsageError for one without, such as one without a ranker."""
    recorded = registry.recorded(version, REFERENCE)
    if recorded is None:
        where, required = f"drift of model '{version.name}'", f"a record with {REFERENCE}"
        raise UsageError(where, required, f"version {version.version} without", "Train anew.")
    return Reference.model_validate_json(recorded)


def drift_report(version: Version, reference: Reference, columns: Mapping[str, Floats], **about: str) -> dict[str, Any]:
    """The JSON of `headrace models drift`: the PSI of each of these columns, (n,) each, and which of them alarm.

    Nothing alarms of fewer than LEAST_EXAMPLES, now or in the reference: ``not_judged`` is then the reason, else null.
    """
    psi = drifts(reference, columns)
    examples = max((len(column) for column in columns.values()), default=0)
    lacking = not_enough(
        [
            Evidence("newest examples", examples, LEAST_EXAMPLES),
            Evidence("examples of its test", reference.examples, LEAST_EXAMPLES),
        ]
    )
    return {
        "model": version.name,
        "version": version.version,
        **about,
        "examples": examples,
        "psi": psi,
        "alarming": alarming(psi) if lacking is None else [],
        "not_judged": lacking,
    }


def skip_if_stable(
    name: str, registry: ModelRegistry, measure: Callable[[Version], dict[str, Any]], log: Log
) -> dict[str, Any] | None:
    """The champion's drift report if nothing alarms (training can be skipped), else None; it is logged why.

    Where there is not enough to judge drift by, nothing alarms, and there would be too little to judge a new version.
    """
    champion = registry.find(name)
    if champion is None:
        log("there is no champion yet")
        return None
    try:
        report = measure(champion)
    except (UsageError, ArtefactError) as error:
        log(str(error))
        return None
    if report["alarming"]:
        log(f"drifted: {', '.join(report['alarming'])}")
        return None
    if report["not_judged"] is not None:
        log(f"drift: {report['not_judged']}")
    return report


# --- written and read -------------------------------------------------------------------------------------------------


def drift_file(home: Path, model: str | None = None) -> Path:
    """The file of the default recommender's drift, or of that of another model of this name."""
    folder = home / "status"
    return folder / "drift.json" if model is None else folder / "drift" / f"{model}.json"


def write_drift(home: Path, report: Mapping[str, Any], now_ms: int, is_default: bool) -> None:
    """'headrace status' shows this report from now on.

    Args:
        is_default: whether it is of the default recommender.
    """
    write_json(drift_file(home, None if is_default else report["model"]), {**report, "at_ms": now_ms})


def read_drift(home: Path) -> dict[str, Any] | None:
    """The last report of the default recommender (models drift --json, with ``at_ms``); None before the first."""
    return _read(drift_file(home))


def read_named_drift(home: Path, of_events: bool) -> dict[str, dict[str, Any]]:
    """The last report of each event model, by name; or of each recommender beside the default one."""
    files = sorted(drift_file(home, "any").parent.glob("[!.]*.json"))
    reports = {path.stem: report for path in files if (report := _read(path)) is not None}
    return {name: report for name, report in reports.items() if (report.get("kind") == "events") == of_events}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return report


# --- shown ------------------------------------------------------------------------------------------------------------


def drift_line(report: Mapping[str, Any], now_ms: int, is_default: bool = True) -> str:
    """The report in a line for a person."""
    psi, drifted = report["psi"], report["alarming"]
    minutes = (now_ms - report["at_ms"]) / 60_000
    head = f"model: {report['model']} version {report['version']} · drift measured {minutes:,.0f} min ago"
    if (lacking := report.get("not_judged")) is not None:
        return f"{head} · {lacking}"
    if not drifted:
        return f"{head} · none (PSI at most {max(psi.values(), default=0.0):.2f})"
    named = ", ".join(f"{name} {psi[name]:.2f}" for name in drifted[:SHOWN])
    more = f" and {len(drifted) - SHOWN} more" if len(drifted) > SHOWN else ""
    return f"{head} · drifted: {named}{more}. Train anew: {_command(report, is_default)}"


def _command(report: Mapping[str, Any], is_default: bool) -> str:
    return "headrace train" if is_default else f"headrace train {report['model']}"


def drift_metrics(reports: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """The reports as Prometheus' metric families: the alarm, the largest PSI, and the PSI of each input that alarms."""
    from prometheus_client.core import GaugeMetricFamily

    labels = ["model", "version"]
    alarm = GaugeMetricFamily("headrace_model_drift_alarm", "1 while an input has drifted.", labels=labels)
    largest = GaugeMetricFamily("headrace_model_drift_psi_max", "The largest PSI of an input.", labels=labels)
    drifted = GaugeMetricFamily("headrace_model_drift_psi", "The PSI of a drifted input.", labels=[*labels, "input"])
    for report in reports:
        model, psi = [report["model"], report["version"]], report["psi"]
        alarm.add_metric(model, int(bool(report["alarming"])))
        largest.add_metric(model, max(psi.values(), default=0.0))
        for name in report["alarming"]:
            drifted.add_metric([*model, name], psi[name])
    return [alarm, largest, drifted]
