"""`headrace features plan` on a project with rows, history and a registered model of before the change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from mlflow_marks import MLFLOW_TEST
from serving_world import MODEL, Models, fill

from features.definitions.repo import load_repo
from features.definitions.serialized import views_text
from features.events.parsing import from_columns
from features.online_store.port import of_schema
from features.online_store.sqlite.rows import SqliteRows
from headrace.cli import cli
from models.needs import model_needs, needed_schemas

pytestmark = MLFLOW_TEST

ROOT = Path(__file__).resolve().parent.parent.parent
STATUSES = ("same", "new", "removed", "changed")


class Project:
    """A project in a folder: the shop's definitions, their rows, a little history, a registry."""

    def __init__(self, root: Path) -> None:
        from deltalake import write_deltalake

        self.root = root
        shutil.copytree(ROOT / "feature_repo", root / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
        (root / "feature_repo" / "feature_store.yaml").unlink()
        self.repo = load_repo(root / "feature_repo")
        self.rows = SqliteRows(root / ".headrace" / "online.db")
        fill(self.rows, self.repo)
        views = [self.repo.views[name] for name in ("user_activity", "item_activity")]
        for view in views:
            self.rows.set_current(of_schema(view.name, view.schema_hash), self.stream_id)
        generation = self.rows.generation(self.stream_id)
        generation.begin()
        generation.describe(views_text(views))
        some = pa.table({"event_id": ["1"], "event_time": [1_750_000_000_000], "event_type": ["view"]})
        events = from_columns(some, self.repo.streams["activity"]).events
        write_deltalake(root / ".headrace" / "offline" / "activity", events.append_column("topic", pa.array(["t"])))

    @property
    def stream_id(self) -> int:
        found = self.rows.current("user_activity")
        assert found is not None
        return found

    def change(self, before: str, after: str) -> None:
        path = self.root / "feature_repo" / "shop.py"
        text = path.read_text(encoding="utf-8")
        assert text.count(before) == 1
        path.write_text(text.replace(before, after), encoding="utf-8")

    def plan(self) -> tuple[int, dict[str, Any]]:
        done = CliRunner().invoke(cli, ["features", "plan", "--json"])
        assert done.exit_code in (0, 1), done.output
        return done.exit_code, json.loads(done.stdout)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def views_of(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["view"]: one for one in found["views"]}


def test_a_plan_says_what_is_new_what_is_rebuilt_from_which_history_and_which_models_keep_the_old_rows(
    project: Project,
) -> None:
    (project.root / "mlruns").mkdir()
    models = Models(project.root / "mlruns", project.repo)
    models.promote(models.register(1))
    models.register(2)  # no alias: nobody needs it
    uri = "sqlite:///mlruns/mlflow.db"
    needs = model_needs(uri, project.root)
    assert {(one.model, one.version, one.aliases) for one in needs} == {(MODEL, "1", ("champion",))}
    views = [project.repo.views[name] for name in ("user_activity", "item_activity")]
    assert needed_schemas(uri, project.root) == {(view.name, view.schema_hash) for view in views}

    project.change('[DecayedCount("1h"), DecayedCount("7d")]', '[DecayedCount("2h"), DecayedCount("7d")]')
    status, found = project.plan()
    user, item = views_of(found)["user_activity"], views_of(found)["item_activity"]
    assert (status, found["todo"]) == (1, True)
    assert (user["status"], user["rebuild"], item["status"]) == ("changed", True, "same")
    assert (user["new"], user["removed"]) == (
        ["user_engaged_decayed_count_2h_30d"],
        ["user_engaged_decayed_count_1h_30d"],
    )
    (rebuild,) = [one for one in found["rebuilds"] if one["view"] == "user_activity"]
    assert rebuild["rows"] == 1
    assert [(one["model"], one["view"]) for one in found["models"]] == [(MODEL, "user_activity")]
    text = CliRunner().invoke(cli, ["features", "plan"]).stdout
    assert "shop-recommender 1 (champion) needs user_activity" in text


def test_views_that_are_all_called_something_else_are_new_and_those_of_before_are_named_as_removed(
    project: Project,
) -> None:
    for name in ("shop.py", "cards.py"):
        path = project.root / "feature_repo" / name
        path.write_text(path.read_text(encoding="utf-8").replace('FeatureView(\n    "', 'FeatureView(\n    "renamed_'))
    project.repo = load_repo(project.root / "feature_repo")
    status, found = project.plan()
    by_status = {kind: {name for name, one in views_of(found).items() if one["status"] == kind} for kind in STATUSES}
    assert (status, by_status["removed"]) == (1, {"user_activity", "item_activity"})
    assert by_status["new"] == set(project.repo.views)
    assert project.rows.views() == ["item_activity", "user_activity"]


def test_a_plan_of_a_project_that_never_ran_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "feature_repo", tmp_path / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "feature_repo" / "feature_store.yaml").unlink()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["features", "plan", "--json"])
    assert (done.exit_code, {one["status"] for one in json.loads(done.stdout)["views"]}) == (1, {"new"})
    assert CliRunner().invoke(cli, ["features", "show", "user", "u1"]).exit_code == 0
    assert not (tmp_path / ".headrace").exists()


def test_a_project_without_a_registry_gets_none_by_being_asked(project: Project) -> None:
    assert needed_schemas("sqlite:///mlruns/mlflow.db", project.root) == set()
    project.plan()
    assert not (project.root / "mlruns").exists()


def test_a_plan_says_what_the_history_of_a_field_of_another_dtype_will_be(project: Project) -> None:
    assert project.plan()[1]["retyped"] == []
    project.change('"price": "float64",\n        "quantity"', '"price": "int64",\n        "quantity"')
    _, found = project.plan()
    assert found["retyped"] == [{"stream": "activity", "field": "price", "dtype": "int64", "archived": ["float64"]}]
    said = (
        "stream 'activity': price is int64 now, and has values in the archive as float64: they stay as they are, and "
        "history has those that int64 holds exactly, null for the rest"
    )
    assert said in CliRunner().invoke(cli, ["features", "plan"]).stdout
