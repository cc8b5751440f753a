"""Which generation readers read, by definition; when a new one takes over; and when an older one goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from features.definitions import Count, Entity, FeatureSet, FeatureView, Stream
from features.definitions.repo import FeatureRepo
from features.errors import DefinitionError, StoreError, UsageError
from features.events.parsing import from_columns
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker, of_schema
from features.online_store.reader import FeatureReader
from features.online_store.sqlite.rows import SqliteRows
from streaming.generations.checkpoints import Checkpoints, Generation, new_generation
from streaming.generations.switchover import flip, is_current, superseded

T0 = 1_700_000_000_000
USER = Entity("user", keys={"user_id": "string"})
SHOP = Stream("shop", topic="t", fields={"user_id": "string"})
GRACE = 1_000


def repo_of(*windows: str, view: str = "by_user") -> FeatureRepo:
    made = FeatureView(view, sets=[FeatureSet(USER, SHOP, [Count()], windows)])
    return FeatureRepo(Path("repo"), {"user": USER}, {"shop": SHOP}, {view: made})


OLD, NEW = repo_of("1h"), repo_of("1h", "24h")


@pytest.fixture
def rows(tmp_path: Path) -> SqliteRows:
    return SqliteRows(tmp_path / "online.db")


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "fold")


def begun(rows: SqliteRows, checkpoints: Checkpoints, repo: FeatureRepo, users: str = "a") -> Generation:
    """A generation with an event of each of the users, as the stream begins one."""
    generation = new_generation({"t/0": 1}, repo)
    store = rows.generation(generation.stream_id)
    store.begin()
    store.describe(generation.definitions)
    table = pa.table({"event_id": list(users), "event_time": [T0] * len(users), "user_id": list(users)})
    events = {"shop": from_columns(table, SHOP).events}
    marker = Marker(-1, generation.first, generation.first, -1)
    build_generation(store, list(repo.views.values()), generation.stream_id, events, marker, T0)
    checkpoints.start(generation)
    return generation


def counts(rows: SqliteRows, repo: FeatureRepo, key: str = "a", schema_hash: int | None = None) -> list[int | None]:
    matrix = FeatureReader(rows, repo, lambda: T0 + 1).read("by_user", pa.array([key]), schema_hash=schema_hash)
    return [column[0].as_py() for column in matrix.columns]


def never() -> bool:
    return False


def test_readers_of_a_view_without_a_generation_get_the_first_at_once_and_a_later_one_when_it_has_caught_up(
    rows: SqliteRows, checkpoints: Checkpoints
) -> None:
    first = begun(rows, checkpoints, OLD)
    assert flip(rows, first, never) == set()
    assert is_current(rows, first)
    second = begun(rows, checkpoints, OLD, "ab")
    assert flip(rows, second, never) == set()
    assert counts(rows, OLD, "b") == [None]
    assert flip(rows, second, lambda: True) == {first.stream_id}
    assert counts(rows, OLD, "b") == [1]


def test_readers_of_the_definition_before_go_on_reading_its_rows_and_those_of_the_new_one_read_the_new(
    rows: SqliteRows, checkpoints: Checkpoints
) -> None:
    first = begun(rows, checkpoints, OLD)
    flip(rows, first, never)
    assert counts(rows, NEW) == [None, None]  # nothing is known in its terms yet, and that is no error
    second = begun(rows, checkpoints, NEW)
    flip(rows, second, lambda: True)
    assert (counts(rows, OLD), counts(rows, NEW)) == ([1], [1, 1])
    old, new = OLD.views["by_user"].schema_hash, NEW.views["by_user"].schema_hash
    assert (rows.current(of_schema("by_user", old)), rows.current("by_user")) == (first.stream_id, second.stream_id)
    assert counts(rows, NEW, schema_hash=old) == [1]  # a model of before, served by a process of today
    assert counts(rows, OLD, schema_hash=new) == [1, 1]
    with pytest.raises(UsageError, match="without rows"):
        counts(rows, NEW, schema_hash=12345)
    rows.drop_generation(first.stream_id)
    assert counts(rows, OLD) == [None]


def superseded_now(rows: SqliteRows, checkpoints: Checkpoints, now: int, needed=frozenset) -> list[int]:
    return [one.stream_id for one in superseded(rows, checkpoints, needed, GRACE, now)]


def test_a_generation_that_nothing_names_goes_at_once(rows: SqliteRows, checkpoints: Checkpoints) -> None:
    first = begun(rows, checkpoints, OLD)
    flip(rows, first, never)
    second = begun(rows, checkpoints, OLD)
    flip(rows, second, lambda: True)
    assert superseded_now(rows, checkpoints, T0) == [first.stream_id]


def test_one_of_an_older_definition_stays_for_the_grace_period_and_as_long_as_a_model_needs_it(
    rows: SqliteRows, checkpoints: Checkpoints
) -> None:
    first = begun(rows, checkpoints, OLD)
    flip(rows, first, never)
    flip(rows, begun(rows, checkpoints, NEW), lambda: True)
    need = frozenset({("by_user", OLD.views["by_user"].schema_hash)})
    assert superseded_now(rows, checkpoints, T0) == []
    assert superseded_now(rows, checkpoints, T0 + GRACE - 1) == []
    assert superseded_now(rows, checkpoints, T0 + GRACE, lambda: need) == []
    assert superseded_now(rows, checkpoints, T0 + GRACE) == [first.stream_id]

    def silent() -> frozenset[tuple[str, int]]:
        raise StoreError("registry", "an answer", "none")

    with pytest.raises(StoreError):
        superseded_now(rows, checkpoints, T0 + GRACE, silent)


def test_a_view_that_is_defined_no_more_keeps_its_readers_for_the_grace_period(
    rows: SqliteRows, checkpoints: Checkpoints
) -> None:
    first = begun(rows, checkpoints, OLD)
    flip(rows, first, never)
    flip(rows, begun(rows, checkpoints, repo_of("1h", view="others")), never)
    assert superseded_now(rows, checkpoints, T0) == []
    assert superseded_now(rows, checkpoints, T0 + GRACE) == [first.stream_id]


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_generations_before_the_current_one_are_kept_in_order_until_they_are_dropped(checkpoints: Checkpoints) -> None:
    several = [new_generation({"t/0": number}, OLD) for number in range(3)]
    for one in several:
        checkpoints.start(one)
    assert (checkpoints.older(), checkpoints.current()) == (several[:2], several[2])
    checkpoints.drop(several[0])
    assert checkpoints.older() == [several[1]]
    assert not checkpoints.path(several[0]).exists()


def test_a_definition_that_comes_back_takes_up_the_generation_that_still_has_its_rows(checkpoints: Checkpoints) -> None:
    old, new = new_generation({"t/0": 1}, OLD), new_generation({"t/0": 2}, NEW)
    checkpoints.start(old)
    checkpoints.start(new)
    assert checkpoints.superseded_since(old, 5) == 5
    assert checkpoints.superseded_since(old, 9) == 5
    (kept,) = checkpoints.older()
    checkpoints.take_back(kept)
    assert (checkpoints.current(), checkpoints.older()) == (old, [new])


def test_a_lost_checkpoint_is_no_generation_any_more(checkpoints: Checkpoints) -> None:
    old, new = new_generation({"t/0": 1}, OLD), new_generation({"t/0": 2}, NEW)
    checkpoints.start(old)
    checkpoints.start(new)
    checkpoints.path(old).rmdir()
    assert checkpoints.older() == []


def test_a_generation_knows_the_definitions_that_it_was_begun_with() -> None:
    generation = new_generation({"t/0": 1}, NEW)
    again = generation.repo()
    assert (again.views, again.streams, again.entities) == (NEW.views, NEW.streams, NEW.entities)
    with pytest.raises(DefinitionError):
        replace(generation, definitions="").repo()
