"""Topics that lose what the stream has not read: refused with a sentence, accepted on record, and gone on from."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from orders_project import Orders, orders_stream
from stream_process import Process

from streaming.kafka.broker import EmbeddedBroker
from streaming.kafka.topic_admin import admin_client, ensure_named_topics

pytestmark = pytest.mark.integration

ACCEPT = ["--accept-loss"]

WITHIN_S = 300


@pytest.fixture
def orders(tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str) -> Orders:
    return Orders(orders_stream(tmp_path / "project", kafka, spark_jars, unique_name), unique_name)


def lose_before(orders: Orders, offset: int, partition: int = 0) -> None:
    """The topic has no records before the offset, as after its retention."""
    from confluent_kafka import TopicPartition

    admin = admin_client(orders.stream.bootstrap)
    for future in admin.delete_records([TopicPartition(orders.topic, partition, offset)]).values():
        assert future.result(30).low_watermark == offset


def make_anew(orders: Orders) -> None:
    """The topic is another one of the same name."""
    admin = admin_client(orders.stream.bootstrap)
    for future in admin.delete_topics([orders.topic]).values():
        future.result(30)
    while not ensure_named_topics(orders.stream.bootstrap, [orders.topic]):
        pass


def wait_for(orders: Orders, process: Process, ids: list[str]) -> None:
    """The rows and the archive have these."""
    orders.stream.wait(process, lambda: orders.archived() == sorted(ids) and orders.stream.is_drained(), WITHIN_S)
    orders.stream.wait(process, lambda: orders.online() == len(ids), WITHIN_S)


def verified(orders: Orders) -> int:
    """Entities whose online features are not the offline ones; one was compared."""
    report = json.loads(orders.headrace("features", "verify", "--all", "--json"))
    assert report["entities"] == 1
    return int(report["wrong_entities"])


def end(orders: Orders, process: Process) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, orders.stream.said()


def read_by_a_stream(orders: Orders, events: list[str]) -> None:
    """The events were sent, and a stream has read them and ended."""
    with orders.stream.running() as process:
        orders.send(events)
        wait_for(orders, process, events)
        end(orders, process)


def refused(orders: Orders) -> str:
    """What a stream says that ends as it cannot read on."""
    with orders.stream.running() as process:
        assert process.wait(120) == 1
    return orders.stream.said()


def test_after_an_outage_longer_than_the_retention(orders: Orders) -> None:
    stream = orders.stream
    first = [f"a{number}" for number in range(5)]
    read_by_a_stream(orders, first)
    orders.send(["lost5", "lost6", "b7"])
    lose_before(orders, 7)
    said = refused(orders)
    assert f"topic '{orders.topic}', partition 0, for the archive: offsets 5 to 6, 2 (deleted before they were" in said
    assert "'headrace stream --accept-loss' (or stream.accept_loss) goes on" in said
    assert "Traceback" not in said
    assert "lost: topic" in orders.headrace("status")
    assert "wait to be accepted" in orders.headrace("doctor", code=1)
    rebuilt = orders.headrace("features", "rebuild", code=1)
    assert "--accept-loss" in rebuilt
    assert "Traceback" not in rebuilt

    with stream.running(options=ACCEPT) as process:
        wait_for(orders, process, [*first, "b7"])
        assert verified(orders) == 0
        # The same while it runs, and stands still.
        process.send_signal(signal.SIGSTOP)
        orders.send(["lost8", "lost9", "lost10", "c11"])
        lose_before(orders, 11)
        process.send_signal(signal.SIGCONT)
        wait_for(orders, process, [*first, "b7", "c11"])
        end(orders, process)
    losses = json.loads(orders.headrace("status", "--json"))["losses"]
    assert losses["open"] == []
    assert [(gap["query"], gap["start"], gap["end"]) for gap in losses["accepted"]] == [
        ("archive", 5, 7),
        ("archive", 8, 11),
    ]
    assert "ALARM: loss accepted, 2 offsets" in (stream.root / "log.txt").read_text()
    metrics = orders.headrace("status", "--metrics")
    place = f'partition="0",query="archive",reason="expired",topic="{orders.topic}"'
    assert f"headrace_stream_lost_records_total{{{place}}} 5.0" in metrics
    assert "headrace_stream_losses_open 0.0" in metrics
    assert verified(orders) == 0

    with stream.running() as process:  # nothing is lost that was not accepted
        orders.send(["d12"], partition=1)
        wait_for(orders, process, [*first, "b7", "c11", "d12"])
        end(orders, process)


def test_a_topic_that_was_deleted_and_made_anew(orders: Orders) -> None:
    stream = orders.stream
    old = [f"old{number}" for number in range(20)]
    read_by_a_stream(orders, old)
    make_anew(orders)
    new = [f"new{number}" for number in range(30)]
    orders.send(new)
    said = refused(orders)
    assert f"topic '{orders.topic}', partition 0, for the archive: what was at offset 20 and after" in said
    assert "(the topic was deleted and made anew)" in said
    with stream.running(options=ACCEPT) as process:
        wait_for(orders, process, [*old, *new])
        assert verified(orders) == 0
        make_anew(orders)
        orders.send([f"third{number}" for number in range(40)])
        wait_for(orders, process, [*old, *new, *[f"third{number}" for number in range(40)]])
        end(orders, process)
    orders.headrace("features", "rebuild")
    with stream.running() as process:
        orders.send(["after"])
        wait_for(orders, process, [*old, *new, *[f"third{number}" for number in range(40)], "after"])
        end(orders, process)
    assert verified(orders) == 0


def test_a_broker_that_lost_the_end_of_its_log(
    tmp_path: Path, kafka_jars: Path, spark_jars: list[Path], unique_name: str
) -> None:
    """The topic is the same, by its id, and has nothing of what it had acknowledged: its disk was lost."""
    with EmbeddedBroker(tmp_path / "broker", kafka_jars, heap_mb=256) as broker:
        stream = orders_stream(tmp_path / "project", broker.bootstrap_servers, spark_jars, unique_name)
        orders = Orders(stream, unique_name)
        old = [f"old{number}" for number in range(5)]
        read_by_a_stream(orders, old)
        broker.stop()
        (log,) = broker.folder.rglob(f"{unique_name}-0")
        shutil.rmtree(log)
        broker.start()
        said = refused(orders)
        assert f"topic '{unique_name}', partition 0, for the archive" in said
        assert "were read, and the topic has lost them since" in said
        assert "Traceback" not in said
        new = [f"new{number}" for number in range(7)]
        with stream.running(options=ACCEPT) as process:
            wait_for(orders, process, old)
            orders.send(new)
            wait_for(orders, process, [*old, *new])
            assert verified(orders) == 0
            end(orders, process)
        accepted = json.loads(orders.headrace("status", "--json"))["losses"]["accepted"]
        assert {gap["reason"] for gap in accepted} == {"truncated"}
