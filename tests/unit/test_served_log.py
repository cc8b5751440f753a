"""What was served, as an event: who asked, and every item with the row that it was scored by; and read back."""

from __future__ import annotations

import json
import threading
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shop_training import SHOP
from small_shop import NOW, features, fresh, model

from features.definitions.repo import load_repo
from features.errors import UsageError
from features.events.parsing import from_columns
from features.events.served_answers import inputs_hash, items_text, served_log, shown_items
from models.recommender import LoadedRecommender
from models.recommender.retrieval import ranker_inputs
from models.recommender.scoring import PAIR_FEATURES
from serving.events.verdicts import judge
from serving.recommend.convert import ModelAnswer
from serving.recommend.recommender import FallbackReason, ItemQuery, UserRead, rank, recommend, substitute
from serving.recommend.served_log import MOST_WAITING, ServedAnswer, ServedLog, event_of, is_sampled
from serving.recommend.snapshot import NO_ITEMS
from training.data.dataset import Domain, interactions_of
from training.recommender.shown_items import read_served, served_examples

LOG = served_log("t.served")
REPO = load_repo(Path(__file__).resolve().parents[2] / "feature_repo")


def answered(question: ItemQuery, read: UserRead, by=recommend) -> ServedAnswer:
    artefact = model()
    made = by(question, read, artefact, fresh(new=1), None)
    return ServedAnswer(ModelAnswer(made, LoadedRecommender("7", artefact, NOW), read), question, NO_ITEMS)


def test_an_answer_is_an_event_that_the_logs_stream_takes():
    logged = answered(ItemQuery("ann", 3, placement="home"), UserRead(features(recent=["tea"])))
    event = event_of(logged, NOW)
    judged = judge([event], LOG, None, NOW)
    assert (judged.reasons, judged.parsed.events.num_rows) == ([None], 1)
    (row,) = judged.parsed.events.to_pylist()
    assert row["recommendation_id"] == row["event_id"] == logged.answer.id
    assert (row["user_id"], row["placement"], row["model_version"], row["as_of"]) == ("ann", "home", "7", NOW)
    assert [one[0] for one in json.loads(row["items"])] == [one.item_id for one in logged.answer.recommendation.items]


@pytest.mark.parametrize("diversity", [0.0, 0.7])
def test_the_rows_are_those_that_the_ranker_was_asked_with_to_the_bit(diversity):
    logged = answered(ItemQuery("ann", 4, diversity=diversity), UserRead(features(recent=["pen"])))
    asked, artefact = logged.answer.recommendation.ranking, model()
    candidates = artefact.retrieve(asked.query)
    inputs = ranker_inputs(candidates, np.empty(0), np.empty((len(candidates), 0)))
    by_item = {artefact.items[place]: row for place, row in zip(candidates.indices, inputs, strict=True)}
    shown = shown_items(logs([event_of(logged, NOW)]), PAIR_FEATURES)
    assert shown.items == [one.item_id for one in logged.answer.recommendation.items]
    assert shown.rank.tolist() == [1, 2, 3, 4]
    for item, row in zip(shown.items, shown.inputs, strict=True):
        np.testing.assert_array_equal(row, by_item[item])


def logs(events: list[dict]) -> pa.Table:
    """The events as the archive has them."""
    return from_columns(pa.Table.from_pylist(events), LOG).events


def test_items_that_no_model_scored_have_no_row():
    logged = answered(ItemQuery("bob", 3, among=("tea", "new", "unheard")), UserRead(features(recent=["pen"])), rank)
    listed = json.loads(event_of(logged, NOW)["items"])
    assert [(one[0], one[3] is None) for one in listed] == [("tea", False), ("new", True), ("unheard", True)]
    assert listed[2][1] is None


def test_a_fallback_without_a_model_is_logged_with_its_reason():
    question = ItemQuery("bob", 2)
    made = substitute(question, FallbackReason.NO_MODEL, fresh(new=1), None)
    event = event_of(ServedAnswer(ModelAnswer(made, None, UserRead()), question, NO_ITEMS), NOW)
    assert (event["fallback"], "model" in event) == ("no_model", False)
    assert json.loads(event["items"]) == [["new", 1.0, "trending", None]]


