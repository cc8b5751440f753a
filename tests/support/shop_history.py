"""Events of a small shop whose users have known preferences, and settings that train a model of it in seconds."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from shop_training import shop_settings

from features.events.parsing import from_columns
from training.data.dataset import Domain

HOUR = 3_600_000
SETTINGS = shop_settings(iterations=30, smallest_leaf=10, ease_l2=20.0, moments=600, target_events=50)


def shop(domain: Domain, *, users: int = 80, items: int = 40, visits: int = 12, seed: int = 5) -> pa.Table:
    """40 days of users who each like one of four kinds of items: they view several, and buy some of those."""
    rng = np.random.default_rng(seed)
    rows = []
    times = np.sort(rng.integers(0, 40 * 24 * HOUR, users * visits)) + 1_700_000_000_000
    for visit, start in enumerate(times.tolist()):
        user = int(rng.integers(users))
        liked = np.arange(user % 4, items, 4)
        for step, item in enumerate(rng.choice(liked, 4, replace=False).tolist()):
            seen = item if rng.random() < 0.9 else int(rng.integers(items))
            row = {"event_time": start + step * 20_000, "user_id": f"u{user}", "item_id": f"i{seen}"}
            rows.append({**row, "event_type": "view", "session_id": f"s{visit}", "price": 1.0 + seen, "quantity": 1})
            if rng.random() < 0.4:
                rows.append({**rows[-1], "event_type": "purchase", "event_time": start + step * 20_000 + 5_000})
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["event_time"]))
    return from_columns(table, domain.stream).events
