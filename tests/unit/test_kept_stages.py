"""What a training that did not end leaves for the next one, and when that takes it."""

from __future__ import annotations

import numpy as np
import pytest

from features.errors import UsageError
from training.resume import ARRAYS, MOST_TIMES, YOUNG_MS, About, Stages, Unfinished, key_of

ABOUT = About(key="k", tables={"activity": ("id", 3)}, begun_ms=1_000)


class Killed(BaseException):
    """What is no error that anybody catches."""


def stage(value: float, made: list[float]):
    def make() -> dict:
        made.append(value)
        return {"values": np.array([value])}

    return make


def ending(error: BaseException, folder, about: About = ABOUT, resumed: bool = False, value: float = 1.0) -> None:
    """A training that ends so after its first stage."""
    with Unfinished(folder).begun(about, resumed) as kept:
        found = kept.keep("examples", ARRAYS, stage(value, []))
        assert found["values"].tolist() == [value]
        raise error


def interrupted(folder, about: About = ABOUT, resumed: bool = False, value: float = 1.0) -> None:
    with pytest.raises(Killed):
        ending(Killed(), folder, about, resumed, value)


def test_a_stage_is_made_once_and_then_read(tmp_path):
    made: list[float] = []
    said: list[str] = []
    for value in (1.0, 2.0):
        found = Stages(tmp_path, said.append).keep("examples", ARRAYS, stage(value, made))
        assert found["values"].tolist() == [1.0]
    assert made == [1.0]
    assert said == ["examples: kept from before"]


def test_a_stage_that_is_damaged_is_made_anew(tmp_path):
    Stages(tmp_path).keep("examples", ARRAYS, stage(1.0, []))
    (tmp_path / "examples.npz").write_bytes((tmp_path / "examples.npz").read_bytes()[:-30])
    found = Stages(tmp_path).keep("examples", ARRAYS, stage(2.0, []))
    assert found["values"].tolist() == [2.0]


def test_stages_that_are_kept_nowhere_are_made_each_time():
    made: list[float] = []
    for value in (1.0, 2.0):
        Stages().keep("examples", ARRAYS, stage(value, made))
    assert made == [1.0, 2.0]


def test_a_training_that_was_killed_is_gone_on_with_and_its_tables_are_known(tmp_path):
    interrupted(tmp_path / "mine")
    found = Unfinished(tmp_path / "mine").resumable("k", 2_000)
    assert found is not None
    assert (found.tables, found.begun_ms) == (ABOUT.tables, 1_000)
    made: list[float] = []
    with Unfinished(tmp_path / "mine").begun(found, resumed=True) as kept:
        assert kept.keep("examples", ARRAYS, stage(2.0, made))["values"].tolist() == [1.0]
    assert made == []


def test_nothing_is_kept_of_a_training_that_ended_well_or_was_refused(tmp_path):
    unfinished = Unfinished(tmp_path / "mine")
    with unfinished.begun(ABOUT, resumed=False) as kept:
        kept.keep("examples", ARRAYS, stage(1.0, []))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError):
        ending(UsageError("training", "more", "less"), tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "now_ms"), [("another", 2_000), ("k", 1_000 + YOUNG_MS), ("k", 999)], ids=["other", "old", "of the future"]
)
def test_a_training_of_other_settings_or_of_long_ago_is_not_gone_on_with(key, now_ms, tmp_path):
    interrupted(tmp_path)
    assert Unfinished(tmp_path).resumable("k", 2_000) is not None
    assert Unfinished(tmp_path).resumable(key, now_ms) is None


def test_a_training_that_had_finished_nothing_is_begun_anew_on_newer_events(tmp_path):
    with pytest.raises(Killed), Unfinished(tmp_path).begun(ABOUT, resumed=False):
        raise Killed
    assert Unfinished(tmp_path).resumable("k", 2_000) is None


def test_a_training_that_never_ends_is_begun_anew_in_the_end(tmp_path):
    unfinished = Unfinished(tmp_path)
    interrupted(tmp_path)
    for _ in range(MOST_TIMES - 1):
        about = unfinished.resumable("k", 2_000)
        assert about is not None
        interrupted(tmp_path, about, resumed=True)
    assert unfinished.resumable("k", 2_000) is None


def test_a_new_training_leaves_nothing_of_the_one_before(tmp_path):
    interrupted(tmp_path)
    interrupted(tmp_path, value=5.0)


def test_a_key_is_other_where_any_part_is():
    parts = {"settings": {"seed": 1}, "trials": None}
    assert key_of(parts) == key_of(dict(reversed(parts.items())))
    assert key_of(parts) != key_of({**parts, "trials": 2})
    assert key_of(parts) != key_of({**parts, "settings": {"seed": 2}})
