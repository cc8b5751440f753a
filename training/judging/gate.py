"""The gate of recommenders: pure, over the metrics of a model, of popularity and of the champion on the same test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import thread_time

import numpy as np

from features.definitions import FeatureView
from features.errors import ArtefactError
from models.golden import made_up
from models.recommender import Artefact, try_out
from training.evidence import NOT_ENOUGH, Evidence, not_enough
from training.judging.confidence import Interval, bootstrap
from training.recommender import ModelResult
from training.settings import TrainingSettings

METRIC = "ndcg_at_{k}"

COVERAGE = "coverage_at_{k}"

CANDIDATES, TIMES = 500, 15
"""Candidates that are scored at once to measure how long it takes, and the times that it is measured."""


@dataclass(frozen=True)
class GateVerdict:
    """The gate's verdict: whether a model may serve from now on, and why or why not."""

    promoted: bool
    reason: str
    judged: bool = True
    """False where there was not enough to judge by: then it is not promoted."""


def gate(rows: Sequence[ModelResult], settings: TrainingSettings) -> GateVerdict:
    """Let through when its NDCG is surely above popularity's, and surely not below the champion's by more than allowed.

    Surely is by the 95 % interval of the paired difference over the same lists; allowed is settings.tolerance of the
    champion's NDCG. Its lists must also cover settings.coverage_share of what the champion's cover. Rows without lists
    (nothing to test on) let nothing through.

    Nothing is judged by fewer than settings.least_test_users lists, each of another user, by fewer than
    settings.least_test_positives items taken, or by a difference that is the same for all users.
    """
    by_name = {row.model: row for row in rows}
    model, popular, champion = by_name["model"], by_name["popular"], by_name.get("champion")
    lacking = not_enough(evidence_of(model, settings))
    if lacking is not None:
        return GateVerdict(False, lacking, judged=False)
    over = difference(model, popular, settings.seed)
    metric = METRIC.format(k=settings.k)
    about = f"{metric} {model.metrics[metric]:.4f} is {{}}above popularity's {popular.metrics[metric]:.4f}"
    about += f" over {model.users:,} users"
    if not over.low > 0:
        return GateVerdict(False, f"{about.format('not surely ')}: {interval_text(over)}")
    if over.is_point:
        return same_for_all("user", over)
    if champion is None:
        return GateVerdict(True, f"{about.format('')}; there is no champion yet")
    return _beside(model, champion, about.format(""), settings)


def evidence_of(row: ModelResult, settings: TrainingSettings) -> tuple[Evidence, Evidence]:
    """The row's test users and what they took, beside the least of both."""
    who = "test users who took something and had been seen before the test"
    return (
        Evidence(who, row.users, settings.least_test_users),
        Evidence("items that they took", row.positives, settings.least_test_positives),
    )


def same_for_all(what: str, interval: Interval) -> GateVerdict:
    """The verdict where a difference is the same for every user or group: its interval tells nothing of others."""
    return GateVerdict(False, f"{NOT_ENOUGH}: the difference is {interval.mean:+.4f} for every {what}", judged=False)


def _beside(model: ModelResult, champion: ModelResult, about: str, settings: TrainingSettings) -> GateVerdict:
    metric, coverage = METRIC.format(k=settings.k), COVERAGE.format(k=settings.k)
    beside = difference(model, champion, settings.seed)
    if beside.is_point and beside.mean:
        return same_for_all("user", beside)
    allowed = settings.tolerance * champion.metrics[metric]
    if not beside.low >= -allowed:
        reason = f"{metric} {model.metrics[metric]:.4f} may be below the champion's {champion.metrics[metric]:.4f}"
        return GateVerdict(False, f"{reason} by more than {allowed:.4f}: {interval_text(beside)}")
    least = settings.coverage_share * champion.metrics.get(coverage, 0.0)
    if not model.metrics.get(coverage, 0.0) >= least:
        got = model.metrics.get(coverage, 0.0)
        return GateVerdict(
            False, f"{coverage} {got:.4f} is below {least:.4f}, which is asked of the champion's successor"
        )
    return GateVerdict(True, f"{about}; the champion has {champion.metrics[metric]:.4f}, {interval_text(beside)}")


def difference(first: ModelResult, second: ModelResult, seed: int = 0) -> Interval:
    """The interval of the first row's NDCG less the second's, list by list."""
    return bootstrap(first.ndcg - second.ndcg, seed)


def interval_text(interval: Interval) -> str:
    """The interval in words."""
    return f"difference {interval.mean:+.4f}, between {interval.low:+.4f} and {interval.high:+.4f}"


def fault_of(artefact: Artefact, views: Mapping[str, FeatureView], settings: TrainingSettings) -> str | None:
    """A fault of an artefact by itself: its definitions, its answers, its time; None without one."""
    try:
        artefact.check_views(views)
        try_out(artefact)
    except ArtefactError as error:
        return str(error)
    took_ms = scoring_ms(artefact)
    if took_ms > settings.scoring_budget_ms:
        return f"scoring {CANDIDATES} candidates takes {took_ms:.1f} ms; {settings.scoring_budget_ms:g} ms are allowed"
    return None


def scoring_ms(artefact: Artefact) -> float:
    """The least processor time of scoring CANDIDATES candidates; 0 for a model without a ranker."""
    if artefact.ranker is None:
        return 0.0
    manifest = artefact.manifest
    columns = len(manifest.pair_features) + len(manifest.user.names) + len(manifest.item.names)
    inputs = made_up(np.arange(CANDIDATES), columns)
    return least_ms(lambda: artefact.chances(inputs))


def least_ms(call: Callable[[], object]) -> float:
    """The least processor time of this thread that the call takes, of TIMES calls after a first one.

    The least, and of this thread alone: the cost of the model, whatever else the machine does meanwhile.
    """
    call()
    return min(_took_ms(call) for _ in range(TIMES))


def _took_ms(call: Callable[[], object]) -> float:
    started = thread_time()
    call()
    return (thread_time() - started) * 1000
