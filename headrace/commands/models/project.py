"""A model of a project: its events, its registry, its unfinished training, and the judgement of its versions."""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from features.definitions import FeatureRepo, FeatureView, Recommender, Stream
from features.errors import UsageError
from features.events import parsed_time
from features.history import Span, open_table
from features.times import now_ms
from headrace.commands.models.options import chosen_training
from headrace.console import say
from headrace.project import Project
from training.data import (
    Domain,
    EventFile,
    EventLimit,
    Events,
    EventTrainingSettings,
    drawn_of,
    read_file,
    read_offline,
    sample_of,
    with_tables,
)
from training.evidence import not_enough
from training.judging import (
    GateVerdict,
    Judge,
    ParityCheck,
    Registration,
    StoreParity,
    checked_parity,
    difference,
    evidence_of,
    measure_drift,
    provenance,
    skip_if_stable,
    write_drift,
)
from training.progress import Log, Stage, silent
from training.recommender import ServedUsers, read_served
from training.registry import ModelRegistry, Version
from training.resume import HOUR_MS, YOUNG_MS, About, Unfinished, key_of
from training.settings import TrainingSettings
from training.user_models import TAKEN, check_inputs, ranker_examples, register_ranker

CODE = ("features", "models", "training")

LIBRARIES = ("implicit", "numpy", "pyarrow", "scikit-learn", "scipy")

Versions = Mapping[str, tuple[str, int]]
"""Stream → the id and the version of its table."""


@dataclass(frozen=True)
class Source:
    """Events of a file in a format, or (without a file) of the offline store; those known before ``as_of`` only."""

    path: str | None = None
    kind: str | None = None
    as_of: str | None = None

    @property
    def end_ms(self) -> int | None:
        """``as_of`` as epoch ms, exclusive; None for no end."""
        return None if self.as_of is None else parsed_time(self.as_of)


@dataclass(frozen=True)
class ModelProject(ABC):
    """A model of a project, with the events that it is trained and judged on."""

    project: Project
    source: Source

    @property
    @abstractmethod
    def name(self) -> str:
        """The registered model's name."""

    @property
    def is_default(self) -> bool:
        """Whether it is the default recommender, whose status files have no name of their own."""
        return False

    @property
    def repo(self) -> FeatureRepo:
        """The project's definitions."""
        return self.project.repo

    @cached_property
    def registry(self) -> ModelRegistry:
        """The registry that the project's settings name."""
        return ModelRegistry(self.project.settings.mlflow.tracking_uri, self.project.root)

    @property
    def archive(self) -> Path | None:
        """The folder of the offline store's tables; None where a file is read instead."""
        return self.project.offline if self.source.path is None else None

    def parity_check_of(
        self, views: Sequence[FeatureView], chosen: TrainingSettings | EventTrainingSettings, log: Log
    ) -> ParityCheck | None:
        """The gate's comparison of features online with the archive's; None where a file is read instead."""
        if self.archive is None:
            return None
        return StoreParity(self.project.home, self.archive, self.repo, views, chosen, log)

    def report_if_stable(
        self, measure: Callable[[Version], dict[str, Any]], now_ms: int, log: Log
    ) -> dict[str, Any] | None:
        """The report of a training that is skipped as the champion has not drifted, else None. The drift is kept."""

        def measure_and_keep(champion: Version) -> dict[str, Any]:
            report = measure(champion)
            write_drift(self.project.home, report, now_ms, self.is_default)
            return report

        report = skip_if_stable(self.name, self.registry, measure_and_keep, log)
        return None if report is None else {**report, "trained": False}

    # --- what the commands of registered versions do ---

    @abstractmethod
    def examples(self, log: Log) -> tuple[pa.Table, str]:
        """The examples that the model learns from, and the name of their label."""

    @abstractmethod
    def register(self, fetched: Path, uri: str) -> tuple[Version, GateVerdict]:
        """The MLflow model in the folder as a registered version, judged, and champion where that passed."""

    @abstractmethod
    def verdict(self, version: Version) -> GateVerdict:
        """The gate's verdict on a registered version, by the newest events."""

    @abstractmethod
    def compared(self, pair: tuple[Version, Version]) -> dict[str, Any]:
        """The report of two versions on the same newest events."""

    @abstractmethod
    def measured_drift(self, champion: Version) -> dict[str, Any]:
        """The report of the newest events' distance from those that the champion was tested on."""

    def drift(self, champion: Version) -> dict[str, Any]:
        """The drift of the champion; kept for 'headrace status', but where a file is read."""
        report = self.measured_drift(champion)
        if self.archive is not None:
            write_drift(self.project.home, report, now_ms(), self.is_default)
        return report


