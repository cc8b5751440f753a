"""A secret in every setting that can have one: nothing that is written, logged or answered has it."""

from __future__ import annotations

import json
import re
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from pydantic import SecretStr
from serving_world import REPO, plain, settings, until
from shop_project import Project

from features.errors import StoreError
from features.events.avro.registry import SchemaRegistry
from features.machine import free_port
from features.online_store.settings import StoreSettings
from streaming.forget.search import files_of, times_in

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

SECRET = "Hush-4711-zyx"
PATTERN = re.compile(SECRET.encode())

USER = "user-gone-0815"

QUESTIONS: tuple[tuple[str, object], ...] = (
    *((path, None) for path in ("/healthz", "/readyz", "/v1/models", "/metrics", "/openapi.json", "/nowhere")),
    ("/v1/features/user/u1", None),
    ("/v1/recommend", {"user_id": "u1"}),
    ("/v1/recommend", {"user_id": "u1", "model": "7"}),
    ("/v1/recommend", {"user_id": 1, "wrong": True}),
    ("/v1/rank", {"user_id": "u1", "items": ["a", "b"]}),
    ("/v1/similar", {"item_id": "a"}),
    ("/v1/score", {"model": "card-fraud", "event": {}}),
    ("/v1/events", {"event_id": "1", "event_time": 1_780_000_000_000, "event_type": "view", "user_id": "u1"}),
)


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch):
    monkeypatch.setattr("features.redaction._remembered", ())


def answered(url: str, body: object) -> str:
    """Status, headers and body of the answer, whatever it is."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return f"{answer.status} {answer.headers} {answer.read().decode()}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.headers} {error.read().decode()}"


def test_no_answer_of_the_service_and_no_log_has_one(monkeypatch, caplog, capfd):
    """With every part away that a secret is for: its errors are in the answers."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = f"127.0.0.1:{free_port()}"
    config = settings(
        Path("none"),
        f"http://me:{SECRET}@{away}",
        bootstrap_servers=away,
        kafka_client={"sasl.password": SECRET, "sasl.username": "me", "ssl.key.password": SECRET},
        schema_registry=f"http://{away}",
        registry_client={"basic.auth.user.info": f"me:{SECRET}"},
        acknowledge_within_s=1.0,
    ).model_copy(update={"store": StoreSettings(kind="redis", address=f"redis://{away}/0", password=SecretStr(SECRET))})
    assert Path(config.repo) == REPO
    with plain(config, ready=False) as http:
        until(lambda: "…@127.0.0.1" in answered(f"{http.url}/readyz", None), "the registry's problem")
        said = [answered(http.url + path, body) for path, body in QUESTIONS]
    assert any("…@127.0.0.1" in each for each in said), "the registry's address is in an answer, without its password"
    out, err = capfd.readouterr()
    for text in (*said, caplog.text, out, err):
        assert SECRET not in text


def test_a_schema_registry_that_is_away_says_its_address_without_its_password():
    with pytest.raises(StoreError, match=r"registry http://…@127\.0\.0\.1") as error:
        SchemaRegistry(f"http://me:{SECRET}@127.0.0.1:{free_port()}", {"max.retries": 0}).latest("clicks")
    assert SECRET not in str(error.value)


@pytest.fixture
def project(tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str, seed: int) -> Project:
    return Project(tmp_path / "project", kafka, spark_jars[0].parent.parent, unique_name, seed)


def test_no_file_of_a_stream_has_one_and_a_user_is_forgotten_between_two_runs(project: Project, monkeypatch):
    """Spark's and Kafka's logs, checkpoints, status and tables; and the stream goes on after `headrace forget`."""
    jaas = f'org.apache.kafka.common.security.plain.PlainLoginModule required username="me" password="{SECRET}";'
    planted = {
        "HEADRACE_KAFKA__CLIENT": f'{{"sasl.username" = "me", "sasl.password" = "{SECRET}"}}',
        "HEADRACE_KAFKA__SPARK": json.dumps({"sasl.jaas.config": jaas, "ssl.key.password": SECRET}).replace(
            '":', '" ='
        ),
        "HEADRACE_ALERTS__WEBHOOK_TOKEN": SECRET,
        "HEADRACE_REDIS__PASSWORD": SECRET,
        "HEADRACE_MLFLOW__TRACKING_URI": f"http://me:{SECRET}@127.0.0.1:{free_port()}",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    topic, event = project.sent["shop"].stream.topic, {"event_type": "view", "user_id": USER, "price": 1.0}
    for number in range(3):
        message = event | {"event_id": f"gone{number}", "event_time": time.time_ns() // 1_000_000}
        project.producer.send(topic, USER.encode(), json.dumps(message).encode())
    project.send(100, [b"{", f'{{"user_id": "{USER}"'.encode()])
    with project.stream.running() as process:
        project.drain(process)
        project.run("status", "--json")
        assert SECRET not in project.answered
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    project.run("forget", "user", USER, "--json")
    report = json.loads(project.answered[project.answered.index("{") : project.answered.rindex("}") + 1])
    assert report["clean"], report
    assert report["deleted"]["rows"]["by_user"] == 1
    assert report["deleted"]["tables"] == {"shop": 3}
    assert sum(report["deleted"]["dead_letters"].values()) >= 1
    before = project.stream.queries()["fold"]["counts"]
    project.send(20)
    with project.stream.running() as process:
        project.drain(process)
        assert sum(project.stream.queries()["fold"]["counts"].values()) > sum(before.values())
    found = [path for path in files_of([project.root], []) if times_in(path, PATTERN)]
    assert found == []
