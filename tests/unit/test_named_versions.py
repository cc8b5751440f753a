"""Versions that requests name: known ones only, by no look at the registry of a request's, and few loads."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest
from hand_clock import Clock
from hypothesis import given
from hypothesis import strategies as st
from model_folders import Folders

from features.errors import ArtefactError
from models.followed import RETRY_REFUSED_S, VersionLoader
from models.recommender import open_recommender
from models.registry import RegistryError
from serving.versions.named import (
    LISTED_FOR_S,
    LOADS_WITHIN_S,
    MOST_LOADED,
    MOST_LOADS,
    NamedVersions,
    UnknownModelError,
)
from serving.workers import OverloadedError


class Counted(Folders):
    """A registry that counts what it is asked; fetching waits while ``held`` is taken."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: list[str] = []
        self.held = threading.Lock()

    def find(self, name):
        self.asked.append(f"find {name}")
        return super().find(name)

    def listed(self):
        self.asked.append("listed")
        return super().listed()

    @contextmanager
    def fetch(self, pinned):
        self.asked.append(f"fetch {pinned.version}")
        with self.held, super().fetch(pinned) as folder:
            yield folder


@pytest.fixture
def clock():
    return Clock(1_000.0)


@pytest.fixture
def registry(tmp_path):
    return Counted(tmp_path)


@pytest.fixture
def named(registry, clock):
    versions = NamedVersions(VersionLoader(registry, open_recommender), clock=clock)
    yield versions
    versions.stop()


def loaded(found):
    return found.result() if isinstance(found, Future) else found


@given(name=st.text(max_size=64))
def test_a_name_that_is_not_listed_is_unknown_without_a_look_at_the_registry(tmp_path_factory, name):
    registry = Counted(tmp_path_factory.mktemp("models"))
    versions = NamedVersions(VersionLoader(registry, open_recommender))
    versions.look()
    for _ in range(3):
        with pytest.raises(UnknownModelError):
            versions.get(name)
    assert registry.asked == ["listed"]


def test_before_the_first_look_nothing_is_known_and_nothing_is_asked(named, registry):
    registry.add(1)
    with pytest.raises(RegistryError, match="Ask again"):
        named.get("1")
    assert registry.asked == []


def test_a_version_is_loaded_once_for_all_that_name_it(named, registry):
    registry.add(1)
    registry.alias = "1"
    named.look()
    with registry.held:
        waiting = [named.get(name) for name in ("1", "champion", "1")]
    assert {loaded(one).version for one in waiting} == {"1"}
    assert loaded(named.get("champion")).version == "1"
    assert registry.asked == ["listed", "fetch 1"]


def test_one_version_is_loaded_at_a_time_and_others_are_told_to_ask_again(named, registry):
    for created in (1, 2):
        registry.add(created)
    named.look()
    with registry.held:
        first = named.get("1")
        with pytest.raises(OverloadedError):
            named.get("2")
    assert loaded(first).version == "1"
    assert loaded(named.get("2")).version == "2"


def test_loads_have_a_rate_and_what_is_in_memory_needs_none(named, registry, clock):
    for created in range(MOST_LOADS + 1):
        registry.add(created)
    named.look()
    for number in range(1, MOST_LOADS + 1):
        loaded(named.get(str(number)))
    with pytest.raises(OverloadedError) as refused:
        named.get(str(MOST_LOADS + 1))
    assert 0 < refused.value.retry_after_s <= LOADS_WITHIN_S + 1
    assert len(named.artefacts) == MOST_LOADED
    assert loaded(named.get(str(MOST_LOADS))).version == str(MOST_LOADS)
    clock.now += LOADS_WITHIN_S
    assert loaded(named.get(str(MOST_LOADS + 1))).version == str(MOST_LOADS + 1)


def test_a_refused_version_is_not_fetched_again_for_a_while(named, registry, clock):
    registry.add(1, wrong=True)
    named.look()
    with pytest.raises(ArtefactError):
        loaded(named.get("1"))
    for _ in range(5):
        with pytest.raises(ArtefactError):
            named.get("1")
    assert registry.asked.count("fetch 1") == 1
    clock.now += RETRY_REFUSED_S
    with pytest.raises(ArtefactError):
        loaded(named.get("1"))
    assert registry.asked.count("fetch 1") == 2


def test_the_list_is_read_at_looks_often_only_while_versions_are_named(named, registry, clock):
    def looks(count: int, every_s: float) -> int:
        before = registry.asked.count("listed")
        for _ in range(count):
            clock.now += every_s
            named.look()
        return registry.asked.count("listed") - before

    named.look()
    registry.add(1)
    assert looks(10, LISTED_FOR_S / 20) == 0
    with pytest.raises(UnknownModelError):
        named.get("1")
    assert looks(1, 5) == 1
    assert loaded(named.get("1")).version == "1"
    assert looks(5, 5) == 5
    clock.now += LISTED_FOR_S
    assert looks(12, 5) in (1, 2)
    registry.down = True
    clock.now += 2 * LISTED_FOR_S
    with pytest.raises(RegistryError):
        named.look()
    assert loaded(named.get("1")).version == "1"
