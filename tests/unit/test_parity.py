"""The gate's question whether features are the same online as offline, and what the answers come to."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from features.checks.comparison import Difference, Findings
from features.checks.stores import VerifyRequest
from features.definitions.repo import load_repo
from features.errors import StoreError
from features.events.parsing import from_columns
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker, of_schema
from features.online_store.sqlite.rows import SqliteRows
from features.online_store.stream_status import status_file
from training.judging.gate import GateVerdict
from training.judging.parity import Parity, StoreParity, parity, with_parity
from training.settings import TrainingSettings

REPO = load_repo(Path(__file__).resolve().parents[2] / "feature_repo")
VIEW, ACTIVITY = REPO.views["user_activity"], REPO.streams["activity"]
NOW = time.time_ns() // 1_000_000 - 1_000_000
"""Of a while ago: a verification also asks about this very moment, when the windows are to have something in them."""
ASKED = VerifyRequest(10, 1, 0)
BETTER = GateVerdict(True, "it is better")


class Stores:
    """Two stores in which this many values are compared, and these differ."""

    def __init__(self, compared: int, *differences: Difference) -> None:
        self.found = Findings("user_activity", compared=compared)
        self.found.add(differences)

    def verify(self, view, asked):
        return self.found


class Silent:
    def verify(self, view, asked):
        raise StoreError("the online store", "an answer", "none")


WRONG = Difference("mismatch", "user_activity", "ann", "user_view_count_1h", 1, 3, 2)


@pytest.mark.parametrize("demand", ["ask", "require"])
def test_values_that_agree_leave_the_verdict_and_are_told(demand):
    verdict = with_parity(BETTER, parity(Stores(1_200), [VIEW], ASKED), demand)
    assert (verdict.promoted, verdict.reason) == (True, "it is better; features online and offline: 1,200 values agree")


@pytest.mark.parametrize("demand", ["ask", "require"])
def test_a_value_that_differs_refuses_and_is_named(demand):
    verdict = with_parity(BETTER, parity(Stores(1_200, WRONG), [VIEW], ASKED), demand)
    assert verdict.promoted is False
    assert "1 of 1,200 values differ, such as user_view_count_1h of ann: 3, not 2" in verdict.reason


@pytest.mark.parametrize("stores", [Silent(), Stores(0)])
def test_where_nothing_can_be_compared_that_is_said_and_refuses_only_where_it_is_required(stores):
    found = parity(stores, [VIEW], ASKED)
    assert found.unavailable
    assert with_parity(BETTER, found, "ask") == GateVerdict(
        True, f"it is better; features online and offline were {found.text}"
    )
    refused = with_parity(BETTER, found, "require")
    assert (refused.promoted, found.text in refused.reason) == (False, True)


def test_no_parity_makes_a_worse_model_better():
    assert with_parity(GateVerdict(False, "worse"), Parity(compared=5), "ask").promoted is False


# --- on a real store and a real archive -------------------------------------------------------------------------------


def looked(count: int) -> pa.Table:
    """Users who look at items, one a second."""
    table = pa.table(
        {
            "event_id": [f"e{number}" for number in range(count)],
            "event_time": pa.array([NOW + 1_000 * number for number in range(count)]),
            "event_type": ["view"] * count,
            "user_id": [f"u{number % 7}" for number in range(count)],
            "item_id": [f"i{number % 5}" for number in range(count)],
        }
    )
    return from_columns(table, ACTIVITY).events


def project(root: Path, archived: int, folded: int) -> Parity:
    """What the gate hears of a project whose archive has so many events, of which the rows have the first ones."""
    write_deltalake(root / ".headrace" / "offline" / "activity", looked(archived))
    rows, end = SqliteRows(root / ".headrace" / "online.db"), {f"{ACTIVITY.topic}/0": archived}
    generation, events = rows.generation(7), {"activity": looked(archived).slice(0, folded)}
    build_generation(generation, [VIEW], 7, events, Marker(0, {}, end, 0), NOW + 900_000)
    for name in (VIEW.name, of_schema(VIEW.name, VIEW.schema_hash)):
        rows.set_current(name, 7)
    status = {"state": "stopped", "updated_at": NOW, "queries": {"archive": {"end": end}}}
    status_file(root / ".headrace").parent.mkdir()
    status_file(root / ".headrace").write_text(json.dumps(status))
    repo = SimpleNamespace(path=root, horizon_ms=REPO.horizon_ms, keys_of=REPO.keys_of)
    return StoreParity(
        root / ".headrace", root / ".headrace/offline", repo, [VIEW], TrainingSettings(), lambda _: None
    )()


def test_rows_that_have_what_the_archive_has_agree(tmp_path):
    found = project(tmp_path, archived=50, folded=50)
    assert (found.unavailable, found.wrong) == (None, 0)
    assert found.compared == 2 * 7 * len(VIEW.features)


def test_rows_that_lack_an_event_keep_a_better_model_from_being_promoted(tmp_path):
    found = project(tmp_path, archived=50, folded=49)
    verdict = with_parity(BETTER, found, "ask")
    assert (verdict.promoted, found.wrong > 0) == (False, True)
    assert "u0" in verdict.reason


def test_a_project_without_a_stream_has_nothing_to_compare_and_gets_no_store_by_being_asked(tmp_path):
    repo = SimpleNamespace(path=tmp_path, horizon_ms=REPO.horizon_ms, keys_of=REPO.keys_of)
    found = StoreParity(
        tmp_path / ".headrace", tmp_path / ".headrace/offline", repo, [VIEW], TrainingSettings(), lambda _: None
    )()
    assert "never ran" in found.text
    assert list(tmp_path.iterdir()) == []
