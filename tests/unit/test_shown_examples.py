"""What a ranker learns from what was really shown: where it stood is told, and nothing of later plays a part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from shop_training import SHOP, shop_settings

from features.definitions.repo import load_repo
from features.errors import UsageError
from features.events.parsing import from_columns
from features.events.served_answers import inputs_hash, items_text
from models.recommender.pairs import POSITION
from models.recommender.scoring import COLUMN, PAIR_FEATURES
from training.data.dataset import Domain, Interactions, interactions_of
from training.data.split import Split
from training.progress import StageTimer
from training.recommender.fit import shown_examples
from training.recommender.shown_items import shown_between
from training.run import Features, TrainingRun

REPO = load_repo(Path(__file__).resolve().parents[2] / "feature_repo")
SETTINGS = shop_settings(ranker_positives=3, taken_within_ms=1_000)
DOMAIN = Domain.of(SHOP)
NAMES = (*PAIR_FEATURES, *DOMAIN.user_inputs.names, *DOMAIN.item_inputs.names)
NOW = 1_700_000_000_000
SPLIT = Split(NOW, NOW + 100_000, NOW + 200_000)


def log(times: list[int], names: tuple[str, ...] = NAMES) -> pa.Table:
    """An answer at each time to user u0, u1, …: items a, b and c, in this order, at first all at one position."""
    rows = np.full((3, len(names)), POSITION)
    rows[:, 0] = (3.0, 2.0, 1.0)
    listed = items_text([(item, 0.5, "popular") for item in "abc"], rows)
    answers = [
        {"event_id": f"r{n}", "event_time": at, "recommendation_id": f"r{n}", "user_id": f"u{n}",
         "inputs": inputs_hash(names), "items": listed}
        for n, at in enumerate(times)
    ]  # fmt: skip
    return from_columns(pa.Table.from_pylist(answers), REPO.streams["served"]).events


def bought(times: list[int], item: str = "b") -> dict[str, pa.Table]:
    """User u0, u1, … each buys the item at the time."""
    rows = [
        {"event_id": f"e{n}", "event_time": at, "event_type": "purchase", "user_id": f"u{n}", "item_id": item}
        for n, at in enumerate(times)
    ]
    return {"activity": from_columns(pa.Table.from_pylist(rows), REPO.streams["activity"]).events}


def run_of(history: Interactions) -> TrainingRun:
    return TrainingRun(Features({}, DOMAIN), SETTINGS, history, ("purchase",), SPLIT)


def found(answers: list[int], purchases: list[int]):
    history = interactions_of(bought(purchases), DOMAIN)
    return shown_between(log(answers), run_of(history))


def test_an_example_has_the_place_where_the_item_stood_and_else_what_it_was_scored_by():
    examples = found([NOW + 5], [NOW + 50])
    assert examples.taken.tolist() == [False, True, False]
    assert examples.inputs[:, COLUMN["position"]].tolist() == [1, 2, 3]
    assert examples.inputs[:, 0].tolist() == [3.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("answered", "counts"), [(NOW - 1, False), (NOW, True), (NOW + 98_999, True), (NOW + 99_000, False)]
)
def test_only_answers_of_the_part_that_is_learnt_from_count_whose_taking_ends_in_it(answered, counts):
    examples = found([answered], [answered + 1_000])
    assert (examples is not None) == counts
    assert examples is None or examples.taken.sum() == 1


def test_without_a_log_there_is_nothing_to_learn_from():
    history = interactions_of(bought([NOW]), DOMAIN)
    assert shown_between(None, run_of(history)) is None


def asked(impressions: str, taken: int, names: tuple[str, ...] = NAMES):
    """What is learnt of so many answers with a purchase each, and what is said."""
    times, said = [NOW + 10 * n for n in range(5)], []
    events = {**bought([at + 1 for at in times[:taken]] or [NOW]), "served": log(times, names)}
    history = interactions_of(events, DOMAIN)
    settings = SETTINGS.model_copy(update={"impressions": impressions})
    run = TrainingRun(Features(events, DOMAIN), settings, history, ("purchase",), SPLIT, timer=StageTimer(said.append))
    shown = shown_examples(run)
    return shown, said


@pytest.mark.parametrize("impressions", ["auto", "served"])
def test_enough_items_that_were_shown_and_taken_are_learnt_from_and_that_is_said(impressions):
    shown, said = asked(impressions, 3)
    assert (len(shown.taken), int(shown.taken.sum())) == (15, 3)
    assert said == ["and 3 of 15 items that were shown and then taken"]


def test_too_few_are_left_out_or_refused_where_only_they_are_wanted():
    assert asked("auto", 2) == (None, [])
    with pytest.raises(UsageError, match="3 shown items that were taken; got 2 of 15"):
        asked("served", 2)


def test_a_log_of_another_models_inputs_is_none_or_refused_where_only_it_is_wanted():
    assert asked("auto", 3, ("other",)) == (None, [])
    with pytest.raises(UsageError, match="answers by the inputs"):
        asked("served", 3, ("other",))


def test_who_wants_only_the_split_gets_only_that():
    assert asked("split", 5) == (None, [])
