"""Alerts from a real topic to a table, PostgreSQL and a webhook, each once in each, whatever fails meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from deltalake import DeltaTable
from hook_server import Hook, running_hook
from postgres_server import PostgresServer, running_postgres
from told_alerts import ids, send, told

from headrace.cli import cli
from headrace.commands.stream.deliver import sinks_of
from headrace.settings import AlertsSettings
from streaming.alerts.delivery import Delivery, Letters, deliver_all
from streaming.alerts.sinks.delta import DeltaSink
from streaming.alerts.sinks.port import Sink
from streaming.alerts.sinks.postgres import PostgresSink
from streaming.alerts.sinks.webhook import WebhookSink
from streaming.alerts.topic import AlertTopic
from streaming.dead_letters import DeadLetter, read_dead_letters
from streaming.fold.crash_points import VARIABLE
from streaming.kafka.consumer import ReadError, Record
from streaming.kafka.producer import EventProducer
from streaming.kafka.topic_admin import admin_client, ensure_named_topics
from streaming.kafka.topic_facts import TopicReader
from streaming.kafka.watermarks import read_watermarks

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60
POLL_S = 0.05


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as found:
        yield found


@pytest.fixture
def hook() -> Iterator[Hook]:
    with running_hook() as found:
        yield found


class Place:
    """A topic of alerts with what delivers them, and what the sinks have by recount."""

    def __init__(self, root: Path, kafka: str, topic: str, server: PostgresServer, hook: Hook) -> None:
        self.root, self.kafka, self.topic, self.server, self.hook = root, kafka, topic, server, hook
        self.producer = EventProducer(kafka)
        self.table = topic.replace("-", "_")
        ensure_named_topics(kafka, [topic])

    def deliveries(self) -> list[Delivery]:
        sinks: list[Sink] = [
            DeltaSink(self.root / "offline" / "alerts", 0.2, lambda: 1),
            PostgresSink(self.server.conninfo, "", self.table),
            WebhookSink(self.hook.url, "", 5.0),
        ]
        letters = Letters(self.producer)
        return [Delivery(one, AlertTopic(self.kafka, self.topic, f"{self.topic}-{one.name}"), letters) for one in sinks]

    @contextmanager
    def delivering(self) -> Iterator[dict[str, Delivery]]:
        stop, several = threading.Event(), self.deliveries()
        thread = threading.Thread(target=deliver_all, args=[several, lambda told: None, stop], daemon=True)
        thread.start()
        try:
            yield {one.sink.name: one for one in several}
        finally:
            stop.set()
            thread.join(DEADLINE_S)
        assert {one.state for one in several} == {"stopped"}

    def in_table(self) -> list[str]:
        path = self.root / "offline" / "alerts"
        if not DeltaTable.is_deltatable(str(path)):
            return []
        found: list[str] = DeltaTable(path).to_pyarrow_table()["alert_id"].to_pylist()
        return sorted(found)

    def in_postgres(self) -> list[str]:
        return [one for (one,) in self.server.ask(f'SELECT alert_id FROM {self.table} ORDER BY alert_id COLLATE "C"')]

    def in_hook(self) -> list[str]:
        """By their keys, which a receiver tells them apart by."""
        return sorted(set(self.hook.taken()))

    def letters(self) -> list[DeadLetter]:
        return read_dead_letters(self.kafka, self.topic)


def until(done: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {DEADLINE_S} s: {what}")
        time.sleep(POLL_S)


@pytest.fixture
def place(tmp_path: Path, kafka: str, unique_name: str, server: PostgresServer, hook: Hook) -> Place:
    return Place(tmp_path, kafka, unique_name, server, hook)


def test_a_place_that_was_not_committed_is_taken_again_and_one_that_was_is_not(place: Place) -> None:
    alerts = told(4)
    send(place.producer, place.topic, alerts[:2])
    stop = threading.Event()
    source = AlertTopic(place.kafka, place.topic, "group")
    taken = taken_from(source, 2)
    source.close()
    source = AlertTopic(place.kafka, place.topic, "group")
    again = taken_from(source, 2)
    assert sorted(one.value or b"" for one in again) == sorted(one.value or b"" for one in taken)
    source.commit(again)
    source.close()
    send(place.producer, place.topic, alerts[2:])
    source = AlertTopic(place.kafka, place.topic, "group")
    rest = taken_from(source, 2)
    assert sorted(json.loads(one.value or b"")["alert_id"] for one in rest) == sorted(ids(alerts[2:]))
    source.commit(rest)
    assert (source.take(1, 0.0, stop), source.waiting()) == ([], 0)
    source.close()


def test_alerts_that_expired_before_they_were_delivered_are_counted(place: Place) -> None:
    from confluent_kafka import TopicPartition

    send(place.producer, place.topic, told(5))
    source = AlertTopic(place.kafka, place.topic, "group")
    taken = taken_from(source, 5)
    source.commit(taken)
    source.close()
    by_partition = Counter(one.partition for one in taken)
    send(place.producer, place.topic, told(30))
    ends = read_watermarks(place.kafka, [place.topic]).high
    # All but the last of each partition.
    lows = {number: ends[f"{place.topic}/{number}"] - 1 for number in range(2)}
    gone = [TopicPartition(place.topic, number, low) for number, low in lows.items()]
    admin = admin_client(place.kafka)
    for future in admin.delete_records(gone).values():
        future.result(30)
    expired = sum(low - by_partition[number] for number, low in lows.items())
    assert expired > 0
    for left in (2, 0):  # committed with the offset, so that the next process has it too
        source = AlertTopic(place.kafka, place.topic, "group")
        source.commit(taken_from(source, left))
        assert source.take(1, 0.0, threading.Event()) == []
        assert source.counts() == {"delivered": 7, "refused": 0, "expired": expired}
        assert source.waiting() == 0
        source.close()


def test_alerts_are_never_deleted_by_age(kafka: str, unique_name: str) -> None:
    ensure_named_topics(kafka, [unique_name, f"{unique_name}-scores"], kept=[unique_name])
    facts = TopicReader(kafka).facts([unique_name, f"{unique_name}-scores"])
    assert facts[unique_name].retention_ms == -1
    assert facts[f"{unique_name}-scores"].retention_ms != -1
    assert {each.timestamps for each in facts.values()} == {"LogAppendTime"}


def taken_from(source: AlertTopic, count: int) -> list[Record]:
    found: list[Record] = []

    def all_are_there() -> bool:
        with suppress(ReadError):  # the broker's first group takes it a moment
            found.extend(source.take(count - len(found), 0.0, threading.Event()))
        return len(found) == count

    until(all_are_there, "records")
    return found


def test_a_sink_that_is_away_holds_up_no_other_and_gets_all_when_it_is_back(place: Place) -> None:
    alerts = told(40)
    wanted = sorted(ids(alerts))
    place.server.stop()
    try:
        send(place.producer, place.topic, [*alerts[:20], *alerts[5:15]])
        place.hook.answers = [(429, {"Retry-After": "2"}), (500, {})]
        with place.delivering() as by_name:
            until(lambda: place.in_table() == sorted(ids(alerts[:20])), "the table has them")
            until(lambda: place.in_hook() == sorted(ids(alerts[:20])), "the webhook has them")
            until(lambda: by_name["postgres"].to_dict()["state"] == "retrying", "PostgreSQL is missed")
            assert by_name["postgres"].to_dict()["delivered"] == 0
            assert by_name["postgres"].to_dict()["last_error"]["text"].startswith("PostgreSQL requires")
            assert by_name["webhook"].to_dict()["last_error"]["text"].startswith("webhook at 127.0.0.1 requires")
            place.server.start()
            send(place.producer, place.topic, alerts[20:])
            found = (place.in_table, place.in_postgres, place.in_hook)
            until(lambda: all(one.to_dict()["delivered"] == 50 for one in by_name.values()), "all have all")
            assert [one() for one in found] == [wanted] * 3
            assert {one.to_dict()["waiting"] for one in by_name.values()} == {0}
    finally:
        if place.server.process is None:
            place.server.start()
    assert len(place.hook.taken()) == 50
    first, second = (one.at_s for one in place.hook.requests[:2])
    assert second - first >= 2
    assert place.letters() == []


def test_what_a_sink_refuses_is_a_dead_letter_with_the_reason_and_the_rest_goes_on(place: Place) -> None:
    alerts = told(6)
    place.hook.refused = {alerts[2]["alert_id"]: 422}
    send(place.producer, place.topic, [*alerts[:3], b"no alert", b'{"alert_id": 7}', *alerts[3:]])
    with place.delivering() as by_name:
        until(lambda: sum(one.to_dict()["refused"] for one in by_name.values()) == 7, "what cannot be taken is refused")
        until(lambda: {one.to_dict()["waiting"] for one in by_name.values()} == {0}, "all is taken")
    assert place.in_table() == place.in_postgres() == sorted(ids(alerts))
    assert place.in_hook() == sorted({*ids(alerts)} - {*place.hook.refused})
    letters = {one.value: one for one in place.letters()}
    assert letters.keys() == {b"no alert", b'{"alert_id": 7}', json.dumps(alerts[2]).encode()}
    assert {one.code for one in letters.values()} == {"malformed_alert", "webhook_refused"}
    assert letters[json.dumps(alerts[2]).encode()].reason == "webhook_refused: 422"
    assert all(one.place[0] == place.topic for one in letters.values())


class DiedError(Exception):
    """Ends a delivery between its sink and its place."""


def test_what_a_delivery_did_before_it_died_is_done_again_and_each_alert_is_once_in_every_sink(place: Place) -> None:
    alerts = told(6)
    send(place.producer, place.topic, alerts)

    def dies(moment: str) -> None:
        if moment == "after delivery":
            raise DiedError

    for delivery in place.deliveries():
        delivery.reached = dies
        with pytest.raises(DiedError):
            until(lambda delivery=delivery: delivery.step(threading.Event()), "it dies")
        delivery.source.close()
        delivery.sink.close()
    with place.delivering() as by_name:
        until(lambda: {one.to_dict()["delivered"] for one in by_name.values()} == {6}, "all are counted once")
    assert place.in_table() == place.in_postgres() == place.in_hook() == sorted(ids(alerts))


# --- the process ----------------------------------------------------------------------------------------------------


@pytest.fixture
def project(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    root = place.root
    (root / "feature_repo").mkdir()
    shutil.copy(ROOT / "feature_repo" / "cards.py", root / "feature_repo")
    settings = f"""
