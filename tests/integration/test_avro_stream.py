"""Avro through the real topic: numbered by a Schema Registry, read by Spark, sent by replay and POST /v1/events."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from schema_registry import Registry
from stream_process import StreamProcess

from features.definitions.repo import load_repo
from features.events.avro.registry import SchemaRegistry
from features.events.avro.writer import avro_writer
from features.online_store.settings import StoreSettings
from serving.access.principal import EVERYBODY
from serving.app import service_of
from serving.config import ServiceConfig
from streaming.dead_letters import read_dead_letters
from streaming.kafka.producer import EventProducer
from streaming.kafka.topic_admin import ensure_topics

pytestmark = pytest.mark.integration

DEFINITIONS = """
from pathlib import Path

from headrace import Count, Sum
from features.definitions import Entity, FeatureSet, FeatureView, Field, Stream

user = Entity("user", keys={{"user_id": "string"}})
FIELDS = {{"user_id": Field("string", path="user", required=True), "price": "float64", "colour": "string"}}
shop = Stream("shop", topic="{topic}", fields=FIELDS, format="avro", event_id="id", event_time="at")
orders = Stream(
    "orders",
    topic="{topic}.orders",
    fields=FIELDS,
    format="avro",
    event_id="id",
    event_time="at",
    schema=Path(__file__).with_name("orders.avsc").read_text(encoding="utf-8"),
)
by_user = FeatureView("by_user", sets=[FeatureSet(user, shop, [Count(), Sum("price")], ["1h"])])
"""
FIELDS = [
    {"name": "id", "type": "string"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "user", "type": "string"},
    {"name": "price", "type": ["null", "double"], "default": None},
]
COLOUR = {"name": "colour", "type": ["null", "string"], "default": None}
SIZE = {"name": "size", "type": ["null", "long"], "default": None}


def schema_of(*more: dict[str, Any]) -> str:
    return json.dumps({"type": "record", "name": "Event", "fields": [*FIELDS, *more]})


class Project:
    """A project whose streams are Avro, the registry that numbers their schemas, and the stream as a process."""

    def __init__(self, root: Path, bootstrap: str, jars: Path, topic: str) -> None:
        self.root, self.bootstrap = root, bootstrap
        self.registry = Registry()
        with self.registry.running():  # and from now on it has an address
            pass
        (root / ".headrace").mkdir(parents=True)
        (root / ".headrace" / "jars").symlink_to(jars)
        (root / "feature_repo").mkdir()
        (root / "feature_repo" / "orders.avsc").write_text(schema_of(COLOUR), encoding="utf-8")
        (root / "feature_repo" / "shop.py").write_text(DEFINITIONS.format(topic=topic), encoding="utf-8")
        settings = f"[kafka]\nbootstrap_servers = '{bootstrap}'\nschema_registry = '{self.registry.url}'\n"
        settings += "[kafka.registry]\n'max.retries' = 0\n"
        settings += "[stream]\nspark_memory = '512m'\narchive_trigger_s = 0.5\n"
        (root / "settings.toml").write_text(settings, encoding="utf-8")
        self.streams = load_repo(root / "feature_repo").streams
        ensure_topics(bootstrap, self.streams.values())
        self.producer = EventProducer(bootstrap)
        self.stream = StreamProcess(root, bootstrap)
        self.number = 0

    def send(self, *values: bytes | None) -> None:
        """The messages are in the shop's topic."""
        lost: list[object] = []
        for value in values:
            self.producer.send(self.streams["shop"].topic, b"u1", value, [], lambda error, _: lost.append(error))
        assert self.producer.flush(60) == 0
        assert lost == [None] * len(values)

    def shop(self, schema: str, **more: object) -> bytes:
        """A message of the shop, as a producer of theirs writes it."""
        self.number += 1
        number = self.registry.register(f"{self.streams['shop'].topic}-value", schema)
        record = {"id": f"e{self.number}", "at": int(time.time() * 1000), "user": "u1", "price": 1.5, **more}
        writer = avro_writer(self.streams["shop"], _Fixed(number, schema))
        return writer.encode(record)

    def table(self, name: str) -> list[dict[str, Any]]:
        from deltalake import DeltaTable

        table = pa.table(DeltaTable(self.root / ".headrace" / "offline" / name).to_pyarrow_table())
        return list(table.sort_by("event_id").select(["event_id", "user_id", "price", "colour"]).to_pylist())

    def reasons(self) -> list[str]:
        letters = read_dead_letters(self.bootstrap, self.streams["shop"].topic)
        return sorted(letter.reason.partition(":")[0] for letter in letters)


