"""Training sets by Feast from real Delta tables: every row of the spine, and what the online store would have said."""

from __future__ import annotations

import importlib.util
import shutil
import warnings
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archived_month import DAY_MS, T0, archive_month, asked_of, shop_events, spine_of, tables_of

from features.checks.oracle import differences, disagreements, oracle
from features.definitions.repo import load_repo
from features.errors import UsageError
from features.events.parsing import from_columns
from features.feast.objects import objects_of
from features.history.archive_reader import ArchiveReader
from features.history.spines import history
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker
from features.online_store.sqlite.rows import SqliteRows
from streaming.archive.sink import Archive

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Feast's, of pandas and pydantic
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]
ROOT = Path(__file__).resolve().parents[2]
GENERATION = 3
TRUST_AT = datetime.fromtimestamp(T0 / 1000, UTC)
MORE = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, String

driver = Entity(name="driver", join_keys=["user_id"], value_type=ValueType.STRING)
stats = FeatureView(
    name="stats", entities=[driver], ttl=timedelta(days=40),
    schema=[Field(name="user_id", dtype=String), Field(name="trust", dtype=Float64)],
    source=FileSource(name="stats_file", path="stats.parquet", timestamp_field="event_timestamp"),
)

@on_demand_feature_view(sources=[stats], schema=[Field(name="doubled", dtype=Float64)])
def twice(inputs):
    return (inputs[["trust"]] * 2).rename(columns={"trust": "doubled"})
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project folder whose definitions Feast knows, with an archive of several commits."""
    from feast import FeatureStore

    home = tmp_path_factory.mktemp("project")
    folder = home / "feature_repo"
    shutil.copytree(ROOT / "feature_repo", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "more.py").write_text(MORE)
    trust = {"user_id": ["u1", "u2", "u1", "now"], "trust": [0.5, 0.7, 0.9, 0.8]}
    now = datetime.now(UTC)  # of whom an online read still knows something
    times = [TRUST_AT, TRUST_AT, datetime.fromtimestamp((T0 + 20 * DAY_MS) / 1000, UTC), now]
    pq.write_table(pa.table({**trust, "event_timestamp": times}), folder / "stats.parquet")
    repo = load_repo(folder)
    spec = importlib.util.spec_from_file_location("more", folder / "more.py")
    more = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(more)
    with warnings.catch_warnings(action="ignore"):  # Feast's, of on-demand views
        FeatureStore(str(folder)).apply([*objects_of(repo).values(), more.driver, more.stats, more.twice])
    archive_month(home / ".headrace" / "offline", repo)
    return folder


@pytest.fixture(scope="module")
def feast_store(project):
    from feast import FeatureStore

    return FeatureStore(repo_path=str(project))


@pytest.fixture(scope="module")
def repo(project):
    return load_repo(project)


@pytest.fixture(scope="module")
def tables(project, repo):
    return tables_of(project.parent / ".headrace" / "offline", repo)


def references(view):
    return [f"{view.name}:{name}" for name in view.names]


def matrix_of(view, table, found):
    """Feast's answer in the form that the oracle is compared with: its statuses and times are the oracle's own."""
    from features.rows.matrix import FeatureMatrix

    columns = tuple(table[name].combine_chunks() for name in view.names)
    return FeatureMatrix(view.names, columns, found.status, found.as_of, found.newest_event)


@pytest.mark.parametrize("name", ["user_activity", "item_activity", "customer_spending", "terminal_risk"])
def test_what_feast_returns_for_a_spine_is_what_the_oracle_says(feast_store, repo, tables, name):
    view = repo.views[name]
    frame, as_of = spine_of(view, 60, 11)
    table = feast_store.get_historical_features(frame, references(view)).to_arrow()
    (found,) = history([asked_of(view, frame, as_of)], ArchiveReader(tables))
    rows = {stream: one.events().to_pylist() for stream, one in tables.items()}
    keys = frame[list(view.entity.keys)].to_dict("records")
    expected = [oracle(view, key, int(at), rows) for key, at in zip(keys, as_of, strict=True)]
    assert disagreements(view, expected, matrix_of(view, table, found)) == []
    assert any(isinstance(answer, dict) for answer in expected)


@pytest.mark.parametrize("name", ["user_activity", "terminal_risk"])
def test_history_at_the_clock_is_what_an_online_read_says_then(
    project, feast_store, repo, tables, name, tmp_path, monkeypatch
):
    view = repo.views[name]
    clock = max(int(one.events(["known_at"])["known_at"].to_numpy().max()) for one in tables.values())
    monkeypatch.setattr("features.times.time.time_ns", lambda: clock * 1_000_000)
    archive = {one.name: tables[one.name].events() for one in view.streams}
    with closing(SqliteRows(project.parent / ".headrace" / "online.db")) as rows:
        build_generation(rows.generation(GENERATION), [view], GENERATION, archive, Marker(0, {}, {}, 0), clock)
        rows.set_current(view.name, GENERATION)
    (key, dtype), *_ = view.entity.keys.items()
    keys = [f"u{number}" if dtype == "string" else number for number in range(30)]
    online = feast_store.get_online_features(references(view), {key: keys}).to_arrow()
    frame = pd.DataFrame({key: keys, "event_timestamp": pd.to_datetime([clock] * len(keys), unit="ms", utc=True)})
    offline = feast_store.get_historical_features(frame, references(view)).to_arrow()
    for feature in view.aggregated:
        one, other = (np.asarray(table[feature.name].to_pylist(), dtype=object) for table in (online, offline))
        if feature.dtype == "float64":
            assert one.astype(float) == pytest.approx(other.astype(float), rel=1e-9, abs=1e-9, nan_ok=True), (
                feature.name
            )
        else:
            assert one.tolist() == other.tolist(), feature.name
    assert online[view.names[0]].null_count < len(keys)


@pytest.mark.parametrize("name", ["user_activity", "item_activity", "terminal_risk"])
def test_more_events_than_may_be_in_memory_give_the_same_bits(repo, tables, name):
    view = repo.views[name]
    asked = asked_of(view, *spine_of(view, 200, 5))
    (whole,) = history([asked], ArchiveReader(tables))
    (by_parts,) = history([asked], ArchiveReader(tables, rows_in_memory=100))
    assert differences(whole, by_parts) == []


def test_the_spine_keeps_its_rows_order_columns_and_index(feast_store):
    at = pd.to_datetime(
        [T0 + 20 * DAY_MS, T0 + 25 * DAY_MS, T0 + 20 * DAY_MS, T0 + 20 * DAY_MS, T0], unit="ms", utc=True
    )
    frame = pd.DataFrame(
        {
            "label": [5, 4, 3, 2, 1],
            "user_id": ["u2", "u1", None, "u2", "nobody"],
            "item_id": "i1",
            "event_timestamp": at,
        },
        index=pd.Index(["e", "d", "c", "b", "a"], name="row"),
    )
    names = ["user_activity:user_view_count_30d", "item_activity:item_view_count_30d", "stats:trust"]
    found = feast_store.get_historical_features(frame, names).to_df()
    pd.testing.assert_frame_equal(found[frame.columns], frame)
    counts = found["user_view_count_30d"]
    assert counts["e"] == counts["b"] > 0
    assert counts[["c", "a"]].isna().all()
    assert found["item_view_count_30d"].notna().tolist() == [True, True, True, True, False]
    assert found["trust"].fillna(-1).tolist() == [0.7, 0.9, -1, 0.7, -1]
    arrow = feast_store.get_historical_features(frame, names).to_arrow()
    assert arrow.column_names == [*frame.columns, *(name.partition(":")[2] for name in names)]
    assert arrow["label"].to_pylist() == [5, 4, 3, 2, 1]


def test_an_empty_spine_has_the_columns_and_no_rows(feast_store, repo):
    frame, _ = spine_of(repo.views["user_activity"], 1, 1)
    found = feast_store.get_historical_features(frame[:0], references(repo.views["user_activity"])).to_arrow()
    assert found.num_rows == 0
    assert found.column_names == ["user_id", "event_timestamp", *repo.views["user_activity"].names]


def test_times_without_a_zone_are_utc_and_any_zone_is_the_same_instant(feast_store):
    def count(times):
        frame = pd.DataFrame({"user_id": ["u1", "u2"], "when": times})
        return feast_store.get_historical_features(frame, ["user_activity:user_view_count_7d"]).to_df().iloc[:, -1]

    utc = pd.to_datetime([T0 + 10 * DAY_MS, T0 + 12 * DAY_MS], unit="ms", utc=True)
    assert count(utc).tolist() == count(utc.tz_localize(None)).tolist() == count(utc.tz_convert("Asia/Tokyo")).tolist()
    assert count(utc).sum() > 0


def test_integer_times_of_a_spine_are_milliseconds(feast_store):
    times = np.array([T0 + 10 * DAY_MS, T0 + 12 * DAY_MS])
    answers = []
    for column in (pd.to_datetime(times, unit="ms", utc=True), times):
        frame = pd.DataFrame({"user_id": ["u1", "u2"], "event_timestamp": column})
        names = ["user_activity:user_view_count_7d", "stats:trust"]
        found = feast_store.get_historical_features(frame, names).to_df()
        assert found["event_timestamp"].tolist() == frame["event_timestamp"].tolist()
        answers.append(found.drop(columns="event_timestamp").fillna(-1).to_dict("list"))
    assert answers[0] == answers[1]
    assert sum(answers[0]["user_view_count_7d"]) > 0


def test_what_becomes_known_after_as_of_changes_nothing(project, feast_store, repo, tmp_path):
    frame, _ = spine_of(repo.views["user_activity"], 100, 3)
    frame = frame[frame["event_timestamp"] < pd.Timestamp(T0 + 15 * DAY_MS, unit="ms", tz="UTC")]
    before = feast_store.get_historical_features(frame, references(repo.views["user_activity"])).to_arrow()
    own = tmp_path / "project"
    shutil.copytree(project.parent, own)
    later = shop_events(2_000, 9)
    known = np.maximum(np.asarray(later["known_at"]), T0 + 15 * DAY_MS)
    later = later.set_column(later.schema.get_field_index("known_at"), "known_at", pa.array(known))
    later = later.set_column(later.schema.get_field_index("offset"), "offset", pa.array(np.arange(9_000, 11_000)))
    parsed = from_columns(later, repo.streams["activity"], repo.horizon_ms("activity")).events
    Archive(own / ".headrace" / "offline", repo).append(repo.streams["activity"], parsed)
    from feast import FeatureStore

    after = FeatureStore(repo_path=str(own / "feature_repo"))
    assert after.get_historical_features(frame, references(repo.views["user_activity"])).to_arrow().equals(before)


def test_a_feature_service_and_full_names_and_on_demand_features_work(feast_store, repo):
    frame, _ = spine_of(repo.views["user_activity"], 10, 2)
    service = feast_store.get_feature_service("user_activity")
    full = feast_store.get_historical_features(frame, service, full_feature_names=True).to_arrow()
    plain = feast_store.get_historical_features(frame, references(repo.views["user_activity"])).to_arrow()
    assert full.column_names[2:] == [f"user_activity__{name}" for name in repo.views["user_activity"].names]
    assert full.rename_columns(plain.column_names).equals(plain)
    asked = ["stats:trust", "twice:doubled", "user_activity:user_view_count_7d"]
    frame = pd.DataFrame({"user_id": ["u1", "u2"], "event_timestamp": [TRUST_AT, TRUST_AT]}, index=[7, 3])
    found = feast_store.get_historical_features(frame, asked).to_df()
    assert found.index.tolist() == [7, 3]
    assert found["doubled"].tolist() == [1.0, 1.4]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": ["i1"], "event_timestamp": [TRUST_AT]}, r"column 'user_id' \(string\)"),
        ({"user_id": ["u1"], "user_view_count_7d": [1], "event_timestamp": [TRUST_AT]}, "user_view_count_7d"),
        ({"user_id": ["u1"], "event_timestamp": [pd.NaT]}, "a time in every row"),
        ({"user_id": ["u1"]}, "event_timestamp"),
        ({"user_id": ["u1"], "event_timestamp": [1714554001123456]}, "looks like microseconds read as milliseconds"),
        ({"user_id": [["u1"]], "event_timestamp": [TRUST_AT]}, "column 'user_id' .* requires string"),
    ],
)
def test_a_spine_that_cannot_be_answered_is_refused_with_what_it_needs(feast_store, columns, message):
    with pytest.raises(UsageError, match=message):
        feast_store.get_historical_features(pd.DataFrame(columns), ["user_activity:user_view_count_7d"]).to_df()


def test_a_training_set_can_be_saved_and_read_again(project, feast_store, repo):
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    frame, _ = spine_of(repo.views["user_activity"], 20, 4)
    job = feast_store.get_historical_features(frame, references(repo.views["user_activity"]))
    path = project.parent / "saved.parquet"
    job.persist(SavedDatasetFileStorage(str(path)))
    assert pq.read_table(path).equals(job.to_arrow())


def test_ordinary_views_are_materialized_and_ours_are_not_written_by_feast(feast_store):
    feast_store.materialize(datetime(2023, 1, 1, tzinfo=UTC), datetime.now(UTC), ["stats"])
    found = feast_store.get_online_features(["stats:trust"], {"user_id": ["now", "u2"]}).to_dict()
    assert found["trust"] == [0.8, None]  # u2's is older than the view's ttl
    with pytest.raises(UsageError, match="'user_activity' requires 'headrace stream', which writes its rows"):
        feast_store.materialize(datetime(2023, 1, 1, tzinfo=UTC), datetime.now(UTC), ["user_activity"])
    table = feast_store.get_feature_view("user_activity")
    with pytest.raises(UsageError, match="headrace import"):
        feast_store._get_provider().offline_store.offline_write_batch(feast_store.config, table, None, None)
