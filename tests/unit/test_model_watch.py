"""The watch over the alias: what serves, what is refused, and what a start does without the registry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from model_folders import Folders

from features.errors import ArtefactError
from models.followed import FollowedAlias, VersionLoader
from models.local_copy import LocalCopy
from models.recommender.artefact import CANDIDATES
from models.recommender.golden import open_recommender
from models.tags import CHAMPION
from serving.versions.named import NamedVersions


@pytest.fixture
def registry(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "registry")


@pytest.fixture
def kept(tmp_path: Path) -> LocalCopy:
    return LocalCopy(tmp_path / "kept")


def watch_of(registry: Folders, kept: LocalCopy | None = None) -> FollowedAlias:
    return FollowedAlias(VersionLoader(registry, open_recommender), CHAMPION, local_copy=kept)


def serving(watch: FollowedAlias) -> str | None:
    watch.follow()
    return watch.current.version if watch.current else None


def test_a_version_without_a_verdict_does_not_serve_and_does_once_it_has_one(registry):
    registry.alias = registry.add(1)
    watch = watch_of(registry)
    assert serving(watch) == "1"
    registry.alias = registry.add(2, refusal="it has no verdict of the gate")
    assert serving(watch) == "1"
    assert "no verdict" in registry.reported["2"]
    registry.versions["2"] = replace(registry.versions["2"], refusal=None)
    assert serving(watch) == "2"
    assert watch.refused is None


def test_a_version_that_does_not_answer_as_when_it_was_made_does_not_serve(registry):
    registry.alias = registry.add(1)
    watch = watch_of(registry)
    watch.follow()
    registry.alias = registry.add(2, wrong=True)
    assert serving(watch) == "1"
    assert "when it was made" in watch.refused.reason


def test_a_rollback_serves_the_very_model_that_served_before(registry):
    registry.alias = first = registry.add(1)
    watch = watch_of(registry)
    watch.follow()
    artefact = watch.current.model
    registry.alias = registry.add(2)
    assert serving(watch) == "2"
    (registry.root / first / CANDIDATES).unlink()
    registry.alias = first
    assert serving(watch) == first
    assert watch.current.model is artefact


def test_a_number_that_names_other_files_than_before_is_another_version(registry):
    registry.alias = registry.add(1)
    watch = watch_of(registry)
    watch.follow()
    digest = watch.current.digest
    other = registry.versions[registry.add(2)]
    registry.versions["1"] = replace(other, version="1")
    assert serving(watch) == "1"
    assert watch.current.digest != digest


def test_a_start_without_the_registry_serves_the_copy_of_what_served_last(registry, kept):
    registry.alias = registry.add(1)
    watch_of(registry, kept=kept).follow()
    registry.alias = registry.add(2)
    watch_of(registry, kept=kept).follow()
    registry.down = True
    watch = watch_of(registry, kept=kept)
    assert serving(watch) == "2"
    assert "registry" in watch.problem
    registry.down = False
    loaded_at = watch.current.model
    assert serving(watch) == "2"
    assert watch.current.model is loaded_at
    assert watch.problem is None


def test_a_registry_that_goes_away_changes_nothing(registry):
    registry.alias = registry.add(1)
    watch = watch_of(registry)
    watch.follow()
    registry.down = True
    assert serving(watch) == "1"


def test_a_copy_that_was_damaged_does_not_serve(registry, kept, tmp_path):
    registry.alias = registry.add(1)
    watch_of(registry, kept=kept).follow()
    (path,) = (tmp_path / "kept").rglob(CANDIDATES)
    path.write_bytes(path.read_bytes() + b"x")
    registry.down = True
    watch = watch_of(registry, kept=kept)
    assert serving(watch) is None
    assert CANDIDATES in watch.refused.reason


def test_one_copy_is_kept_and_a_folder_of_nothing_is_no_copy(registry, kept, tmp_path):
    assert kept.last() is None
    for number in (1, 2, 3):
        registry.alias = registry.add(number)
        watch_of(registry, kept=kept).follow()
    assert [one.name for one in (tmp_path / "kept").iterdir() if one.is_dir()] == [registry.versions["3"].digest]
    (tmp_path / "kept" / "last.json").write_text("{")
    assert kept.last() is None


def test_a_version_that_a_request_names_needs_a_verdict_too(registry):
    registry.add(1, refusal="the gate refused it: too slow")
    others = NamedVersions(VersionLoader(registry, open_recommender))
    others.look()
    with pytest.raises(ArtefactError, match="too slow"):
        others.get("1").result()
