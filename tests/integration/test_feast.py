"""Feast itself, applied to a copy of our feature repo: what it returns is what the rows say."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from features.definitions.repo import load_repo
from features.errors import UsageError
from features.events.parsing import event_schema, from_columns
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker
from features.online_store.reader import FeatureReader
from features.online_store.settings import read_settings_of, settings_of
from features.online_store.sqlite.rows import SqliteRows
from features.rows.matrix import Status
from features.times import now_ms

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Feast's, of pandas and pydantic
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
ROOT = Path(__file__).resolve().parents[2]
GENERATION = 7
USERS = [f"u{number}" for number in range(500)]
ITEMS = [f"i{number}" for number in range(40)]
MINUTE_MS = 60_000
ORDINARY = """
from datetime import timedelta
from pathlib import Path
from feast import Entity, FeatureView, Field, FileSource, PushSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, String
from headrace.feast import feast_objects

driver = Entity(name="driver", join_keys=["user_id"], value_type=ValueType.STRING)
stats = FeatureView(
    name="stats", entities=[driver], ttl=timedelta(days=1),
    schema=[Field(name="user_id", dtype=String), Field(name="trust", dtype=Float64)],
    source=PushSource(
        name="stats_push",
        batch_source=FileSource(name="stats_file", path="stats.parquet", timestamp_field="event_timestamp"),
    ),
)
shop = feast_objects(Path(__file__).with_name("shop.py"))

@on_demand_feature_view(
    sources=[shop["user_activity_view"]], schema=[Field(name="views_twice", dtype=Float64)], mode="python"
)
def twice(inputs):
    return {"views_twice": [None if one is None else 2.0 * one for one in inputs["user_view_count_1h"]]}
"""


def shop_events(now: int) -> pa.Table:
    """A view and a purchase of every user, the older ones long ago."""
    day_ms = 24 * 60 * MINUTE_MS
    rng = np.random.default_rng(7)
    ago = [MINUTE_MS] * 480 + [40 * day_ms] * 10 + [70 * day_ms] * 10
    columns = {
        "event_id": [f"{kind}-{user}" for kind in ("view", "purchase") for user in USERS],
        "event_type": ["view"] * len(USERS) + ["purchase"] * len(USERS),
        "user_id": USERS * 2,
        "item_id": rng.choice(ITEMS, 2 * len(USERS)).tolist(),
        "event_time": [now - one for one in ago * 2],
        "price": rng.integers(1, 99, 2 * len(USERS)).astype(float).tolist(),
        "quantity": [1] * (2 * len(USERS)),
        "category": ["c"] * (2 * len(USERS)),
        "partition": [0] * (2 * len(USERS)),
        "offset": list(range(2 * len(USERS))),
    }
    return pa.table({**columns, "known_at": columns["event_time"]})


@pytest.fixture(scope="module")
def applied(tmp_path_factory):
    """A project folder where `feast apply` has run, and whose online store has rows of half of what is asked for."""
    home = tmp_path_factory.mktemp("project")
    folder = home / "feature_repo"
    shutil.copytree(ROOT / "feature_repo", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "ordinary.py").write_text(ORDINARY)
    feast = Path(sys.executable).parent / "feast"
    done = subprocess.run(
        [feast, "apply"],
        cwd=folder,
        env=os.environ | {"FEAST_USAGE": "False"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    repo = load_repo(folder)
    now = now_ms()
    parsed = from_columns(shop_events(now), repo.streams["activity"], repo.horizon_ms("activity"))
    views = [repo.views["user_activity"], repo.views["item_activity"]]
    with closing(SqliteRows(home / ".headrace" / "online.db")) as rows:
        at = Marker(0, {}, {}, 0)
        archive = {name: parsed.events if name == "activity" else empty(repo, name) for name in streams(views)}
        build_generation(rows.generation(GENERATION), views, GENERATION, archive, at, now)
        for view in views:
            rows.set_current(view.name, GENERATION)
    return folder


def streams(views):
    return {stream.name for view in views for stream in view.streams}


def empty(repo, name):
    return event_schema(repo.streams[name]).empty_table()


@pytest.fixture(scope="module")
def feast_store(applied):
    from feast import FeatureStore

    return FeatureStore(repo_path=str(applied))


@pytest.fixture
def reader(applied):
    with closing(SqliteRows(applied.parent / ".headrace" / "online.db")) as rows:
        yield FeatureReader(rows, load_repo(applied))


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch):
    """Feast's read and ours are as of the same instant."""
    now = now_ms()
    monkeypatch.setattr("features.times.time.time_ns", lambda: now * 1_000_000)


