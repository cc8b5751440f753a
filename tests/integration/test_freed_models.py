"""A service's objects are kept out of collections of garbage, and a model that nobody uses is freed all the same."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from serving_world import REPO, Models, fill, settings

from features.definitions.repo import load_repo
from features.online_store.sqlite.rows import SqliteRows
from serving.app import service_of

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def no_collections() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


@pytest.mark.usefixtures("no_collections")
def test_a_model_of_before_is_freed_by_reference_counts(tmp_path):
    repo = load_repo(REPO)
    models = Models(tmp_path, repo)
    fill(SqliteRows(tmp_path / "online.db"), repo)
    made = service_of(settings(tmp_path / "online.db", models.uri)).default
    versions = made.models
    gc.unfreeze()
    held = []
    for step in (1, 2, 3):
        models.promote(models.register(step=step))
        versions.look()
        assert versions.champion.current is not None
        made._follow_items()  # until then the items have inputs of the model before
        held.append(weakref.ref(versions.champion.current.model))
    assert gc.get_freeze_count() > 100_000
    assert [each() is not None for each in held] == [False, True, True]  # the one before is there for a rollback
