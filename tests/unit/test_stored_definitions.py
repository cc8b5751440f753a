"""Definitions survive being kept as text: the same features, the same schema hash, the same rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import AGGREGATIONS, WINDOWS, view_of

from features.definitions import Aggregation, Count, Entity, FeatureSet, FeatureView, Stream, Window
from features.definitions.repo import load_repo
from features.definitions.serialized import views_of_text, views_text
from features.errors import DefinitionError

ROOT = Path(__file__).resolve().parent.parent.parent


@given(
    st.lists(st.sampled_from(AGGREGATIONS), min_size=1, unique=True),
    st.lists(st.sampled_from(WINDOWS), min_size=1, unique=True),
)
def test_any_view_comes_back_as_it_was(aggregations: list[Aggregation], windows: list[Window | str]) -> None:
    view = view_of(windows, [Count(), *(one for one in aggregations if one != Count())])
    (again,) = views_of_text(views_text([view]))
    assert (again, again.schema_hash, again.names) == (view, view.schema_hash, view.names)


def test_the_projects_own_definitions_come_back_as_they_were() -> None:
    repo = load_repo(ROOT / "feature_repo")
    again = {view.name: view for view in views_of_text(views_text(repo.views.values()))}
    assert again == dict(repo.views)
    assert [view.description for view in again.values()] == [view.description for view in repo.views.values()]


def test_a_column_may_be_called_as_a_definition_calls_its_kind() -> None:
    stream = Stream("s", topic="t", fields={"user": "string", "is": "string"})
    one = FeatureSet(Entity("user", keys={"user": "string"}), stream, [Count()], ["1h"], where={"is": "Count"})
    (again,) = views_of_text(views_text([FeatureView("v", sets=[one])]))
    assert again.sets[0] == one


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"is": "FeatureView"}]', '"x"', "null"])
def test_text_that_holds_no_definitions_is_refused(text: str) -> None:
    with pytest.raises(DefinitionError, match="stored definitions"):
        views_of_text(text)


def test_a_definition_that_this_version_does_not_take_is_refused() -> None:
    (stored,) = json.loads(views_text(load_repo(ROOT / "feature_repo").views.values()))[:1]
    with pytest.raises(DefinitionError):
        views_of_text(json.dumps([{**stored, "version": 0}]))
