"""Whether what is served agrees with what is learnt from: `headrace features verify` on a sample, for the gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from features.checks import Verifier, VerifyRequest
from features.errors import HeadraceError
from training.judging.gate import Verdict

if TYPE_CHECKING:
    from features.checks import Findings
    from features.definitions import FeatureRepo, FeatureView

Ask = Callable[[], "Parity"]


class Comparing(Protocol):
    """Compares a view's rows with the archive (features.checks.stores.Verifier)."""

    def verify(self, view: FeatureView, asked: VerifyRequest, /) -> Findings:
        """What differs. Raises HeadraceError where nothing can be compared."""


class Sampled(Protocol):
    """How much is compared: a part of a training's settings."""

    @property
    def parity_entities(self) -> int:
        """Entities of each view."""

    @property
    def seed(self) -> int:
        """Of which entities these are."""


@dataclass(frozen=True)
class Parity:
    """How many values were compared, how many were not the same, and an example; or why nothing could be compared."""

    compared: int = 0
    wrong: int = 0
    example: str = ""
    unavailable: str | None = None

    @property
    def told(self) -> str:
        """In words: what a version's tag says."""
        if self.unavailable is not None:
            return f"not compared: {self.unavailable}"
        if self.wrong:
            return f"{self.wrong:,} of {self.compared:,} values differ, such as {self.example}"
        return f"{self.compared:,} values agree"


def parity(verifier: Comparing, views: Sequence[FeatureView], asked: VerifyRequest) -> Parity:
    """What a comparison of these views comes to."""
    try:
        found = [verifier.verify(view, asked) for view in views]
    except HeadraceError as error:
        return Parity(unavailable=str(error))
    compared = sum(one.compared for one in found)
    if not compared:
        return Parity(unavailable="neither store has an entity")
    worst = next((one for each in found for one in each.worst), None)
    example = "" if worst is None else f"{worst.feature} of {worst.entity}: {worst.online!r}, not {worst.offline!r}"
    return Parity(compared, sum(sum(one.kinds.values()) for one in found), example)


def asked_parity(verdict: Verdict, ask: Ask | None, demand: Literal["require", "ask", "skip"]) -> Verdict:
    """The verdict with what is asked about features where it promotes; nobody is asked without ``ask``, or to skip."""
    if not verdict.promoted or ask is None or demand == "skip":
        return verdict
    return with_parity(verdict, ask(), demand)


def with_parity(verdict: Verdict, found: Parity, demand: Literal["require", "ask"]) -> Verdict:
    """The verdict where the features agree; refused where they differ, and where that is required and not known."""
    if found.unavailable is not None and demand == "ask":
        return Verdict(verdict.promoted, f"{verdict.reason}; features online and offline were {found.told}")
    if found.unavailable is not None or found.wrong:
        reason = f"features online and offline must agree: {found.told}. See 'headrace features verify'"
        return Verdict(False, reason)
    return Verdict(verdict.promoted, f"{verdict.reason}; features online and offline: {found.told}")


def asked_of(
    home: Path,
    offline: Path,
    repo: FeatureRepo,
    views: Sequence[FeatureView],
    chosen: Sampled,
    say: Callable[[str], None],
) -> Ask:
    """How the gate compares a project's online store with its archive.

    Args:
        home: the project's folder of running state.
        offline: its archive.
    """

    def ask() -> Parity:
        from features.online_store import status_file, store_of
        from features.times import now_ms

        if not status_file(home).exists():  # asking a store that is not there would make it
            return Parity(unavailable="the stream never ran here")
        try:
            rows = store_of(repo.path, home).open()
        except HeadraceError as error:
            return Parity(unavailable=str(error))
        verifier = Verifier(rows, repo, offline, home, say)
        return parity(verifier, views, VerifyRequest(chosen.parity_entities, now_ms(), chosen.seed))

    return ask
