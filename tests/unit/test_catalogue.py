"""Which items may be answered where a catalogue is defined: those that it has, and that are available."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from features.definitions import Entity, FeatureSet, FeatureView, Recommender, Stream, above
from features.definitions.aggregations import Count, Last
from features.rows.matrix import FeatureMatrix, Status
from serving.recommend.items import Catalogue

user, item = Entity("user", keys={"user_id": "string"}), Entity("item", keys={"item_id": "string"})
CLICKS = Stream("clicks", topic="c", fields={"user_id": "string", "item_id": "string"})
STOCK = Stream("stock", topic="s", fields={"item_id": "string", "stock": "int64", "state": "string"})
VIEW = FeatureView("catalogue", sets=[FeatureSet(item, STOCK, [Last("stock"), Last("state")], ["30d"])])
DEFINED = Recommender(
    "films",
    stream=CLICKS,
    user=user,
    item=item,
    user_view=FeatureView("users", sets=[FeatureSet(user, CLICKS, [Count()], ["1h"])]),
    item_view=FeatureView("items", sets=[FeatureSet(item, CLICKS, [Count()], ["1h"])]),
    targets=["click"],
    catalogue=VIEW,
    available={"stock": above(0), "state": "on sale"},
)


def matrix(*rows: tuple[Status, int | None, str | None]) -> FeatureMatrix:
    """A matrix of the catalogue's view with these rows."""
    status, stock, state = zip(*rows, strict=True)
    columns = (pa.array(stock, pa.int64()), pa.array(state, pa.string()))
    zeros = np.zeros(len(rows), np.int64)
    return FeatureMatrix(VIEW.names, columns, np.array(status, np.int8), zeros, zeros)


GONE, PRESENT, OLD = Status.NOT_FOUND, Status.PRESENT, Status.OUTSIDE_MAX_AGE


def test_an_item_is_answerable_if_the_catalogue_has_it_and_it_meets_every_condition():
    found = Catalogue(VIEW, DEFINED.availability).answerable(
        matrix(
            (PRESENT, 3, "on sale"),
            (PRESENT, 0, "on sale"),
            (PRESENT, None, "on sale"),
            (PRESENT, 3, "hidden"),
            (GONE, None, None),
            (OLD, None, None),
        )
    )
    assert found.tolist() == [True, False, False, False, False, False]


def test_a_catalogue_without_any_item_says_nothing_yet_and_one_that_has_them_all_leaves_out_none():
    catalogue = Catalogue(VIEW, {})
    assert catalogue.answerable(matrix((GONE, None, None), (GONE, None, None))) is None
    assert catalogue.answerable(matrix((PRESENT, None, None), (PRESENT, 1, None))) is None
    assert catalogue.answerable(matrix((PRESENT, None, None), (GONE, 1, None))).tolist() == [True, False]
