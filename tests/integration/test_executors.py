"""A batch folded on executors in processes of their own ends as one folded by the driver, also when one is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import cloudpickle
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
from cards_champion import quick_model
from older_kernel import BREAKS, InWorkers, older_compared
from small_cards import simulated

from features.definitions import Entity, FeatureSet, FeatureView, Field, Stream
from features.definitions.aggregations import Count, Max
from features.definitions.expressions import conditions
from features.definitions.repo import FeatureRepo, load_repo
from features.events.parsing import Parsed, Verdict
from features.online_store.batch_step import Counts
from features.online_store.port import Cells, Marker
from features.online_store.sqlite.rows import SqliteRows
from headrace.simulators.zipf import Templates, ZipfLoad
from models.event_model.artefact import LoadedEventModel
from models.event_model.columns import EventModelColumns
from models.event_model.decisions import alerts_of
from models.event_model.scorers import EventClassifier
from streaming.fold.shares import fold_job
from streaming.fold.sink import FoldTarget, OnlineSink
from streaming.kafka.encoding import messages as as_sent
from streaming.scoring.decision_log import DecisionLog
from streaming.scoring.scoring import EventScoring, ModelScoring
from streaming.spark.pieces import fetched_in_parts
from streaming.spark.session import COLUMNS, spark_session
from streaming.spark.source import MESSAGES, Messages, known_at

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parent.parent.parent
NOW = 1_790_000_000_000
RECORDS, BATCHES, STREAM_ID = 3_000, 3, 7
VIEWS = ("user_activity", "item_activity")


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory, spark_jars: list[Path]) -> Iterator[SparkSession]:
    """Two executors of one core, each a Java process with Python workers of its own."""
    folder = tmp_path_factory.mktemp("spark")
    with pytest.MonkeyPatch.context() as patch:
        seen = str(ROOT), str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")
        patch.setenv("PYTHONPATH", os.pathsep.join(seen))
        session = spark_session("local-cluster[2,1,1024]", "512m", spark_jars, folder)
        work = Path(pyspark.__file__).parent / "work" / session.sparkContext.applicationId
        yield session
        session.stop()
        shutil.rmtree(work, ignore_errors=True)  # executors' logs, which a cluster of this kind keeps in Spark's home


@pytest.fixture(scope="module")
def repo() -> FeatureRepo:
    return load_repo(ROOT / "feature_repo")


def load(stream: Stream, number: int) -> list[dict[str, bytes]]:
    templates = Templates(ZipfLoad(users=200, items=50, seed=number), stream, 500)
    return templates.batch(0, RECORDS, NOW + 60_000 * number)


def messages(stream: Stream, number: int) -> pa.Table:
    """A batch of two partitions: events by Zipf's law, some repeated in the batch and some from the one before."""
    several = load(stream, number) + (load(stream, number - 1)[:50] if number else [])
    place = np.arange(len(several))
    return pa.table(
        {
            "topic": [stream.topic] * len(several),
            "partition": place % 2,
            "offset": RECORDS * 2 * number + place // 2,
            "timestamp": np.full(len(several), NOW + 60_000 * number),
            "key": [one["key"] for one in several],
            "value": [one["value"] for one in several],
            "headers": [None] * len(several),
        },
        schema=MESSAGES,
    )


class Plan:
    """Where batches start and end."""

    epochs: ClassVar[dict[str, int]] = {}

    def between(self, batch_id: int) -> tuple[dict[str, int], dict[str, int]]:
        return {"t/0": batch_id}, {"t/0": batch_id + 1}


