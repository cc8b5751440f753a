"""A project with one stream of orders and one view of them, on a cluster of the tests."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from stream_process import StreamProcess

from features.definitions.repo import load_repo
from streaming.kafka.topic_admin import ensure_topics

DEFINITIONS = """
from headrace import Count, Entity, FeatureSet, FeatureView, Stream

user = Entity("user", keys={{"user_id": "string"}})
orders = Stream("orders", topic="{topic}", fields={{"user_id": "string"}})
by_user = FeatureView("by_user", sets=[FeatureSet(user, orders, [Count()], ["1h"])])
"""


def orders_stream(root: Path, bootstrap: str, spark_jars: list[Path], topic: str, partitions: int = 2) -> StreamProcess:
    """A stream of a new project in ``root``, whose topic is made."""
    (root / ".headrace").mkdir(parents=True)
    (root / ".headrace" / "jars").symlink_to(spark_jars[0].parent.parent)
    (root / "feature_repo").mkdir()
    (root / "feature_repo" / "orders.py").write_text(DEFINITIONS.format(topic=topic), encoding="utf-8")
    settings = f"[kafka]\nbootstrap_servers = '{bootstrap}'\n[stream]\nspark_memory = '512m'\narchive_trigger_s = 0.5\n"
    (root / "settings.toml").write_text(settings, encoding="utf-8")
    ensure_topics(bootstrap, load_repo(root / "feature_repo").streams.values(), partitions)
    return StreamProcess(root, bootstrap)


@dataclass(frozen=True)
class Orders:
    """Sends orders of one user to the topic, and reads what became of them."""

    stream: StreamProcess
    topic: str

    def send(self, ids: Iterable[str | None], partition: int = 0, **fields: Any) -> None:
        """Orders of 'ann' with these ids (None: without one); they are in the topic."""
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.stream.bootstrap})
        for name in ids:
            event = {"event_id": name} if name is not None else {}
            event |= {"event_time": int(time.time() * 1000), "user_id": "ann"} | fields
            producer.produce(self.topic, json.dumps(event).encode(), b"ann", partition=partition)
        assert producer.flush(30) == 0

    def archived(self) -> list[str]:
        """The ids in the archive, sorted."""
        from deltalake import DeltaTable

        path = self.stream.root / ".headrace" / "offline" / "orders"
        if not (path / "_delta_log").exists():
            return []
        table = pa.table(DeltaTable(path).to_pyarrow_table())
        return sorted(table["event_id"].to_pylist())

    def headrace(self, *arguments: str, code: int | None = 0) -> str:
        """What the command prints, with its errors where it fails; it ends with this code (None: with any)."""
        command = [sys.executable, "-m", "headrace", *arguments]
        done = subprocess.run(command, cwd=self.stream.root, capture_output=True, text=True, timeout=240, check=False)
        assert code in (None, done.returncode), f"{done.returncode}: {done.stdout}\n{done.stderr}"
        return done.stdout + (done.stderr if code else "")

    def online(self) -> int | None:
        """The user's count over an hour that readers read; None where it has none."""
        shown = json.loads(self.headrace("features", "show", "user", "ann", "--json"))
        (view,) = shown["views"]
        return view["features"]["user_count_1h"] if view["status"] == "PRESENT" else None
