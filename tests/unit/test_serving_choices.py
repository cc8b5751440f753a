"""What the project's files choose for the service, and what its command line prints."""

from __future__ import annotations

import pytest

from features.errors import UsageError
from features.machine import free_port
from features.online_store.settings import read_settings_of
from headrace.commands.serve import ServiceError, post, service_config, shown
from headrace.project import Project
from headrace.settings import Settings

WRONG_MODE = "online_store: {type: a.RedisRowsOnlineStore, url: 'redis://r', mode: sentinel}"


@pytest.fixture
def project(tmp_path):
    """A project whose store is one SQLite file."""
    (tmp_path / "feature_repo").mkdir()
    store = "online_store:\n  type: headrace.feast.SqliteRowsOnlineStore\n  path: ../.headrace/online.db\n"
    (tmp_path / "feature_repo" / "feature_store.yaml").write_text(store, encoding="utf-8")
    return tmp_path


def test_a_replica_gets_absolute_paths_and_a_port_that_is_free(project):
    found = service_config(Project(project, Settings()), port=0)
    assert found.store.address == str(project / ".headrace" / "online.db")
    assert found.tracking_uri == f"sqlite:///{project / 'mlruns' / 'mlflow.db'}"
    assert found.repo == str(project / "feature_repo")
    assert found.port > 0


def test_the_command_line_wins_over_the_settings_where_it_says_something(project):
    found = service_config(Project(project, Settings()), port=1234, host=None, clock="stream")
    assert (found.port, found.host, found.clock) == (1234, "127.0.0.1", "stream")


def test_events_go_to_the_broker_that_runs_here_unless_a_cluster_is_set(project):
    assert service_config(Project(project, Settings())).bootstrap_servers == ""
    (project / ".headrace" / "kafka").mkdir(parents=True)
    (project / ".headrace" / "kafka" / "bootstrap").write_text("127.0.0.1:5\n", encoding="utf-8")
    assert service_config(Project(project, Settings())).bootstrap_servers == "127.0.0.1:5"
    theirs = Settings.model_validate({"kafka": {"bootstrap_servers": "theirs:9092"}})
    assert service_config(Project(project, theirs)).bootstrap_servers == "theirs:9092"


def test_redis_is_chosen_by_feature_store_yaml_alone(tmp_path):
    path = tmp_path / "feature_store.yaml"
    line = "online_store: {type: a.b.RedisRowsOnlineStore, url: 'redis://r:6379/0', mode: cluster, deadline_ms: 20}"
    path.write_text(line, encoding="utf-8")
    found = read_settings_of(path)
    assert (found.kind, found.address, found.mode, found.deadline_ms) == ("redis", "redis://r:6379/0", "cluster", 20)


def test_variables_of_the_environment_are_replaced_in_feature_store_yaml(tmp_path, monkeypatch):
    monkeypatch.setenv("CACHE_HOST", "cache.internal")
    path = tmp_path / "feature_store.yaml"
    path.write_text("online_store: {type: a.b.RedisRowsOnlineStore, url: 'redis://${CACHE_HOST}:6379/0'}")
    assert read_settings_of(path).address == "redis://cache.internal:6379/0"


@pytest.mark.parametrize(
    "text", ["online_store: {type: sqlite, path: x}", "project: x", "{", "online_store: 3", WRONG_MODE]
)
def test_a_store_that_serves_no_packed_rows_is_a_usage_error_that_names_those_which_do(tmp_path, text):
    path = tmp_path / "feature_store.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="SqliteRowsOnlineStore"):
        read_settings_of(path)


def test_a_missing_feature_store_yaml_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"feature_store\.yaml"):
        read_settings_of(tmp_path / "feature_store.yaml")


def test_a_service_that_does_not_run_is_an_error_with_the_command_that_starts_it():
    with pytest.raises(ServiceError, match="headrace serve"):
        post(f"http://127.0.0.1:{free_port()}/v1/recommend", {})


def test_an_answer_is_shown_with_its_model_the_age_of_its_features_and_its_fallback():
    answer = {
        "model": {"name": "shop", "version": "3", "alias": "champion"},
        "features": {"as_of": 5, "age_ms": 40, "status": "PRESENT"},
        "fallback": {"used": True, "reason": "store_down"},
        "took_ms": 1.25,
        "items": [{"item_id": "tea", "score": 0.5, "rank": 1, "source": "popular", "reasons": ["liked"]}],
    }
    head, line = shown(answer).splitlines()
    assert "shop 3 (champion) · features PRESENT · 40 ms old · fallback: store_down · 1.2 ms" in head
    assert line == "  1  tea      0.5000  popular  liked"
    assert "no model" in shown(answer | {"model": None, "items": []})
