"""An archive of a month of the definitions in feature_repo/, and spines that ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from features.arrays import Int64s
from features.definitions import FeatureView
from features.definitions.repo import FeatureRepo
from features.events.columns import entity_keys
from features.events.parsing import from_columns
from features.history.archive import ArchiveTable, open_table
from features.history.point_in_time_join import Spine
from features.history.spines import SpineRequest
from streaming.archive.sink import Archive

T0, MINUTE_MS, DAY_MS = 1_700_000_000_000, 60_000, 86_400_000


def shop_events(count: int, seed: int) -> pa.Table:
    """Events of a month, some repeated, some known late or too late, some of nobody, in the order of becoming known."""
    rng = np.random.default_rng(seed)
    known = np.sort(rng.integers(T0, T0 + 30 * DAY_MS, count))
    late = rng.choice([0, 0, 0, 1, MINUTE_MS, 3 * 60 * MINUTE_MS, 40 * DAY_MS, -2 * MINUTE_MS], count)
    users = pa.array([None if number == 0 else f"u{number}" for number in rng.integers(0, 25, count)])
    return pa.table(
        {
            "event_id": [f"e{number}" for number in rng.integers(0, 3 * count, count)],
            "event_time": known - late,
            "known_at": known,
            "partition": rng.integers(0, 3, count).astype(np.int32),
            "offset": np.arange(count),
            "event_type": rng.choice(["view", "click", "cart", "purchase", "rating"], count),
            "user_id": users,
            "session_id": [f"s{number}" for number in rng.integers(0, 50, count)],
            "item_id": [f"i{number}" for number in rng.integers(0, 15, count)],
            "category": rng.choice(["a", "b"], count),
            "price": np.round(rng.gamma(2.0, 15.0, count), 2),
            "quantity": rng.integers(1, 4, count),
            "rating": rng.integers(1, 6, count).astype(float),
        }
    )


def card_events(count: int, seed: int) -> dict[str, pa.Table]:
    """Payments, and a week later the labels of one in ten."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(T0, T0 + 30 * DAY_MS, count))
    columns = {
        "event_id": [f"t{number}" for number in range(count)],
        "event_time": times,
        "known_at": times,
        "offset": np.arange(count),
        "customer_id": rng.integers(0, 20, count),
        "terminal_id": rng.integers(0, 8, count),
        "amount": np.round(rng.gamma(2.0, 40.0, count), 2),
    }
    payments = pa.table(columns)
    labels = payments.take(pa.array(np.flatnonzero(rng.random(count) < 0.1))).drop_columns(["amount"])
    later = pa.array(np.asarray(labels["known_at"]) + 7 * DAY_MS)
    labels = labels.set_column(labels.schema.get_field_index("known_at"), "known_at", later)
    return {"transactions": payments, "fraud_labels": labels}


def archive_month(folder: Path, repo: FeatureRepo) -> None:
    """Writes the events into the folder, in several commits."""
    archive = Archive(folder, repo)
    for name, events in {"activity": shop_events(3_000, 7), **card_events(1_500, 8)}.items():
        parsed = from_columns(events, repo.streams[name], repo.horizon_ms(name)).events
        for start in range(0, len(parsed), 900):
            archive.append(repo.streams[name], parsed.slice(start, 900))


def tables_of(folder: Path, repo: FeatureRepo) -> dict[str, ArchiveTable]:
    """The tables of the folder, by stream."""
    opened = {name: open_table(folder, stream, repo.horizon_ms(name)) for name, stream in repo.streams.items()}
    return {name: table for name, table in opened.items() if table is not None}


def spine_of(view: FeatureView, count: int, seed: int) -> tuple[pd.DataFrame, Int64s]:
    """(key, as_of) of known and unknown entities, at any time of the month and after, in no order."""
    rng = np.random.default_rng(seed)
    (key, dtype), *_ = view.entity.keys.items()
    prefix = {"user_id": "u", "item_id": "i"}.get(key, "")
    numbers = rng.integers(0, 27, count)
    keys = [f"{prefix}{number}" if dtype == "string" else int(number) for number in numbers]
    as_of = rng.integers(T0 - DAY_MS, T0 + 40 * DAY_MS, count)
    return pd.DataFrame({key: keys, "event_timestamp": pd.to_datetime(as_of, unit="ms", utc=True)}), as_of


def asked_of(view: FeatureView, frame: pd.DataFrame, as_of: Int64s | Sequence[int]) -> SpineRequest:
    """The request of a frame with the view's keys."""
    keys = entity_keys({key: pa.array(frame[key]) for key in view.entity.keys}, view.entity)
    return SpineRequest(view, Spine(keys, np.asarray(as_of)))
