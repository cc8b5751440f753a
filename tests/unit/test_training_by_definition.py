"""Training takes names from the definition alone: the same events in other words come to the same numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from shop_history import SETTINGS, shop
from shop_training import SHOP

from features.definitions import (
    Count,
    DecayedCount,
    Entity,
    FeatureSet,
    FeatureView,
    LastK,
    Recommender,
    Stream,
)
from features.definitions.repo import load_repo
from features.events.parsing import from_columns
from headrace.commands.models.options import chosen_training
from headrace.project import Project
from headrace.settings import Settings
from models.recommender.arrays import candidate_arrays
from training.data.dataset import Domain, interactions_of
from training.recommender.fit import Trained, train
from training.run import TrainingRun
from training.settings import TrainingSettings

QUICK = {"iterations": 10, "smallest_leaf": 10, "ease_l2": 20.0, "moments": 300, "target_events": 50}


@dataclass(frozen=True)
class Words:
    """A trade's names: of its stream, the fields of user, item, kind, category and price, and two kinds of events."""

    stream: str
    user: str
    item: str
    kind: str | None
    sort: str
    cost: str
    looked: str
    took: str


OF_SHOP = Words("activity", "user_id", "item_id", "event_type", "category", "price", "view", "purchase")
OF_OTHERS = Words("behaviour", "who", "what", "how", "shelf", "fee", "pv", "buy")


def recommender_of(words: Words) -> Recommender:
    """The same recommender in these words."""
    user, item = Entity("user", keys={words.user: "string"}), Entity("item", keys={words.item: "string"})
    texts = (words.user, words.item, words.kind, words.sort)
    fields = {**{name: "string" for name in texts if name is not None}, words.cost: "float64"}
    stream = Stream(words.stream, topic=words.stream, fields=fields)
    took = {} if words.kind is None else {words.kind: words.took}
    sets = ([Count(), DecayedCount("1d")], ["1d", "7d"])
    users = [FeatureSet(user, stream, *sets), FeatureSet(user, stream, [LastK(words.item, 10)], ["7d"])]
    return Recommender(
        "one",
        stream=stream,
        user=user,
        item=item,
        user_view=FeatureView("users", sets=[*users, FeatureSet(user, stream, *sets, where=took, name="took")]),
        item_view=FeatureView(
            "items", sets=[FeatureSet(item, stream, *sets), FeatureSet(item, stream, *sets, where=took, name="took")]
        ),
        kind=words.kind,
        weights={words.took: 1.0} if words.kind is None else {words.looked: 0.2, words.took: 1.0},
        targets=[words.took],
        category=words.sort,
        price=words.cost,
    )


def history(words: Words) -> pa.Table:
    """The events of the small shop in these words; an item's category is its last digit."""
    events = shop(Domain.of(SHOP))
    kinds = {"view": words.looked, "purchase": words.took}
    columns = {
        "event_id": events["event_id"],
        "event_time": events["event_time"],
        words.user: events["user_id"],
        words.item: events["item_id"],
        words.sort: pa.array([item[-1] for item in events["item_id"].to_pylist()]),
        words.cost: events["price"],
    }
    if words.kind is not None:
        columns[words.kind] = pa.array([kinds[kind] for kind in events["event_type"].to_pylist()])
    return from_columns(pa.table(columns), recommender_of(words).stream).events


def trained(recommender: Recommender, events: pa.Table, settings: TrainingSettings) -> Trained:
    return train(TrainingRun.of({recommender.stream.name: events}, Domain.of(recommender), settings), 7)


def same(one: Trained, other: Trained) -> None:
    """Both have the same tables, ranker and figures, to the bit."""
    mine, theirs = (candidate_arrays(each.artefact.tables) for each in (one, other))
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    assert [dict(row.metrics) for row in one.rows] == [dict(row.metrics) for row in other.rows]
    assert one.learnt.examples == other.learnt.examples > 0
    rows = np.random.default_rng(3).normal(size=(50, one.learnt.ranker.n_features_in_))
    np.testing.assert_array_equal(one.artefact.chances(rows), other.artefact.chances(rows))


def test_the_same_events_in_other_words_come_to_the_same_model():
    ours, theirs = (
        trained(recommender_of(words), history(words), TrainingSettings.of(recommender_of(words), QUICK))
        for words in (OF_SHOP, OF_OTHERS)
    )
    assert theirs.run.target == ("buy",)
    assert ours.artefact.tables.category is not None
    same(ours, theirs)


def test_the_shop_as_it_is_defined_and_by_the_settings_of_before_come_to_the_same_model():
    repo = replace(load_repo("feature_repo"), recommenders={})
    usual = repo.chosen_recommenders().named("shop-recommender", "here")
    events = shop(Domain.of(SHOP))
    by_settings = TrainingSettings.of(usual, QUICK)
    by_definition = TrainingSettings.of(SHOP, QUICK)
    same(trained(usual, events, by_settings), trained(SHOP, events, by_definition))


def test_events_without_a_field_of_kinds_are_all_the_target():
    recommender = recommender_of(replace(OF_OTHERS, kind=None))
    found = interactions_of({"behaviour": history(replace(OF_OTHERS, kind=None))}, Domain.of(recommender))
    assert found.kinds == ("buy",)
    assert len(found) == shop(Domain.of(SHOP)).num_rows


def test_a_ranker_takes_the_inputs_that_the_definition_names():
    recommender = replace(recommender_of(OF_OTHERS), item_inputs=["item_count_7d"], user_inputs=["user_count_24h"])
    made = trained(recommender, history(OF_OTHERS), TrainingSettings.of(recommender, QUICK))
    manifest = made.artefact.manifest
    assert (manifest.user.names, manifest.item.names) == (("user_count_24h",), ("item_count_7d",))


# --- settings over a definition ---


def project(tmp_path, training: dict[str, object]) -> Project:
    (tmp_path / "feature_repo").symlink_to(Path("feature_repo").resolve())
    return Project(tmp_path, Settings().model_copy(update={"training": training}))


def test_settings_of_before_count_over_the_definition_and_a_line_says_what_replaces_them(tmp_path, capsys):
    written = {"weights": {"view": 0.1}, "targets": ["cart"], "item_view": "item_activity", "iterations": 7}
    recommender, chosen = chosen_training(project(tmp_path, written), None, ["weights.click=0.3", "k=5"])
    assert recommender.item_view == SHOP.item_view
    assert chosen.weights == {**SHOP.counts, "view": 0.1, "click": 0.3}
    assert (chosen.targets, chosen.iterations, chosen.k) == (("cart",), 7, 5)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "[training] item_view, targets, weights: write item_view=, targets=, weights= of Recommender(" in said


def test_tuning_says_nothing_and_a_new_name_is_of_the_default_definition(tmp_path, capsys):
    recommender, chosen = chosen_training(project(tmp_path, {"iterations": 7}), "books", ["category_field="])
    assert recommender == replace(SHOP, name="books", category=None)
    assert chosen.name == "books"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", [(), ("factor",)])
def test_sources_and_repeats_are_of_the_definition(value):
    recommender = replace(SHOP, sources=value, repeats=False)
    assert TrainingSettings.of(recommender).sources == value
    assert TrainingSettings.of(recommender).repeats is False
    assert TrainingSettings.of(SHOP).repeats is SETTINGS.repeats is None
