"""History of a spine that needs Spark: the same as one process says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from archived_month import T0, archive_month, asked_of, spine_of, tables_of

from features.definitions import Entity, FeatureSet, FeatureView, Stream
from features.definitions.aggregations import Sum
from features.definitions.repo import FeatureRepo, load_repo
from features.events.parsing import from_columns
from features.history.archive import open_table
from features.history.archive_reader import ArchiveReader
from features.history.on_spark import history_on_spark
from features.history.spines import history
from streaming.archive.sink import Archive
from streaming.spark.session import spark_session

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def repo():
    return load_repo(Path(__file__).resolve().parents[2] / "feature_repo")


@pytest.fixture(scope="module")
def tables(repo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("offline")
    archive_month(folder, repo)
    return tables_of(folder, repo)


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    session = spark_session("local[2]", "512m", [], tmp_path_factory.mktemp("logs"))
    yield session
    session.stop()


@pytest.mark.parametrize("name", ["user_activity", "terminal_risk"])
def test_spark_says_the_same_as_one_process(spark, repo, tables, name):
    view = repo.views[name]
    frame, as_of = spine_of(view, 150, 6)
    (key,) = view.entity.keys
    frame[key] = (
        frame[key].where(np.arange(len(frame)) % 40 > 0, None).astype("Int64" if frame[key].dtype == int else object)
    )
    (expected,) = history([asked_of(view, frame, as_of)], ArchiveReader(tables))
    asked = spark.createDataFrame(pa.Table.from_pandas(frame.assign(label=np.arange(len(frame)))))
    found = history_on_spark(spark, view, asked, tables, rows_a_bucket=400).toArrow().sort_by("label")
    assert found.column_names == [key, "event_timestamp", "label", *view.names]
    assert found["label"].to_pylist() == list(range(len(frame)))
    assert found[key].to_pylist() == pa.array(frame[key], from_pandas=True).to_pylist()
    for feature, column in zip(expected.names, expected.columns, strict=True):
        assert found[feature].combine_chunks().cast(column.type).equals(column), feature


@pytest.mark.parametrize("as_their", [str, float, lambda number: f" +{number}"])
def test_spark_takes_a_key_as_every_path_does(spark, repo, tables, as_their):
    view = repo.views["terminal_risk"]
    frame, as_of = spine_of(view, 20, 8)
    (expected,) = history([asked_of(view, frame, as_of)], ArchiveReader(tables))
    theirs = frame.assign(terminal_id=frame["terminal_id"].map(as_their), label=np.arange(len(frame)))
    found = history_on_spark(spark, view, spark.createDataFrame(theirs), tables).toArrow().sort_by("label")
    assert found["terminal_id"].to_pylist() == frame["terminal_id"].tolist()
    for feature, column in zip(expected.names, expected.columns, strict=True):
        assert found[feature].combine_chunks().cast(column.type).equals(column), feature


def test_spark_refuses_a_key_that_lost_a_digit(spark, repo, tables):
    view = repo.views["terminal_risk"]
    frame, _ = spine_of(view, 3, 8)
    asked = spark.createDataFrame(frame.assign(terminal_id=[1.0, 2.5, 3.0]))
    with pytest.raises(Exception, match="column 'terminal_id' of the spine requires int64"):
        history_on_spark(spark, view, asked, tables).toArrow()


def test_spark_reads_integer_times_as_milliseconds(spark, repo, tables):
    view = repo.views["terminal_risk"]
    frame, as_of = spine_of(view, 20, 8)
    (expected,) = history([asked_of(view, frame, as_of)], ArchiveReader(tables))
    asked = frame.assign(event_timestamp=as_of, label=np.arange(len(frame)))
    found = history_on_spark(spark, view, spark.createDataFrame(asked), tables).toArrow().sort_by("label")
    assert found["event_timestamp"].to_pylist() == as_of.tolist()
    for feature, column in zip(expected.names, expected.columns, strict=True):
        assert found[feature].combine_chunks().cast(column.type).equals(column), feature


def test_spark_answers_a_spine_that_nothing_is_known_of(spark, repo):
    view = repo.views["terminal_risk"]
    frame, _ = spine_of(view, 3, 1)
    found = history_on_spark(spark, view, spark.createDataFrame(pa.Table.from_pandas(frame)), {}).toArrow()
    assert [found[name].null_count for name in view.names] == [3] * len(view.names)


def test_spark_and_one_process_read_a_field_of_two_dtypes_alike(spark, tmp_path):
    user, table = Entity("user", {"user_id": "string"}), None
    for first, dtype, prices in ((0, "int64", [2]), (1, "float64", [2.5, 0.99, 19.95])):
        shop = Stream("shop", topic="t", event_id=None, fields={"user_id": "string", "price": dtype})
        view = FeatureView("by_user", sets=[FeatureSet(user, shop, [Sum("price")], ["1h"])])
        offset = np.arange(first, first + len(prices))
        columns = {"event_time": T0 + offset, "offset": offset, "user_id": ["u1"] * len(prices), "price": prices}
        archive = Archive(tmp_path, FeatureRepo(Path(), {"user": user}, {"shop": shop}, {"by_user": view}))
        archive.append(shop, from_columns(pa.table(columns), shop).events)
        table = open_table(tmp_path, shop)
    frame = pd.DataFrame({"user_id": ["u1"], "event_timestamp": pd.to_datetime([T0 + 10], unit="ms", utc=True)})
    (expected,) = history([asked_of(view, frame, np.array([T0 + 10]))], ArchiveReader({"shop": table}))
    found = history_on_spark(spark, view, spark.createDataFrame(pa.Table.from_pandas(frame)), {"shop": table}).toArrow()
    (name,) = view.names
    assert expected.columns[0].to_pylist() == found[name].to_pylist() == pytest.approx([25.44])
