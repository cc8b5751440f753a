"""The Handbook's protocol on the engine's features scores as on features that pandas computes by brute force."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from features.definitions.repo import load_repo
from models.event_model.inputs import EventInputs
from training.protocols.fraud_handbook import (
    INPUTS,
    PAYMENTS,
    Days,
    models,
    payments_between,
    payments_of,
    read_history,
    run,
)

REPO = load_repo(Path(__file__).parents[2] / "feature_repo")
START = pd.Timestamp("2018-07-04")
DAYS = Days(int(START.value // 1_000_000))
DAY = pd.Timedelta("1d")
ALLOWED = 0.01
RealFile = Callable[[str], Path]


# --- the oracle: exact sliding windows by pandas, and the split and the metrics as the Handbook has them ------------


def over(events: pd.DataFrame, key: str, column: str, days: int) -> tuple[pd.Series, pd.Series]:
    """The count and the sum of the rows of the same key in the days up to each row."""
    ordered = events.sort_values([key, "TX_DATETIME", "TRANSACTION_ID"])
    window = ordered.groupby(key).rolling(f"{days}d", on="TX_DATETIME")[column]
    return pd.Series(window.count().to_numpy(), ordered.index), pd.Series(window.sum().to_numpy(), ordered.index)


def with_features(events: pd.DataFrame) -> pd.DataFrame:
    columns = {"amount": events.TX_AMOUNT}
    columns["during_weekend"] = (events.TX_DATETIME.dt.weekday >= 5).astype(float)
    columns["during_night"] = (events.TX_DATETIME.dt.hour <= 6).astype(float)
    since, frauds_since = over(events, "TERMINAL_ID", "TX_FRAUD", 7)
    for days, label in ((1, "24h"), (7, "7d"), (30, "30d")):
        count, total = over(events, "CUSTOMER_ID", "TX_AMOUNT", days)
        columns[f"customer_payment_count_{label}"] = count
        columns[f"customer_payment_amount_mean_{label}"] = total / count
        count, frauds = over(events, "TERMINAL_ID", "TX_FRAUD", 7 + days)
        columns[f"terminal_payment_count_{label}_delay_7d"] = count - since
        columns[f"terminal_risk_{label}_delay_7d"] = ((frauds - frauds_since) / (count - since)).fillna(0)
    return events.assign(**columns)


def split(events: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    day = (events.TX_DATETIME - START) // DAY
    train = events[(day >= 0) & (day < 7)]
    known = set(train[train.TX_FRAUD == 1].CUSTOMER_ID)
    parts = []
    for number in range(7):
        known |= set(events[(day == 6 + number) & (events.TX_FRAUD == 1)].CUSTOMER_ID)
        today = events[day == 14 + number]
        parts.append(today[~today.CUSTOMER_ID.isin(known)])
    return train, pd.concat(parts)


def card_precision(test: pd.DataFrame, scores: np.ndarray[Any, Any]) -> float:
    found: list[int] = []
    shares = []
    for _, today in test.assign(score=scores).groupby("TX_TIME_DAYS"):
        cards = today[~today.CUSTOMER_ID.isin(found)].groupby("CUSTOMER_ID")[["score", "TX_FRAUD"]].max()
        top = cards.sort_values("score", ascending=False).head(100)
        found += top[top.TX_FRAUD == 1].index.tolist()
        shares.append(int(top.TX_FRAUD.sum()) / 100)
    return float(np.mean(shares))


@cache
def brute_force(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    events = pd.read_parquet(path)
    # What no window of a day that is trained on can reach changes nothing.
    recent = events[(events.TX_DATETIME >= START - 38 * DAY) & (events.TX_DATETIME < START + 21 * DAY)]
    return split(with_features(recent))


def expected(path: Path, model: Any) -> dict[str, float]:
    train, test = brute_force(path)
    model.fit(train[list(INPUTS)].to_numpy(), train.TX_FRAUD == 1)
    scores = model.predict_proba(test[list(INPUTS)].to_numpy())[:, 1]
    auc, ap = roc_auc_score(test.TX_FRAUD, scores), average_precision_score(test.TX_FRAUD, scores)
    return {"auc": auc, "ap": ap, "card_precision_at_100": card_precision(test, scores)}


# --- the engine -----------------------------------------------------------------------------------------------------


@cache
def history(path: Path) -> Any:
    return read_history(path, "cards", REPO)


def differences(path: Path, names: Sequence[str]) -> dict[tuple[str, str], float]:
    """How far each metric of each model is from what the oracle says."""
    report = run(payments_of(history(path), REPO, DAYS), DAYS, {name: models()[name] for name in names}, lambda _: None)
    rows = {row["model"]: row for row in report["rows"]}
    right = {name: expected(path, models()[name]) for name in names}
    return {(name, metric): abs(rows[name][metric] - value) for name in names for metric, value in right[name].items()}


def test_scores_are_within_a_hundredth_of_those_on_brute_force_features(real_file: RealFile) -> None:
    found = differences(real_file("card-transactions.parquet"), ["logistic_regression", "hist_gradient_boosting"])
    assert {which: apart for which, apart in found.items() if apart > ALLOWED} == {}
    assert len(found) == 6


@pytest.mark.slow
def test_a_random_forests_scores_are_too(real_file: RealFile) -> None:
    found = differences(real_file("card-transactions.parquet"), ["random_forest"])
    assert {which: apart for which, apart in found.items() if apart > ALLOWED} == {}
    assert len(found) == 3


def test_features_are_those_of_exact_sliding_windows_but_for_payments_of_the_same_second(real_file: RealFile) -> None:
    """Pandas takes equal times one by one, the engine together; and tiles of a second end at full seconds."""
    path = real_file("card-transactions.parquet")
    inputs = EventInputs.of(REPO, PAYMENTS, INPUTS)
    ours = payments_between(history(path), inputs, DAYS.start, DAYS.train_end, before=False)
    right = brute_force(path)[0][list(INPUTS)].to_numpy()
    same = np.isclose(ours.inputs, right)
    assert same.mean(axis=0).min() > 0.999
