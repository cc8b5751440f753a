"""Training on a part of an archive that is said not to fit: what is read, what is told of items, and what is said."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import write_deltalake
from shop_history import SETTINGS, shop
from shop_training import SHOP
from small_cards import simulated

from features.definitions.repo import load_repo
from features.errors import UsageError
from features.events.parsing import event_schema
from features.history.archive import ALWAYS, open_table
from features.history.point_in_time_join import Spine, point_in_time
from headrace.commands.models.project import RecommenderProject, Source
from headrace.project import Project
from headrace.settings import Settings
from models.event_model.columns import EventModelColumns, filled
from training.data.dataset import Domain, EventFile, interactions_of, read_file, read_offline
from training.data.event_sources import InArchive
from training.data.labelled_events import EventTrainingSettings, examples_between, read_archive, split_events
from training.data.sampling import EventLimit, SampledEvents, WholeArchive, sample_of
from training.data.split import Split
from training.progress import StageTimer
from training.recommender.candidates import fit_candidates
from training.recommender.user_histories import with_everybody
from training.run import Features, TrainingRun

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
REPO = load_repo(ROOT / "feature_repo")
DOMAIN = Domain.of(SHOP)
CARDS = EventModelColumns.of(REPO, REPO.models["cards"])
MOST = 900


def archived(folder: Path, name: str, table: pa.Table, *parts: slice) -> None:
    """The events stand in the stream's table, a commit for each part."""
    topic = pa.repeat(pa.scalar(f"{name}.topic"), table.num_rows)
    for part in parts or (slice(None),):
        start, stop, _ = part.indices(table.num_rows)
        some = table.append_column("topic", topic).slice(start, stop - start)
        write_deltalake(folder / name, some, mode="append")


@pytest.fixture(scope="module")
def events() -> pa.Table:
    return shop(DOMAIN)


