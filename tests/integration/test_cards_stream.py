"""Cash machines in Avro and web shops in JSON are one stream of payments, through a real broker, Spark and stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from cards_project import Project

from features.history.archive import open_table
from features.history.point_in_time_join import Spine, point_in_time
from features.online_store.sqlite.rows import SqliteRows
from features.rows.finalizing import finalize
from features.rows.matrix import PackedRows
from streaming.kafka.watermarks import read_watermarks

pytestmark = pytest.mark.integration


@pytest.fixture
def project(tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str) -> Project:
    return Project(tmp_path / "project", kafka, spark_jars[0].parent.parent, unique_name)


def test_payments_of_both_topics_and_their_late_labels_are_one_set_of_features(project: Project, seed: int) -> None:
    """Also where the driver is killed amid them: each record once, and rows as history has them."""
    asked = ["--users", "60", "--items", "120", "--seed", str(seed % 1_000)]
    first = project.stream()
    try:
        told = project.run("generate", "--domain", "cards", "--rate", "50", "--seconds", "1", "--history", "20", *asked)
        project.wait(first, lambda: sum(project.fold().get("counts", {}).values()) > 0)
    finally:
        first.kill()
        first.wait(30)
    assert told["sent"] == told["acknowledged"] > 1_000
    assert {topic.rpartition(".")[2] for topic in told["topics"]} == {"atm", "online", "labels"}
    second = project.stream()
    try:
        project.wait(second, project.is_drained)
        counts = project.fold()["counts"]
    finally:
        second.kill()
        second.wait(30)
    assert counts == {"folded": told["sent"], "duplicate": 0, "late": 0, "dead_letter": 0}
    check_archive(project, told["topics"])
    check_rows(project)


def check_archive(project: Project, sent: dict[str, int]) -> None:
    for stream in project.repo.streams.values():
        table = open_table(project.root / ".headrace" / "offline", stream)
        assert table is not None
        events = table.events()
        assert events.num_rows == sum(sent[topic] for topic in stream.topics)
        assert len(pc.unique(events["event_id"])) == events.num_rows
        assert sum(events.column(name).null_count for name in events.column_names) == 0
        ends = read_watermarks(project.bootstrap, stream.topics).high
        assert table.end() == {place: end for place, end in ends.items() if end}


def check_rows(project: Project) -> None:
    """What the online store says of every entity is what history says."""
    folder = project.root / ".headrace"
    tables = {name: open_table(folder / "offline", stream) for name, stream in project.repo.streams.items()}
    events = {name: table.events() for name, table in tables.items() if table is not None}
    for view in project.repo.views.values():
        (key,) = view.entity.keys
        keys = pc.unique(pa.chunked_array([c for e in events.values() for c in e[key].chunks])).cast(pa.string())
        as_of = 1 + max(pc.max(one["known_at"]).as_py() for one in events.values())
        values, stream_id = SqliteRows(folder / "online.db").read(view.name, keys)
        assert stream_id is not None
        found = finalize(view, PackedRows(keys, values), as_of, stream_id)
        expected = point_in_time(view, Spine(keys, np.full(len(keys), as_of)), events)
        assert found.status.tolist() == expected.status.tolist()
        compare(found.to_table(), expected.to_table())


def compare(found: pa.Table, expected: pa.Table) -> None:
    for name in expected.column_names:
        left, right = (np.asarray(one[name].cast(pa.float64()).fill_null(np.nan)) for one in (found, expected))
        np.testing.assert_allclose(left, right, rtol=1e-9, err_msg=name)
