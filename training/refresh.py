"""One refresh of a model: events → fit → test → register → gate. What `headrace train` runs, and what schedules it."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.artefact import CHAMPION, Artefact
from features.errors import ArtefactError
from training.dataset import Domain, Events, interactions_of
from training.evaluate import Row
from training.fit import Trained, judged_rows, train
from training.ranker import Features
from training.registry import CHALLENGER, Registry, Version
from training.settings import TrainingSettings

Say = Callable[[str], None]
METRIC = "ndcg_at_{k}"


@dataclass(frozen=True)
class Verdict:
    """Whether a model serves from now on, and why or why not."""

    promoted: bool
    reason: str


@dataclass(frozen=True)
class Refreshed:
    """What a refresh came to."""

    version: Version
    verdict: Verdict
    trained: Trained

    def report(self) -> dict[str, Any]:
        """The JSON that --json prints, and that the status file holds."""
        artefact = self.trained.artefact
        return {
            "model": self.version.name,
            "version": self.version.version,
            "promoted": self.verdict.promoted,
            "reason": self.verdict.reason,
            "target": list(artefact.manifest.target),
            "as_of_ms": artefact.manifest.as_of_ms,
            "created_ms": artefact.manifest.created_ms,
            "split": asdict(self.trained.split),
            "items": len(artefact.items),
            "users": len(artefact.tables.users),
            "examples": self.trained.examples,
            "rows": [_plain(row) for row in self.trained.rows],
            "baseline": "popular",
            "took_s": self.trained.took_s,
        }


def refresh(
    events: Events,
    domain: Domain,
    settings: TrainingSettings,
    registry: Registry,
    now_ms: int,
    say: Say = lambda text: None,
) -> Refreshed:
    """A newly trained version stands in the registry, and is the champion when the gate lets it.

    Raises UsageError when there is too little to train on; then nothing is registered.
    """
    trained = train(events, domain, settings, now_ms, say)
    champion = registry.find(settings.name)
    if champion is not None:
        say(f"testing version {champion.version}, which serves now, on the same")
        trained.rows.extend(_champion_rows(registry, champion, trained, events, domain, settings))
    verdict = gate(trained.rows, settings)
    say("registering")
    tags = {"target": ",".join(trained.artefact.manifest.target), "verdict": verdict.reason}
    params = {**settings.model_dump(mode="json"), **asdict(trained.split), "examples": trained.examples}
    version = registry.register(trained.artefact, params, tags)
    registry.set_alias(version, CHAMPION if verdict.promoted else CHALLENGER)
    return Refreshed(registry.find(settings.name) or version if verdict.promoted else version, verdict, trained)


def _plain(row: Row) -> dict[str, Any]:
    """The row as JSON, which has no NaN."""
    values = {name: None if math.isnan(value) else value for name, value in row.metrics.items()}
    return {"model": row.model, **values, "took_s": round(row.took_s, 3)}


def gate(rows: list[Row], settings: TrainingSettings) -> Verdict:
    """Promoted when NDCG is above popularity's, and not below the champion's by more than settings.tolerance of it.

    A row of no value (nothing to test on) promotes nothing.
    """
    metric = METRIC.format(k=settings.k)
    scores = {row.model: row.metrics[metric] for row in rows}
    model, popular, champion = scores["model"], scores["popular"], scores.get("champion")
    if not model > popular:
        return Verdict(False, f"{metric} {model:.4f} is not above popularity's {popular:.4f}")
    if champion is None:
        return Verdict(True, f"{metric} {model:.4f} is above popularity's {popular:.4f}; there is no champion yet")
    least = champion * (1 - settings.tolerance)
    if not model >= least:
        return Verdict(False, f"{metric} {model:.4f} is below {least:.4f}, what the champion allows for")
    return Verdict(True, f"{metric} {model:.4f} is above popularity's {popular:.4f}; the champion has {champion:.4f}")


def _champion_rows(
    registry: Registry,
    champion: Version,
    trained: Trained,
    events: Events,
    domain: Domain,
    settings: TrainingSettings,
) -> list[Row]:
    """The champion's ranker over the new model's own test: none where it is of other definitions, or damaged.

    Both rank the candidates that were made before the test, so that neither has seen it: the champion's own candidates
    may be younger than that.
    """
    with tempfile.TemporaryDirectory() as scratch:
        try:
            old = registry.fetch(champion, Path(scratch))
            old.check_views({view.name: view for view in (domain.user, domain.item)})
        except ArtefactError:
            return []
    history = interactions_of(events, domain)
    of = Features(events, domain)
    rival = Artefact(trained.artefact.manifest, trained.tested_tables, old.ranker)
    rows = judged_rows(rival, history, of, trained.split, settings, only="model")
    return [Row("champion", row.metrics, row.took_s) for row in rows]


def write_status(path: Path, report: dict[str, Any]) -> None:
    """The report stands in a file, whole or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(report))
    part.replace(path)
