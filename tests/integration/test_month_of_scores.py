"""Weeks of real card payments through the stream: each score is history's, and as good as the offline evaluation's."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from cards_champion import make_champion, model_of
from cards_project import Project
from numpy.typing import NDArray
from stream_process import StreamProcess

from features.arrays import Floats
from features.definitions import PARTITIONS_OF_A_TOPIC, FeatureView, Stream
from features.events.columns import EventColumns, integers, sequence
from features.events.parsing import event_schema
from features.history.archive import open_table
from features.history.point_in_time_join import Spine, point_in_time
from features.rows.matrix import FeatureMatrix
from models.event_model.columns import EventModelColumns, filled
from models.event_model.inputs import Events
from models.event_model.scorers import EventClassifier
from streaming.kafka.consumer import read_topic
from streaming.spark.source import flat_offsets
from training.protocols.fraud_handbook import (
    INPUTS,
    LABELS,
    PAYMENTS,
    Days,
    judged,
    last_start,
    models,
    payments_between,
    read_history,
    without_known_cards,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
FROM = "2018-06-01"
"""A week, a month and three weeks before the end: what the last three weeks' features look back on, and a week more."""
SCORED_WITHIN_S = 1_800
COPIES = 10_000_000
"""The first key of an entity that is a copy of another."""
Int64s = NDArray[np.int64]


@pytest.fixture
def project(tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str) -> Project:
    made = Project(tmp_path / "project", kafka, spark_jars[0].parent.parent, unique_name)
    settings = made.root / "settings.toml"
    topics = f"scores_topic = '{unique_name}.scores'\nalerts_topic = '{unique_name}.alerts'\n"
    settings.write_text(settings.read_text(encoding="utf-8") + topics, encoding="utf-8")
    return made


def test_replayed_weeks_are_scored_as_history_says_and_as_well_as_offline(project: Project, real_file: Any) -> None:
    file = project.root / "weeks.parquet"
    rows = pq.read_table(real_file("card-transactions.parquet"))
    pq.write_table(rows.filter(pc.greater_equal(rows["TX_DATETIME"], pa.scalar(FROM).cast(pa.timestamp("ns")))), file)
    asked = EventModelColumns.of(project.repo, project.repo.models["cards"])
    assert asked.model.input_names == INPUTS
    history = read_history(file, "cards", project.repo)
    offline = Offline(history, asked)
    make_champion(project.root, offline.model)
    sent = project.run("replay", str(file), "--format", "cards")["topics"]
    stream = StreamProcess(project.root, project.bootstrap)
    with stream.running() as process:
        stream.wait(process, stream.is_drained, SCORED_WITHIN_S)
        ends = batch_ends(project)
    scores = {one["event_id"]: one["score"] for one in told(project)}
    assert len(scores) == sum(count for topic, count in sent.items() if not topic.endswith("labels"))
    worst = Ledger(project, ends).difference(asked, offline.model, scores)
    metrics = offline.judged(np.array([scores[name] for name in offline.ids]))
    told_counts = {"scores": len(scores), "batches": len(ends), "worst": worst}
    sys.stdout.write(f"{json.dumps(told_counts | {'stream': metrics, 'offline': offline.metrics})}\n")
    assert worst <= 1e-9
    assert metrics == pytest.approx(offline.metrics, abs=0.01)


class Offline:
    """The Handbook's evaluation of the last weeks, by features as of just before each payment."""

    def __init__(self, history: Events, asked: EventModelColumns) -> None:
        days = Days(last_start(history, Days(0)))
        every = payments_between(history, asked.source, days.start, days.test_end, before=True)
        every = replace(every, inputs=asked.inputs(every.inputs))
        train, kept = every.pick(every.time < days.train_end), without_known_cards(every, days)
        self._test = every.pick(kept)
        classifier = models()["hist_gradient_boosting"].fit(filled(train.inputs), train.fraud)
        self.model = model_of(asked, classifier, threshold=0.5)
        self.metrics = judged(self._test, self.model.scores(self._test.inputs))
        payments = history[PAYMENTS]
        time = payments["event_time"].to_numpy()
        between = payments["event_id"].filter(pa.array((time >= days.start) & (time < days.test_end)))
        self.ids = between.filter(pa.array(kept)).to_pylist()

    def judged(self, scores: Floats) -> dict[str, float]:
        """The metrics of these scores of the payments ``ids``."""
        return judged(self._test, scores)


@dataclass(frozen=True)
class Known:
    """A view's answers; the second, where there is one, is of the rows ``apart`` instead."""

    parts: Sequence[FeatureMatrix]
    apart: Int64s

    def to_numpy(self, names: Sequence[str]) -> Floats:
        found = self.parts[0].to_numpy(names)
        for part in self.parts[1:]:
            found[self.apart] = part.to_numpy(names)
        return found


