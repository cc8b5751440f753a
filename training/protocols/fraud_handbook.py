"""The protocol of the Fraud Detection Handbook, on features that this engine computed.

Train on some days of card payments, skip the days in which their frauds are not known yet, test on the days after; what
is known of a test day's cards by then leaves it. Le Borgne, Siblini, Lebichot, Bontempi, "Reproducible Machine Learning
for Credit Card Fraud Detection", 2022: chapter 3 (Baseline feature transformation, Baseline fraud detection system) and
chapter 4 (Card Precision top-k). https://fraud-detection-handbook.github.io
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Bools, Floats, Int64s
from features.definitions import UNITS_MS, FeatureRepo, duration_ms
from features.errors import UsageError
from features.events import without_duplicates
from features.formats import Refused, read_events
from models.event_model import EventInputs, Events
from training.event_model import group_precision, ranking_metrics
from training.progress import Log, silent

PAYMENTS, LABELS, CARD = "transactions", "fraud_labels", "customer_id"
"""The streams of payments and of frauds, and the field that says whose card it was."""

INPUTS = (
    *("amount", "during_weekend", "during_night"),
    *(f"customer_payment_{what}_{window}" for window in ("24h", "7d", "30d") for what in ("count", "amount_mean")),
    *(f"terminal_{what}_{window}_delay_7d" for window in ("24h", "7d", "30d") for what in ("payment_count", "risk")),
)
"""The fifteen inputs of the Handbook's models, by our names."""

DAY_MS = UNITS_MS["d"]

TOP = 100
"""The cards that can be looked into on a day."""

BASELINE = "amount"


@dataclass(frozen=True)
class Days:
    """Train on [start, train_end), test on [test_start, test_end); all in ms, whole days of UTC."""

    start: int
    train: int = 7
    delay: int = 7
    test: int = 7

    @property
    def train_end(self) -> int:
        """The first ms that is not trained on."""
        return self.start + self.train * DAY_MS

    @property
    def test_start(self) -> int:
        """The first ms that is tested on: the frauds of all training days are known by then."""
        return self.train_end + self.delay * DAY_MS

    @property
    def test_end(self) -> int:
        """The first ms that is not tested on."""
        return self.test_start + self.test * DAY_MS


@dataclass(frozen=True)
class LabelledPayments:
    """n payments: when (ms), of which card, whether fraud, and their inputs (n, INPUTS), 0 where there is no value."""

    time: Int64s
    card: Int64s
    fraud: Bools
    inputs: Floats

    def pick(self, which: Bools) -> LabelledPayments:
        """Some of them."""
        return LabelledPayments(self.time[which], self.card[which], self.fraud[which], self.inputs[which])


def read_history(path: Path, kind: str, repo: FeatureRepo, log: Log = silent) -> Events:
    """The file's events of both streams, each once; rows that are no events are logged.

    Raises:
        UsageError: the file or the repo lacks one of them.
    """
    parts: dict[str, list[pa.Table]] = {PAYMENTS: [], LABELS: []}
    records = read_events(path, kind, repo.streams, repo.horizon_ms, repo.keys_of)
    for name, parsed in Refused().watched(records, log):
        parts.setdefault(name, []).append(parsed.events)
    for name in (PAYMENTS, LABELS):
        if not parts[name]:
            raise UsageError(f"file '{path}'", f"events of stream '{name}'", "none")
    return {
        name: without_duplicates(pa.concat_tables(tables), duration_ms(repo.streams[name].dedupe_horizon))
        for name, tables in parts.items()
        if tables
    }


