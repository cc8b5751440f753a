"""Items that came after the training of a model: known within one refresh of the items, from the store's rows."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from serving_world import ITEMS, REPO, fill, model

from features.definitions.repo import load_repo
from features.events.parsing import from_columns
from features.online_store import FeatureReader
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker
from features.online_store.sqlite.rows import SqliteRows
from models.recommender import Artefact, Factors
from serving.recommend import ItemFeatures, ItemQuery, UserRead, recommend, similar
from training.item_content import fit_content

FEATURES = load_repo(REPO)
KINDS = ("mug", "lamp", "desk")


def title(item: int) -> str:
    return f"{KINDS[item % 3]} of kind {item % 3}"


class Shop:
    """A store with a catalogue, the service's reader of its items, and a model that was trained on the first 30."""

    def __init__(self, folder: Path) -> None:
        self.rows = SqliteRows(folder / "online.db")
        fill(self.rows, FEATURES)
        reader, self.generations = FeatureReader(self.rows, FEATURES), 100
        view, catalogue = FEATURES.views["item_activity"], FEATURES.views["item_catalogue"]
        self.titles = {f"item{number}": title(number) for number in range(30)}
        self.upsert()
        self.items = ItemFeatures(
            reader,
            lambda: pa.concat_arrays([self.rows.keys(each.name) for each in (view, catalogue)]),
            {"item_view_count_24h": 1.0},
            {},
            view,
            [catalogue],
        )
        plain = model(FEATURES, 3)
        vectors = np.eye(3, dtype=np.float32)[np.arange(30) % 3]
        tables = replace(plain.tables, factors=Factors(vectors, 1.0, 5.0))
        content = fit_content({"title": pa.array([title(number) for number in range(30)])}, tables)
        self.artefact = Artefact(plain.manifest, tables, None, content)

    def upsert(self, **titles: str) -> None:
        """The catalogue has these items too; the rows are those of a new generation."""
        self.titles |= titles
        self.generations += 1
        now = time.time_ns() // 1_000_000
        table = pa.Table.from_pylist(
            [{"item_id": item, "title": text, "event_time": now - 1000} for item, text in self.titles.items()]
        )
        events = {"catalogue": from_columns(table, FEATURES.streams["catalogue"]).events}
        view = FEATURES.views["item_catalogue"]
        generation = self.rows.generation(self.generations)
        build_generation(generation, [view], self.generations, events, Marker(0, {}, {}, 0), now)
        self.rows.set_current(view.name, self.generations)

    def refresh(self) -> Artefact:
        """The model with the items of the store as it is now."""
        self.items.refresh(lambda: [self.artefact], time.time_ns() // 1_000_000)
        extended, inputs = self.items.current(self.artefact)
        assert inputs is not None
        assert inputs.shape[0] == len(extended.items)
        return extended


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop(tmp_path)


def test_an_item_of_the_catalogue_is_recommended_filtered_and_similar_after_one_refresh(shop):
    assert shop.refresh() is shop.artefact
    shop.upsert(fresh="mug of kind 0", other="lamp of kind 1")
    extended = shop.refresh()
    assert set(extended.items) == {*ITEMS, "fresh", "other"}
    snapshot, inputs = shop.items.snapshot, shop.items.current(shop.artefact)[1]
    query = ItemQuery("u1", 11, context=("item3",), conditions={"title": "mug of kind 0"})
    answer = recommend(query, UserRead(), extended, snapshot, inputs)
    assert {item.item_id: item.source for item in answer.items}["fresh"] == "content"
    assert answer.artefact is extended
    only = recommend(replace(query, conditions={"title": "lamp of kind 1"}), UserRead(), extended, snapshot, inputs)
    assert "other" in {item.item_id for item in only.items}
    alike = similar("fresh", ItemQuery(None, 5), extended, snapshot)
    assert alike.reason is None
    assert {item.source for item in alike.items} == {"content"}
    assert {item.item_id for item in alike.items} <= {f"item{number}" for number in range(0, 30, 3)}
    assert "fresh" in {item.item_id for item in similar("item6", ItemQuery(None, 30), extended, snapshot).items}


def test_what_has_not_changed_is_not_made_again_and_what_has_is(shop):
    shop.upsert(fresh="mug of kind 0", other="lamp of kind 1")
    first = shop.refresh()
    assert shop.refresh() is first
    shop.upsert(fresh="desk of kind 2", third="mug of kind 0")
    second = shop.refresh()
    assert second is not first
    once = Shop.refresh(_anew(shop))
    for item in ("fresh", "other", "third"):
        rows = [model.tables.factors.items[model.tables.index[item]] for model in (second, once)]
        assert np.array_equal(*rows), item
        assert second.similar(item, 4) == once.similar(item, 4)


def _anew(shop: Shop) -> Shop:
    """The same store and model, read by a service that has seen nothing before."""
    from serving.recommend.later_items import LaterItems

    shop.items._later = LaterItems()
    return shop


def test_an_item_without_attributes_does_not_join_the_model(shop):
    shop.upsert(nothing=None, fresh="mug of kind 0")
    assert set(shop.refresh().items) == {*ITEMS, "fresh"}


def test_a_model_without_attributes_stays_as_it_is(shop):
    shop.artefact = replace(shop.artefact, content=None)
    shop.upsert(fresh="mug of kind 0")
    assert shop.refresh() is shop.artefact
