"""The broker of our own: what it keeps, what it refuses, and what it leaves behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.definitions import Stream
from streaming.jars import JarsError
from streaming.jars import kafka_jars as find_kafka_jars
from streaming.kafka.broker import BrokerError, EmbeddedBroker, running_broker
from streaming.kafka.consumer import read_topic
from streaming.kafka.ports import is_free
from streaming.kafka.producer import EventProducer
from streaming.kafka.topic_admin import TopicError, admin_client, ensure_topics

pytestmark = pytest.mark.integration

CLICKS = Stream("clicks", topic="broker.clicks", fields={"user_id": "string"})
DEADLINE_S = 60.0


def eventually(condition) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


def exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def broker(tmp_path: Path, kafka_jars: Path) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path, kafka_jars, heap_mb=256) as running:
        yield running


class Acks:
    """What Kafka acknowledged, by the message's bytes."""

    def __init__(self) -> None:
        self.errors: dict[bytes, object] = {}

    def __call__(self, error: object, message) -> None:
        self.errors[message.value()] = error


def test_a_crash_keeps_what_was_acknowledged_and_an_event_is_acknowledged_only_by_kafka(broker):
    """Also: the broker comes back on its port, so that clients of before find it."""
    servers = broker.bootstrap_servers
    ensure_topics(servers, [CLICKS])
    producer, acks = EventProducer(servers), Acks()
    before = [b"%d" % number for number in range(1_000)]
    for value in before:
        producer.send(CLICKS.topic, b"user", value, on_ack=acks)
    assert producer.flush() == 0
    assert acks.errors == dict.fromkeys(before)

    broker.kill()
    assert not broker.is_running()
    producer.send(CLICKS.topic, b"user", b"while down", on_ack=acks)
    assert producer.flush(1) == 1
    assert b"while down" not in acks.errors

    assert broker.start() == servers
    assert producer.flush(DEADLINE_S) == 0
    assert acks.errors[b"while down"] is None
    assert [record.value for record in read_topic(servers, CLICKS.topic)] == [*before, b"while down"]


def test_a_second_broker_on_one_home_is_refused_and_the_first_goes_on(broker, kafka_jars):
    with pytest.raises(BrokerError, match=rf"requires the folder for itself; got another.*process {os.getpid()}"):
        EmbeddedBroker(broker.home, kafka_jars).start()
    assert running_broker(broker.home) == broker.bootstrap_servers
    assert broker.is_running()


def test_stopping_leaves_no_process_port_or_lock(tmp_path, kafka_jars):
    broker = EmbeddedBroker(tmp_path, kafka_jars, heap_mb=256)
    broker.start()
    process, port = broker.process_id, broker.port
    broker.stop()
    broker.stop()
    assert running_broker(tmp_path) is None
    assert is_free(port)
    assert eventually(lambda: not exists(process))


def test_the_broker_ends_with_the_process_that_started_it_even_when_that_is_killed(tmp_path, kafka_jars):
    program = (
        "import sys, pathlib; from streaming.kafka.broker import EmbeddedBroker\n"
        "broker = EmbeddedBroker(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), heap_mb=256)\n"
        "print(broker.start(), flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(kafka_jars)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        servers = owner.stdout.readline().strip()
        assert running_broker(tmp_path) == servers
        owner.send_signal(signal.SIGKILL)
    assert eventually(lambda: running_broker(tmp_path) is None)
    assert eventually(lambda: is_free(int(servers.rpartition(":")[2])))


def test_a_port_that_is_taken_is_named_with_how_to_see_who_has_it(tmp_path, kafka_jars):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BrokerError, match=rf"requires port {port} of 127.0.0.1; got a port that is taken. .*ss -l"):
            EmbeddedBroker(tmp_path, kafka_jars, port=port).start()
    assert running_broker(tmp_path) is None