class Letters:
    """What was refused."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int, str]] = []

    def __call__(self, stream: Stream, messages: Messages, parsed: Parsed) -> None:
        dead = np.flatnonzero(parsed.verdicts == Verdict.DEAD_LETTER)
        table = messages.table.take(pa.array(dead))
        places = zip(table["partition"].to_pylist(), table["offset"].to_pylist(), strict=True)
        reasons = parsed.reasons.take(pa.array(dead)).to_pylist()
        self.sent += [(*place, reason) for place, reason in zip(places, reasons, strict=True)]


def sink(repo: FeatureRepo, rows: SqliteRows, letters: Letters) -> OnlineSink:
    generation = rows.generation(STREAM_ID, {"activity": 3_600_000})
    generation.begin()
    generation.publish(Marker(-1, {"t/0": 0}, {"t/0": 0}, -1))
    return OnlineSink(FoldTarget(repo, generation, STREAM_ID), Plan(), letters)  # type: ignore[arg-type]


def rows_of(path: Path) -> dict[tuple[str, str], bytes]:
    """Every row, without when it was written and the checksum of that."""
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT id, name FROM tables WHERE name LIKE 'rows/%'").fetchall()
        found = {
            (name, key): value
            for one, name in tables
            for key, value in connection.execute(f"SELECT * FROM cells_{one}")
        }
    return {key: value[:4] + value[8:48] + value[56:] for key, value in found.items()}


@dataclass(frozen=True)
class KillsItsExecutor:
    """Cells that kill the executor, a Java process, in the middle of a batch: behind the first write of rows, once."""

    rows: SqliteRows
    once: Path

    def version(self, stream_id: int) -> int:
        return self.rows.version(stream_id)

    def get(self, *asked: Any) -> list[bytes | None]:
        return self.rows.get(*asked)

    def write(self, *write: Any) -> None:
        self.rows.write(*write)
        if not self.once.exists():
            self.once.touch()
            daemon = Path(f"/proc/{os.getppid()}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            os.kill(int(daemon[1]), signal.SIGKILL)


def framed(spark: SparkSession, folder: Path, stream: Stream, number: int) -> DataFrame:
    path = folder / f"{number}.parquet"
    if not path.exists():
        pq.write_table(messages(stream, number), path, row_group_size=1_000)
    return spark.read.parquet(str(path)).repartition(3)


def test_a_message_without_headers_has_an_empty_list_of_them_as_nulls_cost_spark_the_square_of_their_number(
    spark: SparkSession,
) -> None:
    """How Spark hands batches to Python; see streaming/spark/session.py."""
    none = "cast(null AS array<struct<key: string, value: binary>>) AS headers"
    given = ("'t' AS topic", "0 AS partition", "id AS offset", "current_timestamp() AS timestamp", "null AS key")
    came = spark.range(3).selectExpr(*given, "cast('x' AS binary) AS value", none).selectExpr(*COLUMNS).toArrow()
    assert came["headers"].to_pylist() == [[], [], []]
    assert np.all(known_at(came) == came["timestamp"].to_numpy())


@pytest.mark.parametrize("killed", [False, True], ids=["whole", "one killed"])
def test_executors_in_processes_of_their_own_leave_the_rows_that_the_driver_would(
    spark: SparkSession, repo: FeatureRepo, tmp_path: Path, killed: bool
) -> None:
    """Batch by batch the same counts and dead letters, and at the end every row the same, byte for byte."""
    stream, counted = repo.streams["activity"], {"here": [], "there": []}
    letters: Mapping[str, Letters] = {name: Letters() for name in counted}
    stores = {name: SqliteRows(tmp_path / f"{name}.db") for name in counted}
    sinks = {name: sink(repo, stores[name], letters[name]) for name in counted}
    cells: Cells = KillsItsExecutor(stores["there"], tmp_path / "killed") if killed else stores["there"]
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    for number in range(BATCHES):
        counted["here"].append(sinks["here"].fold(messages(stream, number), number).counts)
        frame = framed(spark, tmp_path, stream, number)
        counted["there"].append(sinks["there"].fold_on_executors(frame, number, fold_job(repo, 2), cells).counts)
    assert counted["here"] == counted["there"]
    assert all(one.duplicate > 10 and one.dead_letter > 0 for one in counted["here"][1:])
    assert sorted(letters["here"].sent) == sorted(letters["there"].sent)
    assert rows_of(tmp_path / "here.db") == rows_of(tmp_path / "there.db")
    assert (tmp_path / "killed").exists() == killed


def test_the_driver_gets_letters_in_parts_of_bounded_bytes(
    spark: SparkSession, repo: FeatureRepo, tmp_path: Path
) -> None:
    """Of 3,000 messages a third is refused, of 1 to 3 kB each: never more than 20 kB of them come at once."""
    stream, letters = repo.streams["activity"], Letters()
    table = messages(stream, 0)
    values = [
        value if row % 3 else b"!" * (1_000 + row % 2_000) for row, value in enumerate(table["value"].to_pylist())
    ]
    table = table.set_column(table.schema.get_field_index("value"), "value", pa.array(values, pa.binary()))
    pq.write_table(table, tmp_path / "large.parquet", row_group_size=1_000)
    frame = spark.read.parquet(str(tmp_path / "large.parquet")).repartition(3)
    store, sizes = SqliteRows(tmp_path / "rows.db"), []

    def send(of_stream: Stream, refused: Messages, verdicts: Parsed) -> None:
        sizes.append(refused.table.nbytes)
        letters(of_stream, refused, verdicts)

    there = sink(repo, store, send).fold_on_executors(frame, 0, fold_job(repo, 2, most_bytes=20_000), store)
    refused = sum(1 for value in values if value.startswith(b"!"))
    assert there.counts.dead_letter == len(set(letters.sent)) >= refused > 0
    assert max(sizes) < 20_000
    assert len(sizes) > refused * 1_000 // 20_000


@pytest.mark.parametrize("most", [1, 500, 10_000])
def test_a_frame_comes_in_parts_that_together_have_each_row_once(spark: SparkSession, most: int) -> None:
    frame = (
        spark.range(40).repartition(3).selectExpr("id", "cast(repeat('x', cast(id * 10 AS int)) AS binary) AS payload")
    )
    parts = list(fetched_in_parts(frame.persist(), most))
    assert sorted(row for part in parts for row in part["id"].to_pylist()) == list(range(40))
    assert all(part.num_rows == 1 or sum(map(len, part["payload"].to_pylist())) <= most for part in parts)
    assert (len(parts) == 1) == (most == 10_000)
    frame.unpersist()


# --- records that break a kernel ------------------------------------------------------------------------------------


def numbered(first: int, refs: list[int]) -> pa.Table:
    """Messages of stream refs, on two partitions."""
    place = np.arange(first, first + len(refs))
    events = [
        {"event_id": f"e{number}", "event_time": NOW, "user_id": f"u{number % 7}", "ref": ref}
        for number, ref in zip(place.tolist(), refs, strict=True)
    ]
    columns = {"topic": ["t"] * len(refs), "partition": place % 2, "offset": place // 2}
    columns |= {"timestamp": np.full(len(refs), NOW), "key": [None] * len(refs), "headers": [None] * len(refs)}
    return (
        pa.table(columns | {"value": [json.dumps(one).encode() for one in events]})
        .select(MESSAGES.names)
        .cast(MESSAGES)
    )


def test_a_record_that_breaks_a_kernel_on_executors_is_a_letter_and_no_view_has_it(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of 400 break the filter of the second view: counts, letters and rows are the driver's; the next is folded."""
    monkeypatch.setattr(conditions, "_compared", older_compared)
    refs = Stream("refs", topic="t", fields={"user_id": Field("string", required=True), "ref": "int64"})
    user = Entity("user", keys={"user_id": "string"})
    every = FeatureView("a_all", sets=[FeatureSet(user, refs, [Count(), Max("ref")], ["1h"])])
    some = FeatureView(
        "b_some", sets=[FeatureSet(user, refs, [Count()], ["1h"], where={"ref": InWorkers("above", 0.5)})]
    )
    repo = FeatureRepo(tmp_path, {"user": user}, {"refs": refs}, {"a_all": every, "b_some": some})
    letters = {name: Letters() for name in ("here", "there")}
    stores = {name: SqliteRows(tmp_path / f"{name}.db") for name in letters}
    sinks = {name: sink(repo, stores[name], letters[name]) for name in letters}
    for number, broken in enumerate(([17, 301], [])):
        table = numbered(400 * number, [BREAKS if row in broken else row for row in range(400)])
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=100)
        here = sinks["here"].fold(table, number)
        frame = spark.read.parquet(str(tmp_path / f"{number}.parquet")).repartition(3)
        there = sinks["there"].fold_on_executors(frame, number, fold_job(repo, 2), stores["there"])
        assert here.counts == there.counts == Counts(400 - len(broken), 0, 0, len(broken))
        assert here.cannot.records == there.cannot.records == len(broken)
    assert sorted(letters["here"].sent) == sorted(letters["there"].sent)
    assert [(place, offset) for place, offset, _ in sorted(letters["there"].sent)] == [(1, 8), (1, 150)]
    assert all(
        f"cannot_be_folded: ArrowInvalid: Integer value {BREAKS}" in reason for *_, reason in letters["there"].sent
    )
    assert rows_of(tmp_path / "here.db") == rows_of(tmp_path / "there.db")


