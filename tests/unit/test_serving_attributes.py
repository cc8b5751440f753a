"""What a request may filter by, and what features it may bring itself."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from features.definitions import Entity, FeatureSet, FeatureView, Stream, attributes_of
from features.definitions.aggregations import Count, Last, LastK
from features.rows.matrix import FeatureMatrix, Status
from serving.recommend.attributes import NO_ATTRIBUTES, Attributes, FieldError
from serving.recommend.request_features import overridden, request_columns

item = Entity("item", keys={"item_id": "string"})
STREAM = Stream(
    "s",
    topic="t",
    fields={"item_id": "string", "category": "string", "price": "float64", "stock": "int64", "new": "bool"},
)
CATALOGUE = FeatureView(
    "catalogue",
    sets=[FeatureSet(item, STREAM, [Last("category"), Last("price"), Last("stock"), Last("new")], ["7d", "30d"])],
)
SOLD = FeatureView("sold", sets=[FeatureSet(item, STREAM, [Last("price"), Count(), LastK("category", 2)], ["1h"])])
ITEMS = ("tea", "cup", "pen")


def matrix(view: FeatureView, **columns: list) -> FeatureMatrix:
    """A matrix of three items in which the features that are not named are null."""
    found = []
    for feature in view.features:
        kind = (
            pa.list_(pa.string())
            if feature.dtype.startswith("list")
            else {"string": pa.string(), "float64": pa.float64(), "int64": pa.int64(), "bool": pa.bool_()}[
                feature.dtype
            ]
        )
        found.append(pa.array(columns.get(feature.name, [None] * 3), kind))
    return FeatureMatrix(view.names, tuple(found), np.zeros(3, np.int8), np.zeros(3, np.int64), np.zeros(3, np.int64))


@pytest.fixture
def attributes() -> Attributes:
    catalogue = matrix(
        CATALOGUE,
        item_category_last_30d=["drinks", "dishes", None],
        item_price_last_30d=[5.0, None, None],
        item_stock_last_30d=[3, 0, 9],
        item_new_last_30d=[True, False, None],
    )
    sold = matrix(SOLD, item_price_last_1h=[99.0, 8.0, None])
    return Attributes.of([(CATALOGUE, catalogue), (SOLD, sold)])


def test_attributes_are_the_last_values_that_views_keep_over_their_longest_window():
    named = {name: feature.name for name, feature in attributes_of(CATALOGUE).items()}
    assert named == {name: f"item_{name}_last_30d" for name in ("category", "price", "stock", "new")}
    assert {name: feature.name for name, feature in attributes_of(SOLD).items()} == {"price": "item_price_last_1h"}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"category": "drinks"}, {"tea"}),
        ({"category": ["drinks", "dishes", "ink"]}, {"tea", "cup"}),
        ({"price": {"max": 8}}, {"tea", "cup"}),
        ({"price": {"min": 5.5, "max": 8.0}}, {"cup"}),
        ({"stock": {"min": 1}}, {"tea", "pen"}),
        ({"stock": [0, 9]}, {"cup", "pen"}),
        ({"new": True}, {"tea"}),
        ({"category": ["drinks", "dishes"], "price": {"min": 6}}, {"cup"}),
        ({"price": {"min": 100}}, set()),
        ({}, {"tea", "cup", "pen"}),
    ],
)
def test_a_filter_keeps_the_items_that_meet_every_condition_and_none_of_unknown_value(attributes, wanted, found):
    met = attributes.meeting(wanted)
    assert {item for item, meets in zip(ITEMS, [True] * 3 if met is None else met, strict=True) if meets} == found
    backwards = attributes.meeting(wanted, np.array([2, 1, 0, 1]))
    assert backwards is met is None or backwards.tolist() == met[[2, 1, 0, 1]].tolist()


@pytest.mark.parametrize(
    ("wanted", "field", "required"),
    [
        ({"colour": "red"}, "filter", "an attribute of items (category, new, price, stock)"),
        ({"price": {"below": 3}}, "filter.price", "min, max or both"),
        ({"price": {}}, "filter.price", "min, max or both"),
        ({"price": []}, "filter.price", "a value, a list of values"),
        ({"price": "cheap"}, "filter.price", "values of type double"),
        ({"category": 3}, "filter.category", "values of type string"),
        ({"category": {"min": 3}}, "filter.category.min", "values of type string"),
        ({"new": 1}, "filter.new", "values of type bool"),
        ({"stock": True}, "filter.stock", "values of type int64"),
        ({"stock": 1.5}, "filter.stock", "whole numbers"),
        ({"stock": 2**63}, "filter.stock", "int64 to the digit"),
        ({"stock": 1e300}, "filter.stock", "int64 to the digit"),
        ({"price": 2**53 + 1}, "filter.price", "double to the digit"),
        ({"stock": {"min": -(2**70)}}, "filter.stock.min", "int64 to the digit"),
    ],
)
def test_a_filter_that_cannot_be_met_names_the_field_and_what_there_is(attributes, wanted, field, required):
    with pytest.raises(FieldError) as caught:
        attributes.check(wanted)
    assert caught.value.field == field
    assert required in caught.value.required


def test_without_any_attribute_a_filter_says_that_there_is_none():
    with pytest.raises(FieldError) as caught:
        NO_ATTRIBUTES.check({"price": 3})
    assert "none: no view of items" in caught.value.required


def test_items_of_one_kind_are_alike_and_an_unknown_kind_says_nothing(attributes):
    alike = attributes.alike(np.array([0, 1, 2, -1, 0]), "category")
    assert alike[0].tolist()[:2] == [1.0, 0.0]
    assert alike[0, 4] == 1.0
    assert np.isnan(alike[0, 2:4]).all()
    assert np.isnan(attributes.alike(np.array([0]), "absent")).all()


USER = FeatureView(
    "user",
    sets=[FeatureSet(item, STREAM, [Count(), Last("price"), Last("new"), LastK("category", 3)], ["1h"], name="u")],
)


def test_given_features_stand_over_those_of_the_store_and_the_others_stay():
    (count, price, new, recent) = USER.names
    read = FeatureMatrix(
        USER.names,
        (pa.array([7]), pa.array([1.5]), pa.array([True]), pa.array([["old"]])),
        np.zeros(1, np.int8),
        np.array([50]),
        np.array([40]),
    )
    given = request_columns(USER, {recent: ["a", "b"], price: 3, new: None})
    (row,) = overridden(USER, read, given, 99).to_table().to_pylist()
    assert row == {count: 7, price: 3.0, new: None, recent: ["a", "b"]}


@pytest.mark.parametrize("status", [Status.NOT_FOUND, Status.OUTSIDE_MAX_AGE, None])
def test_given_features_stand_alone_where_the_store_has_none(status):
    read = None
    if status is not None:
        columns = tuple(pa.nulls(1, column.type) for column in matrix(USER).columns)
        read = FeatureMatrix(USER.names, columns, np.array([status], np.int8), np.array([5]), np.array([1]))
    found = overridden(USER, read, request_columns(USER, {USER.names[0]: 4}), 99)
    assert found.to_table().to_pylist() == [dict.fromkeys(USER.names) | {USER.names[0]: 4}]
    assert (found.status[0], found.as_of[0]) == (Status.PRESENT, 99)


@pytest.mark.parametrize(
    ("name", "value"),
    [("absent", 1), (USER.names[0], "7"), (USER.names[0], True), (USER.names[2], 1), (USER.names[3], "a"),
     (USER.names[0], [1]), (USER.names[3], [1]), (USER.names[0], 2**70)],
)  # fmt: skip
def test_a_given_feature_of_another_name_or_type_is_refused(name, value):
    with pytest.raises(FieldError, match=name):
        request_columns(USER, {name: value})