@given(
    st.lists(st.lists(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.none()), min_size=3, max_size=3))
)
def test_rows_come_back_as_they_were(rows):
    array = np.array([[np.nan if one is None else one for one in row] for row in rows]).reshape(len(rows), 3)
    text = items_text([(f"i{number}", 1.0, "popular") for number in range(len(rows))], array)
    table = pa.table({"inputs": [inputs_hash("abc")], "items": [text]})
    kept = [number for number, row in enumerate(rows) if any(one is not None for one in row)]
    found = shown_items(table, "abc")
    assert found.items == [f"i{number}" for number in kept]
    np.testing.assert_array_equal(found.inputs, array[kept])


def test_answers_by_other_inputs_are_left_out_and_only_such_are_an_error():
    table = pa.table({"inputs": [inputs_hash("ab"), inputs_hash("abc")], "items": ['[["x",1,"s",[1,2]]]'] * 2})
    assert shown_items(table, "ab").answer.tolist() == [0]
    with pytest.raises(UsageError, match="inputs"):
        shown_items(table, "xyz")


# --- sampling and the queue -------------------------------------------------------------------------------------------


@given(st.uuids(), st.floats(0, 1), st.floats(0, 1))
def test_sampling_is_by_the_id_alone_and_more_has_all_that_less_has(one, share, other):
    least, most = sorted([share, other])
    assert is_sampled(one.hex, most) or not is_sampled(one.hex, least)
    assert is_sampled(one.hex, 1.0)
    assert not is_sampled(one.hex, 0.0)


def test_a_tenth_is_about_a_tenth():
    rng = np.random.default_rng(5)
    ids = [uuid.UUID(bytes=rng.bytes(16), version=4).hex for _ in range(20_000)]
    assert 0.09 < np.mean([is_sampled(one, 0.1) for one in ids]) < 0.11


class Outlet:
    """Takes messages once it is opened."""

    def __init__(self):
        self.open, self.messages = threading.Event(), []

    def offer(self, message, heard):
        self.open.wait()
        self.messages.append(message)
        heard(True)


def test_more_than_the_queue_holds_is_dropped_counted_and_never_waited_for():
    outlet, counts = Outlet(), []
    log = ServedLog(LOG, outlet, 1.0, counts.append)
    log.start()
    logged = answered(ItemQuery("ann", 1), UserRead(features()))
    for _ in range(3 * MOST_WAITING):
        log.offer(logged)
    assert counts.count("dropped") >= 2 * MOST_WAITING - 1
    outlet.open.set()
    log.stop()
    assert len(outlet.messages) + counts.count("dropped") == 3 * MOST_WAITING
    assert counts.count("sent") == len(outlet.messages)
    assert outlet.messages[0].key == b"ann"


# --- learning from it -------------------------------------------------------------------------------------------------


def test_an_item_was_taken_when_its_user_took_it_after_the_answer_and_soon_enough():
    domain = Domain.of(SHOP)
    shown = [["a", 1.0, "s", [1.0, 2.0]], ["b", 0.5, "s", [3.0, None]], ["c", 0.2, "s", [5.0, 6.0]]]
    log = logs(
        [
            {"event_id": f"r{number}", "event_time": NOW, "recommendation_id": f"r{number}", "user_id": user,
             "inputs": inputs_hash("xy"), "items": json.dumps(shown)}
            for number, user in enumerate(["ann", "bob", None])
        ]
    )  # fmt: skip
    events = [
        ("ann", "a", NOW + 1, "purchase"),  # soon after
        ("ann", "b", NOW, "purchase"),  # not after
        ("ann", "c", NOW + 1_001, "purchase"),  # not soon
        ("bob", "a", NOW + 5, "view"),  # no target
        ("bob", "b", NOW + 1_000, "purchase"),
    ]
    columns = dict(zip(("user_id", "item_id", "event_time", "event_type"), zip(*events, strict=True), strict=True))
    table = pa.table({name: list(values) for name, values in columns.items()} | {"event_id": list("abcde")})
    activity = {"activity": from_columns(table, REPO.streams["activity"]).events}
    history = interactions_of(activity, domain)
    found = served_examples(log, history.only(history.of(("purchase",))), "xy", 1_000)
    assert found.taken.tolist() == [True, False, False, False, True, False]
    np.testing.assert_array_equal(found.inputs[1], [3.0, np.nan])


def test_without_a_table_of_the_log_the_error_says_how_to_have_one(tmp_path):
    with pytest.raises(UsageError, match="served_log_share"):
        read_served(tmp_path, LOG)
