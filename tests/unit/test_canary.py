"""The canary: who gets it, what stops it, and what of that the registry and other processes hear."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st
from model_folders import Folders

from models.followed import FollowedAlias, VersionLoader
from models.recommender.golden import open_recommender
from models.tags import CANARY, CANARY_STOPPED, CHAMPION
from serving.versions.canary import (
    COMPARE_EVERY,
    MIN_ANSWERS,
    MIN_USERS,
    WINDOW,
    Attempt,
    Canary,
    RecentAttempts,
    fisher_p,
    is_chosen,
    mann_whitney_p,
    worse,
)

USERS = [f"user{number}" for number in range(2_000)]

# --- who --------------------------------------------------------------------------------------------------------------


@given(st.text(), st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_user_stays_with_the_canary_and_a_larger_share_has_all_of_a_smaller_one(who, digest, one, other):
    least, most = sorted([one, other])
    assert is_chosen(who, digest, least) == is_chosen(who, digest, least)
    assert is_chosen(who, digest, most) or not is_chosen(who, digest, least)
    assert is_chosen(who, digest, 1.0)
    assert not is_chosen(who, digest, 0.0)


def test_a_tenth_of_the_users_is_about_a_tenth_and_others_for_another_version():
    one, other = ({user for user in USERS if is_chosen(user, digest, 0.1)} for digest in ("ab", "cd"))
    assert 150 < len(one) < 250
    assert len(one & other) < 50


# --- surely worse -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_the_chance_of_so_many_failures_is_fishers(of, other_of, data):
    failed, other_failed = data.draw(st.integers(0, of)), data.draw(st.integers(0, other_of))
    failures = failed + other_failed
    more = range(failed, min(of, failures) + 1)
    ways = sum(math.comb(of, here) * math.comb(other_of, failures - here) for here in more)
    expected = ways / math.comb(of + other_of, failures)
    assert fisher_p(failed, of, other_failed, other_of) == pytest.approx(expected, rel=1e-9)


times = st.lists(st.sampled_from([0.001 * step for step in range(1, 12)]), min_size=2, max_size=60).map(np.array)


@given(times, times)
def test_the_chance_of_such_long_times_is_that_of_mann_and_whitney(first, second):
    assume(len(np.unique(np.concatenate([first, second]))) > 1)
    how = {"alternative": "greater", "method": "asymptotic", "use_continuity": False}
    assert mann_whitney_p(first, second) == pytest.approx(
        scipy.stats.mannwhitneyu(first, second, **how).pvalue, rel=1e-9
    )


def test_times_that_are_all_the_same_tell_nothing():
    assert mann_whitney_p(np.ones(30), np.ones(40)) == 1.0


def lately(count: int, failed: int = 0, took_s: float = 0.01, users: int = 10) -> RecentAttempts:
    found = RecentAttempts()
    for number in range(count):
        found.add(Attempt(number < failed, took_s * (1 + number / 1_000), f"user{number % users}"))
    return found


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        (lately(100), lately(100), None),
        (lately(MIN_ANSWERS - 1, failed=MIN_ANSWERS - 1), lately(100), None),
        (lately(100, failed=1), lately(100), None),
        (lately(100, failed=10), lately(100), "10 of its last 100 answers failed, and 0 of 100 beside them"),
        (lately(100, failed=10), lately(100, failed=9), None),
        (lately(100, took_s=0.014), lately(100), None),
        (lately(100, took_s=0.02), lately(100), "it takes 21.0 ms at the median, and 10.5 ms are usual beside it"),
        (lately(100), lately(100, took_s=0.02), None),
        (lately(100, failed=100, users=1), lately(100), None),
        (lately(100, took_s=1.0, users=MIN_USERS - 1), lately(100), None),
    ],
)
def test_worse_is_surely_more_failures_or_surely_and_much_longer(one, other, why):
    assert worse(one, other, slower=1.5) == why


def test_two_that_are_alike_are_seldom_told_apart_over_a_thousand_looks():
    rng = np.random.default_rng(3)
    one, other = RecentAttempts(), RecentAttempts()
    stops = 0
    for _ in range(1_000):
        for _ in range(COMPARE_EVERY):
            one.add(Attempt(bool(rng.random() < 0.02), rng.gamma(2.0, 0.005), USERS[int(rng.integers(50))]))
            other.add(Attempt(bool(rng.random() < 0.02), rng.gamma(2.0, 0.005)))
        stops += worse(one, other, slower=1.5) is not None
    assert stops <= 20
    assert len(one) == WINDOW


# --- its life ---------------------------------------------------------------------------------------------------------


class World:
    def __init__(self, root: Path) -> None:
        self.registry = Folders(root)
        self.registry.alias = self.registry.add(1)
        self.registry.aliases[CANARY] = self.registry.add(2)
        self.watch = FollowedAlias(VersionLoader(self.registry, open_recommender), CHAMPION)
        self.watch.follow()
        self.stops: list[str] = []
        self.canary = self.process()

    def process(self) -> Canary:
        made = Canary(VersionLoader(self.registry, open_recommender), 0.5, 1.5, lambda _, why: self.stops.append(why))
        made.look(self.watch.current)
        return made

    def tag(self, **changed: object) -> None:
        """The canary's tags say something else."""
        self.registry.versions["2"] = replace(self.registry.versions["2"], **changed)
        self.canary.look(self.watch.current)

    def chosen(self) -> set[str | None]:
        return {found.version if (found := self.canary.for_user(user)) else None for user in USERS[:200]}

    def answer(self, count: int, failed: bool = False, users: int = 10) -> None:
        for number in range(count):
            self.canary.answered(self.watch.current, failed=False, took_s=0.01, key=None)
            self.canary.answered(self.canary.served, failed=failed, took_s=0.01, key=USERS[number % users])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "registry")


