"""The served log held to history: what was served is compared where lag explains nothing, and what is wrong is told."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from serving_world import MODEL, REPO, STREAM_ID, Models, model

from features.checks.served_log import LogVerifier
from features.checks.stores import VerifyRequest
from features.definitions.repo import load_repo
from features.errors import UsageError
from features.events.parsing import from_columns
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker
from features.online_store.reader import FeatureReader
from features.online_store.sqlite.rows import SqliteRows
from headrace.commands.features.verify import report_of_the_log
from headrace.settings import Settings
from models.recommender import LoadedRecommender
from serving.recommend.convert import ModelAnswer
from serving.recommend.recommender import ItemQuery, UserRead, recommend
from serving.recommend.served_log import ServedAnswer, event_of
from serving.recommend.snapshot import NO_ITEMS

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
REPOSITORY = load_repo(REPO)
VIEW, LOG, ACTIVITY = REPOSITORY.views["user_activity"], REPOSITORY.streams["served"], REPOSITORY.streams["activity"]
SETTLE_MS = 10_000
USERS = 20


class World:
    """Users whose events are in the rows and in the archive, and a service that answers each of them by a model."""

    def __init__(self, root: Path) -> None:
        self.root, self.offline = root, root / "offline"
        self.start = time.time_ns() // 1_000_000 - 3_600_000
        self.model = model(REPOSITORY, 1)
        self.names = (
            *self.model.manifest.pair_features,
            *self.model.manifest.user.names,
            *self.model.manifest.item.names,
        )
        self.log: list[dict] = []

    def events(self, seconds: list[float]) -> pa.Table:
        """Every user looks at an item at each of these times after the start."""
        looked = [(user, number, at) for user in range(USERS) for number, at in enumerate(seconds)]
        table = pa.table(
            {
                "event_id": [f"u{user}-{number}" for user, number, _ in looked],
                "event_time": pa.array([self.start + int(1_000 * at) + user for user, _, at in looked]),
                "event_type": ["view"] * len(looked),
                "user_id": [f"u{user}" for user, *_ in looked],
                "item_id": [f"item{number}" for _, number, _ in looked],
                "price": [1.0 + number / 7 for _, number, _ in looked],
            }
        )
        return from_columns(table, ACTIVITY).events

    def fold(self, events: pa.Table, name: str) -> FeatureReader:
        """A reader of rows in which these events are, and no others."""
        rows = SqliteRows(self.root / f"{name}.db")
        views = [VIEW]
        now = time.time_ns() // 1_000_000
        build_generation(rows.generation(STREAM_ID), views, STREAM_ID, {"activity": events}, Marker(0, {}, {}, 0), now)
        rows.set_current(VIEW.name, STREAM_ID)
        return FeatureReader(rows, REPOSITORY)

    def answer(self, reader: FeatureReader, second: float) -> None:
        """Everybody asks, and what they are answered is logged, at this time after the start."""
        at = self.start + int(1_000 * second)
        for user in range(USERS):
            question = ItemQuery(f"u{user}", 3)
            read = UserRead(reader.read(VIEW.name, pa.array([f"u{user}"]), at))
            made = recommend(question, read, self.model, NO_ITEMS, None)
            answer = ModelAnswer(made, LoadedRecommender("7", self.model, at), read)
            self.log.append(event_of(ServedAnswer(answer, question, NO_ITEMS), at + 1))

    def archive(self, events: pa.Table, later: float) -> None:
        """The archive has the events and the log, and something that was logged this long after the start."""
        last = {**self.log[0], "event_id": "last", "event_time": self.start + int(1_000 * later), "user_id": None}
        write_deltalake(self.offline / "activity", events, mode="overwrite")
        logged = from_columns(pa.Table.from_pylist([*self.log, last]), LOG).events
        write_deltalake(self.offline / "served", logged, mode="overwrite")

    def verify(self, sample: int | None = None):
        inputs = (self.names, self.model.manifest.user.names)
        verifier = LogVerifier(REPOSITORY, self.offline, lambda *_: inputs, SETTLE_MS)
        return verifier.verify(VIEW, LOG, sample, 0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_was_served_is_what_history_says_also_right_after_an_event_that_was_in_it(world):
    events = world.events([0, 30, 61])
    reader = world.fold(events, "whole")
    world.answer(reader, 90)
    world.answer(reader, 65)
    world.archive(events, later=200)
    found = world.verify()
    assert (found.answers, found.unsettled) == (2 * USERS, 0)
    assert found.findings.compared == 2 * USERS * len(world.model.manifest.user.names)
    assert dict(found.findings.kinds) == {}


def test_what_lag_may_explain_is_not_compared(world):
    events = world.events([0, 30, 61])
    behind = world.fold(world.events([0, 30]), "behind")
    world.answer(behind, 65)
    world.archive(events, later=200)
    found = world.verify()
    assert (found.answers, found.unsettled, found.findings.compared) == (USERS, USERS, 0)
    world.archive(events, later=70)
    assert world.verify().unsettled == USERS, "the archive may not have all of it yet"


def test_rows_that_lost_an_event_are_found_and_so_is_a_value_that_was_changed(world):
    events = world.events([0, 30, 61])
    lost = world.fold(world.events([0, 30]), "lost")
    world.answer(lost, 120)
    world.archive(events, later=200)
    found = world.verify().findings
    assert set(found.by_feature) == {"user_view_count_1h", "user_view_count_24h"}
    assert found.kinds["mismatch"] == 2 * USERS
    world.log.clear()
    world.answer(world.fold(events, "whole"), 120)
    listed = json.loads(world.log[3]["items"])
    place = len(world.model.manifest.pair_features)
    for one in listed:
        one[3][place] += 1.0
    world.log[3]["items"] = json.dumps(listed)
    nulled = json.loads(world.log[4]["items"])
    for one in nulled:
        one[3][place] = None
    world.log[4]["items"] = json.dumps(nulled)
    world.archive(events, later=200)
    findings = world.verify().findings
    assert findings.by_feature == {"user_view_count_1h": {"mismatch": 1, "missing": 1}}
    (worst,) = [one for one in findings.worst if one.kind == "mismatch"]
    assert (worst.entity, worst.feature, worst.online - worst.offline) == ("u3", "user_view_count_1h", 1.0)


def test_a_user_whom_the_archive_does_not_know_is_extra(world):
    events = world.events([0, 30])
    world.answer(world.fold(events, "whole"), 120)
    world.archive(events.filter(pa.array(np.array(events["user_id"].to_pylist()) != "u5")), later=200)
    found = world.verify().findings
    assert (found.kinds["extra"], found.worst[0].entity) == (1, "u5")
    assert world.verify(sample=5).answers == 5


@pytest.mark.parametrize("view", ["item_activity", "customer_spending"])
def test_a_log_that_names_nobody_of_a_view_is_asked_wrongly(world, view):
    views = [REPOSITORY.views[view]]
    with pytest.raises(UsageError, match=f"got served for {view}"):
        report_of_the_log(world.root, Settings(), REPOSITORY, views, VerifyRequest(None, 0, 0), SETTLE_MS)


def test_the_report_finds_the_log_its_models_and_its_view_by_itself(world):
    version = Models(world.root, REPOSITORY).register(step=1)
    events = world.events([0, 30])
    world.answer(world.fold(events, "whole"), 120)
    world.log = [{**one, "model": MODEL, "model_version": version} for one in world.log]
    world.archive(events, later=200)
    settings = Settings.model_validate(
        {"offline": {"path": "offline"}, "mlflow": {"tracking_uri": f"sqlite:///{world.root / 'mlflow.db'}"}}
    )
    views = list(REPOSITORY.views.values())
    gone = [{**one, "event_id": f"gone-{one['event_id']}", "model_version": "77"} for one in world.log[:3]]
    world.log += gone
    world.archive(events, later=200)
    (told,) = report_of_the_log(world.root, settings, REPOSITORY, views, VerifyRequest(None, 0, 0), SETTLE_MS)
    assert told["gone"] == {f"{MODEL} 77": 3}
    assert (told["log"], told["view"], told["answers"], told["unsettled"]) == ("served", VIEW.name, USERS + 3, 3)
    assert (told["compared"], told["mismatch"], told["worst"]) == (2 * USERS, 0, [])