def references(view):
    return [f"{view.name}:{name}" for name in view.names]


def user_view(applied):
    return load_repo(applied).views["user_activity"]


def test_feast_knows_every_view_with_its_features_in_order_and_with_its_ttl(applied, feast_store):
    for name, view in load_repo(applied).views.items():
        known = feast_store.get_feature_view(name)
        assert [field.name for field in known.features] == list(view.names)
        assert [column.name for column in known.entity_columns] == list(view.entity.keys)
        assert known.ttl == timedelta(milliseconds=view.ttl_ms)
        assert [one.name for one in feast_store.get_feature_service(name).feature_view_projections] == [name]


def test_loading_the_definitions_of_a_repo_that_feast_uses_does_not_import_feast(applied):
    program = (
        "import sys; from features.definitions.repo import load_repo; load_repo('.'); sys.exit('feast' in sys.modules)"
    )
    (applied / "ordinary.py").rename(applied / "ordinary.txt")
    try:
        done = subprocess.run([sys.executable, "-c", program], cwd=applied, capture_output=True, text=True, check=False)
    finally:
        (applied / "ordinary.txt").rename(applied / "ordinary.py")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("count", [1, 100, 500])
def test_an_online_read_by_feast_is_what_finalize_says_of_the_rows(applied, feast_store, reader, count):
    keys = [*USERS[-count // 2 :], *(f"nobody{number}" for number in range(count // 4)), *USERS][:count]
    view = user_view(applied)
    matrix = reader.read(view.name, pa.array(keys))
    response = feast_store.get_online_features(references(view), [{"user_id": key} for key in keys])
    assert response.to_arrow().equals(matrix.to_table().add_column(0, "user_id", pa.array(keys)))
    assert response.to_dict() == {"user_id": keys, **matrix.to_table().to_pydict()}


def test_every_status_is_the_true_one(applied, feast_store):
    from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

    view = user_view(applied)
    rows = {"user_id": ["u0", "u485", "u495", "nobody", None]}
    proto = feast_store.get_online_features(references(view), rows).proto
    by_name = dict(zip(proto.metadata.feature_names.val, proto.results, strict=True))
    gone = [FieldStatus.OUTSIDE_MAX_AGE, FieldStatus.NOT_FOUND, FieldStatus.NOT_FOUND, FieldStatus.NOT_FOUND]
    assert list(by_name["user_view_count_1h"].statuses) == [FieldStatus.PRESENT, *gone]
    assert by_name["user_view_count_1h"].values[0].int64_val == 1
    rated = next(name for name in view.names if "rating_mean" in name)
    assert list(by_name[rated].statuses) == [FieldStatus.NULL_VALUE, *gone]
    assert [value.WhichOneof("val") for value in by_name[rated].values] == [None] * 5


def test_the_protobuf_says_what_the_dict_says(applied, feast_store):
    from feast.online_response import OnlineResponse

    response = feast_store.get_online_features(
        references(user_view(applied)), {"user_id": ["u0", "u485", "nobody"]}, full_feature_names=True
    )
    again = OnlineResponse(response.proto)
    for with_times in (False, True):
        assert again.to_dict(with_times) == response.to_dict(with_times)
    frame = response.to_df(include_event_timestamps=True)
    assert frame["user_activity__user_view_count_1h"].tolist()[0] == 1.0
    assert frame["user_id"].tolist() == ["u0", "u485", "nobody"]


def test_a_feature_service_and_the_async_call_answer_the_same(applied, feast_store):
    rows = {"user_id": USERS[:20]}
    service = feast_store.get_feature_service("user_activity")
    expected = feast_store.get_online_features(references(user_view(applied)), rows).to_dict()
    assert feast_store.get_online_features(service, rows).to_dict() == expected
    answer = asyncio.run(feast_store.get_online_features_async(service, rows))
    assert answer.to_dict() == expected


def test_two_entities_can_be_asked_for_together(applied, feast_store, reader):
    features = ["user_activity:user_view_count_1h", "item_activity:item_view_count_1h"]
    rows = {"user_id": ["u0", "nobody"], "item_id": ["i1", "i2"]}
    response = feast_store.get_online_features(features, rows).to_dict()
    items = reader.read("item_activity", pa.array(rows["item_id"])).to_table()
    assert response["item_view_count_1h"] == items["item_view_count_1h"].to_pylist()
    assert response["user_view_count_1h"] == [1, None]


def written(feast_store, user, trust, moment):
    frame = pd.DataFrame({"user_id": [user], "trust": [trust], "event_timestamp": [moment]})
    feast_store.write_to_online_store("stats", frame)


def test_an_ordinary_view_is_written_and_read_and_keeps_the_newest(feast_store):
    hour_ago, hour = datetime.now(UTC) - timedelta(hours=1), timedelta(minutes=30)
    for trust, moment, expected in (
        (0.5, hour_ago, 0.5),
        (0.9, hour_ago - hour, 0.5),
        (0.7, hour_ago, 0.7),
        (0.8, hour_ago + hour, 0.8),
    ):
        written(feast_store, "u0", trust, moment)
        found = feast_store.get_online_features(["stats:trust"], {"user_id": ["u0", "nobody"]}).to_dict()
        assert found == {"user_id": ["u0", "nobody"], "trust": [expected, None]}


def test_an_ordinary_view_can_be_pushed_to(feast_store):
    frame = pd.DataFrame({"user_id": ["u7"], "trust": [0.25], "event_timestamp": [datetime.now(UTC)]})
    feast_store.push("stats_push", frame)
    assert feast_store.get_online_features(["stats:trust"], {"user_id": ["u7"]}).to_dict()["trust"] == [0.25]


def test_an_ordinary_view_tells_what_is_older_than_its_ttl_from_what_is_not_there(feast_store):
    from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

    for user, age in (("u11", timedelta(hours=23)), ("u12", timedelta(hours=36)), ("u13", timedelta(hours=49))):
        written(feast_store, user, 0.5, datetime.now(UTC) - age)
    response = feast_store.get_online_features(["stats:trust"], {"user_id": ["u11", "u12", "u13", "u14"]})
    expected = [FieldStatus.PRESENT, FieldStatus.OUTSIDE_MAX_AGE, FieldStatus.NOT_FOUND, FieldStatus.NOT_FOUND]
    assert list(response.proto.results[1].statuses) == expected
    assert response.to_dict()["trust"] == [0.5, None, None, None]


def test_an_on_demand_view_computes_from_ours(feast_store):
    features = ["twice:views_twice", "user_activity:user_view_count_1h"]
    found = feast_store.get_online_features(features, {"user_id": ["u0", "u1"]}).to_dict()
    assert found["views_twice"] == [2.0 * count for count in found["user_view_count_1h"]] == [2.0, 2.0]


def test_entity_rows_may_come_as_columns_of_feasts_values(applied, feast_store):
    from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value

    features = references(user_view(applied))
    users = RepeatedValue(val=[Value(string_val=user) for user in USERS[:3]])
    found = feast_store.get_online_features(features, {"user_id": users}).to_dict()
    assert found == feast_store.get_online_features(features, [{"user_id": user} for user in USERS[:3]]).to_dict()


def test_feasts_feature_server_answers_with_our_values_and_statuses(feast_store):
    from fastapi.testclient import TestClient
    from feast.feature_server import get_app

    asked = {"features": ["user_activity:user_view_count_1h"], "entities": {"user_id": ["u0", "u485", "nobody"]}}
    with TestClient(get_app(feast_store)) as client:
        answer = client.post("/get-online-features", json=asked)
    assert answer.status_code == 200, answer.text
    by_name = dict(zip(answer.json()["metadata"]["feature_names"], answer.json()["results"], strict=True))
    assert by_name["user_view_count_1h"]["values"] == [1, None, None]
    assert by_name["user_view_count_1h"]["statuses"] == ["PRESENT", "OUTSIDE_MAX_AGE", "NOT_FOUND"]


def test_an_ordinary_view_and_ours_can_be_asked_for_together_and_ours_keeps_its_statuses(applied, feast_store):
    from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

    features = ["stats:trust", "user_activity:user_view_count_1h"]
    proto = feast_store.get_online_features(features, {"user_id": ["u485", "u0", "nobody"]}).proto
    by_name = dict(zip(proto.metadata.feature_names.val, proto.results, strict=True))
    statuses = [FieldStatus.OUTSIDE_MAX_AGE, FieldStatus.PRESENT, FieldStatus.NOT_FOUND]
    assert list(by_name["user_view_count_1h"].statuses) == statuses
    assert by_name["user_view_count_1h"].values[1].int64_val == 1


def test_feast_cannot_overwrite_what_the_stream_writes(applied, feast_store):
    table = feast_store.get_feature_view(user_view(applied).name)
    with pytest.raises(UsageError, match="the stream to write it"):
        feast_store._get_provider().online_write_batch(feast_store.config, table, [], None)


@pytest.mark.parametrize(
    ("features", "rows"),
    [
        (["user_activity:no_such_feature"], {"user_id": ["u0"]}),
        (["no_such_view:x"], {"user_id": ["u0"]}),
        (["user_activity:user_view_count_1h"], {"item_id": ["u0"]}),
    ],
)
def test_what_feast_refuses_is_refused_as_feast_does(feast_store, features, rows):
    with pytest.raises(Exception, match=r"no_such_feature|no_such_view|user_id"):
        feast_store.get_online_features(features, rows).to_dict()


@pytest.mark.parametrize(
    ("feature", "rows", "message"),
    [
        ("customer_spending:customer_payment_count_24h", {"customer_id": ["ann"]}, "'customer_id' requires int64"),
        ("customer_spending:customer_payment_count_24h", {"customer_id": [2**64]}, "'customer_id' requires int64"),
        ("user_activity:user_view_count_1h", {"user_id": [7.5]}, "'user_id' requires string"),
        ("user_activity:user_view_count_1h", {"user_id": ["u1", True]}, "'user_id' requires string"),
    ],
)
def test_a_key_that_is_not_of_its_type_is_refused_by_its_name(feast_store, feature, rows, message):
    with pytest.raises(UsageError, match=message):
        feast_store.get_online_features([feature], rows)


def test_a_key_is_the_same_as_text_integer_and_float_and_null_is_nobody(applied, feast_store):
    same, user = [7, "7", 7.0, " 7"], [3, "3", 3.0]
    names = ["customer_spending:customer_payment_count_24h"]
    found = feast_store.get_online_features(names, {"customer_id": [*same, None, float("nan")]}).to_dict()
    assert found["customer_payment_count_24h"] == [None] * 6
    found = feast_store.get_online_features(["user_activity:user_view_count_1h"], {"user_id": [*user, None]}).to_dict()
    assert found["user_view_count_1h"] == [None] * 4


def test_an_empty_store_has_nobody(applied, feast_store, reader):
    assert set(reader.read("customer_spending", pa.array(["1"])).status) == {Status.NOT_FOUND}
    found = feast_store.get_online_features(["customer_spending:customer_payment_count_24h"], {"customer_id": [1]})
    assert found.to_dict() == {"customer_id": [1], "customer_payment_count_24h": [None]}


def test_variables_in_feature_store_yaml_mean_what_they_mean_to_feast(tmp_path, monkeypatch):
    from feast.repo_config import load_repo_config

    monkeypatch.setenv("CACHE_HOST", "cache.internal")
    monkeypatch.setenv("CACHE_DEADLINE_MS", "40")
    monkeypatch.delenv("CACHE_DB", raising=False)
    path = tmp_path / "feature_store.yaml"
    text = """\
project: shop
provider: local
registry: registry.db
entity_key_serialization_version: 3
online_store:
  type: headrace.feast.RedisRowsOnlineStore
  url: redis://$CACHE_HOST:6379/${CACHE_DB}
  deadline_ms: ${CACHE_DEADLINE_MS}
"""
    path.write_text(text, encoding="utf-8")
    found = read_settings_of(path)
    assert (found.address, found.deadline_ms) == ("redis://cache.internal:6379/${CACHE_DB}", 40)
    config = load_repo_config(tmp_path, path)
    assert found == settings_of(config.online_store.model_dump(), tmp_path, config.project)
    assert found.project == "shop"
