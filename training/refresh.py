"""One refresh of a model: events → fit → test → register → gate. What `headrace train` runs, and what schedules it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from training.data import Domain, Events, Sample, sample_of
from training.judging import Ask, Judge, Verdict, files_of, settle, with_parity
from training.progress import Say, Stage
from training.recommender import Row, Trained, train
from training.registry import Registry, Version
from training.resume import NOWHERE, Stages
from training.settings import TrainingSettings


@dataclass(frozen=True)
class Refreshed:
    """What a refresh came to."""

    version: Version
    verdict: Verdict
    trained: Trained
    sample: Sample | None = None
    """What of the events it was trained on; None for all of them."""

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
            "sample": None if self.sample is None else self.sample.report(),
            "examples": self.trained.learnt.examples,
            "shown": self.trained.learnt.shown,
            **self.trained.checked.metrics,
            "rows": [_plain(row) for row in self.trained.rows],
            "baseline": "popular",
            "took_s": self.trained.took_s,
        }


def refresh(  # noqa: PLR0913, PLR0917  # one parameter a thing that is given to a training
    events: Events,
    domain: Domain,
    settings: TrainingSettings,
    registry: Registry,
    now_ms: int,
    say: Say = lambda text: None,
    about: Mapping[str, str] | None = None,
    ask_parity: Ask | None = None,
    kept: Stages = NOWHERE,
) -> Refreshed:
    """A newly trained version stands in the registry, and is the champion when the gate lets it.

    Args:
        about: more tags of the version and its run, such as record.came_from.
        ask_parity: whether features are the same online as offline, for a model that would be promoted.
        kept: where the stages of a training are left that may not end, and taken from.

    Raises UsageError when there is too little to train on; then nothing is registered.
    """
    trained = train(events, domain, settings, now_ms, say, kept)
    judge = Judge.of_trained(trained, events, domain, settings)
    champion = registry.find(settings.name)
    if champion is not None:
        say(Stage("champion", f"testing version {champion.version}, which serves now, on the same"))
        trained.rows.extend(judge.champion_rows(registry, champion, trained.artefact.manifest))
    verdict = judge.verdict(trained.artefact, trained.rows)
    if verdict.promoted and ask_parity is not None and settings.parity != "skip":
        say(Stage("parity", "comparing features online with the archive's"))
        verdict = with_parity(verdict, ask_parity(), settings.parity)
    say(Stage("registering", "registering"))
    sample = sample_of(events)
    drawn = {} if sample is None else {"sample": json.dumps(sample.report())}
    tags = {"target": ",".join(trained.artefact.manifest.target), **drawn, **(about or {})}
    params = {**settings.model_dump(mode="json"), **asdict(trained.split), "examples": trained.learnt.examples}
    files = files_of(trained.artefact, trained.rows, judge.held_out(trained.artefact), trained.checked, settings.seed)
    version = registry.register(trained.artefact, params, tags, files)
    version = settle(registry, version, verdict, now_ms)
    return Refreshed(version, verdict, trained, sample)


def _plain(row: Row) -> dict[str, Any]:
    """The row as JSON, which has no NaN."""
    values = {name: None if math.isnan(value) else value for name, value in row.metrics.items()}
    return {"model": row.model, **values, "took_s": round(row.took_s, 3)}
