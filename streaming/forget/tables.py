"""The Delta tables' part: rows are deleted, and then no file of a table has their bytes.

A deleted row is in the files of older versions, its least and greatest values are in the log's statistics, and the
delete's own commit names the predicate. So older files are deleted at once, a checkpoint is made, and the commits that
name the subject are written anew, without statistics: their versions, actions and numbers stay, which concurrent
writers go by.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from features.history import StoredColumns
from features.machine import write_text
from streaming.archive import as_store_error, delete_rows, sql_one_of, sql_text, tables_of
from streaming.forget.subject import Subject

if TYPE_CHECKING:
    from deltalake import DeltaTable

SESSION = "session_id"

VALUES_A_DELETE = 200

LOG = "_delta_log"


@dataclass(frozen=True)
class OwnRows:
    """A table's rows that are the subject's: their number, the predicates of SQL that find them, their sessions."""

    table: Path
    count: int
    predicates: Sequence[str]
    sessions: Collection[str]


def own_rows(folder: Path, subject: Subject) -> Iterator[OwnRows]:
    """The subject's rows of each table, also where it has none."""
    for name, table in tables_of(folder):
        predicates = list(_predicates(table, subject))
        ours = reduce(or_, (each for each, _ in predicates)) if predicates else None
        count = 0 if ours is None else _count(table, ours)
        sessions = _sessions(table, ours) if count else ()
        yield OwnRows(folder / name, count, [sql for _, sql in predicates], sessions)


def forget_in_table(own: OwnRows, subject: Subject) -> None:
    """The rows are deleted, and no file of the table has their bytes.

    Raises:
        StoreError: the table cannot be written; what is deleted stays so, and the same call deletes the rest.
    """
    for sql in own.predicates if own.count else ():
        delete_rows(own.table, sql, {})
    with as_store_error(own.table):
        _purge(own.table, subject)


def _predicates(table: DeltaTable, subject: Subject) -> Iterator[tuple[pc.Expression, str]]:
    """What is true for the subject's rows, for pyarrow and for SQL."""
    stored = StoredColumns.of(pa.schema(table.schema().to_arrow()))
    parts = [_equal(stored, name, value) for name, value in subject.key.items()]
    if all(parts):
        expression, sql = parts[0]
        for other, text in parts[1:]:
            expression, sql = expression & other, f"{sql} AND {text}"
        yield expression, sql
        return
    for name, kind in stored.types.items():
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            found = sorted(_texts(table, name, subject))
            for start in range(0, len(found), VALUES_A_DELETE):
                some = found[start : start + VALUES_A_DELETE]
                yield pc.field(name).isin(some), sql_one_of(name, some)


def _equal(stored: StoredColumns, name: str, value: Any) -> Any:
    """(expression, SQL) of a field's equality, in whatever dtypes the table has it; empty where it lacks it."""
    found = []
    for column in stored.of_field(name):
        kind = stored.types[column]
        try:
            scalar = pa.scalar(str(value)).cast(kind)
        except pa.ArrowInvalid:  # no value of that type
            continue
        literal = sql_text(scalar.as_py()) if isinstance(scalar.as_py(), str) else str(scalar.as_py())
        found.append((pc.field(column) == scalar, f'"{column}" = {literal}'))
    if not found:
        return ()
    expression, sql = found[0]
    for other, text in found[1:]:
        expression, sql = expression | other, f"{sql} OR {text}"
    return expression, f"({sql})"


def _texts(table: DeltaTable, column: str, subject: Subject) -> set[str]:
    """The texts of the column that name the subject: JSON of an event, or the id itself."""
    value = str(next(iter(subject.key.values())))
    like = pc.match_substring(pc.field(column), value)
    texts = table.to_pyarrow_dataset().to_table(columns=[column], filter=like)[column].unique()
    return {text for text in texts.to_pylist() if text is not None and subject.is_in(text)}


def _count(table: DeltaTable, expression: pc.Expression) -> int:
    return int(table.to_pyarrow_dataset().count_rows(filter=expression))


def _sessions(table: DeltaTable, expression: pc.Expression) -> list[str]:
    dataset = table.to_pyarrow_dataset()
    if SESSION not in dataset.schema.names:
        return []
    found = dataset.to_table(columns=[SESSION], filter=expression)[SESSION].unique().to_pylist()
    return [str(session) for session in found if session is not None]


def _purge(path: Path, subject: Subject) -> None:
    """No file of the table is of an older version than its newest, and no commit names the subject."""
    from deltalake import DeltaTable

    table = DeltaTable(path)
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    if subject.pattern is None:
        return
    log = path / LOG
    naming = [file for file in sorted(log.glob("*.json")) if subject.pattern.search(file.read_bytes())]
    for file in naming:
        lines = file.read_text(encoding="utf-8").splitlines()
        shown = [_without_values(line) if subject.pattern.search(line.encode()) else line for line in lines]
        write_text(file, "\n".join(shown) + "\n")
    if naming:
        DeltaTable(path).create_checkpoint()
        checkpoints = sorted(log.glob("*.checkpoint*.parquet"))
        newest = checkpoints[-1].name.partition(".")[0] if checkpoints else ""
        for old in (each for each in checkpoints if not each.name.startswith(newest)):
            old.unlink(missing_ok=True)


def _without_values(line: str) -> str:
    """An action of a commit without statistics of columns and without the texts of an operation's parameters."""
    action = json.loads(line)
    for kind in ("add", "remove"):
        statistics = action.get(kind, {}).get("stats")
        if statistics:
            action[kind]["stats"] = json.dumps({"numRecords": json.loads(statistics).get("numRecords")})
    parameters = action.get("commitInfo", {}).get("operationParameters")
    if isinstance(parameters, dict) and "predicate" in parameters:
        parameters["predicate"] = "forgotten"
    return json.dumps(action, separators=(",", ":"))
