"""3,600 odd records of 36 classes go through a real topic and through HTTP: counts add up to the record.

No query stops, no neighbour is lost; each refused record is a dead letter with its reason, each accepted one counts.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from random import Random

import pytest
from poison_records import CLASSES, COUNTED, REFUSED, members
from serving_world import Http, plain, settings
from shop_project import NOW, Project

from streaming.kafka.watermarks import read_watermarks

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
SIZE = 100
SETTLED_S = 600
OTHERWISE = {"two objects", "a key twice", "hundreds of unknown fields"}
"""Classes with other outcomes over HTTP: two values in a list are two events, the last of two keys counts, and a field
that the stream does not have is refused."""
PLACE = re.compile(rb'"place": (?:\{"city": ("(?:[^"\\]|\\.)*"|null)\}|(null))')


@pytest.fixture
def project(tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str, seed: int) -> Project:
    return Project(tmp_path / "project", kafka, spark_jars[0].parent.parent, unique_name, seed)


def test_through_the_topic(project: Project, seed: int) -> None:
    """Rows, tables, letters and counts are what parsing each record alone comes to."""
    rng = Random(seed)
    project.send(2_000, [value for name in CLASSES for value in members(name, SIZE, rng, NOW)])
    stream = project.stream
    with stream.running() as process:
        stream.wait(process, lambda: stream.is_running(process) and stream.is_drained(), SETTLED_S)
        project.check()
        assert stream.queries()["fold"].get("restarts", 0) == 0
        assert process.poll() is None


def test_through_http(project: Project, kafka: str, seed: int) -> None:
    """A body with a member is answered with each event's outcome, or refused whole as no JSON; never with a 5xx."""
    rng, topic = Random(seed), project.sent["shop"].stream.topic
    store = project.root / ".headrace" / "online.db"
    chosen = settings(store, "", bootstrap_servers=kafka)
    chosen = chosen.model_copy(update={"repo": str(project.root / "feature_repo"), "events_stream": "shop"})
    stream = project.stream
    with stream.running() as process:
        stream.wait(process, lambda: stream.is_running(process), SETTLED_S)
        with plain(chosen) as http:
            accepted = sum(posted(http, name, rng) for name in CLASSES)
        assert sum(read_watermarks(kafka, [topic]).high.values()) == accepted
        stream.wait(process, stream.is_drained, SETTLED_S)
    counts = stream.queries()["fold"]["counts"]
    assert (sum(counts.values()), counts["dead_letter"]) == (accepted, 0)
    project.run("features", "verify")


def posted(http: Http, name: str, rng: Random) -> int:
    """The number of events that are not refused: of a class and of neighbours, a pair in each body."""
    now = time.time_ns() // 1_000_000
    accepted = 0
    pairs = zip(members("nothing optional", SIZE, rng, now), members(name, SIZE, rng, now), strict=True)
    for number, (good, member) in enumerate(pairs):
        neighbour = json.dumps(json.loads(good or b"") | {"event_id": f"beside {name} {number}"}).encode()
        bodies = [PLACE.sub(rb'"city": \1\2', one) for one in (neighbour, member or b"")]
        status, answer, media_type = http.ask("/v1/events", raw=b'{"events": [' + b", ".join(bodies) + b"]}")
        assert status in (202, 207, 400, 413, 422), (name, member, answer)
        outcomes = [one["status"] for one in answer["events"]] if status in (202, 207) else []
        assert set(outcomes) <= {"accepted", "late", "refused"}, answer
        assert outcomes[:1] == ["accepted"] or media_type == "application/problem+json"
        if name in REFUSED and name not in OTHERWISE:
            assert "accepted" not in outcomes[1:], (member, answer)
        if name in COUNTED and name not in OTHERWISE:
            assert outcomes == ["accepted", "accepted"], (member, answer)
        accepted += len(outcomes) - outcomes.count("refused")
    return accepted