def test_without_java_the_error_says_what_to_install(tmp_path, kafka_jars, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(JarsError, match=r"requires Java 17 or 21; got none on the PATH. Install .*openjdk-17-jre"):
        EmbeddedBroker(tmp_path, kafka_jars).start()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(JarsError, match=r"got none below JAVA_HOME="):
        EmbeddedBroker(tmp_path, kafka_jars).start()


def test_a_jar_that_is_gone_is_named_with_the_command_that_fetches_it(tmp_path, kafka_jars):
    copy = tmp_path / "jars" / "kafka"
    shutil.copytree(kafka_jars, copy, copy_function=os.link)
    assert find_kafka_jars(tmp_path) == copy
    (copy / "kafka-clients-4.2.0.jar").unlink()
    with pytest.raises(JarsError, match=r"requires each jar of their list; got no kafka-clients-4.2.0.jar. .*make set"):
        EmbeddedBroker(tmp_path, copy).start()
    with pytest.raises(JarsError, match=r"the Kafka jars in .* got no kafka-clients-4.2.0.jar"):
        find_kafka_jars(tmp_path)
    with pytest.raises(JarsError, match=r"got no jars.txt"):
        EmbeddedBroker(tmp_path, tmp_path / "nowhere").start()


@pytest.mark.parametrize("room_kb", [8, 24])
def test_a_disk_without_room_is_said_whether_we_or_kafka_find_out(tmp_path, kafka_jars, room_kb):
    program = (
        "import sys, pathlib; from streaming.kafka.broker import EmbeddedBroker\n"
        "EmbeddedBroker(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), heap_mb=256).start()\n"
    )
    mounted = f'mount -t tmpfs -o size={room_kb}k tmpfs "$1" && shift && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted, "sh", str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a user namespace, to mount a disk that is full")
    command += [sys.executable, "-c", program, str(tmp_path), str(kafka_jars)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "requires room on its disk; got none left. Make room: du -xh" in done.stderr


def test_a_first_start_that_broke_off_half_way_does_not_spoil_the_next(tmp_path, kafka_jars):
    data = tmp_path / "kafka" / "data"
    data.mkdir(parents=True)
    (data / "meta.properties").write_text("")  # what a full disk leaves of it
    with EmbeddedBroker(tmp_path, kafka_jars, heap_mb=256) as broker:
        assert broker.is_running()


def test_data_that_kafka_cannot_use_fails_with_kafkas_own_reason_and_stays(tmp_path, kafka_jars):
    data = tmp_path / "kafka" / "data"
    (data / "__cluster_metadata-0").mkdir(parents=True)
    (data / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=AAAAAAAAAAAAAAAAAAAAAA\n")
    with pytest.raises(BrokerError, match=r"requires Kafka to start; got .*node.id.*Its log: .*kafka.log"):
        EmbeddedBroker(tmp_path, kafka_jars, heap_mb=256).start()
    assert running_broker(tmp_path) is None
    assert "node.id=7" in (data / "meta.properties").read_text()


def test_topics_of_streams_are_stamped_by_the_broker_and_made_once(kafka, unique_name):
    from confluent_kafka.admin import ConfigResource

    stream = Stream("clicks", topic=unique_name, fields={"user_id": "string"})
    twin = Stream("other", topic=unique_name, fields={"item_id": "string"})
    assert ensure_topics(kafka, [stream, twin], partitions=3) == [unique_name, f"{unique_name}.dead"]
    assert ensure_topics(kafka, [stream]) == []
    admin = admin_client(kafka)
    found = admin.list_topics(timeout=10).topics
    assert (len(found[unique_name].partitions), len(found[f"{unique_name}.dead"].partitions)) == (3, 1)
    resource = ConfigResource(ConfigResource.Type.TOPIC, unique_name)
    config = admin.describe_configs([resource])[resource].result(10)
    assert config["message.timestamp.type"].value == "LogAppendTime"


def test_one_key_goes_to_the_partition_that_javas_clients_choose(kafka, unique_name):
    """Else a user's events from two producers would lie in two partitions, in no order."""
    ensure_topics(kafka, [Stream("clicks", topic=unique_name, fields={"user_id": "string"})], partitions=8)
    producer = EventProducer(kafka)
    keys = [b"user-%d" % number for number in range(50)]
    for key in keys:
        producer.send(unique_name, key, b"{}", [("known_at", b"1")])
    assert producer.flush() == 0
    records = list(read_topic(kafka, unique_name))
    assert {record.key: record.partition for record in records} == {
        key: (murmur2(key) & 0x7FFFFFFF) % 8 for key in keys
    }
    assert {record.headers for record in records} == {(("known_at", b"1"),)}


def murmur2(data: bytes) -> int:
    """Kafka's hash of a key, written from its definition."""
    mask, multiplier = 0xFFFFFFFF, 0x5BD1E995
    value = (0x9747B28C ^ len(data)) & mask
    whole = len(data) // 4 * 4
    for start in range(0, whole, 4):
        part = int.from_bytes(data[start : start + 4], "little") * multiplier & mask
        part = (part ^ part >> 24) * multiplier & mask
        value = (value * multiplier & mask) ^ part
    if len(data) > whole:
        value = (value ^ int.from_bytes(data[whole:], "little")) * multiplier & mask
    value = (value ^ value >> 13) * multiplier & mask
    return value ^ value >> 15


def test_a_cluster_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr("streaming.kafka.topic_admin.TIMEOUT_S", 0.5)
    with pytest.raises(TopicError, match=r"requires a cluster at 127.0.0.1:1; got no answer"):
        ensure_topics("127.0.0.1:1", [CLICKS])


def test_reading_a_topic_that_is_not_there_finds_nothing(kafka, unique_name):
    assert list(read_topic(kafka, unique_name)) == []
