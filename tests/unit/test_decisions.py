"""What was decided about events is kept with how far it reaches, and the registry of models holds up no batch."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.definitions import PARTITIONS_OF_A_TOPIC
from features.definitions.repo import FeatureRepo, load_repo
from models.event_champion import EventAlias, PolledChampion
from models.event_model.artefact import LoadedEventModel
from models.event_model.columns import EventModelColumns
from models.event_model.decisions import DECISIONS
from streaming.scoring.decision_log import DecisionLog
from streaming.scoring.request import ScoringRequest
from streaming.scoring.scoring import EventScoring, ModelScoring, is_able
from streaming.scoring.topics import DecisionSink

REPO = load_repo(Path(__file__).parents[2] / "feature_repo" / "cards.py")
ASKED = EventModelColumns.of(REPO, REPO.models["cards"])
STREAM = ASKED.model.stream
ONLINE, MACHINES = (f"{topic}/0" for topic in STREAM.topics)


def events(*places: tuple[int, int]) -> pa.Table:
    partition, offset = (np.array(column, dtype=np.int64) for column in zip(*places, strict=True))
    return pa.table({"partition": partition.astype(np.int32), "offset": offset})


def decided(count: int) -> pa.Table:
    rows = [
        {"event_id": f"e{number}", "model": "cards", "rules": [], "partition": 0, "offset": number}
        for number in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=DECISIONS)


def test_what_the_decisions_reach_is_decided_topic_by_topic_also_for_who_opens_them_later(tmp_path: Path) -> None:
    DecisionLog(tmp_path, STREAM).keep(decided(5), {ONLINE: 3, MACHINES: 2, "another/0": 9})
    log = DecisionLog(tmp_path, STREAM)
    assert log.reach == {ONLINE: 3, MACHINES: 2}
    places = (0, 2), (0, 3), (PARTITIONS_OF_A_TOPIC, 1), (PARTITIONS_OF_A_TOPIC, 2), (1, 0)
    assert log.undecided(events(*places)).tolist() == [False, True, False, True, True]


def test_decisions_stay_unsent_for_the_next_driver_and_none_are_where_there_were_no_events(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, STREAM)
    assert log.unsent is None
    log.keep(decided(2), {ONLINE: 2})
    assert DecisionLog(tmp_path, STREAM).unsent.num_rows == 2
    log.keep(decided(0), {ONLINE: 4})
    assert log.unsent is None
    assert DecisionLog(tmp_path, STREAM).unsent is None
    assert DecisionLog(tmp_path, STREAM).reach == {ONLINE: 4}


def test_decisions_reach_no_less_when_a_generation_that_is_behind_keeps_its_own(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, STREAM)
    log.keep(decided(1), {ONLINE: 9, MACHINES: 1})
    assert not log.is_beyond({ONLINE: 8, MACHINES: 1})
    log.keep(decided(1), {ONLINE: 8, MACHINES: 2})
    assert log.reach == {ONLINE: 9, MACHINES: 2}


def test_an_empty_partition_is_reached_once_and_rows_that_never_read_it_lack_nothing(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, STREAM)
    assert log.is_beyond({ONLINE: 0})
    log.keep(decided(0), {ONLINE: 0, MACHINES: 1})
    assert not log.is_beyond({ONLINE: 0, MACHINES: 1})
    assert not log.lacks({MACHINES: 1})
    assert log.lacks({ONLINE: 1})


def test_a_file_that_was_being_written_when_the_power_went_is_none(tmp_path: Path) -> None:
    DecisionLog(tmp_path, STREAM).keep(decided(1), {ONLINE: 1})
    (tmp_path / ".1.arrow").write_bytes(b"ARROW1 and no more")
    assert DecisionLog(tmp_path, STREAM).reach == {ONLINE: 1}


def test_what_is_told_is_what_a_driver_that_starts_now_would_tell(tmp_path: Path) -> None:
    """Decisions are durable before anybody hears of them, and an event that was decided about is decided once.

    The first driver dies while it tells: before all of it, or after a part of it reached Kafka.
    """
    told: list[pa.Table] = []

    def dying(decisions: pa.Table) -> None:
        assert DecisionLog(tmp_path, STREAM).unsent.equals(decisions)
        told.append(decisions)
        raise ConnectionError

    def scoring(send: DecisionSink) -> ModelScoring:
        return ModelScoring(PolledChampion(EventAlias("", ASKED)), DecisionLog(tmp_path, STREAM), send)

    def never(_: ScoringRequest) -> pa.Table:
        pytest.fail("these events were decided about, and somebody may have heard of it")

    with pytest.raises(ConnectionError):
        scoring(dying).decide({ONLINE: 3, MACHINES: 0}, lambda _: decided(3))
    assert told[0].num_rows == 3
    again = scoring(told.append)
    again.decide({ONLINE: 3, MACHINES: 0}, never)
    again.decide({ONLINE: 3, MACHINES: 0}, never)
    assert [one.equals(told[0]) for one in told] == [True, True]


def test_rows_that_stand_beyond_what_was_decided_lack_decisions(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, STREAM)
    scoring = EventScoring([ModelScoring(PolledChampion(EventAlias("", ASKED)), log, lambda _: None)])
    assert not scoring.lacks({ONLINE: 7})  # nobody was asked about anything yet
    log.keep(decided(1), {ONLINE: 5, MACHINES: 2})
    assert scoring.reach() == {ONLINE: 5, MACHINES: 2}
    assert not scoring.lacks({ONLINE: 5, MACHINES: 1})
    assert scoring.lacks({ONLINE: 5, MACHINES: 3})


def test_a_generation_of_other_definitions_asks_no_model() -> None:
    assert is_able(REPO, ASKED)
    without = {name: view for name, view in REPO.views.items() if name != "terminal_risk"}
    assert not is_able(FeatureRepo(REPO.path, REPO.entities, REPO.streams, without), ASKED)
    streams = {name: one for name, one in REPO.streams.items() if name != STREAM.name}
    assert not is_able(FeatureRepo(REPO.path, REPO.entities, streams, REPO.views), ASKED)


class Silent(EventAlias):
    """A registry that says nothing until it is let."""

    def __init__(self) -> None:
        super().__init__("", ASKED)
        self.let, self.looks = threading.Event(), threading.Semaphore(0)
        self.broken = False

    def latest(self) -> LoadedEventModel | None:
        self.let.wait(60)
        self.looks.release()
        if self.broken:
            raise RuntimeError("no such table")
        self.current = LoadedEventModel("7", None)  # type: ignore[arg-type]  # nobody asks it
        return self.current


@pytest.fixture
def silent() -> Silent:
    return Silent()


def test_a_registry_that_does_not_answer_holds_up_no_batch_and_its_champion_is_taken_when_it_does(
    silent: Silent,
) -> None:
    followed = PolledChampion(silent, first_look_s=0.0, every_s=0.01)
    followed.start()
    assert followed.current() is None
    assert followed.problem == "the registry of models has not answered in 0 s"
    silent.let.set()
    assert silent.looks.acquire(timeout=60)
    assert silent.looks.acquire(timeout=60)  # the second look begins when the first is done
    assert followed.current() == LoadedEventModel("7", None)  # type: ignore[arg-type]
    assert followed.problem is None
    followed.close()


def test_a_registry_that_breaks_leaves_the_champion_that_was_known(silent: Silent) -> None:
    silent.let.set()
    followed = PolledChampion(silent, every_s=0.01)
    followed.start()
    silent.broken = True
    deadline = time.monotonic() + 60
    while followed.problem != "RuntimeError: no such table":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert followed.current() == LoadedEventModel("7", None)  # type: ignore[arg-type]
    followed.close()
