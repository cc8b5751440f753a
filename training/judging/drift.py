"""Whether a model's inputs have drifted: measured on the newest slice, told in the project's home, and acted upon."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from features.errors import ArtefactError, UsageError
from features.machine import write_json
from training.judging.drift_status import drift_file
from training.judging.judge import Judge
from training.judging.psi import Reference, alarming, columns_of, drifts
from training.judging.record import REFERENCE, input_names
from training.progress import Say
from training.registry import Registry, Version


def drifted(judge: Judge, registry: Registry, version: Version) -> dict[str, Any]:
    """The PSI of the version's inputs and score. Raises UsageError for one that was not recorded with a reference."""
    recorded, artefact = registry.recorded(version, REFERENCE), judge.fetched(registry, version)
    if recorded is None or artefact.ranker is None:
        where, required = f"drift of model '{version.name}'", f"a ranker, and a record with {REFERENCE}"
        raise UsageError(where, required, f"version {version.version} without", "Train anew.")
    examples = judge.held_out(artefact)
    columns = columns_of(input_names(artefact.manifest), examples.inputs, artefact.chances(examples.inputs))
    found = drifts(Reference.model_validate_json(recorded), columns)
    counted = {"model": version.name, "version": version.version, "examples": len(examples.taken)}
    return {**counted, "psi": found, "alarming": alarming(found)}


def tell_drift(home: Path, report: Mapping[str, Any], now_ms: int) -> None:
    """'headrace status' shows this report from now on."""
    of_events = report["model"] if report.get("kind") == "events" else None
    write_json(drift_file(home, of_events), {**report, "at_ms": now_ms})


def needless(judge: Judge, registry: Registry, home: Path, now_ms: int, say: Say) -> dict[str, Any] | None:
    """The drift of the champion where it is no reason to train anew; None where it is, or cannot be measured."""
    return unmoved(judge.settings.name, registry, lambda one: drifted(judge, registry, one), home, now_ms, say)


def unmoved(
    name: str, registry: Registry, measure: Callable[[Version], dict[str, Any]], home: Path, now_ms: int, say: Say
) -> dict[str, Any] | None:
    """What is measured of the model's champion, which is told too, where nothing of it alarms; else None."""
    champion = registry.find(name)
    if champion is None:
        say("there is no champion yet")
        return None
    try:
        report = measure(champion)
    except (UsageError, ArtefactError) as error:
        say(str(error))
        return None
    tell_drift(home, report, now_ms)
    if report["alarming"]:
        say(f"drifted: {', '.join(report['alarming'])}")
        return None
    return report