@dataclass(frozen=True)
class RecommenderProject(ModelProject):
    """One recommender of a project."""

    recommender: Recommender
    chosen: TrainingSettings

    @classmethod
    def of(cls, project: Project, source: Source, name: str | None, changed: Sequence[str]) -> RecommenderProject:
        """The recommender of this name, or the default one, with these KEY=VALUE over its settings."""
        return cls(project, source, *chosen_training(project, name, changed))

    @property
    def name(self) -> str:
        return self.chosen.name

    @property
    def is_default(self) -> bool:
        chosen = self.repo.chosen_recommenders(self.project.settings.training)
        others = [name for name, one in chosen.by_name.items() if one != chosen.default]
        return self.name not in others  # a model of a new name is of the default one's definition

    @cached_property
    def domain(self) -> Domain:
        """The definitions that the model uses."""
        return Domain.of(self.recommender)

    @cached_property
    def bound(self) -> EventLimit:
        """The bound of the events in memory."""
        return EventLimit.of(self.chosen.max_events, self.chosen.seed)

    def events(self, log: Log, versions: Versions | None = None) -> Events:
        """The events of the file if there is one, else of the offline store (as its tables were, by ``versions``).

        Where there are more than training may hold, those of some users; that is logged.
        """
        path, kind = self.source.path, self.source.kind
        if path is not None:
            if kind is None:
                raise UsageError("headrace train --from", "--format", "none")
            return read_file(EventFile(Path(path), kind, self.repo, log), self.domain, self.source.end_ms, self.bound)
        events = read_offline(
            self.project.offline, self.domain, Span(None, self.source.end_ms), self.bound, _numbers(versions)
        )
        if (sample := sample_of(events)) is not None:
            log(str(sample))
        return events

    def with_served(self, events: Events, versions: Versions | None = None) -> Events:
        """The events, with the served log under its stream's name, unless it is not logged or not wanted.

        Where the events are a sample, or the log is too long, it is that of some of the users.
        """
        stream = self.recommender.served
        if stream is None or self.source.path is not None or self.chosen.impressions == "split":
            return events
        to = ServedUsers(self.bound, drawn_of(events), self._others)
        span = Span(None, self.source.end_ms)
        try:
            log = read_served(self.project.offline, stream, span, to, (_numbers(versions) or {}).get(stream.name))
        except UsageError:  # nothing was ever logged
            return events
        return with_tables(events, {stream.name: log})

    @property
    def _others(self) -> tuple[str, ...]:
        """The repo's recommenders of other definitions, which may be in the same served log."""
        every = self.repo.recommenders.values()
        others = (one.name for one in every if replace(one, name=self.name) != self.recommender)
        return tuple(name for name in others if name != self.name)

    def provenance(self, versions: Versions) -> dict[str, str]:
        """Tags of a version: its definitions, tables and code."""
        return provenance(self.domain, _numbers(versions) or {}, self.project.root)

    def parity_check(self, log: Log = silent) -> ParityCheck | None:
        """See parity_check_of."""
        return self.parity_check_of((self.domain.user, self.domain.item), self.chosen, log)

    def judge(self) -> Judge:
        """The judge of versions on the newest slice of the events."""
        return Judge.of_events(self.events(say), self.domain, self.chosen)

    # --- what the commands of registered versions do ---

    def examples(self, log: Log) -> tuple[pa.Table, str]:
        judge = self.judge()
        features = judge.run.features
        features = replace(features, events=self.with_served(features.events))
        return ranker_examples(replace(judge, run=replace(judge.run, features=features)), log), TAKEN

    def register(self, fetched: Path, uri: str) -> tuple[Version, GateVerdict]:
        check_inputs(fetched, self.domain, self.chosen)  # before the events are read
        registration = Registration(self.registry, now_ms(), {"own": uri}, self.parity_check(say))
        return register_ranker(fetched, self.judge(), registration)

    def verdict(self, version: Version) -> GateVerdict:
        verdict, _ = self.judge().registered(self.registry, version)
        return checked_parity(verdict, self.parity_check(say), self.chosen.parity)

    def compared(self, pair: tuple[Version, Version]) -> dict[str, Any]:
        return compared(self.judge(), self.registry, pair)

    def measured_drift(self, champion: Version) -> dict[str, Any]:
        return measure_drift(self.judge(), self.registry, champion)

    # --- what has not ended -----------------------------------------------------------------------------------------

    @property
    def unfinished(self) -> Unfinished:
        """The kept stages of a training of this model that has not ended."""
        return Unfinished(self.project.home / "training" / self.chosen.name)

    def begin(self, trials: int | None, now_ms: int) -> tuple[About, bool]:
        """The unfinished training that is resumed, and True; or a new one of the tables as they are now, and False."""
        key = key_of(self._parts(trials))
        young_ms = min(YOUNG_MS, int(self.project.settings.offline.keep_versions_h * HOUR_MS))
        about = self.unfinished.resumable(key, now_ms, young_ms)
        tables = self._versions()
        if about is not None and _ids(about.tables) == _ids(tables):
            return about, True
        return About(key=key, tables=tables, begun_ms=now_ms), False

    def _versions(self) -> dict[str, tuple[str, int]]:
        if self.source.path is not None:
            return {}
        streams: dict[str, Stream] = dict(self.domain.streams)
        if self.recommender.served is not None:
            streams[self.recommender.served.name] = self.recommender.served
        tables = {name: open_table(self.project.offline, stream) for name, stream in streams.items()}
        return {name: (table.table_id, table.version) for name, table in tables.items() if table is not None}

    def _parts(self, trials: int | None) -> dict[str, Any]:
        """Everything that the results of a training depend on, but for the tables."""
        files = [] if self.source.path is None else [_identity(Path(self.source.path))]
        return {
            "recommender": repr(self.recommender),
            "settings": self.chosen.model_dump(mode="json"),
            "trials": trials,
            "bound": asdict(self.bound),
            "source": asdict(self.source),
            "files": files,
            "definitions": _digest(self.repo.path),
            "code": [_digest(Path(__file__).parents[3] / name) for name in CODE],
            "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        }


def compared(judge: Judge, registry: ModelRegistry, pair: tuple[Version, Version]) -> dict[str, Any]:
    """The rows of both versions, by the first one's target, and the difference of their NDCG."""
    artefacts = [judge.fetched(registry, version) for version in pair]
    target = artefacts[0].manifest
    first, second = (judge.row(replace(artefact, manifest=target)) for artefact in artefacts)
    rows = [{"version": version.version, **row.metrics} for version, row in zip(pair, (first, second), strict=True)]
    metric = f"ndcg_at_{judge.settings.k}"
    apart = difference(first, second, judge.settings.seed)
    return {
        "model": pair[0].name,
        "lists": len(first.ndcg),
        "rows": rows,
        "difference": {"metric": metric, **asdict(apart)},
        "not_judged": not_enough(evidence_of(first, judge.settings)),
    }


def begins(resumed: bool) -> Stage:
    """The first line of a training's progress."""
    text = "going on with a training that did not end, on the events of then" if resumed else "reading events"
    return Stage("reading", text)


def _ids(versions: Versions) -> dict[str, str]:
    return {name: table_id for name, (table_id, _) in versions.items()}


def _numbers(versions: Versions | None) -> dict[str, int] | None:
    return None if versions is None else {name: version for name, (_, version) in versions.items()}


def _identity(path: Path) -> list[int]:
    """Size, modification time and inode of the file: they change when it does. Empty where there is none."""
    if not path.exists():
        return []
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _digest(path: Path) -> str:
    """SHA-256 of the Python files of a folder, or of one file."""
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    digest = sha256()
    for file in files:
        digest.update(str(file.relative_to(path)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