# --- event models ---------------------------------------------------------------------------------------------------


class Payments:
    """Weeks of simulated payments of both topics, and their labels, in batches: what Spark would hand over."""

    epochs: ClassVar[dict[str, int]] = {}

    def __init__(self, repo: FeatureRepo) -> None:
        events = simulated(repo, days=20, customers=40)
        self.last = int(events["transactions"]["known_at"].to_numpy()[-1]) + 1
        online, machines = repo.streams["transactions"].parts
        odd = np.arange(events["transactions"].num_rows) % 2 == 1
        parts = [
            (online, events["transactions"].filter(pa.array(~odd))),
            (machines, events["transactions"].filter(pa.array(odd))),
            (repo.streams["fraud_labels"], events["fraud_labels"]),
        ]
        self._sent = [(part.topic, one, list(as_sent(one, part))) for part, one in parts]

    def upto(self, number: int) -> dict[str, int]:
        """How many records of each topic are in the batches before this one."""
        middle = np.searchsorted(self._sent[0][1]["known_at"].to_numpy(), self.last - 4 * 86_400_000)
        time = [0, int(self._sent[0][1]["known_at"][int(middle)].as_py()), self.last][number]
        return {f"{name}/0": int(np.searchsorted(one["known_at"].to_numpy(), time)) for name, one, _ in self._sent}

    def between(self, batch_id: int) -> tuple[dict[str, int], dict[str, int]]:
        return self.upto(batch_id), self.upto(batch_id + 1)

    def batch(self, number: int) -> pa.Table:
        start, end = self.between(number)
        tables = []
        for name, one, sent in self._sent:
            low, high = start[f"{name}/0"], end[f"{name}/0"]
            keys, values = [message[0] for message in sent[low:high]], [message[1] for message in sent[low:high]]
            columns = {
                "topic": [name] * (high - low),
                "partition": np.zeros(high - low, np.int32),
                "offset": np.arange(low, high),
                "timestamp": one["known_at"].to_numpy()[low:high],
                "key": keys,
                "value": values,
                "headers": [None] * (high - low),
            }
            tables.append(pa.table(columns, schema=MESSAGES))
        return pa.concat_tables(tables)


