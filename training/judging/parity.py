"""The gate's parity check: `headrace features verify` on a sample, as served features must be those learnt from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from features.checks import Verifier, VerifyRequest
from features.errors import HeadraceError
from training.judging.gate import GateVerdict
from training.progress import Log, Stage, silent

if TYPE_CHECKING:
    from features.checks import Findings
    from features.definitions import FeatureRepo, FeatureView

ParityCheck = Callable[[], "Parity"]
"""Compares features online with the archive's, for a model that the gate would promote."""


class Comparing(Protocol):
    """Compares a view's rows with the archive, as features.checks.Verifier does."""

    def verify(self, view: FeatureView, request: VerifyRequest, /) -> Findings:
        """The differences. Raises HeadraceError where nothing can be compared."""


class Sampled(Protocol):
    """The size of the sample: a part of a training's settings."""

    @property
    def parity_entities(self) -> int:
        """Entities of each view."""

    @property
    def seed(self) -> int:
        """The seed that they are drawn by."""


@dataclass(frozen=True)
class Parity:
    """The outcome of a comparison: values compared and differing, and an example; or the reason that there is none."""

    compared: int = 0
    wrong: int = 0
    example: str = ""
    unavailable: str | None = None

    @property
    def text(self) -> str:
        """In words, as a version's tag has it."""
        if self.unavailable is not None:
            return f"not compared: {self.unavailable}"
        if self.wrong:
            return f"{self.wrong:,} of {self.compared:,} values differ, such as {self.example}"
        return f"{self.compared:,} values agree"


def parity(verifier: Comparing, views: Sequence[FeatureView], request: VerifyRequest) -> Parity:
    """The outcome of a comparison of these views."""
    try:
        findings = [verifier.verify(view, request) for view in views]
    except HeadraceError as error:
        return Parity(unavailable=str(error))
    compared = sum(each.compared for each in findings)
    if not compared:
        return Parity(unavailable="neither store has an entity")
    worst = next((value for each in findings for value in each.worst), None)
    example = "" if worst is None else f"{worst.feature} of {worst.entity}: {worst.online!r}, not {worst.offline!r}"
    return Parity(compared, sum(sum(each.kinds.values()) for each in findings), example)


def checked_parity(
    verdict: GateVerdict,
    check: ParityCheck | None,
    demand: Literal["require", "ask", "skip"],
    log: Log = silent,
) -> GateVerdict:
    """The verdict with the outcome of the parity check, where it promotes and the check is not to be skipped."""
    if not verdict.promoted or check is None or demand == "skip":
        return verdict
    log(Stage("parity", "comparing features online with the archive's"))
    return with_parity(verdict, check(), demand)


def with_parity(verdict: GateVerdict, found: Parity, demand: Literal["require", "ask"]) -> GateVerdict:
    """The verdict where the features agree; refused where they differ, and where that is required and not known."""
    if found.unavailable is not None and demand == "ask":
        return GateVerdict(verdict.promoted, f"{verdict.reason}; features online and offline were {found.text}")
    if found.unavailable is not None or found.wrong:
        reason = f"features online and offline must agree: {found.text}. See 'headrace features verify'"
        return GateVerdict(False, reason)
    return GateVerdict(verdict.promoted, f"{verdict.reason}; features online and offline: {found.text}")


@dataclass(frozen=True)
class StoreParity:
    """Compares a project's online store with its archive, when it is called."""

    home: Path
    """The project's folder of running state."""
    offline: Path
    """Its archive."""
    repo: FeatureRepo
    views: Sequence[FeatureView]
    sampled: Sampled
    log: Log = silent

    def __call__(self) -> Parity:
        """The comparison of a sample of the views' entities, as of now."""
        from features.online_store import status_file, store_of
        from features.times import now_ms

        if not status_file(self.home).exists():  # opening a store that is not there would make it
            return Parity(unavailable="the stream never ran here")
        try:
            rows = store_of(self.repo.path, self.home).open()
        except HeadraceError as error:
            return Parity(unavailable=str(error))
        verifier = Verifier(rows, self.repo, self.offline, self.home, self.log)
        return parity(verifier, self.views, VerifyRequest(self.sampled.parity_entities, now_ms(), self.sampled.seed))
