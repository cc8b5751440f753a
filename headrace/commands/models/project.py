"""A project's folder as a training sees it: its settings, definitions, events and registry, and what has not ended."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from features.definitions import FeatureRepo, Stream
from features.errors import UsageError
from features.events import parsed_time
from features.history import Span, open_table
from headrace.settings import Settings
from training.data import Bound, Domain, Events, drawn_of, read_file, read_offline, sample_of, with_tables
from training.judging import ParityCheck, StoreParity, provenance
from training.progress import Log, Stage
from training.recommender import Listeners, read_served
from training.registry import ModelRegistry
from training.resume import HOUR_MS, YOUNG_MS, About, Unfinished, key_of
from training.settings import TrainingSettings

CODE = ("features", "models", "training")

LIBRARIES = ("implicit", "numpy", "pyarrow", "scikit-learn", "scipy")

Versions = Mapping[str, tuple[str, int]]
"""Stream → the id and the version of its table."""


@dataclass(frozen=True)
class Source:
    """Where events come from: a file and its format, or (without a file) the offline store; and of before when."""

    path: str | None = None
    kind: str | None = None
    as_of: str | None = None

    @property
    def end_ms(self) -> int | None:
        """Only what was known before this counts."""
        return None if self.as_of is None else parsed_time(self.as_of)


@dataclass(frozen=True)
class RecommenderProject:
    """One recommender of a project."""

    root: Path
    settings: Settings
    repo: FeatureRepo
    chosen: TrainingSettings
    source: Source = Source()

    @cached_property
    def domain(self) -> Domain:
        """The definitions that the model is of."""
        return Domain.of(self.repo, self.chosen)

    @property
    def offline(self) -> Path:
        """The folder of the events' tables."""
        return self.root / self.settings.offline.path

    @property
    def home(self) -> Path:
        """The folder of all that running makes."""
        return self.root / self.settings.home

    @property
    def registry(self) -> ModelRegistry:
        """The registry that the project's settings name."""
        return ModelRegistry(self.settings.mlflow.tracking_uri, self.root)

    @cached_property
    def bound(self) -> Bound:
        """How many events may be in memory."""
        return Bound.of(self.chosen.max_events, self.chosen.seed)

    def events(self, say: Log, versions: Versions | None = None) -> Events:
        """The events of the file if there is one, else of the offline store (as its tables were, by ``versions``).

        All of them, or those of some users where there are more than training may hold; that is said.
        """
        path, kind = self.source.path, self.source.kind
        if path is not None:
            if kind is None:
                raise UsageError("headrace train --from", "--format", "none")
            return read_file(Path(path), kind, self.repo, self.domain, self.source.end_ms, self.bound)
        events = read_offline(self.offline, self.domain, Span(None, self.source.end_ms), self.bound, _numbers(versions))
        if (sample := sample_of(events)) is not None:
            say(str(sample))
        return events

    def with_served(self, events: Events, versions: Versions | None = None) -> Events:
        """The events, and what was served, by the name of its stream; without it where it is not logged or not wanted.

        Where the events are a sample, or there is too much of it, it is what was served to some of the users.
        """
        stream = self.repo.streams.get(self.chosen.served_stream)
        if stream is None or self.source.path is not None or self.chosen.impressions == "split":
            return events
        to = Listeners(self.domain.user.entity, self.bound, drawn_of(events))
        span = Span(None, self.source.end_ms)
        try:
            log = read_served(self.offline, stream, span, to, (_numbers(versions) or {}).get(stream.name))
        except UsageError:  # nothing was ever logged
            return events
        return with_tables(events, {stream.name: log})

    def provenance(self, versions: Versions) -> dict[str, str]:
        """Tags of a version: see record.came_from."""
        return provenance(self.domain, _numbers(versions) or {}, self.root)

    @property
    def parity_check(self) -> ParityCheck | None:
        """The gate's comparison of features online with the archive's; None where a file is read instead."""
        if self.source.path is not None:
            return None
        views = (self.domain.user, self.domain.item)
        return StoreParity(self.home, self.offline, self.repo, views, self.chosen)

    # --- what has not ended -----------------------------------------------------------------------------------------

    @property
    def unfinished(self) -> Unfinished:
        """What is kept of a training of this model that has not ended."""
        return Unfinished(self.home / "training" / self.chosen.name)

    def begin(self, trials: int | None, now_ms: int) -> tuple[About, bool]:
        """The training that is to be gone on with, and True; or a new one of the tables as they are now, and False."""
        key = key_of(self._parts(trials))
        young_ms = min(YOUNG_MS, int(self.settings.offline.keep_versions_h * HOUR_MS))
        found = self.unfinished.resumable(key, now_ms, young_ms)
        now = self._versions()
        if found is not None and {name: one[0] for name, one in now.items()} == {
            name: one[0] for name, one in found.tables.items()
        }:
            return found, True
        return About(key=key, tables=now, begun_ms=now_ms), False

    def _versions(self) -> dict[str, tuple[str, int]]:
        if self.source.path is not None:
            return {}
        streams: dict[str, Stream] = dict(self.domain.streams)
        if self.chosen.served_stream in self.repo.streams:
            streams[self.chosen.served_stream] = self.repo.streams[self.chosen.served_stream]
        tables = {name: open_table(self.offline, stream) for name, stream in streams.items()}
        return {name: (table.table_id, table.version) for name, table in tables.items() if table is not None}

    def _parts(self, trials: int | None) -> dict[str, Any]:
        """All that the results of a training depend on, but for the tables."""
        files = [] if self.source.path is None else [_told(Path(self.source.path))]
        return {
            "settings": self.chosen.model_dump(mode="json"),
            "trials": trials,
            "bound": asdict(self.bound),
            "source": asdict(self.source),
            "files": files,
            "definitions": _digest(self.repo.path),
            "code": [_digest(Path(__file__).parents[3] / name) for name in CODE],
            "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        }


def begins(resumed: bool) -> Stage:
    """What is said first."""
    text = "going on with a training that did not end, on the events of then" if resumed else "reading events"
    return Stage("reading", text)


def _numbers(versions: Versions | None) -> dict[str, int] | None:
    return None if versions is None else {name: version for name, (_, version) in versions.items()}


def _told(path: Path) -> list[int]:
    """What is other where the file is."""
    if not path.exists():
        return []
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _digest(path: Path) -> str:
    """Of the Python files of a folder, or of one file."""
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    digest = sha256()
    for one in files:
        digest.update(str(one.relative_to(path)).encode() + b"\0" + one.read_bytes())
    return digest.hexdigest()
