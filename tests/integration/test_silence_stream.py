"""Sensors that stop sending, through a real broker and Spark: each silence alerts once, on driver and executors."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cards_project import ROOT
from stream_process import StreamProcess

from features.definitions.repo import load_repo
from streaming.kafka.consumer import read_topic
from streaming.kafka.producer import EventProducer
from streaming.kafka.topic_admin import ensure_named_topics, ensure_topics

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
WITHIN_S = 300.0
REPO = """
from headrace import Count, Entity, FeatureSet, FeatureView, Silence, Stream

sensor = Entity("sensor", keys={"sensor_id": "int64"})
readings = Stream("readings", "TOPIC.readings", {"sensor_id": "int64", "value": "float64"}, event_id=None)
by_sensor = FeatureView("by_sensor", [FeatureSet(sensor, readings, [Count()], ["1h"])])
stopped = Silence("stopped", sensor, readings, "2s", resolved=True)
"""
SETTINGS = """
[kafka]
bootstrap_servers = '{bootstrap}'
[stream]
spark_memory = '512m'
archive_trigger_s = 0.5
alerts_topic = '{topic}.alerts'
"""


def test_each_silence_alerts_once_through_kills_and_on_executors(
    tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str
) -> None:
    root, alerts_topic = tmp_path / "project", f"{unique_name}.alerts"
    (root / ".headrace").mkdir(parents=True)
    (root / ".headrace" / "jars").symlink_to(spark_jars[0].parent.parent)
    (root / "feature_repo").mkdir()
    (root / "feature_repo" / "sensors.py").write_text(REPO.replace("TOPIC", unique_name), encoding="utf-8")
    shutil.copy(ROOT / "feature_repo" / "feature_store.yaml", root / "feature_repo")
    settings = SETTINGS.format(bootstrap=kafka, topic=unique_name)
    (root / "settings.toml").write_text(settings, encoding="utf-8")
    ensure_topics(kafka, load_repo(root / "feature_repo").streams.values())
    ensure_named_topics(kafka, [alerts_topic])
    producer, stream = EventProducer(kafka), StreamProcess(root, kafka)

    def send(*sensors: int) -> None:
        for sensor in sensors:
            reading = {"sensor_id": sensor, "value": 1.5, "event_time": time.time_ns() // 1_000_000}
            producer.send(f"{unique_name}.readings", str(sensor).encode(), json.dumps(reading).encode())
        assert producer.flush(60) == 0

    def alerts() -> list[dict[str, Any]]:
        return [json.loads(each.value or b"{}") for each in read_topic(kafka, alerts_topic)]

    def told() -> Counter[tuple[str, int]]:
        return Counter((each["source"], each["event"]["sensor_id"]) for each in alerts())

    send(*[1, 2, 3] * 10)
    with stream.running() as process:
        stream.wait(process, lambda: len(told()) == 3, WITHIN_S)
    assert told() == {("silence:stopped", sensor): 1 for sensor in (1, 2, 3)}
    (root / "settings.toml").write_text(f"{settings}driver_records = 1\n", encoding="utf-8")
    with stream.running() as process:
        stream.wait(process, lambda: stream.is_running(process) and stream.is_drained(), WITHIN_S)
        send(*[1] * 20)
        stream.wait(process, lambda: told()["silence:stopped", 1] == 2, WITHIN_S)
    expected = {
        ("silence:stopped", 1): 2,
        ("resolved:stopped", 1): 1,
        ("silence:stopped", 2): 1,
        ("silence:stopped", 3): 1,
    }
    assert told() == expected
    assert len({each["alert_id"] for each in alerts()}) == sum(expected.values())
    with stream.running() as process:
        stream.wait(process, lambda: stream.is_running(process) and stream.is_drained(), WITHIN_S)
        send(2)
        stream.wait(process, lambda: told()["resolved:stopped", 2] == 1, WITHIN_S)
    assert told()["silence:stopped", 1] == 2
    (again,) = [each for each in alerts() if each["source"] == "resolved:stopped" and each["event"]["sensor_id"] == 2]
    (first,) = [each for each in alerts() if each["source"] == "silence:stopped" and each["event"]["sensor_id"] == 2]
    assert again["event"]["known_at"] == first["event"]["known_at"] < again["event"]["resolved_at"]
