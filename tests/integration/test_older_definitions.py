"""A service that starts with changed definitions: the former champion answers with its own features meanwhile."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest
from serving_world import REPO, Http, Models, fill, ids, plain, settings, until

from features.definitions.repo import FeatureRepo, load_repo
from features.definitions.serialized import views_text
from features.events.parsing import from_columns
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker, of_schema
from features.online_store.sqlite.rows import SqliteRows

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
VIEWS = ("user_activity", "item_activity")
NEW_ID = 11


class Project:
    """Definitions, rows and a registry in a folder; the rows of the definitions of before say which those are."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "feature_repo"
        shutil.copytree(REPO, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.rows = SqliteRows(root / "online.db")
        self.repo = load_repo(self.folder)
        fill(self.rows, self.repo)
        self.described(self.repo, 7)

    def described(self, repo: FeatureRepo, stream_id: int) -> None:
        views = [repo.views[name] for name in VIEWS]
        generation = self.rows.generation(stream_id)
        generation.begin()
        generation.describe(views_text(views))
        for view in views:
            self.rows.set_current(of_schema(view.name, view.schema_hash), stream_id)

    def change(self) -> FeatureRepo:
        """Both views say something else from now on; there are no rows of that yet."""
        path = self.folder / "shop.py"
        text = path.read_text(encoding="utf-8")
        assert text.count('DecayedCount("1h")') == 2
        text = text.replace('DecayedCount("1h")', 'DecayedCount("2h")').replace("_count_1h_30d", "_count_2h_30d")
        path.write_text(text, encoding="utf-8")
        return load_repo(self.folder)

    def rebuild(self, repo: FeatureRepo) -> None:
        """Readers have rows of the new definitions, in which u1 looked at item20 and at nothing else."""
        now = time.time_ns() // 1_000_000
        looked = {"event_id": ["n1"], "event_time": [now - 1_000], "event_type": ["view"]}
        table = pa.table({**looked, "user_id": ["u1"], "item_id": ["item20"]})
        events = {"activity": from_columns(table, repo.streams["activity"]).events}
        views = [repo.views[name] for name in VIEWS]
        build_generation(self.rows.generation(NEW_ID), views, NEW_ID, events, Marker(0, {}, {}, 0), now)
        self.described(repo, NEW_ID)
        for view in views:
            self.rows.set_current(view.name, NEW_ID)


def asked(http: Http) -> tuple[str, str, bool, list[str]]:
    answer = http.recommend(user_id="u1", k=2)
    version = (answer["model"] or {"version": ""})["version"]
    return version, answer["features"]["status"], answer["fallback"]["used"], sorted(ids(answer))


def test_the_former_champion_answers_with_its_own_features_until_one_of_the_new_definitions_takes_over(tmp_path):
    project = Project(tmp_path)
    before = Models(tmp_path, project.repo)
    before.promote(before.register(step=1))
    changed = project.change()
    assert all(changed.views[name].schema_hash != project.repo.views[name].schema_hash for name in VIEWS)
    chosen = settings(tmp_path / "online.db", before.uri).model_copy(update={"repo": str(project.folder)})
    with plain(chosen) as http:
        until(lambda: http.ask("/v1/models")[1]["current"], "a model")
        of_before = ("1", "PRESENT", False, ["item4", "item5"])
        assert asked(http) == of_before
        _, told, _ = http.ask("/v1/features/user/u1")
        assert {one["status"] for one in told["views"] if one["view"] == VIEWS[0]} == {"NOT_FOUND"}
        project.rebuild(changed)
        until(lambda: http.ask("/v1/features/user/u1")[1]["views"][0]["status"] == "PRESENT", "the new rows")
        assert asked(http) == of_before
        given = http.recommend(user_id="u1", k=1, user_features={"user_engaged_decayed_count_1h_30d": 1.0})
        assert given["fallback"]["used"] is False
        after = Models(tmp_path, changed)
        after.promote(after.register(step=2))
        until(lambda: asked(http)[0] == "2", "the successor")
        assert asked(http)[1:3] == ("PRESENT", False)
        assert ids(http.recommend(user_id="u1", k=1)) == ["item22"]
        again = http.recommend(user_id="u1", k=2, model="1")
        assert (again["model"]["version"], sorted(ids(again))) == ("1", ["item4", "item5"])


def test_without_rows_of_its_definitions_a_model_is_refused_and_the_reason_names_them(tmp_path):
    project = Project(tmp_path)
    before = Models(tmp_path, project.repo)
    version = before.register(step=1)
    before.promote(version)
    changed = project.change()
    project.rebuild(changed)
    project.rows.drop_generation(7)
    chosen = settings(tmp_path / "online.db", before.uri).model_copy(update={"repo": str(project.folder)})
    with plain(chosen) as http:
        until(lambda: http.ask("/v1/models")[1]["refused"], "the refusal")
        assert "schema" in http.ask("/v1/models")[1]["refused"]["reason"]
        assert asked(http)[2] is True