class Ledger:
    """The archived events with the batch of the fold that each was in."""

    def __init__(self, project: Project, ends: list[dict[str, int]]) -> None:
        self.repo, self.count = project.repo, len(ends)
        self.events: dict[str, pa.Table] = {}
        for name in (PAYMENTS, LABELS):
            stream = project.repo.streams[name]
            table = open_table(project.root / ".headrace" / "offline", stream)
            assert table is not None
            events = table.events()
            self.events[name] = events.append_column("batch", pa.array(batches_of(events, stream, ends)))

    def difference(self, asked: EventModelColumns, model: EventClassifier, scores: Mapping[str, float]) -> float:
        """How far the scores are from those on history."""
        worst = 0.0
        for batch in range(self.count):
            payments = self._of(PAYMENTS, batch)
            answers: Any = {view.name: self._known(view, payments, batch) for view in asked.source.views}
            expected = model.scores(asked.inputs(asked.source.matrix_of(payments, answers)))
            found = np.array([scores[name] for name in payments["event_id"].to_pylist()])
            worst = max(worst, float(np.abs(found - expected).max(initial=0)))
        return worst

    def _of(self, stream: str, batch: int) -> pa.Table:
        events = self.events[stream]
        return events.filter(pc.equal(events["batch"], batch)).drop_columns(["batch"])

    def _known(self, view: FeatureView, payments: pa.Table, batch: int) -> Known:
        """The view's answers on what stands before each payment in the ledger."""
        keys = EventColumns(payments, self.repo.streams[PAYMENTS]).entity_keys(view.entity)
        at = integers(payments["known_at"])
        as_of = np.maximum(at + 1, self._clocks(view, keys, batch))
        history = {stream.name: self._as_known(stream.name, batch) for stream in view.streams}
        found = [point_in_time(view, Spine(keys, as_of), history)]
        # Time does not tell what stands before those that are read as of later, or have others at their millisecond.
        (key,) = view.entity.keys
        tied = payments.select(["known_at", key]).to_pandas().duplicated(keep=False).to_numpy()
        apart = np.flatnonzero((as_of > at + 1) | tied)
        if len(apart):
            copies = {name: self._copies(name, key, payments.take(pa.array(apart)), batch) for name in history}
            names = pa.array([str(COPIES + number) for number in range(len(apart))])
            found.append(point_in_time(view, Spine(names, as_of[apart]), copies))
        return Known(found, apart)

    def _copies(self, stream: str, key: str, payments: pa.Table, batch: int) -> pa.Table:
        """For each payment a copy of its entity's events that stand before it, as those of an entity of its own."""
        events = self.events[stream].to_pandas()
        events = events[(events["batch"] <= batch) & events[key].isin(set(payments[key].to_pylist()))]
        asked = payments.select(["known_at", "partition", "offset", key]).to_pandas()
        asked["copy"] = COPIES + np.arange(len(asked))
        both = events.merge(asked, on=key, suffixes=("", "_asked"))
        earlier = both["known_at"] < both["known_at_asked"]
        if stream == PAYMENTS:  # labels of the very millisecond stand behind payments
            tied = both["known_at"] == both["known_at_asked"]
            seq, asked_seq = (
                sequence(both[f"partition{of}"].to_numpy(), both[f"offset{of}"].to_numpy()) for of in ("", "_asked")
            )
            earlier |= tied & (seq < asked_seq)
        earlier |= both["batch"] < batch
        kept = both[earlier].assign(known_at=0)
        kept[key] = kept["copy"]
        return pa.Table.from_pandas(kept, schema=event_schema(self.repo.streams[stream]), preserve_index=False)

    def _as_known(self, stream: str, batch: int) -> pa.Table:
        """Events until the batch: of earlier ones known for ever, of its own payments only after they were judged."""
        events = self.events[stream]
        events = events.filter(pc.less_equal(events["batch"], batch))
        own = integers(events["batch"]) == batch
        known = np.where(own, integers(events["known_at"]) + 2 * (stream == PAYMENTS), 0)
        place = events.schema.get_field_index("known_at")
        return events.set_column(place, "known_at", pa.array(known)).drop_columns(["batch"])

    def _clocks(self, view: FeatureView, keys: pa.Array, batch: int) -> Int64s:
        """The newest known_at of each entity's row before the batch; 0 without a row."""
        found = pd.Series(0, index=keys.to_pandas().unique())
        for stream in view.streams:
            events = self.events[stream.name]
            before = events.filter(pc.less(events["batch"], batch))
            own = EventColumns(before.drop_columns(["batch"]), stream).entity_keys(view.entity).to_pandas()
            newest = pd.Series(integers(before["known_at"])).groupby(own.to_numpy()).max()
            found = np.maximum(found, newest.reindex(found.index).fillna(0))
        return found.reindex(keys.to_pandas()).to_numpy().astype(np.int64)


def batch_ends(project: Project) -> list[dict[str, int]]:
    """Where each batch of the fold ended, by Spark's own log."""
    folder = project.root / ".headrace" / "checkpoints" / "fold"
    stream_id = json.loads((folder / "current.json").read_text(encoding="utf-8"))["stream_id"]
    files = sorted((folder / str(stream_id) / "offsets").glob("[0-9]*"), key=lambda path: int(path.name))
    assert [int(path.name) for path in files] == list(range(len(files)))
    return [flat_offsets(json.loads(path.read_text(encoding="utf-8").splitlines()[-1])) for path in files]


def batches_of(events: pa.Table, stream: Stream, ends: list[dict[str, int]]) -> Int64s:
    """The number of the batch in which each event was."""
    partition, offset = integers(events["partition"]), integers(events["offset"])
    found = np.empty(len(offset), dtype=np.int64)
    for number in np.unique(partition).tolist():
        topic, part = divmod(number, PARTITIONS_OF_A_TOPIC)
        of_place = np.array([one[f"{stream.topics[topic]}/{part}"] for one in ends])
        found[partition == number] = np.searchsorted(of_place, offset[partition == number], side="right")
    return found


def told(project: Project) -> Iterator[dict[str, Any]]:
    topic = tomllib.loads((project.root / "settings.toml").read_text(encoding="utf-8"))["stream"]["scores_topic"]
    return (json.loads(one.value or b"{}") for one in read_topic(project.bootstrap, topic))