class Fixed:
    """A champion that nobody changes."""

    problem: str | None = None

    def __init__(self, asked: EventModelColumns, model: EventClassifier) -> None:
        self.columns, self._model = asked, model

    def start(self) -> None: ...

    def close(self) -> None: ...

    def current(self) -> LoadedEventModel:
        return LoadedEventModel("1", self._model)


@pytest.mark.parametrize("names", [None, ("amount",)], ids=["fields and features", "fields alone"])
def test_executors_decide_about_each_event_what_the_driver_would(
    spark: SparkSession, repo: FeatureRepo, tmp_path: Path, names: tuple[str, ...] | None
) -> None:
    if names is not None:
        alone = replace(repo.models["cards"], inputs=names, derived=None, rules=(), usual=None)
        repo = replace(repo, models={"cards": alone})
    payments, asked = Payments(repo), EventModelColumns.of(repo, repo.models["cards"])
    champion = Fixed(asked, quick_model(repo, 0.3))
    told: dict[str, list[pa.Table]] = {"here": [], "there": []}
    sinks = {}
    for name, tables in told.items():
        generation = SqliteRows(tmp_path / f"{name}.db").generation(STREAM_ID)
        generation.begin()
        generation.publish(Marker(-1, payments.upto(0), payments.upto(0), -1))
        scoring = ModelScoring(champion, DecisionLog(tmp_path / name, asked.model.stream), tables.append)
        target = FoldTarget(repo, generation, STREAM_ID)
        asking = EventScoring([scoring]).of_generation(target)
        letters = Letters()
        sinks[name] = OnlineSink(target, payments, letters, scoring=asking)  # type: ignore[arg-type]
    for number in range(2):
        sinks["here"].fold(payments.batch(number), number)
        path = tmp_path / f"payments {number}.parquet"
        pq.write_table(payments.batch(number), path, row_group_size=500)
        frame = spark.read.parquet(str(path)).repartition(3)
        sinks["there"].fold_on_executors(frame, number, fold_job(repo, 2), SqliteRows(tmp_path / "there.db"))
    here, there = (pa.concat_tables(tables).sort_by("event_id") for tables in told.values())
    assert here.num_rows == sum(payments.upto(2)[f"{topic}/0"] for topic in asked.model.stream.topics) > 1_000
    np.testing.assert_allclose(here["score"].to_numpy(), there["score"].to_numpy(), rtol=0, atol=1e-12)
    others = [name for name in here.column_names if name not in ("score", "reasons")]
    assert here.select(others).equals(there.select(others))
    assert alerts_of(here) == alerts_of(there) != []
    assert rows_of(tmp_path / "here.db") == rows_of(tmp_path / "there.db")
