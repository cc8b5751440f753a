"""The table of alerts keeps what they say to the digit: another table or alert is refused with the reason."""

from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from told_alerts import as_read, told

from streaming.alerts.sinks import SinkError
from streaming.alerts.sinks.delta import REASON, SCHEMA, DeltaSink

ROUNDED = pa.struct({**{field.name: field.type for field in REASON}, "value": pa.float32()})


def sink(path: Path) -> DeltaSink:
    return DeltaSink(path, 0.0, lambda: 77)


@pytest.mark.parametrize(
    ("column", "kind", "got"),
    [
        ("score", pa.float32(), "score float"),
        ("score", pa.int64(), "score long"),
        ("event_time", pa.int32(), "event_time integer"),
        ("event_time", pa.string(), "event_time string"),
        ("version", pa.int64(), "version long"),
        ("reasons", pa.list_(ROUNDED), "reasons array"),
        ("threshold", None, "no threshold"),
    ],
)
def test_a_table_whose_columns_would_change_the_alerts_is_refused(
    tmp_path: Path, column: str, kind: pa.DataType | None, got: str
) -> None:
    kinds = {field.name: field.type for field in SCHEMA} | {column: kind}
    DeltaTable.create(tmp_path / "alerts", pa.schema({name: kind for name, kind in kinds.items() if kind is not None}))
    with pytest.raises(SinkError, match=got) as refused:
        sink(tmp_path / "alerts").deliver(as_read(told(1)))
    assert "reasons list" in str(refused.value)
    assert DeltaTable(tmp_path / "alerts").to_pyarrow_table().num_rows == 0


def test_a_table_may_have_columns_of_its_owner_that_can_be_null(tmp_path: Path) -> None:
    DeltaTable.create(tmp_path / "alerts", SCHEMA.append(pa.field("state", pa.string())))
    assert sink(tmp_path / "alerts").deliver(as_read(told(2))) == {}
    assert DeltaTable(tmp_path / "alerts").to_pyarrow_table()["state"].to_pylist() == [None, None]
    demanding = SCHEMA.append(pa.field("state", pa.string(), nullable=False))
    DeltaTable.create(tmp_path / "others", demanding)
    with pytest.raises(SinkError, match="state, which may not be null"):
        sink(tmp_path / "others").deliver(as_read(told(1)))


@pytest.mark.parametrize(
    "changed",
    [
        {"event_time": 2**63},
        {"reasons": [{"feature": "amount", "value": 2**53 + 1, "usual": 1.0, "effect": 0.1}]},
        {"reasons": [{"feature": "amount", "value": "much", "usual": 1.0, "effect": 0.1}]},
    ],
)
def test_an_alert_that_cannot_be_a_row_is_refused_alone(tmp_path: Path, changed: dict[str, object]) -> None:
    alerts = told(3)
    alerts[1] |= changed
    refused = sink(tmp_path / "alerts").deliver(as_read(alerts))
    assert list(refused) == [1]
    assert refused[1].startswith("table_refused: ")
    assert DeltaTable(tmp_path / "alerts").to_pyarrow_table().num_rows == 2
    assert list(sink(tmp_path / "alerts").deliver(as_read(alerts[1:2]))) == [0]