def test_a_share_of_the_users_is_answered_and_nobody_who_is_not_known_by_name(world):
    assert world.chosen() == {"2", None}
    assert world.canary.for_user(None) is None
    assert world.canary.state == "version 2 answers 50% of the users; not enough answers to judge it yet"
    world.tag(canary_share=0.0)
    assert world.chosen() == {None}


def test_it_goes_when_its_alias_does_or_names_the_champion(world):
    world.registry.aliases[CANARY] = "1"
    world.canary.look(world.watch.current)
    assert (world.chosen(), world.canary.state) == ({None}, "none")
    world.registry.aliases[CANARY] = "2"
    world.canary.look(world.watch.current)
    assert world.chosen() == {"2", None}
    del world.registry.aliases[CANARY]
    world.canary.look(world.watch.current)
    assert (world.chosen(), world.canary.state) == ({None}, "none")


def test_without_a_verdict_it_answers_nobody_and_the_registry_hears_why(world):
    world.tag(refusal="the gate refused it: too slow")
    assert world.chosen() == {None}
    assert "too slow" in world.canary.state
    assert "too slow" in world.registry.reported["2"]


def test_failures_stop_it_for_good_and_the_registry_hears_why(world):
    world.answer(100)
    world.answer(COMPARE_EVERY, failed=True)
    assert (world.chosen(), len(world.stops)) == ({None}, 1)
    assert "20 of its last 120 answers failed" in world.canary.state
    world.canary.look(world.watch.current)
    assert world.registry.tags["2"][CANARY_STOPPED] == world.stops[0]
    world.answer(1_000)
    world.canary.look(world.watch.current)
    assert world.chosen() == {None}


def test_one_user_whom_it_fails_does_not_stop_it(world):
    world.answer(1_000, failed=True, users=1)
    assert (world.chosen(), world.stops) == ({"2", None}, [])
    assert "not enough answers to judge it yet" in world.canary.state
    world.answer(COMPARE_EVERY)
    assert world.canary.state == "version 2 stopped: " + world.stops[0]


def test_it_is_compared_with_the_champion_of_now_and_not_with_the_one_before(world):
    world.answer(100)
    world.registry.alias = world.registry.add(3)
    world.watch.follow()
    world.canary.look(world.watch.current)
    for number in range(COMPARE_EVERY):
        world.canary.answered(world.canary.served, failed=True, took_s=0.01, key=USERS[number])
    assert world.chosen() == {"2", None}, "of the new champion nothing is known yet"
    world.answer(4 * COMPARE_EVERY, failed=True)
    assert world.chosen() == {None}


def test_another_process_that_reads_the_tag_stops_too_and_a_new_beginning_starts_it(world):
    world.tag(canary_stopped="it takes too long")
    assert world.chosen() == {None}
    assert world.process().state == "version 2 stopped: it takes too long"
    world.tag(canary_stopped=None, canary_begun="5")
    assert world.chosen() == {"2", None}


def test_what_could_not_be_told_is_told_when_the_registry_is_back(world):
    world.answer(MIN_ANSWERS)
    world.answer(2 * COMPARE_EVERY, failed=True)
    assert world.chosen() == {None}
    world.registry.down = True
    with pytest.raises(Exception, match="registry"):
        world.canary.look(world.watch.current)
    world.registry.down = False
    world.canary.look(world.watch.current)
    assert CANARY_STOPPED in world.registry.tags["2"]
