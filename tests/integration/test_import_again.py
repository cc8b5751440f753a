"""Files that are imported again: as they were, grown, mended, half imported, and taken out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imported_shop import DEFINITIONS, T0

from features.definitions.repo import load_repo
from features.errors import UsageError
from features.events.parsing import from_columns
from features.formats.reading import read_events
from features.history.archive import IMPORT_PARTITION, open_table
from headrace.cli import cli
from streaming.archive.importing import Importer, ImportSource, digest_of
from streaming.archive.sink import Archive
from streaming.archive.undo import REJECTS

pytestmark = pytest.mark.integration

HEADER = "event_time,user_id,price"


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "feature_repo").mkdir()
    (tmp_path / "feature_repo" / "shop.py").write_text(DEFINITIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_OFFLINE__PATH", "offline")
    return tmp_path


class PowerCutError(Exception):
    """The end of an import in a test."""


def power_cut(where: str) -> None:
    if where == "after import":
        raise PowerCutError


def imported(project: Path, name: str, rows: list[str] | None = None, **options):
    """The counts of an import of the file, with these rows if they are given."""
    path, repo = project / name, load_repo(project / "feature_repo")
    if rows is not None:
        path.write_text("\n".join([HEADER, *rows]))
    records = read_events(path, "csv", repo.streams, repo.horizon_ms, repo.keys_of, chunk_rows=1)
    importer = Importer(Archive(project / "offline", repo), commit_rows=1_000, **options)
    return importer.run(ImportSource(name, digest_of(path), records))["shop"]


def undone(project: Path, name: str) -> dict[str, int]:
    importer = Importer(Archive(project / "offline", load_repo(project / "feature_repo")))
    return importer.undo(name, digest_of(project / name) if (project / name).exists() else None)


def archived(project: Path) -> pa.Table:
    return open_table(project / "offline", load_repo(project / "feature_repo").streams["shop"]).events()


def row(number: int, user: int = 1) -> str:
    return f"{T0 + 1_000 * number},u{user},{number / 4}"


def test_a_file_with_a_bad_last_cell_that_is_mended_counts_once(project):
    rows = [row(number, number % 7) for number in range(8_001)]
    first = imported(project, "rows.csv", [*rows[:-1], rows[-1].rpartition(",")[0] + ",n/a"])
    assert (first.imported, first.rejected) == (8_000, 1)
    mended = imported(project, "rows.csv", rows)
    assert (mended.imported, mended.already, mended.rejected, mended.gone) == (1, 8_000, 0, 0)
    again = imported(project, "rows.csv")
    assert (again.imported, again.already) == (0, 8_001)
    events = archived(project)
    assert sorted(events["event_time"].to_pylist()) == [T0 + 1_000 * number for number in range(8_001)]
    assert sorted(events["offset"].to_pylist()) == list(range(8_001))


def test_a_file_that_grows_through_power_cuts_counts_once(project):
    rows = [row(number) for number in range(9_000)]
    imported(project, "rows.csv", rows[:3_000])
    for _ in range(3):
        with pytest.raises(PowerCutError):
            imported(project, "rows.csv", rows, reached=power_cut)
    imported(project, "rows.csv")
    assert sorted(archived(project)["event_time"].to_pylist()) == [T0 + 1_000 * number for number in range(9_000)]


VERSIONS = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=12), min_size=1, max_size=3)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VERSIONS)
def test_of_equal_rows_as_many_count_as_the_fullest_version_has(project, versions):
    name = f"{np.random.default_rng().integers(2**62)}.csv"
    before = (
        Counter(archived(project)["event_time"].to_pylist()) if (project / "offline" / "shop").exists() else Counter()
    )
    most: Counter[int] = Counter()
    for version in versions:
        counts = imported(project, name, [row(number) for number in version])
        most |= Counter(T0 + 1_000 * number for number in version)
        assert counts.gone == (most - Counter(T0 + 1_000 * number for number in version)).total()
    assert Counter(archived(project)["event_time"].to_pylist()) - before == most


def test_rows_of_another_file_are_its_own(project):
    rows = [row(number) for number in range(10)]
    imported(project, "january.csv", rows)
    assert imported(project, "february.csv", [*rows, row(11)]).imported == 11
    assert len(archived(project)) == 21


def test_a_column_that_a_file_gains_makes_its_rows_no_others(project):
    (project / "rows.csv").write_text(f"event_time,user_id\n{T0 + 1},u1\n{T0 + 2},u2")
    imported(project, "rows.csv")
    counts = imported(project, "rows.csv", [f"{T0 + 1},u1,2.5", f"{T0 + 2},u2,1", f"{T0 + 3},u3,1"])
    assert (counts.imported, counts.already) == (1, 2)


@pytest.mark.parametrize("name", ["rows.csv", "o'brien's rows.csv"])
def test_what_a_file_brought_is_taken_out_and_comes_again(project, name):
    rows = [row(number) for number in range(3_000)]
    imported(project, "other.csv", [row(number, 2) for number in range(5)])
    imported(project, name, [*rows[:10], "n/a,u1,1"])
    imported(project, name, rows)
    assert undone(project, name) == {"shop": 3_000}
    assert set(archived(project)["user_id"].to_pylist()) == {"u2"}
    assert DeltaTable(project / "offline" / REJECTS).to_pyarrow_table().num_rows == 0
    with pytest.raises(UsageError, match=r"other\.csv"):
        undone(project, name)
    again = imported(project, name, [*rows, "n/a,u1,1"])
    assert (again.imported, again.rejected, again.already) == (3_000, 1, 0)
    assert (imported(project, name).imported, imported(project, "other.csv").imported) == (0, 0)
    offsets = archived(project)["offset"].to_pylist()
    assert len(set(offsets)) == len(offsets) == 3_005
    (project / name).unlink()
    assert undone(project, name) == {"shop": 3_000}


def test_what_was_imported_without_a_name_is_taken_out_by_its_file(project):
    repo = load_repo(project / "feature_repo")
    (project / "rows.csv").write_text(f"{HEADER}\n{row(1)}")
    events = from_columns(pa.table({"event_time": [T0], "user_id": ["u1"]}), repo.streams["shop"]).events
    place = pa.array([IMPORT_PARTITION], pa.int32())
    events = events.set_column(events.schema.get_field_index("partition"), "partition", place)
    topics = pa.array([f"import:{digest_of(project / 'rows.csv')}"])
    Archive(project / "offline", repo).write(repo.streams["shop"], events, topics, {"headrace-import": 1})
    assert undone(project, "rows.csv") == {"shop": 1}
    assert len(archived(project)) == 0


def headrace(*arguments: str):
    return CliRunner().invoke(cli, ["import", *arguments])


def test_the_command_says_what_it_took_out_and_what_to_make_anew(project):
    (project / "rows.csv").write_text("\n".join([HEADER, row(1), row(2), "soon,u1,1"]))
    options = ("--format", "csv", "--json")
    first = headrace("rows.csv", *options)
    assert (first.exit_code, json.loads(first.stdout)["imported"]) == (0, 2), first.stderr
    assert json.loads(headrace(str(project / "rows.csv"), *options).stdout)["already"] == 3
    (project / "rows.csv").write_text("\n".join([HEADER, row(2), row(3)]))
    grown = headrace("rows.csv", "--format", "csv")
    assert "1 of 2 imported into shop · 1 there already · 1 of earlier versions" in grown.stdout
    out = headrace("--undo", "rows.csv")
    assert (out.exit_code, out.stdout) == (0, "rows.csv  3 events taken out of shop\n"), out.stderr
    assert "headrace features rebuild" in out.stderr
    assert headrace("--undo", "rows.csv").exit_code == 2
    assert json.loads(headrace("rows.csv", *options).stdout)["imported"] == 2
    assert json.loads(headrace("--undo", "rows.csv", "--json").stdout) == {"undone": {"rows.csv": {"shop": 2}}}
