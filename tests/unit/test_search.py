"""A search over settings: what is tried, what is taken, and that the part of the test plays no part in it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from shop_history import SETTINGS, shop
from shop_training import SHOP

from features.definitions.repo import load_repo
from features.errors import UsageError
from training.data.dataset import Domain, Events
from training.recommender.settings_search import SPACE, drawn, search
from training.run import TrainingRun

REPO = load_repo(Path(__file__).resolve().parents[2] / "feature_repo")
DOMAIN = Domain.of(SHOP)
QUICK = SETTINGS.model_copy(update={"moments": 150, "test_users": 40, "ranker_positives": 20, "sources": ()})


def run_of(events: Events) -> TrainingRun:
    return TrainingRun.of(events, DOMAIN, QUICK)


@pytest.fixture(scope="module")
def events() -> dict[str, pa.Table]:
    return {"activity": shop(DOMAIN)}


def test_the_first_trial_changes_nothing_and_no_two_are_the_same(seed):
    several = drawn(12, seed)
    assert several[0] == {}
    assert len({tuple(sorted(one.items())) for one in several}) == 12
    assert all(set(one) == set(SPACE) for one in several[1:])
    assert drawn(5, seed) == several[:5]
    assert drawn(1, seed) == [{}]


def test_the_best_trial_is_taken_and_the_same_seed_makes_the_same_ones(events):
    said: list[str] = []
    chosen, trials = search(run_of(events), 3, said.append)
    best = max(trials, key=lambda one: one.ndcg)
    assert chosen == QUICK.model_copy(update=dict(best.changed))
    assert len(trials) == 3
    assert len(said) == 4
    again, repeated = search(run_of(events), 3)
    assert (again, repeated) == (chosen, trials)


def test_nothing_of_the_part_that_a_model_is_tested_on_plays_a_part(events):
    split = run_of(events).split
    table = events["activity"]
    # As many events of the same times in the test's part, so that the split is the same, but none of what they were.
    late = pc.greater_equal(table["known_at"], split.middle)
    other = pa.array(["i0"] * table.num_rows)
    place = table.schema.get_field_index("item_id")
    changed = table.set_column(
        place, table.schema.field(place), pc.if_else(late, other, table["item_id"].combine_chunks())
    )
    assert changed["item_id"] != table["item_id"]
    assert search(run_of({"activity": changed}), 2) == search(run_of(events), 2)


def test_too_little_history_for_a_part_of_its_own_is_said(events):
    few = {"activity": events["activity"].slice(0, 2)}
    with pytest.raises(UsageError, match="three parts"):
        search(run_of(few), 2)
