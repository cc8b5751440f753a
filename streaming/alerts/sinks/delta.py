"""Alerts in a Delta table beside the archive's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from streaming.alerts.sinks.port import Alert, SinkError, unique

if TYPE_CHECKING:
    from deltalake import DeltaTable

REASON = pa.struct({"feature": pa.string(), "value": pa.float64(), "usual": pa.float64(), "effect": pa.float64()})

SCHEMA = pa.schema(
    {
        "alert_id": pa.string(),
        "source": pa.string(),
        "event_id": pa.string(),
        "event_time": pa.int64(),
        "model": pa.string(),
        "version": pa.string(),
        "score": pa.float64(),
        "threshold": pa.float64(),
        "reasons": pa.list_(REASON),
        "event": pa.string(),
        "delivered_at": pa.int64(),
    }
)
"""The table's columns: times in epoch ms; ``event`` is JSON, as the fields of events differ by model."""

MOST = 10_000

REFUSED = (pa.ArrowException, OverflowError)
"""What Arrow raises for a value that its column cannot have."""


class DeltaSink:
    """Merges alerts by alert_id into a table, made with the first; concurrent writers get an error.

    Args:
        path: the table's folder.
        linger_s: the time that alerts wait for others: each commit is a file.
        clock: epoch ms.
    """

    name, most = "table", MOST

    def __init__(self, path: Path, linger_s: float, clock: Callable[[], int]) -> None:
        self._path, self.linger_s, self._clock = path, linger_s, clock

    def deliver(self, alerts: Sequence[Alert]) -> Mapping[int, str]:
        """Merge the alerts in a single commit; one that cannot be a row is refused with the reason."""
        from deltalake.exceptions import DeltaError

        rows, refused = _taken(alerts, self._clock())
        try:
            table = self._table()
            if rows.num_rows:
                _merge(table, rows)
        except (DeltaError, OSError) as error:
            got = f"{type(error).__name__}: {error}".rstrip(".")
            raise SinkError(f"table '{self._path}'", "a commit", got) from error
        return refused

    def _table(self) -> DeltaTable:
        """The table, whose columns are ours: a merge would cut values to the types that an older table has."""
        from deltalake import DeltaTable
        from deltalake import Schema as DeltaSchema

        table = DeltaTable.create(self._path, SCHEMA, mode="ignore")
        theirs = {field.name: field for field in table.schema().fields}
        ours = {field.name: field.type for field in DeltaSchema.from_arrow(SCHEMA).fields}
        differing = [name for name, kind in ours.items() if name not in theirs or theirs[name].type != kind]
        got = [f"{name} {_shown(theirs[name])}" if name in theirs else f"no {name}" for name in differing]
        got += [f"{name}, which may not be null" for name in theirs if name not in ours and not theirs[name].nullable]
        if got:
            required = ", ".join(f"{field.name} {field.type}" for field in SCHEMA)
            raise SinkError(
                f"table '{self._path}'", f"the columns {required}", ", ".join(got), "Move that table, or rename it."
            )
        return table

    def close(self) -> None:
        """Does nothing: no connection is held."""


def _shown(field: Any) -> str:
    """A column's type as Delta calls it."""
    kind = json.loads(field.to_json())["type"]
    return kind if isinstance(kind, str) else str(kind["type"])


def rows_of(alerts: Sequence[Alert], now_ms: int) -> pa.Table:
    """The alerts as rows of the table, each alert_id once."""
    rows = [
        {
            **{name: getattr(alert.fields, name) for name in SCHEMA.names if name not in ("event", "delivered_at")},
            "event": json.dumps(alert.fields.event),
            "delivered_at": now_ms,
        }
        for alert in unique(alerts)
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def _taken(alerts: Sequence[Alert], now_ms: int) -> tuple[pa.Table, dict[int, str]]:
    """The rows of the alerts, and why others cannot be rows: with a number beyond its column, or of another type."""
    try:
        return rows_of(alerts, now_ms), {}
    except REFUSED:
        reasons = {index: _reason(alert, now_ms) for index, alert in enumerate(alerts)}
    refused = {index: reason for index, reason in reasons.items() if reason}
    return rows_of([alert for index, alert in enumerate(alerts) if index not in refused], now_ms), refused


def _reason(alert: Alert, now_ms: int) -> str:
    """Why the alert cannot be a row; empty if it can."""
    try:
        rows_of([alert], now_ms)
    except REFUSED as error:
        return f"table_refused: {error}"
    return ""


def _merge(table: DeltaTable, rows: pa.Table) -> None:
    """Insert the rows whose alert_id the table does not have."""
    import pyarrow.compute as pc

    bounds = pc.min_max(rows["event_time"]).as_py()
    # A repeated alert has the same event time: files of other times need not be read.
    within = f"old.event_time BETWEEN {bounds['min']} AND {bounds['max']}"
    merge = table.merge(rows, f"old.alert_id = new.alert_id AND {within}", source_alias="new", target_alias="old")
    merge.when_not_matched_insert_all().execute()
