"""The recommender's inputs in small: a model of five items, and features of a user and of the items."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from features.arrays import Bools
from features.hashing import hash_texts
from features.rows.matrix import FeatureMatrix, Status
from models.folder import ViewInputs
from models.recommender.artefact import Artefact, Manifest
from models.recommender.tables import CandidateTables, SparseRows
from serving.recommend.attributes import Attributes
from serving.recommend.snapshot import ItemKeys, ItemRanking, ItemSnapshot, weighted

ITEMS = ("tea", "cup", "pot", "pen", "ink")
NOW = 1_700_000_000_000


def inputs(view: str, *names: str) -> ViewInputs:
    return ViewInputs(view=view, schema_hash="0" * 16, names=names)


def model() -> Artefact:
    """A model: tea, cup and pot go together, so do pen and ink; 'ann' bought tea before; pen is the most popular."""
    neighbours = {"tea": ["cup", "pot"], "cup": ["tea", "pot"], "pot": ["tea", "cup"], "pen": ["ink"], "ink": ["pen"]}
    columns = [[ITEMS.index(neighbour) for neighbour in neighbours[item]] for item in ITEMS]
    starts = np.cumsum([0, *map(len, columns)])
    tables = CandidateTables(
        items=ITEMS,
        neighbours=SparseRows(starts, np.concatenate(columns).astype(np.int32), np.ones(starts[-1], np.float32)),
        popular=np.array([1, 2, 3, 9, 4], np.float32),
        trending=np.array([0, 0, 0, 0, 0.5], np.float32),
        users=hash_texts(pa.array(["ann"])),
        histories=SparseRows(np.array([0, 1]), np.array([0], np.int32), np.ones(1, np.float32)),
        own_count=np.ones(1, np.float32),
        own_last_ms=np.array([NOW - 1000]),
    )
    manifest = Manifest(
        name="shop",
        created_ms=NOW,
        as_of_ms=NOW,
        target=("purchase",),
        items=len(ITEMS),
        user=inputs("user_activity"),
        item=inputs("item_activity"),
        recent_feature="recent",
    )
    return Artefact(manifest, tables)


def features(status: Status = Status.PRESENT, recent: list[str] | None = None) -> FeatureMatrix:
    """A user's features, with ``recent`` as the newest items."""
    column = pa.array([recent], pa.list_(pa.string()))
    return FeatureMatrix(("recent",), (column,), np.array([status], np.int8), np.array([NOW]), np.array([NOW - 5]))


def snapshot(
    keys: ItemKeys,
    matrix: FeatureMatrix,
    trending: Mapping[str, float],
    popular: Mapping[str, float],
    attributes: Attributes,
    answerable: Bools | None = None,
) -> ItemSnapshot:
    """The snapshot of these items, read at NOW and scored by weights of features."""
    scores = {"trending": weighted(matrix, trending), "popular": weighted(matrix, popular)}
    rankings = tuple(ItemRanking.of(source, values) for source, values in scores.items())
    return ItemSnapshot(keys, matrix, rankings, NOW, attributes, answerable)


def fresh(**counts: float):
    """A snapshot of items with these counts, and the attribute ``name``."""
    matrix = FeatureMatrix(
        ("hot",),
        (pa.array(list(counts.values()), pa.float64()),),
        np.zeros(len(counts), np.int8),
        np.full(len(counts), NOW),
        np.full(len(counts), NOW - 50),
    )
    keys = pa.array(list(counts), pa.string())
    return snapshot(ItemKeys(keys), matrix, {"hot": 1.0, "absent": 5.0}, {}, Attributes({"name": keys}))


def ids(items) -> list[str]:
    return [item.item_id for item in items]