[kafka]
bootstrap_servers = "{place.kafka}"
[stream]
alerts_topic = "{place.topic}"
[offline]
path = "offline"
[alerts]
table_every_s = 0
postgres = "{place.server.conninfo}"
postgres_table = "{place.table}"
"""
    (root / "settings.toml").write_text(settings, encoding="utf-8")
    monkeypatch.setenv("HEADRACE_ALERTS__WEBHOOK", place.hook.url)
    monkeypatch.setenv("HEADRACE_ALERTS__WEBHOOK_TOKEN", "12345")
    monkeypatch.chdir(root)
    return place


@contextmanager
def process(root: Path, crash_at: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    environ = {**os.environ, **({VARIABLE: crash_at} if crash_at else {})}
    command = [sys.executable, "-m", "headrace", "alerts", "deliver"]
    with (root / "log.txt").open("ab") as log:
        running = subprocess.Popen(command, cwd=root, env=environ, stdout=log, stderr=log)
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.wait(DEADLINE_S)


def asked(*arguments: str) -> str:
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_killed_between_a_sink_and_its_place_each_alert_is_once_in_every_sink(project: Place) -> None:
    """And one process delivers at a time, status tells how it does, and no secret is in what is told."""
    alerts = told(12)
    send(project.producer, project.topic, alerts[:8])
    with process(project.root, "after delivery:2") as running:
        assert running.wait(DEADLINE_S) == -signal.SIGKILL, (project.root / "log.txt").read_text()
    send(project.producer, project.topic, alerts[8:])
    with process(project.root) as running:
        until(lambda: project.in_table() == project.in_postgres() == project.in_hook() == sorted(ids(alerts)), "all")
        until(lambda: delivered_by(running) == [12] * 3, "it says so, each counted once")
        another = CliRunner().invoke(cli, ["alerts", "deliver"])
        assert (another.exit_code, f"process {running.pid}" in another.output) == (2, True)
        running.terminate()
        assert running.wait(DEADLINE_S) == 0
    bodies = {one.key: one.body for one in project.hook.requests}
    assert [bodies[one["alert_id"]] for one in alerts] == alerts
    assert project.hook.requests[0].headers["Authorization"] == "Bearer 12345"
    told_of = json.loads(asked("status", "--json"))["alerts"]
    assert (told_of["state"], {one["waiting"] for one in told_of["sinks"].values()}) == ("stopped", {0})
    assert 'headrace_alerts_waiting{sink="postgres"} 0' in asked("status", "--metrics")
    assert "webhook: stopped" in asked("status")
    said = (project.root / "log.txt").read_text() + (project.root / ".headrace/status/alerts.json").read_text()
    assert "secret-path" not in said
    assert "12345" not in said


def delivered_by(running: subprocess.Popen[bytes]) -> list[int]:
    """What the process that runs now has told of each sink."""
    alerts = json.loads(asked("status", "--json")).get("alerts", {"pid": None})
    return [one["delivered"] for one in alerts["sinks"].values()] if alerts["pid"] == running.pid else []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"HEADRACE_ALERTS__TABLE": "transactions"}, "a name that no stream has"),
        ({"HEADRACE_ALERTS__WEBHOOK": "alerts.example.com"}, "an address http"),
    ],
)
def test_sinks_that_cannot_be_are_refused_before_anything_starts(project: Place, monkeypatch, changed, said) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(cli, ["alerts", "deliver"])
    assert (done.exit_code, said in done.output) == (2, True), done.output


def test_without_any_sink_it_says_which_settings_name_one(tmp_path: Path) -> None:
    from features.definitions.repo import load_repo
    from features.errors import UsageError

    with pytest.raises(UsageError, match=r"alerts\.webhook"):
        sinks_of(AlertsSettings(table=""), tmp_path, load_repo(ROOT / "feature_repo"))
