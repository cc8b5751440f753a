"""The last steps of every training: parity, the verdict, and the alias that the version gets by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from models.tags import CHALLENGER
from training.judging.gate import GateVerdict
from training.judging.parity import ParityCheck, checked_parity
from training.progress import Log, silent
from training.registry import ModelRegistry, Version


@dataclass(frozen=True)
class Registration:
    """The registration of a new version, of a recommender or of an event model: registry, time, tags, parity, log."""

    registry: ModelRegistry
    now_ms: int
    tags: Mapping[str, str] = field(default_factory=dict)
    """More tags of the version and its run, such as those of record.provenance."""
    check_parity: ParityCheck | None = None
    """Compares features online with the archive's, for a model that would be promoted; None skips it."""
    log: Log = silent

    def with_parity(self, verdict: GateVerdict, demand: Literal["require", "ask", "skip"]) -> GateVerdict:
        """The verdict with the outcome of the parity check, where it promotes and the check is not to be skipped."""
        return checked_parity(verdict, self.check_parity, demand, self.log)

    def promote_or_challenge(self, version: Version, verdict: GateVerdict) -> Version:
        """The version has its verdict, and is the champion by it or else the challenger."""
        version = self.registry.judge(version, verdict.promoted, verdict.reason)
        if verdict.promoted:
            return self.registry.promote(version, self.now_ms)
        self.registry.set_alias(version, CHALLENGER)
        return self.registry.get(version.name, version.version)
