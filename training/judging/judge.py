"""The judge of a recommender's versions: each is tested beside popularity and the champion, on the newest events."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from features.definitions import FeatureView
from features.errors import ArtefactError
from models.recommender import Artefact, CandidateTables, Manifest
from training.data import Domain, Events
from training.item_content import with_later_items
from training.judging.gate import GateVerdict, fault_of, gate
from training.recommender import (
    ModelResult,
    RankerExamples,
    RetrievedMoments,
    Trained,
    candidates_before,
    compared,
    examples,
    held_out_moments,
    tested_users,
    with_item_features,
)
from training.registry import ModelRegistry, Version
from training.run import TrainingRun
from training.settings import TrainingSettings


@dataclass(frozen=True)
class Judge:
    """The test part of a run, and the candidates that were made before it: every ranker is tested on them alike.

    A version's own candidates may be younger than the test, and so have seen what is predicted.
    """

    run: TrainingRun
    tables: CandidateTables
    moments: dict[tuple[str, ...], RetrievedMoments] = field(default_factory=dict, repr=False, compare=False)
    """Target → the test's moments with their features: computed once for all versions."""

    @classmethod
    def of_trained(cls, trained: Trained) -> Judge:
        """The test of a training that has ended."""
        return cls(trained.run, trained.tested_tables, {trained.artefact.manifest.target: trained.retrieved})

    @classmethod
    def of_events(cls, events: Events, domain: Domain, settings: TrainingSettings) -> Judge:
        """The test that a training on these events would have. Raises UsageError where they are too few."""
        run = TrainingRun.of(events, domain, settings)
        tables = candidates_before(run, run.split.middle)
        return cls(run, with_later_items(run, tables, run.split.middle, run.split.end))

    @property
    def settings(self) -> TrainingSettings:
        """The settings of the run."""
        return self.run.settings

    def row(self, artefact: Artefact, only: str = "model") -> ModelResult:
        """The row of the artefact's ranker, or of another way to recommend, by the target of its manifest."""
        tested = self._with_our_candidates(artefact)
        (row,) = compared(tested, self._retrieved(tested), self.run, only)
        return row

    def _with_our_candidates(self, artefact: Artefact) -> Artefact:
        return Artefact(artefact.manifest, self.tables, artefact.ranker)

    def _retrieved(self, tested: Artefact) -> RetrievedMoments:
        """The moments of the version's target, of users who had been seen before the test."""
        target = tested.manifest.target
        if target not in self.moments:
            self.moments[target] = with_item_features(
                held_out_moments(tested, self.run), self.tables, self.run.features
            )
        return self.moments[target]

    def held_out(self, artefact: Artefact) -> RankerExamples:
        """Examples of the test, which the artefact's ranker has not seen."""
        return examples(self._retrieved(self._with_our_candidates(artefact)), self.tables, self.run)

    def verdict(self, artefact: Artefact, rows: Sequence[ModelResult]) -> GateVerdict:
        """The gate's, over these rows; refused for a fault of the artefact."""
        fault = fault_of(artefact, self._views, self.settings)
        return self._gated(artefact, rows) if fault is None else GateVerdict(False, fault)

    def _gated(self, artefact: Artefact, rows: Sequence[ModelResult]) -> GateVerdict:
        """The gate's verdict; where there is not enough to judge, it says how many users of the test are new."""
        verdict = gate(rows, self.settings)
        if verdict.judged:
            return verdict
        new = tested_users(self.run, artefact.manifest.target, rows[0]).new_users
        more = f"; {new:,} more took something, and were new" if new else ""
        return replace(verdict, reason=f"{verdict.reason}{more}")

    def champion_rows(self, registry: ModelRegistry, champion: Version, manifest: Manifest) -> list[ModelResult]:
        """The champion's row by this manifest's target: none where it is of other definitions, damaged, or fails."""
        try:
            artefact = self.fetched(registry, champion)
            fault = fault_of(artefact, self._views, self.settings)
        except ArtefactError:
            return []
        if fault is not None:
            return []
        return [replace(self.row(replace(artefact, manifest=manifest)), model="champion")]

    def registered(self, registry: ModelRegistry, version: Version) -> tuple[GateVerdict, list[ModelResult]]:
        """The verdict on a registered version, and the rows that it is by; no rows where it is damaged or fails."""
        try:
            artefact = self.fetched(registry, version)
        except ArtefactError as error:
            return GateVerdict(False, str(error)), []
        fault = fault_of(artefact, self._views, self.settings)
        if fault is not None:
            return GateVerdict(False, fault), []
        champion = registry.find(version.name)
        rows = [self.row(artefact, "popular"), self.row(artefact)]
        if champion is not None and champion.version != version.version:
            rows += self.champion_rows(registry, champion, artefact.manifest)
        return self._gated(artefact, rows), rows

    def fetched(self, registry: ModelRegistry, version: Version) -> Artefact:
        """The version's artefact, whole. Raises ArtefactError."""
        with tempfile.TemporaryDirectory() as scratch:
            return registry.fetch(version, Path(scratch))

    @property
    def _views(self) -> dict[str, FeatureView]:
        return {view.name: view for view in (self.run.domain.user, self.run.domain.item)}
