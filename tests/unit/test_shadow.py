"""The shadow: what the challenger would have said is counted and logged, and never in the way of an answer."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from small_shop import NOW, features, fresh, model

from models.recommender import LoadedRecommender
from models.recommender.retrieval import Ranked
from serving.metrics import Metrics
from serving.recommend.convert import ModelAnswer
from serving.recommend.recommender import ItemQuery, UserRead, recommend
from serving.recommend.served_log import ServedAnswer, event_of
from serving.recommend.snapshot import NO_ITEMS
from serving.versions.shadow import MOST_WAITING, Shadow, ShadowRequest, overlap

QUESTION = ItemQuery("ann", 3)
READ = UserRead(features(recent=["tea"]))


def said(served: LoadedRecommender) -> ModelAnswer:
    return ModelAnswer(recommend(QUESTION, READ, served.model, fresh(new=1), None), served, READ)


CHAMPION, CHALLENGER = LoadedRecommender("1", model(), NOW), LoadedRecommender("2", model(), NOW)


class World:
    def __init__(self, ask: Callable[[LoadedRecommender], ModelAnswer] = said) -> None:
        self.metrics, self.logged, self.busy, self.ask = Metrics(), [], False, ask
        self.challenger: LoadedRecommender | None = CHALLENGER
        logged: list[ServedAnswer] = self.logged
        self.shadow = Shadow(1.0, lambda: self.challenger, lambda: self.busy, self.metrics, logged.append)

    def offered(self) -> ModelAnswer:
        answer = said(CHAMPION)
        self.shadow.offer(ShadowRequest(answer, QUESTION, NO_ITEMS, self.ask))
        return answer

    def run(self) -> None:
        self.shadow.start()
        self.shadow.stop()

    def count(self, status: str) -> float:
        return self.metrics.shadow.labels(status)._value.get()


def test_what_the_challenger_said_is_logged_beside_the_answer_and_says_that_nobody_saw_it():
    world = World()
    answer = world.offered()
    world.run()
    (logged,) = world.logged
    event = event_of(logged, NOW)
    assert (event["recommendation_id"], event["model_version"]) == (answer.id, "2")
    assert event["event_id"] != answer.id
    assert (event["shadow"], event["overlap"]) == (True, 1.0)
    assert event["took_ms"] > 0
    assert len(json.loads(event["items"])) == 3
    assert world.count("scored") == 1


def test_what_was_answered_says_that_it_was_no_shadow():
    event = event_of(ServedAnswer(said(CHAMPION), QUESTION, NO_ITEMS), NOW)
    assert (event["shadow"], "overlap" in event) == (False, False)


def test_a_challenger_that_fails_is_counted_and_the_next_question_is_asked():
    calls = iter([ValueError("broken"), None])

    def ask(served: LoadedRecommender) -> ModelAnswer:
        failure = next(calls)
        if failure is not None:
            raise failure
        return said(served)

    world = World(ask)
    world.offered()
    world.offered()
    world.run()
    assert (world.count("failed"), world.count("scored"), len(world.logged)) == (1, 1, 1)


def test_while_requests_wait_nothing_is_asked():
    world = World()
    world.busy = True
    world.offered()
    world.run()
    assert (world.count("dropped"), world.logged) == (1, [])


def test_more_than_the_queue_holds_is_dropped_and_never_waited_for():
    world = World()
    for _ in range(2 * MOST_WAITING):
        world.offered()
    assert world.count("dropped") == MOST_WAITING
    world.run()
    assert world.count("scored") == MOST_WAITING


def test_without_a_challenger_and_without_a_share_nothing_is_taken():
    world = World()
    world.challenger = None
    world.offered()
    world.run()
    silent = Shadow(0.0, lambda: CHALLENGER, lambda: False, world.metrics, world.logged.append)
    silent.offer(ShadowRequest(said(CHAMPION), QUESTION, NO_ITEMS, said))
    silent.start()
    silent.stop()
    assert (world.logged, world.count("scored")) == ([], 0)


@pytest.mark.parametrize(
    ("one", "other", "share"), [("abc", "bcd", 2 / 3), ("", "", 1.0), ("a", "", 0.0), ("ab", "abcd", 0.5)]
)
def test_the_overlap_is_the_share_of_the_longer_list(one, other, share):
    first, second = ([Ranked(item, 1.0, "similar") for item in text] for text in (one, other))
    assert overlap(first, second) == pytest.approx(share)
