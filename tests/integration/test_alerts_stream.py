"""Payments scored in the real stream, while the driver dies, the broker restarts, the model and the schema change."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from card_payments import CardPayments
from cards_champion import make_champion, quick_model
from cards_project import Project
from schema_registry import Registry
from stream_process import StreamProcess

from streaming.kafka.broker import EmbeddedBroker
from streaming.kafka.consumer import read_topic
from streaming.kafka.topic_admin import ensure_topics

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
WITHIN_S = 300.0
"""A busy machine takes long to start a stream, and to read the registry of models for the first time."""
THRESHOLDS = {"1": 0.0, "2": 0.05}
"""By version; the first alerts on every payment."""


@pytest.fixture
def broker(tmp_path: Path, kafka_jars: Path) -> Iterator[EmbeddedBroker]:
    """One of our own, as it is stopped."""
    with EmbeddedBroker(tmp_path / "broker", kafka_jars, heap_mb=256) as broker:
        yield broker


@pytest.fixture
def schemas() -> Iterator[Registry]:
    registry = Registry()
    with registry.running():
        yield registry


@pytest.fixture
def project(tmp_path: Path, broker: EmbeddedBroker, schemas: Registry, spark_jars: list[Path]) -> Project:
    made = Project(tmp_path / "project", broker.bootstrap_servers, spark_jars[0].parent.parent, "cards")
    settings = made.root / "settings.toml"
    text = settings.read_text(encoding="utf-8").replace("[kafka]\n", f"[kafka]\nschema_registry = '{schemas.url}'\n")
    settings.write_text(text, encoding="utf-8")
    ensure_topics(broker.bootstrap_servers, made.repo.streams.values())
    return made


def told(project: Project, topic: str) -> list[dict[str, Any]]:
    return [json.loads(one.value or b"{}") for one in read_topic(project.bootstrap, topic)]


def scored(project: Project) -> dict[str, dict[str, Any]]:
    """By event what was said of it, which is the same each time that it was."""
    found: dict[str, dict[str, Any]] = {}
    for one in told(project, "scores"):
        assert found.setdefault(one["event_id"], one) == one
    return found


def test_every_payment_is_scored_and_every_alert_is_one_whatever_happens_meanwhile(
    project: Project, broker: EmbeddedBroker, schemas: Registry, seed: int
) -> None:
    """The driver is killed between decisions and rows, or before them; then model, broker and schema change."""
    model = quick_model(project.repo, THRESHOLDS["1"])
    assert make_champion(project.root, model) == "1"
    payments = CardPayments(project.bootstrap, project.repo.streams["transactions"], schemas, seed)
    stream = StreamProcess(project.root, project.bootstrap)
    place = Random(seed).choice(["before scores", "after scores"])
    payments.send(150)
    with stream.running(crash_at=f"{place}:1") as process:
        assert process.wait(WITHIN_S) == -signal.SIGKILL
    assert bool(scored(project)) == (place == "after scores")
    with stream.running() as process:
        stream.wait(process, lambda: len(scored(project)) == 150, WITHIN_S)
        changed = model.manifest.model_copy(update={"threshold": THRESHOLDS["2"]})
        assert make_champion(project.root, type(model)(changed, model.classifier)) == "2"
        payments.send(30)
        before = broker.bootstrap_servers
        broker.kill()
        assert broker.start() == before
        payments.evolve()
        payments.send(60)
        stream.wait(process, lambda: later_versions(project, payments), WITHIN_S)
        stream.wait(process, lambda: len(scored(project)) == len(payments.sent), WITHIN_S)
    check(project, payments)


def later_versions(project: Project, payments: CardPayments) -> bool:
    """One payment more, until the other version has scored one."""
    payments.send(1)
    return any(one["version"] == "2" for one in scored(project).values())


def check(project: Project, payments: CardPayments) -> None:
    scores = scored(project)
    assert set(scores) == set(payments.sent)
    assert {one["version"] for one in scores.values()} == {"1", "2"}
    assert all(0 <= one["score"] <= 1 for one in scores.values())
    alerts: dict[str, dict[str, Any]] = {}
    for one in told(project, "alerts"):
        assert alerts.setdefault(one["alert_id"], one) == one
    by_model = {one["event_id"] for one in alerts.values() if one["source"] == "model:cards"}
    reaching = {name for name, one in scores.items() if one["score"] >= THRESHOLDS[one["version"]]}
    assert by_model == reaching != set()
    told_by = {(one["event_id"], one["source"]) for one in alerts.values()}
    by_rule = {one for one in told_by if one[1] != "model:cards"}
    assert by_rule == {(name, f"rule:{rule}") for name, one in scores.items() for rule in one["rules"]} != set()
    assert sorted(one["alert_id"] for one in tail(project, len(alerts))) == sorted(alerts)


def tail(project: Project, count: int) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "headrace", "alerts", "tail", "--from-beginning", "--limit", str(count), "--json"]
    done = subprocess.run(command, cwd=project.root, capture_output=True, check=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]
