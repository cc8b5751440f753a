"""The simulated shop: the same shop again from its seed, events that the streams accept, and something to learn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray

from features.definitions.repo import load_repo
from features.errors import UsageError
from features.events.parsing import Verdict, from_columns
from headrace.simulators.shop import TYPES, ShopSimulator

REPO = load_repo(Path(__file__).parents[2] / "feature_repo")
NOW = 1_790_000_000_000
DAY = 86_400_000
K = 10


@pytest.fixture(scope="module")
def shop() -> ShopSimulator:
    return ShopSimulator(seed=3, users=1_000, items=400)


@pytest.fixture(scope="module")
def history(shop: ShopSimulator) -> pa.Table:
    return shop.history(20, NOW)


def places(names: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """The number in each 'u12' or 'i12'."""
    return np.asarray(pc.cast(pc.utf8_slice_codeunits(names, 1), pa.int64()))


def test_the_same_seed_makes_the_same_shop_and_the_same_past(history: pa.Table):
    again = ShopSimulator(seed=3, users=1_000, items=400)
    assert again.history(20, NOW).equals(history)
    assert not ShopSimulator(seed=4, users=1_000, items=400).catalogue(1).equals(again.catalogue(1))


def test_the_past_is_in_time_order_and_within_its_days(history: pa.Table):
    times = np.asarray(history["event_time"])
    assert (np.diff(times) >= 0).all()
    assert NOW - 20 * DAY <= times[0] < NOW - 19 * DAY
    assert NOW - DAY < times[-1] < NOW
    assert history.num_rows == pytest.approx(20 * 4 * 1_000, rel=0.1)


def test_every_event_is_valid_in_its_stream_and_has_an_id_of_its_own(shop: ShopSimulator, history: pa.Table):
    for name, table in (("activity", history), ("catalogue", shop.catalogue(NOW))):
        parsed = from_columns(table, REPO.streams[name])
        assert Counter(parsed.verdicts.tolist()) == {Verdict.VALID: table.num_rows}
        assert len(set(parsed.events["event_id"].to_pylist())) == table.num_rows


def test_all_kinds_of_events_happen_views_most(history: pa.Table):
    counts = Counter(history["event_type"].to_pylist())
    assert set(counts) == set(TYPES)
    assert counts["view"] > counts["cart"] > counts["purchase"] > counts["return"]


def test_the_catalogue_has_every_item_with_what_describes_it(shop: ShopSimulator, history: pa.Table):
    catalogue = shop.catalogue(NOW)
    assert catalogue.num_rows == 400
    assert [
        name for name, column in zip(catalogue.column_names, catalogue.columns, strict=True) if column.null_count
    ] == []
    assert set(history["item_id"].to_pylist()) <= set(catalogue["item_id"].to_pylist())
    assert min(catalogue["price"].to_pylist()) > 0


def test_what_is_bought_has_a_price_and_a_quantity_and_what_comes_back_a_negative_one(history: pa.Table):
    bought = history.filter(pc.equal(history["event_type"], "purchase"))
    back = history.filter(pc.equal(history["event_type"], "return"))
    assert (bought["price"].null_count, bought["quantity"].null_count) == (0, 0)
    assert pc.min(bought["quantity"]).as_py() >= 1
    assert pc.max(back["quantity"]).as_py() <= -1


def test_a_session_is_one_user_for_a_while(history: pa.Table):
    sessions = history.filter(pc.is_valid(history["session_id"])).group_by("session_id")
    users = sessions.aggregate([("user_id", "count_distinct"), ("event_time", "min"), ("event_time", "max")])
    assert pc.max(users["user_id_count_distinct"]).as_py() == 1
    lasted_ms = np.asarray(pc.subtract(users["event_time_max"], users["event_time_min"]))
    assert 10_000 < np.median(lasted_ms) < 600_000


@pytest.mark.parametrize("rate", [2, 300, 5_000])
def test_live_events_come_at_the_rate_in_order_from_the_start_on(shop: ShopSimulator, rate: int):
    seconds = 400 if rate == 2 else 20
    blocks = list(shop.live(NOW, rate, NOW + seconds * 1_000))
    times = np.concatenate([np.asarray(block["event_time"]) for block in blocks])
    assert (np.diff(times) >= 0).all()
    assert NOW <= times[0] <= times[-1] < NOW + seconds * 1_000
    assert len(times) == pytest.approx(rate * seconds, rel=0.25)
    ids = [one for block in blocks for one in block["event_id"].to_pylist()]
    assert len(set(ids)) == len(ids)


def test_live_events_have_no_end_unless_told(shop: ShopSimulator):
    blocks: Iterator[pa.Table] = shop.live(NOW, 100)
    assert sum(block.num_rows for block in islice(blocks, 50)) > 3_000


def test_live_events_of_another_start_have_other_ids(shop: ShopSimulator):
    first, second = (next(shop.live(start, 100))["event_id"].to_pylist() for start in (NOW, NOW + 1))
    assert set(first) & set(second) == set()


@pytest.mark.parametrize("wrong", [{"users": 0}, {"items": 0}, {"seed": -1}])
def test_a_shop_without_users_or_items_is_refused(wrong: dict[str, int]):
    with pytest.raises(UsageError, match="a simulated shop requires at least one user and one item"):
        ShopSimulator(**wrong)


def test_a_tiny_shop_works_too():
    assert ShopSimulator(users=1, items=1).history(30, NOW).num_rows > 0


# --- something to learn ---------------------------------------------------------------------------------------------


def test_users_keep_to_their_tastes(shop: ShopSimulator, history: pa.Table):
    """The category that a user looks at most is one of the shop's own truth about that user."""
    views = history.filter(pc.equal(history["event_type"], "view"))
    counts = views.group_by(["user_id", "category"]).aggregate([("item_id", "count")]).sort_by("item_id_count")
    most = dict(zip(counts["user_id"].to_pylist(), counts["category"].to_pylist(), strict=True))
    right = [category in shop.categories_liked_by(user) for user, category in most.items()]
    assert np.mean(right) > 0.9


