"""Versions on trial: any registered artefact beside popularity and the champion, on the newest slice of the events."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from features.definitions import FeatureView
from features.errors import ArtefactError
from models.recommender import Artefact, CandidateTables, Manifest
from models.tags import CHALLENGER
from training.data import Domain, Events, Interactions, Split, interactions_of, time_split
from training.judging.gate import Verdict, fault_of, gate
from training.recommender import (
    Asked,
    Examples,
    Features,
    Row,
    Trained,
    compared,
    examples,
    fit_candidates,
    target_of,
    tested,
    told_of_items,
    worth_splitting,
)
from training.registry import Registry, Version
from training.settings import TrainingSettings


@dataclass(frozen=True)
class Judge:
    """The newest slice, and the candidates that were made before it: every ranker is tested on them alike.

    A model's own candidates may be younger than the slice, and so have seen what is asked.
    """

    history: Interactions
    of: Features
    split: Split
    tables: CandidateTables
    settings: TrainingSettings
    moments: dict[tuple[str, ...], Asked] = field(default_factory=dict, repr=False, compare=False)
    """Target → the slice's moments with what was known then: asked once for all that are tested."""

    @classmethod
    def of_trained(cls, trained: Trained, events: Events, domain: Domain, settings: TrainingSettings) -> Judge:
        """The slice that a training was tested on."""
        known = {trained.artefact.manifest.target: trained.asked}
        of, tables = Features(events, domain), trained.tested_tables
        return cls(trained.history, of, trained.split, tables, settings, known)

    @classmethod
    def of_events(cls, events: Events, domain: Domain, settings: TrainingSettings) -> Judge:
        """The slice that a training on these events would be tested on. Raises UsageError where they are too few."""
        history = interactions_of(events, domain)
        target = target_of(history, settings)
        split = time_split(worth_splitting(history, target, settings), settings)
        tables = fit_candidates(history, target, split.middle, settings)
        return cls(history, Features(events, domain), split, tables, settings)

    def row(self, artefact: Artefact, only: str = "model") -> Row:
        """The row of the artefact's ranker, or of another way to recommend, by the target of its manifest."""
        rival = Artefact(artefact.manifest, self.tables, artefact.ranker)
        (row,) = compared(rival, self._asked(rival), self.history, self.of, self.settings.k, only)
        return row

    def _asked(self, rival: Artefact) -> Asked:
        """The moments of the rival's target, of users who had been seen before the slice."""
        target = rival.manifest.target
        if target not in self.moments:
            asked = tested(rival, self.history, self.of, self.split, self.settings)
            self.moments[target] = told_of_items(asked, self.tables, self.of)
        return self.moments[target]

    def held_out(self, artefact: Artefact) -> Examples:
        """Examples of the slice, which the artefact's ranker has not seen."""
        rival = Artefact(artefact.manifest, self.tables, artefact.ranker)
        return examples(self._asked(rival), self.tables, self.history, self.of, self.settings)

    def verdict(self, artefact: Artefact, rows: Sequence[Row]) -> Verdict:
        """The gate's, over these rows; refused for a fault of the artefact."""
        fault = fault_of(artefact, self._views, self.settings)
        return gate(rows, self.settings) if fault is None else Verdict(False, fault)

    def champion_rows(self, registry: Registry, champion: Version, manifest: Manifest) -> list[Row]:
        """The champion's row by this manifest's target: none where it is of other definitions, damaged, or fails."""
        try:
            artefact = self.fetched(registry, champion)
            fault = fault_of(artefact, self._views, self.settings)
        except ArtefactError:
            return []
        if fault is not None:
            return []
        return [replace(self.row(replace(artefact, manifest=manifest)), model="champion")]

    def registered(self, registry: Registry, version: Version) -> tuple[Verdict, list[Row]]:
        """The verdict on a registered version, and the rows that it is by; no rows where it is damaged or fails."""
        try:
            artefact = self.fetched(registry, version)
        except ArtefactError as error:
            return Verdict(False, str(error)), []
        fault = fault_of(artefact, self._views, self.settings)
        if fault is not None:
            return Verdict(False, fault), []
        champion = registry.find(version.name)
        rows = [self.row(artefact, "popular"), self.row(artefact)]
        if champion is not None and champion.version != version.version:
            rows += self.champion_rows(registry, champion, artefact.manifest)
        return gate(rows, self.settings), rows

    def fetched(self, registry: Registry, version: Version) -> Artefact:
        """The version's artefact, whole. Raises ArtefactError."""
        with tempfile.TemporaryDirectory() as scratch:
            return registry.fetch(version, Path(scratch))

    @property
    def _views(self) -> dict[str, FeatureView]:
        return {view.name: view for view in (self.of.domain.user, self.of.domain.item)}


def settle(registry: Registry, version: Version, verdict: Verdict, now_ms: int) -> Version:
    """The version has its verdict, and is the champion by it or else the challenger."""
    version = registry.judge(version, verdict.promoted, verdict.reason)
    if verdict.promoted:
        return registry.promote(version, now_ms)
    registry.set_alias(version, CHALLENGER)
    return registry.get(version.name, version.version)