class _Fixed(SchemaRegistry):
    """The number and the schema of one writer."""

    def __init__(self, number: int, text: str) -> None:
        self._pair = number, text

    def latest(self, subject: str) -> tuple[int, str]:
        return self._pair


@pytest.fixture
def project(tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str) -> Project:
    return Project(tmp_path / "project", kafka, spark_jars[0].parent.parent, unique_name)


def replay(project: Project, name: str, events: list[dict[str, Any]]) -> dict[str, Any]:
    file = project.root / "events.jsonl"
    file.write_text("\n".join(json.dumps(event) for event in events), encoding="utf-8")
    command = [sys.executable, "-m", "headrace", "replay", str(file), "--format", "jsonl", "--stream", name, "--json"]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def posted(project: Project, body: dict[str, Any]) -> list[str]:
    settings = ServiceConfig(
        repo=str(project.root / "feature_repo"),
        store=StoreSettings(kind="sqlite", address=str(project.root / ".headrace" / "online.db")),
        tracking_uri="",
        bootstrap_servers=project.bootstrap,
        schema_registry=project.registry.url,
    )
    service = service_of(settings)
    assert service.sink is not None
    answer = asyncio.run(service.posted.post(json.dumps(body).encode(), None, EVERYBODY))
    service.sink.close()
    return [one.status for one in answer.events]


def test_avro_of_a_registry_is_folded_and_archived_and_waits_while_the_registry_is_away(project: Project) -> None:
    """Good, malformed, unknown and evolved messages; then a schema that cannot be asked for; then it can."""
    registry = project.registry
    now = int(time.time() * 1000)
    with ExitStack() as up:
        up.enter_context(registry.running())
        project.send(project.shop(schema_of()), b"\1\0\0\0\1x", b"", b"\0\0", b"\0\0\0\3\xe7unknown", None)
        project.send(project.shop(schema_of())[:-3], project.shop(schema_of(COLOUR), colour="red"))
        told = replay(project, "orders", [{"id": "o1", "at": now, "user": "u2", "price": 4.0, "colour": "blue"}])
        assert (told["acknowledged"], told["refused"]) == (1, 0)
        event = {"event_id": "h1", "event_time": now, "user_id": "u1", "price": 2.0, "colour": "green"}
        events = [event, {**event, "price": "dear"}]
        assert posted(project, {"stream": "shop", "events": events}) == ["accepted", "refused"]
        with project.stream.running() as process:
            project.stream.wait(process, project.stream.is_drained)
            bad = ["empty_value", "null_value", "truncated", "truncated", "unknown_schema", "wrong_magic"]
            assert project.reasons() == bad
            counts = project.stream.queries()["fold"]["counts"]
            assert (counts["folded"], counts["dead_letter"]) == (4, 6)
            sized = schema_of(COLOUR, SIZE)
            registry.register(f"{project.streams['shop'].topic}-value", sized)
            up.close()
            project.send(project.shop(sized, colour="white", size=3), project.shop(schema_of()))

            def waiting() -> bool:
                return all("schema registry" in str(query["error"]) for query in project.stream.queries().values())

            project.stream.wait(process, waiting)
            assert project.reasons() == bad
            up.enter_context(registry.running())
            project.stream.wait(process, project.stream.is_drained)
            assert project.reasons() == bad
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    colours = {"e1": None, "e3": "red", "e4": "white", "e5": None, "h1": "green"}
    assert {row["event_id"]: row["colour"] for row in project.table("shop")} == colours
    orders = [{"event_id": "o1", "user_id": "u2", "price": 4.0, "colour": "blue"}]
    assert project.table("orders") == orders
    assert max(registry.asked[f"schemas/ids/{number}"] for number in registry.schemas) <= 6