def test_how_often_items_are_looked_at_follows_how_attractive_they_are(shop: ShopSimulator, history: pa.Table):
    views = history.filter(pc.equal(history["event_type"], "view"))
    counts = Counter(views["item_id"].to_pylist())
    ids = shop.catalogue(NOW)["item_id"].to_pylist()
    seen = np.array([counts[one] for one in ids], dtype=np.float64)
    assert np.corrcoef(ranks(seen), ranks(shop.weight))[0, 1] > 0.6


def ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.argsort(np.argsort(values))


def test_items_that_go_together_foretell_purchases_better_than_what_sells_best(history: pa.Table):
    """Of purchases of the last five days, of items new to their buyer, how many are in the first ten of each list."""
    user, item = places(history["user_id"]), places(history["item_id"])
    past = np.asarray(history["event_time"]) < NOW - 5 * DAY
    bought = np.asarray(pc.equal(history["event_type"], "purchase"))
    known = np.zeros((1_000, 400), dtype=np.float64)
    known[user[past], item[past]] = 1.0
    together = known.T @ known
    size = np.sqrt(np.diag(together))
    similar = together / (np.outer(size, size) + 1.0)
    new = ~past & bought & (known[user, item] == 0)
    sold = np.bincount(item[past & bought], minlength=400).astype(np.float64)
    scores = {"together": known[user[new]] @ similar, "popular": np.tile(sold, (new.sum(), 1))}
    hits = {name: recall(score - 1e9 * known[user[new]], item[new]) for name, score in scores.items()}
    assert hits["together"] > 1.5 * hits["popular"] > 0


def recall(scores: NDArray[np.float64], wanted: NDArray[np.int64]) -> float:
    return float((np.argsort(-scores, axis=1)[:, :K] == wanted[:, None]).any(axis=1).mean())
