"""Payments' scores as a stream of their own, through a real broker and Spark: features and rules are made of them."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from cards_champion import make_champion, model_of, quick_model
from cards_project import ROOT, Project
from scored_cards import with_scored
from small_cards import simulated
from stream_process import StreamProcess

from features.definitions import FeatureView, duration_ms
from features.definitions.repo import load_repo
from features.events import accept, event_schema
from features.history.archive import open_table
from features.history.point_in_time_join import Spine, point_in_time
from features.online_store.sqlite.rows import SqliteRows
from features.rows.finalizing import finalize
from features.rows.matrix import PackedRows
from models.event_model import EventModelColumns
from streaming.kafka.consumer import read_topic
from streaming.kafka.encoding import messages
from streaming.kafka.producer import EventProducer
from streaming.kafka.topic_admin import ensure_topics

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
WITHIN_S = 300.0
EXACT = ["scored_count", "risk_max", "risk_last", "paid_count"]
"""Features that are equal to the bit; sums of the same numbers in another order differ by a few of their last bits."""


@pytest.fixture
def project(tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str) -> Project:
    project = Project(tmp_path / "project", kafka, spark_jars[0].parent.parent, unique_name, with_scored)
    settings = project.root / "settings.toml"
    topics = f"scores_topic = '{unique_name}.scores'\nalerts_topic = '{unique_name}.alerts'\n"
    settings.write_text(settings.read_text(encoding="utf-8") + topics, encoding="utf-8")
    return project


def archived(project: Project) -> dict[str, pa.Table]:
    """Stream → its events in the archive, each once, by known_at."""
    events = {}
    for name, stream in project.repo.streams.items():
        table = open_table(project.root / ".headrace" / "offline", stream)
        found = event_schema(stream).empty_table() if table is None else table.events()
        events[name] = accept(found, duration_ms(stream.dedupe_horizon))[0].sort_by("known_at")
    return events


def online(project: Project, view: FeatureView, keys: pa.Array, as_of: int) -> pa.Table:
    values, stream_id = SqliteRows(project.root / ".headrace" / "online.db").read(view.name, keys)
    assert stream_id is not None
    return finalize(view, PackedRows(keys, values), as_of, stream_id).to_table()


def check_equal(found: pa.Table, expected: pa.Table) -> None:
    assert found.column_names == expected.column_names
    for name in expected.column_names:
        if any(part in name for part in EXACT) or pa.types.is_string(expected[name].type):
            assert found[name].to_pylist() == expected[name].to_pylist()
        else:
            left, right = (np.asarray(one[name].cast(pa.float64()).fill_null(np.nan)) for one in (found, expected))
            np.testing.assert_allclose(left, right, rtol=1e-9, err_msg=name)


def test_each_score_is_once_in_features_and_rules_after_a_crash_repetitions_and_a_rebuild(project: Project) -> None:
    """The champion is another when rows are built again: the scores that were recorded are those that count."""
    plain = quick_model(load_repo(ROOT / "feature_repo" / "cards.py"), 0.5)
    columns = EventModelColumns.of(project.repo, project.repo.models["cards"])
    assert make_champion(project.root, model_of(columns, plain.classifier, 0.5)) == "1"
    payments = project.repo.streams["transactions"]
    events = simulated(project.repo, days=6, customers=25)["transactions"]
    half = events.num_rows // 2
    producer, stream = EventProducer(project.bootstrap), StreamProcess(project.root, project.bootstrap)

    def send(part: pa.Table) -> None:
        for key, value, headers in messages(part, payments):
            producer.send(payments.topic, key, value, headers)
        assert producer.flush(60) == 0

    def has_scored(count: int) -> bool:
        return (
            len({each.value for each in read_topic(project.bootstrap, scored.topic)}) == count and stream.is_drained()
        )

    scored = project.repo.streams["scored_transactions"]
    ensure_topics(project.bootstrap, project.repo.streams.values())
    for _ in range(2):  # repetitions are not scored again
        send(events.slice(0, half))
    with stream.running(crash_at="after scores:1") as process:
        assert process.wait(WITHIN_S) == -signal.SIGKILL
    assert make_champion(project.root, model_of(columns, plain.classifier, 0.4)) == "2"
    with stream.running() as process:
        stream.wait(process, lambda: has_scored(half), WITHIN_S)
        send(events.slice(half))
        stream.wait(process, lambda: has_scored(events.num_rows), WITHIN_S)
        check_archive(project, events)
        check_rules(project, columns)
        as_of = pc.max(archived(project)["scored_transactions"]["known_at"]).as_py() + 1
        view = project.repo.views["customer_risk"]
        keys = pc.unique(events["customer_id"]).cast(pa.string())
        before = online(project, view, keys, as_of)
        history = point_in_time(view, Spine(keys, np.full(len(keys), as_of)), archived(project))
        check_equal(before, history.to_table())
        assert make_champion(project.root, model_of(columns, plain.classifier, 0.3)) == "3"
        generation = project.run("features", "rebuild")
        assert generation["by_stream"]
        stream.wait(process, stream.is_drained, WITHIN_S)
        check_equal(online(project, view, keys, as_of), before)
    assert archived(project)["scored_transactions"].num_rows == events.num_rows


def check_archive(project: Project, events: pa.Table) -> None:
    """Each payment is once in the scored stream, with the score and version of the topic of scores."""
    kept = archived(project)["scored_transactions"].sort_by("event_id")
    sent = events.sort_by("event_id")
    for name in ("event_id", "event_time", "customer_id", "amount"):
        assert kept[name].to_pylist() == sent[name].to_pylist()
    assert pc.all(pc.greater(kept["known_at"], sent["known_at"])).as_py()
    said: dict[str, dict[str, Any]] = {}
    for each in read_topic(project.bootstrap, f"{project.topic}.scores"):
        score = json.loads(each.value or b"{}")
        assert said.setdefault(score["event_id"], score) == score
    assert kept["risk"].to_pylist() == [said[name]["score"] for name in kept["event_id"].to_pylist()]
    assert kept["scored_by"].to_pylist() == [said[name]["version"] for name in kept["event_id"].to_pylist()]
    assert set(kept["scored_by"].to_pylist()) == {"1", "2"}


def check_rules(project: Project, columns: EventModelColumns) -> None:
    """The rule on a customer's earlier scores saw just before each payment what history has there."""
    history = archived(project)
    events = history["transactions"]
    met = columns.rules_met(columns.source.matrix_before(events, history))["risky_before"]
    expected = set(events.filter(pa.array(met))["event_id"].to_pylist())
    alerts = [json.loads(each.value or b"{}") for each in read_topic(project.bootstrap, f"{project.topic}.alerts")]
    assert {each["event_id"] for each in alerts if each["source"] == "rule:risky_before"} == expected != set()
