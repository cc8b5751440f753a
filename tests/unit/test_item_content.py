"""What training learns of items' attributes: their newest values of then, and a projection to the items' vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from als_library import needs_als
from scipy.sparse import csr_array
from shop_history import SETTINGS, shop
from shop_training import SHOP

from features.definitions.repo import load_repo
from features.events.parsing import from_columns
from training.data import Domain, newest_attributes
from training.item_content import PastTables, content_before, ridge, with_later_items
from training.recommender import candidates_before
from training.run import TrainingRun

REPO = load_repo(Path(__file__).parents[2] / "feature_repo")
DOMAIN = Domain.of(SHOP)
VIEWS = (REPO.views["item_catalogue"], DOMAIN.item)
HOUR, NOW = 3_600_000, 1_700_000_000_000


def catalogue(*rows: dict[str, object]) -> pa.Table:
    nothing = dict.fromkeys(("title", "category", "price", "brand"))
    table = pa.Table.from_pylist([{**nothing, **row} for row in rows])
    return from_columns(table, REPO.streams["catalogue"]).events


def test_attributes_are_the_last_known_before_the_time_and_the_catalogue_comes_first():
    events = {
        "catalogue": catalogue(
            {"item_id": "a", "event_time": NOW, "title": "old", "price": 1.0},
            {"item_id": "a", "event_time": NOW + 2 * HOUR, "title": "new", "price": None},
            {"item_id": "a", "event_time": NOW + 9 * HOUR, "title": "of later"},
            {"item_id": "b", "event_time": NOW - 500 * 24 * HOUR, "title": "older than any window"},
        ),
        "activity": from_columns(
            pa.Table.from_pylist(
                [
                    {"event_type": "view", "user_id": "u", "item_id": "a", "event_time": NOW, "price": 7.0},
                    {"event_type": "view", "user_id": "u", "item_id": "c", "event_time": NOW, "price": 8.0},
                ]
            ),
            REPO.streams["activity"],
        ).events,
    }
    columns = newest_attributes(events, VIEWS, pa.array(["c", "a", "b"]), NOW + 3 * HOUR)
    assert columns["title"].to_pylist() == [None, "new", "older than any window"]
    assert columns["price"].to_pylist() == [8.0, 1.0, None]


def test_conjugate_gradients_find_the_closed_form():
    rng = np.random.default_rng(3)
    rows, targets = (rng.random((60, 20)) > 0.7).astype(float), rng.random((60, 4))
    exact = np.linalg.solve(rows.T @ rows + 2.0 * np.eye(20), rows.T @ targets)
    assert np.allclose(ridge(csr_array(rows), targets, 2.0), exact, atol=1e-3)
    assert ridge(csr_array((5, 0)), np.ones((5, 2)), 1.0).shape == (0, 2)
    assert (ridge(csr_array(np.eye(5)), np.zeros((5, 2)), 1.0) == 0).all()


def run_of_kinds() -> TrainingRun:
    """A run of the small shop, in which a title names which of the four kinds an item is of."""
    titles = [
        {
            "item_id": f"i{item}",
            "event_time": NOW - HOUR,
            "title": f"{('oak', 'ash', 'elm', 'fir')[item % 4]} no {item}",
        }
        for item in range(40)
    ]
    events = {"activity": shop(DOMAIN), "catalogue": catalogue(*titles)}
    return TrainingRun.of(events, DOMAIN, SETTINGS)


def test_the_vector_of_an_unseen_item_is_near_those_of_its_kind():
    needs_als()
    run = run_of_kinds()
    tables = candidates_before(run, run.split.end)
    content = content_before(run, tables, run.split.end)
    assert content is not None
    assert tables.factors is not None
    kinds = np.array([int(item[1:]) % 4 for item in tables.items])
    later = content.vectors(content.encoder.rows({"title": pa.array(["ash no 99", "fir no 98"])}, 2))
    products = tables.factors.items @ later.T
    for column, kind in ((0, 1), (1, 3)):
        of_kind = products[kinds == kind, column].mean()
        assert all(of_kind > products[kinds == other, column].mean() for other in range(4) if other != kind)


def test_without_attributes_nothing_is_learnt_of_them():
    run = run_of_kinds()
    tables = candidates_before(run, run.split.end)
    assert content_before(run, tables, NOW - 2 * HOUR) is None


def test_items_that_came_later_are_known_from_their_first_event_on_and_when_they_were_announced():
    needs_als()
    run = run_of_kinds()
    start = run.split.start
    late = {"item_id": "late", "event_time": start + 5 * HOUR, "title": "ash no 7"}
    unseen = {"item_id": "unseen", "event_time": run.split.end + HOUR, "title": "ash no 8"}
    more = catalogue(late, unseen)
    events = {**run.features.events, "catalogue": pa.concat_tables([run.features.events["catalogue"], more])}
    run = replace(run, features=replace(run.features, events=events))
    tables = candidates_before(run, start)
    later = with_later_items(run, tables, start, run.split.end)
    assert isinstance(later, PastTables)
    assert later.items == (*tables.items, "late")
    assert later.fitted == len(tables.items)
    known = [later.known_at(time) for time in (start + 4 * HOUR, start + 5 * HOUR)]
    assert [int(mask.sum()) for mask in known] == [len(tables.items), len(tables.items) + 1]
    assert later.known_at(start - 1) is None
    assert with_later_items(run, tables, start, start + HOUR) is tables
