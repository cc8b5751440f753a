"""One definition, one number: every path through the real parts says what the naive oracle says, whatever is killed.

The oracle is asked about the records that the broker acknowledged, read back from the topics. Against it stand the
archive's history in one process, whole and in parts, and on Spark; the online rows; Feast's online and historical
answers. Of each some entities, and some nobody knows, at instants when everything was known.
"""

from __future__ import annotations

import json
import logging
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mixed_traffic import DAY_MS, DEAD_LETTER, DUPLICATE, FOLDED, HOUR_MS, LATE, Sending, Sent, traffic
from mortal_loop import MortalLoop, mortal_loop

from features.checks.naive_aggregations import Expected
from features.checks.oracle import answers, disagreements, histories
from features.definitions import PARTITIONS_OF_A_TOPIC, FeatureView
from features.events.columns import entity_keys
from features.events.parsing import Parsed, Records, Verdict, parse
from features.feast.objects import objects_of
from features.history.archive import ArchiveTable, open_table
from features.history.archive_reader import ArchiveReader
from features.history.on_spark import history_on_spark
from features.history.point_in_time_join import Spine
from features.history.spines import SpineRequest, history
from features.online_store.reader import FeatureReader
from features.online_store.settings import store_of
from features.rows.matrix import FeatureMatrix, Status
from features.times import now_ms
from streaming.dead_letters import read_dead_letters
from streaming.kafka.consumer import read_topic
from streaming.kafka.producer import KNOWN_AT
from streaming.kafka.watermarks import read_watermarks
from streaming.spark.session import spark_session

pytestmark = [
    pytest.mark.slow,
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Feast's, of pandas and pydantic
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]
ROOT = Path(__file__).resolve().parents[2]
PER_S = 60.0
SAMPLED = 40
LATER_MS = (1, 3 * HOUR_MS + 7, 6 * DAY_MS, 50 * DAY_MS)
"""How long after everything is known the features are asked for."""
FEW_ROWS = 500
"""In memory at once, so that history is answered in parts."""
Answers = list[dict[str, Expected] | Status]
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """Entities of a view, each at several instants, and what the oracle says of them."""

    view: FeatureView
    keys: list[Any]
    as_of: np.ndarray
    expected: Answers

    @property
    def spine(self) -> Spine:
        column = pa.array(self.keys)
        return Spine(entity_keys({self.key: column}, self.view.entity), self.as_of)

    @property
    def key(self) -> str:
        (name,) = self.view.entity.keys
        return name

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame({self.key: self.keys, "event_timestamp": pd.to_datetime(self.as_of, unit="ms", utc=True)})

    def references(self) -> list[str]:
        return [f"{self.view.name}:{name}" for name in self.view.names]

    def matrix(self, table: pa.Table) -> FeatureMatrix:
        """Answers of a path that tells no status: a value where the oracle has none is wrong all the same."""
        status = [one if isinstance(one, Status) else Status.PRESENT for one in self.expected]
        return self.matrix_with(table, np.array(status, dtype=np.int8))

    def matrix_with(self, table: pa.Table, status: np.ndarray) -> FeatureMatrix:
        columns = tuple(table[one.name].combine_chunks() for one in self.view.features)
        return FeatureMatrix(self.view.names, columns, status, self.as_of, self.as_of)


@dataclass(frozen=True)
class World:
    """What was sent has been acknowledged, folded and archived, and the stream has ended."""

    loop: MortalLoop
    sent: list[Sent]
    acknowledged: Mapping[tuple[str, bytes], int]
    counts: Mapping[str, int]

    @property
    def offline(self) -> Path:
        return self.loop.root / ".headrace" / "offline"

    @cached_property
    def records(self) -> dict[str, list[Any]]:
        """What each topic has."""
        topics = [topic for stream in self.loop.repo.streams.values() for topic in stream.topics]
        return {topic: list(read_topic(self.loop.broker.bootstrap_servers, topic)) for topic in topics}

    @cached_property
    def parsed(self) -> dict[str, Parsed]:
        """Each topic's records, as its stream reads them; partitions of further topics follow those of the first."""
        found = {}
        for name, stream in self.loop.repo.streams.items():
            for number, part in enumerate(stream.parts):
                records = records_of(self.records[part.topic], number)
                found[part.topic] = parse(records, part, self.loop.repo.horizon_ms(name))
        return found

    @cached_property
    def events(self) -> dict[str, list[dict[str, Any]]]:
        """Each stream's valid events."""
        valid = {topic: one.events.filter(pa.array(is_valid(one))).to_pylist() for topic, one in self.parsed.items()}
        streams = self.loop.repo.streams
        return {name: [one for topic in stream.topics for one in valid[topic]] for name, stream in streams.items()}

    def tables(self) -> dict[str, ArchiveTable]:
        repo = self.loop.repo
        opened = {
            name: open_table(self.offline, stream, repo.horizon_ms(name)) for name, stream in repo.streams.items()
        }
        return {name: table for name, table in opened.items() if table is not None}

    def questions(self, seed: int) -> list[Question]:
        return [self.question(view, seed) for view in self.loop.repo.views.values()]

    def question(self, view: FeatureView, seed: int) -> Question:
        (key,) = view.entity.keys
        of_view = [event for stream in view.streams for event in self.events[stream.name]]
        everyone = sorted({event[key] for event in of_view} - {None})
        rng = np.random.default_rng(seed)
        chosen = [everyone[place] for place in rng.permutation(len(everyone))[:SAMPLED]]
        chosen.append("nobody" if isinstance(chosen[0], str) else -1)
        clock = max(event["known_at"] for several in self.events.values() for event in several)
        told = histories(view, [{key: one} for one in chosen], self.events)
        instants = [clock + later for later in LATER_MS]
        expected = [answers(view, one, at) for at in instants for one in told]
        return Question(view, chosen * len(instants), np.repeat(np.array(instants), len(chosen)), expected)


