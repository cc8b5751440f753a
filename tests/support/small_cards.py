"""Weeks of simulated payments with labels, as events of the streams of feature_repo/cards.py."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from features.definitions.expressions import evaluate
from features.definitions.repo import FeatureRepo
from features.events.columns import arrow_type
from features.events.parsing import event_schema
from headrace.simulators.cards import CardSimulator
from streaming.archive.appending import append_rows

DAYS = 40
END_MS = 1_700_006_400_000


def simulated(repo: FeatureRepo, days: float = DAYS, customers: int = 60, seed: int = 3) -> Mapping[str, pa.Table]:
    """Stream name → its events of ``days`` days, ordered by ``known_at``."""
    simulator = CardSimulator(seed, customers=customers, terminals=60)
    names = {"atm": "transactions", "online": "transactions", "fraud_labels": "fraud_labels"}
    parts: dict[str, list[pa.Table]] = {"transactions": [], "fraud_labels": []}
    for block in simulator.history(days, END_MS):
        for name, table in block.items():
            parts[names[name]].append(table)
    return {name: conformed(pa.concat_tables(tables), repo, name) for name, tables in parts.items()}


def conformed(table: pa.Table, repo: FeatureRepo, name: str) -> pa.Table:
    """The simulator's columns as events of a stream, with offsets in the order of ``known_at``."""
    stream = repo.streams[name]
    table = table.sort_by("known_at")
    times = {"event_time": table["event_time"].to_numpy().astype(float)}
    columns = {column: table[column] for column in table.column_names}
    for field, expression in (stream.computed or {}).items():
        columns[field] = pa.array(evaluate(expression, times)).cast(arrow_type(stream.dtypes[field]))
    columns["partition"] = pa.array([0] * table.num_rows)
    columns["offset"] = pa.array(range(table.num_rows))
    schema = event_schema(stream)
    return pa.table({field.name: columns[field.name] for field in schema}).cast(schema)


def cards_in(root: Path, events: Mapping[str, pa.Table], repo: FeatureRepo) -> Path:
    """Makes the folder a project with the cards' definitions and these events in its archive."""
    ignored = shutil.ignore_patterns("__pycache__", "shop.py")
    shutil.copytree(Path(__file__).parents[2] / "feature_repo", root / "feature_repo", ignore=ignored)
    for name, table in events.items():
        topic = pa.array([repo.streams[name].topic] * table.num_rows)
        append_rows(root / ".headrace" / "offline" / name, table.append_column("topic", topic), {})
    (root / "settings.toml").write_text('[mlflow]\ntracking_uri = "sqlite:///mlflow.db"\n', encoding="utf-8")
    return root