def last_start(history: Events, days: Days) -> int:
    """The latest midnight from which the protocol's days all lie in the history; of ``days`` only the lengths count."""
    newest = int(pc.max(history[PAYMENTS]["event_time"]).as_py())
    return (newest // DAY_MS + 1) * DAY_MS - (days.test_end - days.start)


def payments_between(history: Events, inputs: EventInputs, start: int, end: int, *, before: bool) -> LabelledPayments:
    """The payments of [start, end) with their inputs as of the millisecond after each, or ``before`` it.

    Before, a payment is not among those that its features count, as when it is judged while it comes in; the Handbook
    counts it.
    """
    every = history[PAYMENTS]
    time = every["event_time"].to_numpy()
    chosen = every.filter(pa.array((time >= start) & (time < end)))
    at = chosen["event_time"].to_numpy()
    matrix = inputs.matrix_before(chosen, history) if before else inputs.matrix(chosen, at + 1, history)
    fraud = np.asarray(pc.is_in(chosen["event_id"], value_set=pc.unique(history[LABELS]["event_id"])))
    return LabelledPayments(at, chosen[CARD].to_numpy(), fraud, np.nan_to_num(matrix, nan=0.0))


def without_known_cards(payments: LabelledPayments, days: Days) -> Bools:
    """(n,) whether each payment is of the test: of a test day, and of a card not known to be compromised on that day.

    Known are the cards with a fraud in training, and on each test day those with a fraud ``delay`` days before it.

    Args:
        payments: of all days from the start on.
    """
    day = (payments.time - days.start) // DAY_MS
    known = set(payments.card[payments.fraud & (day < days.train)].tolist())
    kept = np.zeros(len(day), dtype=bool)
    for number in range(days.test):
        new = payments.fraud & (day == days.train + number - 1)
        known |= set(payments.card[new].tolist())
        today = day == days.train + days.delay + number
        kept |= today & ~np.isin(payments.card, list(known))
    return kept


def card_precision(test: LabelledPayments, scores: Floats, top: int = TOP) -> float:
    """The mean over the days of the share of compromised cards among the ``top`` most suspicious ones.

    A card's score is its highest of the day; a card that was found leaves the days after it.
    """
    return group_precision(test.time // DAY_MS, test.card, test.fraud, scores, top)


def judged(test: LabelledPayments, scores: Floats) -> dict[str, float]:
    """AUC, average precision and card precision of the scores."""
    metrics = ranking_metrics(test.fraud, scores)
    return {**metrics, f"card_precision_at_{TOP}": card_precision(test, scores)}


def models(seed: int = 0) -> dict[str, Any]:
    """The Handbook's scikit-learn models, with its settings, and gradient boosting."""
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    return {
        "logistic_regression": make_pipeline(StandardScaler(), LogisticRegression(random_state=seed)),
        "random_forest": RandomForestClassifier(random_state=seed, n_jobs=-1),
        "hist_gradient_boosting": HistGradientBoostingClassifier(random_state=seed),
    }


def rows(
    train: LabelledPayments, test: LabelledPayments, chosen: Mapping[str, Any], log: Log
) -> Iterator[dict[str, Any]]:
    """A row for each model, and first one for the amount alone: its metrics on ``test`` and the seconds of its fit."""
    yield {"model": BASELINE, **judged(test, test.inputs[:, INPUTS.index("amount")]), "fit_s": 0.0}
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    for name, model in chosen.items():
        log(f"fitting {name}")
        started = perf_counter()
        # Threads that wait for each other on busy cores take many times as long as one.
        with threadpool_limits(limits=1, user_api="openmp"):
            model.fit(train.inputs, train.fraud)
        fit_s = perf_counter() - started
        yield {"model": name, **judged(test, model.predict_proba(test.inputs)[:, 1]), "fit_s": round(fit_s, 3)}


def payments_of(history: Events, repo: FeatureRepo, days: Days, *, before: bool = False) -> LabelledPayments:
    """The payments of all the protocol's days with the Handbook's inputs (see ``payments_between``)."""
    inputs = EventInputs.of(repo, PAYMENTS, INPUTS)
    return payments_between(history, inputs, days.start, days.test_end, before=before)


def run(payments: LabelledPayments, days: Days, chosen: Mapping[str, Any], log: Log) -> dict[str, Any]:
    """The protocol's report of one start.

    Args:
        payments: of all days from the start on (see ``payments_of``).
        chosen: name → model.

    Raises:
        UsageError: the days to train or to test on have no fraud, or only frauds.
    """
    train = payments.pick(payments.time < days.train_end)
    test = payments.pick(without_known_cards(payments, days))
    for name, part in (("training", train), ("test", test)):
        if part.fraud.all() or not part.fraud.any():
            got = f"{len(part.fraud)} payments, {int(part.fraud.sum())} of them frauds"
            raise UsageError(f"the {name} days", "payments, some of them frauds", got, "Take another start.")
    return {
        "payments": {"train": len(train.fraud), "test": len(test.fraud)},
        "frauds": {"train": int(train.fraud.sum()), "test": int(test.fraud.sum())},
        "rows": list(rows(train, test, chosen, log)),
    }