def records_of(records: list[Any], number: int) -> Records:
    """As parse() takes them; known when the header says, or the broker if that was earlier."""
    values = pa.array([one.value for one in records], pa.binary())
    known = [min(int(dict(one.headers)[KNOWN_AT] or 0), one.timestamp_ms) for one in records]
    partition = np.array([one.partition + number * PARTITIONS_OF_A_TOPIC for one in records], dtype=np.int32)
    offset = np.array([one.offset for one in records], dtype=np.int64)
    return Records(values, np.array(known, dtype=np.int64), partition, offset)


def is_valid(parsed: Parsed) -> np.ndarray:
    return np.asarray(parsed.verdicts[parsed.rows] == Verdict.VALID)


@pytest.fixture(
    params=[
        *(("shop", "sqlite", 0), ("shop", "sqlite", 20), ("shop", "redis", 20)),
        *(("cards", "redis", 0), ("cards", "sqlite", 20), ("cards", "redis", 20)),
    ],
    ids=lambda one: f"{one[0]}-{one[1]}-{one[2]}",
)
def world(request: pytest.FixtureRequest, tmp_path: Path, seed: int) -> Iterator[World]:
    """The loop went through its kills while events were sent, and has finished all of them."""
    domain, store, kills = request.param
    max_offsets = 50 if kills else 1_000  # small batches, so that every life of the driver has some to die in
    folders = (tmp_path, ROOT / "feature_repo", ROOT / ".headrace")
    with mortal_loop(*folders, domain, store, max_offsets, seed) as loop:
        sent = traffic(domain, loop.repo, now_ms(), seed)
        sending = Sending(loop.broker.bootstrap_servers, sent, PER_S)
        for life in loop.lives(kills):
            loop.live(life, sending, len(sent) // (kills + 1))
        sending.finish()
        with loop.stream.running() as process:
            loop.drained(process, sending)
            counts = loop.counts()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, loop.stream.said()
        assert sending.errors == []
        assert loop.kills.total() == kills
        assert (loop.replayed > 0) == (kills > 0)
        yield World(loop, sent, sending.acknowledged(), counts)


# --- the paths ------------------------------------------------------------------------------------------------------


def in_process(world: World, asked: Question) -> FeatureMatrix:
    (found,) = history([SpineRequest(asked.view, asked.spine)], ArchiveReader(world.tables()))
    return found


def in_parts(world: World, asked: Question) -> FeatureMatrix:
    reading = ArchiveReader(world.tables(), rows_in_memory=FEW_ROWS)
    (found,) = history([SpineRequest(asked.view, asked.spine)], reading)
    return found


def on_spark(world: World, spark: Any, asked: Question) -> FeatureMatrix:
    frame = asked.frame().assign(row=np.arange(len(asked.keys)))
    spine = spark.createDataFrame(pa.Table.from_pandas(frame))
    found = history_on_spark(spark, asked.view, spine, world.tables(), rows_a_bucket=1_000).toArrow().sort_by("row")
    assert found["row"].to_pylist() == list(range(len(asked.keys)))
    return asked.matrix(found)


def online(world: World, asked: Question) -> FeatureMatrix:
    """The stream's rows, read as the service reads them."""
    settings = store_of(world.loop.root / "feature_repo", world.loop.root / ".headrace")
    with closing(settings.open()) as rows:
        reader = FeatureReader(rows, world.loop.repo)
        spine = asked.spine
        parts = [reader.read(asked.view.name, spine.keys.take(at), instant) for instant, at in by_instant(asked)]
    table = pa.concat_tables([one.to_table() for one in parts])
    return asked.matrix_with(table, np.concatenate([one.status for one in parts]))


def by_instant(asked: Question) -> list[tuple[int, pa.Array]]:
    """Each instant, and the rows that ask for it; they stand together."""
    return [(int(at), pa.array(np.flatnonzero(asked.as_of == at))) for at in dict.fromkeys(asked.as_of.tolist())]


def feast_online(feast: Any, clock: Callable[[int], None], asked: Question) -> FeatureMatrix:
    """What get_online_features says when the wall clock says so."""
    tables, status = [], []
    for instant, places in by_instant(asked):
        clock(instant)
        keys = [asked.keys[place] for place in places.to_pylist()]
        response = feast.get_online_features(asked.references(), {asked.key: keys})
        tables.append(response.to_arrow())
        status += statuses_of(response, asked.view)
    return asked.matrix_with(pa.concat_tables(tables), np.array(status, dtype=np.int8))


def statuses_of(response: Any, view: FeatureView) -> list[Status]:
    """Each row's status, the same for all features of a row but for values that are null."""
    from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

    told = {FieldStatus.PRESENT: Status.PRESENT, FieldStatus.NULL_VALUE: Status.PRESENT}
    told |= {FieldStatus.NOT_FOUND: Status.NOT_FOUND, FieldStatus.OUTSIDE_MAX_AGE: Status.OUTSIDE_MAX_AGE}
    proto = response.proto
    by_name = dict(zip(proto.metadata.feature_names.val, proto.results, strict=True))
    rows = zip(*([told[one] for one in by_name[name].statuses] for name in view.names), strict=True)
    several = [set(row) for row in rows]
    assert all(len(row) == 1 for row in several)
    return [row.pop() for row in several]


def feast_historical(feast: Any, asked: Question) -> FeatureMatrix:
    return asked.matrix(feast.get_historical_features(asked.frame(), asked.references()).to_arrow())


# --- what must be ---------------------------------------------------------------------------------------------------


def test_every_path_says_what_the_oracle_says_and_every_record_ended_once(
    world: World, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = recounted(world)
    questions = world.questions(seed)
    wrong: dict[str, list[str]] = {}
    with paths(world, tmp_path, monkeypatch) as every:
        for asked in questions:
            assert {type(one) for one in asked.expected} == {dict, Status}
            for name, answer in every.items():
                wrong[f"{name}: {asked.view.name}"] = disagreements(asked.view, asked.expected, answer(asked))
    facts |= {"entities": sum(len(set(one.keys)) for one in questions), "rows": sum(len(one.keys) for one in questions)}
    facts |= {"paths": len(every), "values_a_path": sum(len(one.keys) * len(one.view.names) for one in questions)}
    facts |= {"mismatches": sum(map(len, wrong.values()))}
    LOG.warning("one truth: %s", json.dumps(facts))
    assert {path: lines[:5] for path, lines in wrong.items() if lines} == {}


@contextmanager
def paths(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Callable[[Question], FeatureMatrix]]]:
    """Every path by its name; Spark runs, and Feast knows the definitions."""
    from feast import FeatureStore

    def clock(instant: int) -> None:
        monkeypatch.setattr("features.times.time.time_ns", lambda: instant * 1_000_000)

    feast = FeatureStore(repo_path=str(world.loop.root / "feature_repo"))
    feast.apply(list(objects_of(world.loop.repo).values()))
    spark = spark_session("local[2]", "512m", [], tmp_path / "logs")
    try:
        yield {
            "history": partial(in_process, world),
            "history in parts": partial(in_parts, world),
            "history on Spark": partial(on_spark, world, spark),
            "online rows": partial(online, world),
            "Feast historical": partial(feast_historical, feast),
            "Feast online": partial(feast_online, feast, clock),
        }
    finally:
        spark.stop()


def recounted(world: World) -> dict[str, Any]:
    """Acknowledged = what the topics have = folded + duplicate + late + dead letters = archived + dead letters."""
    loop, servers = world.loop, world.loop.broker.bootstrap_servers
    there = Counter((one.topic, one.value or b"") for several in world.records.values() for one in several)
    assert there == world.acknowledged == Counter((one.topic, one.value) for one in world.sent)
    ends = Counter(one.end for one in world.sent)
    assert world.counts == {end: ends[end] for end in (FOLDED, DUPLICATE, LATE, DEAD_LETTER)}
    assert min(world.counts.values()) > 0
    assert sum(read_watermarks(servers, list(world.records)).high.values()) == len(world.sent)
    archived = places_of(world)
    letters = {letter.place for topic in world.records for letter in read_dead_letters(servers, topic)}
    assert len(archived) == len(set(archived)) == len(world.sent) - ends[DEAD_LETTER]
    assert letters.isdisjoint(archived)
    assert len(letters) == ends[DEAD_LETTER]
    return {**dict(loop.kills), "replayed_batches": loop.replayed, "acknowledged": len(world.sent), **world.counts}


def places_of(world: World) -> list[tuple[str, int, int]]:
    """Where the archive's rows stood in Kafka."""
    from deltalake import DeltaTable

    found: list[tuple[str, int, int]] = []
    for name in world.tables():
        table = pa.table(DeltaTable(world.offline / name).to_pyarrow_table())
        partition = np.asarray(table["partition"]) % PARTITIONS_OF_A_TOPIC
        found += zip(table["topic"].to_pylist(), partition.tolist(), table["offset"].to_pylist(), strict=True)
    return found