@pytest.fixture(scope="module")
def offline(events, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("offline")
    archived(folder, "activity", events)
    return folder


@pytest.fixture(scope="module")
def sample(offline) -> SampledEvents:
    read = read_offline(offline, DOMAIN, bound=EventLimit(MOST))
    assert isinstance(read, SampledEvents)
    return read


def test_a_sample_holds_no_more_than_fits_and_everything_that_its_users_did(events, sample):
    read = sample["activity"]
    users = pc.unique(read["user_id"])
    theirs = events.filter(pc.is_in(events["user_id"], value_set=users))
    assert 0.5 * MOST < read.num_rows <= MOST < events.num_rows
    assert sorted(read["event_id"].to_pylist()) == sorted(theirs["event_id"].to_pylist())
    assert (sample.sample.events, sample.sample.of_events) == (read.num_rows, events.num_rows)


def test_the_sample_depends_on_events_and_seed_and_not_on_files_or_repetitions(events, sample, offline, tmp_path):
    archived(tmp_path, "activity", events, slice(700, None), slice(0, 700))
    some, place = events.slice(100, 100), events.schema.get_field_index("offset")
    later = pc.add(some["offset"], 1_000_000)
    archived(tmp_path, "activity", some.set_column(place, events.schema.field("offset"), later))
    again = read_offline(tmp_path, DOMAIN, bound=EventLimit(MOST))
    other = read_offline(offline, DOMAIN, bound=EventLimit(MOST, seed=1))
    mine, theirs, others = (set(one["activity"]["event_id"].to_pylist()) for one in (sample, again, other))
    assert mine == theirs
    assert len(theirs) == again["activity"].num_rows
    assert others != mine


def test_a_table_is_read_a_row_group_at_a_time_however_many_there_are(events, tmp_path):
    parts = 24
    for _ in range(parts):
        archived(tmp_path, "activity", events)
    table = open_table(tmp_path, DOMAIN.stream)
    before, most, rows = pa.total_allocated_bytes(), 0, 0
    for batch in table.batches(event_schema(DOMAIN.stream).names):
        rows += batch.num_rows
        most = max(most, pa.total_allocated_bytes() - before)
    assert rows == parts * events.num_rows
    assert most < parts / 4 * events.nbytes


def test_what_is_told_of_items_is_of_everybodys_events(events, sample):
    items = pc.unique(events["item_id"])
    as_of = np.full(len(items), int(pc.max(events["known_at"]).as_py()))
    spine = Spine(items, as_of)
    told = Features(sample, DOMAIN).of_items(spine)
    expected = point_in_time(DOMAIN.item, spine, {"activity": events})
    fewer = point_in_time(DOMAIN.item, spine, sample)
    assert told.to_table().equals(expected.to_table())
    assert not told.to_table().equals(fewer.to_table())


def run_until(end_ms: int, sample: SampledEvents, said: list[str]) -> TrainingRun:
    history, split = interactions_of(sample, DOMAIN), Split(0, 0, end_ms)
    timer = StageTimer(said.append)
    return TrainingRun(Features(sample, DOMAIN), SETTINGS, history, ("purchase",), split, timer=timer)


def test_a_model_of_a_sample_remembers_what_everybody_took(events, sample):
    target, end = ("purchase",), int(pc.max(events["known_at"]).as_py())  # the last event is not known yet
    every = fit_candidates(interactions_of({"activity": events}, DOMAIN), target, end, SETTINGS)
    some = fit_candidates(interactions_of(sample, DOMAIN), target, end, SETTINGS)
    assert some.items == every.items
    said: list[str] = []
    found = with_everybody(some, sample, run_until(end, sample, said))
    assert len(some.users) < len(every.users)
    assert said == []
    for name in ("users", "own_count", "own_last_ms", "own_visits", "own_first_ms"):
        np.testing.assert_array_equal(getattr(found, name), getattr(every, name), name)
    np.testing.assert_array_equal(found.histories.column, every.histories.column)
    np.testing.assert_array_equal(found.histories.starts, every.histories.starts)


def test_histories_that_do_not_fit_are_left_out_and_counted(events, sample):
    target, end = ("purchase",), int(pc.max(events["known_at"]).as_py())
    some = fit_candidates(interactions_of(sample, DOMAIN), target, end, SETTINGS)
    tight = SampledEvents(
        dict(sample), WholeArchive(sample.whole.tables, ALWAYS, EventLimit(20)), sample.who, sample.sample
    )
    said: list[str] = []
    found = with_everybody(some, tight, run_until(end, tight, said))
    (told,) = said
    left = int(re.search(r"of (\d+) users", told)[1])
    assert len(found.users) + left == len(pc.unique(events["user_id"]))


def test_everything_is_read_where_it_fits(events, offline):
    read = read_offline(offline, DOMAIN, bound=EventLimit(events.num_rows))
    assert not isinstance(read, SampledEvents)
    assert len(interactions_of(read, DOMAIN)) == events.num_rows


def test_a_project_says_what_it_reads_where_not_all_fits(offline, tmp_path):
    (tmp_path / ".headrace").mkdir()
    (tmp_path / ".headrace" / "offline").symlink_to(offline)
    said: list[str] = []
    chosen = SETTINGS.model_copy(update={"max_events": MOST})
    settings = Settings.model_validate({"stream": {"repo": str(ROOT / "feature_repo")}})
    read = RecommenderProject(Project(tmp_path, settings), Source(), SHOP, chosen).events(said.append)
    assert [str(sample_of(read))] == said
    assert "all those of" in said[0]


def test_a_file_that_does_not_fit_is_refused_with_what_to_do(tmp_path):
    head = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session"
    line = "2019-10-01 00:00:{second:02d} UTC,view,{item},1,,,1.5,{user},s"
    rows = [line.format(second=number % 60, item=number % 7, user=number % 50) for number in range(MOST + 1)]
    path = tmp_path / "shop.csv"
    path.write_text("\n".join([head, *rows]))
    assert read_file(EventFile(path, "rees46", REPO), DOMAIN, bound=EventLimit(MOST + 1))["activity"].num_rows > 0
    with pytest.raises(UsageError, match=r"at most 900 .*headrace import"):
        read_file(EventFile(path, "rees46", REPO), DOMAIN, bound=EventLimit(MOST))


# --- models of events -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def payments():
    return simulated(REPO)


@pytest.fixture(scope="module")
def cards(payments, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cards")
    for name, table in payments.items():
        archived(folder, name, table)
    return folder


def test_an_event_model_learns_from_some_groups_and_is_tested_on_all_with_features_of_everybody(payments, cards):
    every = sum(table.num_rows for table in payments.values())
    settings = EventTrainingSettings(iterations=10, learning_rate=0.1)
    parts = split_events(payments, CARDS.model, settings)
    expected = examples_between(payments, CARDS, parts.start, parts.end, parts.test)
    read = read_archive(cards, REPO, CARDS, None, EventLimit(every // 2))
    assert isinstance(read, InArchive)
    assert split_events(read, CARDS.model, settings) == parts
    found = examples_between(read, CARDS, parts.start, parts.end, parts.test)
    assert found.sample is not None
    assert len(found) <= every // 2 < len(expected)
    by_row = {row.tobytes(): positive for row, positive in zip(filled(expected.matrix), expected.positive, strict=True)}
    assert all(by_row[row.tobytes()] == one for row, one in zip(filled(found.matrix), found.positive, strict=True))
    tested, all_tested = found.between(parts.test, parts.end), expected.between(parts.test, parts.end)
    assert len(tested) == len(all_tested)
    assert sorted(map(bytes, filled(tested.matrix))) == sorted(map(bytes, filled(all_tested.matrix)))
    learned, all_learned = found.between(0, parts.test), expected.between(0, parts.test)
    assert 0 < len(learned) < len(all_learned)


def test_a_test_of_more_events_than_fit_is_refused_with_what_to_set(payments, cards):
    read = read_archive(cards, REPO, CARDS, None, EventLimit(300))
    parts = split_events(payments, CARDS.model, EventTrainingSettings())
    with pytest.raises(UsageError, match="test_ms"):
        examples_between(read, CARDS, parts.start, parts.end, parts.test)
