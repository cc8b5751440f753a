"""Which Kafka the settings mean."""

from __future__ import annotations

import os

import pytest

from features.machine import FileLock
from headrace.cluster import cluster, find_cluster
from headrace.settings import KafkaSettings, Settings
from streaming.kafka.broker import BrokerError, running_broker

NAMED = Settings(kafka=KafkaSettings(bootstrap_servers="kafka.example:9092"))


def test_a_cluster_that_is_named_is_used_and_nothing_is_started(tmp_path):
    assert find_cluster(NAMED, tmp_path) == "kafka.example:9092"
    with cluster(NAMED, tmp_path) as bootstrap_servers:
        assert bootstrap_servers == "kafka.example:9092"
    assert list(tmp_path.iterdir()) == []


def test_without_one_the_broker_that_runs_on_the_home_is_found_while_it_runs(tmp_path):
    lock = FileLock(tmp_path / ".headrace" / "kafka" / "owner")
    assert lock.take()
    (tmp_path / ".headrace" / "kafka" / "bootstrap").write_text("127.0.0.1:1234")
    assert find_cluster(Settings(), tmp_path) == "127.0.0.1:1234"
    lock.release()
    with pytest.raises(
        BrokerError, match=r"Kafka requires a broker that runs on .*; got none. Start it: headrace stream"
    ):
        find_cluster(Settings(), tmp_path)
    assert running_broker(tmp_path / ".headrace") is None


def test_a_lock_has_one_owner_at_a_time_and_says_who(tmp_path):
    first, second = FileLock(tmp_path / "owner"), FileLock(tmp_path / "owner")
    assert not first.is_held()
    assert first.take()
    assert second.is_held()
    assert second.owner() == os.getpid()
    assert not second.take()
    first.release()
    assert second.take()
    second.release()
    assert not first.is_held()
