"""Sums that leave float64: null on every path, and where their order decides, no path is wrong."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import T0, spine_of, table_of, view_of

from features.checks.oracle import disagreements, oracle
from features.definitions.aggregations import Count, Mean, Min, Ratio, Sum
from features.history.point_in_time_join import point_in_time
from features.rows.finalizing import finalize
from features.rows.folding import fold
from features.rows.matrix import BatchKey, PackedRows, Status

HUGE = 1.7976931348623157e308
AGGREGATIONS = (Sum("price"), Mean("price"), Ratio(Sum("price"), Count()), Min("price"))
VIEW = view_of(["1m", "10m"], AGGREGATIONS)
NOTHING = PackedRows(pa.array([], pa.string()), pa.array([], pa.binary()))


def events_of(prices: list[float]) -> list[dict]:
    return [
        {"event_id": f"e{at}", "event_time": T0 + 1_000 * at, "known_at": T0 + 1_000 * at, "partition": 0, "offset": at}
        | {"user_id": "a", "price": price}
        for at, price in enumerate(prices)
    ]


@given(st.lists(st.sampled_from([HUGE, -HUGE, HUGE / 3, 1.0, 0.25]), min_size=1, max_size=9), st.integers(1, 4))
def test_rows_and_history_have_the_value_or_none_and_never_an_infinity(prices: list[float], size: int) -> None:
    events, as_of = events_of(prices), T0 + 10_000
    table = table_of(events)
    rows = NOTHING
    for batch, start in enumerate(range(0, len(events), size)):
        rows = fold(VIEW, rows, {"events": table.slice(start, size)}, BatchKey(7, batch, T0))
    online = finalize(VIEW, rows, as_of, 7)
    offline = point_in_time(VIEW, spine_of(VIEW, [({"user_id": "a"}, as_of)]), {"events": table})
    truth = oracle(VIEW, {"user_id": "a"}, as_of, {"events": events})
    for found in (online, offline):
        assert disagreements(VIEW, [truth], found) == []
        for column in found.columns:
            if pa.types.is_floating(column.type):
                assert pc.all(pc.is_finite(column.drop_null())).as_py() is not False
    if not np.isfinite(sum(map(abs, prices))) and len(set(prices)) == 1:
        by_name = dict(zip(online.names, online.columns, strict=True))
        (sums,) = [column for name, column in by_name.items() if name.endswith("all_price_sum_10m")]
        assert sums.to_pylist() == [None]


@pytest.mark.parametrize("prices", [[HUGE, HUGE], [-HUGE, -HUGE], [HUGE, HUGE, -HUGE]])
def test_the_oracle_takes_any_value_of_such_a_sum_and_but_one_of_an_extremum(prices: list[float]) -> None:
    truth = oracle(VIEW, {"user_id": "a"}, T0 + 10_000, {"events": events_of(prices)})
    assert not isinstance(truth, Status)
    tolerances = {name: one.tolerance for name, one in truth.items() if "price_sum_10m" in name or "price_min" in name}
    assert set(tolerances.values()) == {math.inf, 0.0}


def test_a_file_of_such_prices_passes_the_check(tmp_path: Path) -> None:
    (tmp_path / "feature_repo").mkdir()
    (tmp_path / "feature_repo" / "shop.py").write_text(
        "from headrace import *\n"
        "user = Entity('user', keys={'user_id': 'string'})\n"
        "shop = Stream('shop', topic='t', fields={'user_id': 'string', 'price': 'float64'})\n"
        "view = FeatureView('v', sets=[FeatureSet(user, shop, [Sum('price'), Mean('price')], ['1h', '24h'])])\n"
    )
    lines = [
        {"event_id": str(at), "event_time": 1_780_000_000_000 + at, "user_id": "u", "price": price}
        for at, price in enumerate([1e308, 1e308, 1e308, -1e308])
    ]
    (tmp_path / "shop.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [sys.executable, "-m", "headrace", "features", "check", "--from", "shop.jsonl", "--format", "jsonl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
