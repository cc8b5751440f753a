"""Ordinary feature views of Feast in the same store: a cell per entity, written under the same versions as rows.

A write applies if its event time is not older than the stored one, on either database; features that it does not have
keep their values. A read of an entity older than the view's ttl has its event time without values.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from feast import FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesRequestV2
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig

from features.errors import LeaseError
from features.online_store import FEAST, Cells, Put, ReadableStore

Written = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
Answer = tuple[datetime | None, dict[str, Value] | None]

ATTEMPTS = 100

Row = GetOnlineFeaturesRequestV2.EntityRow


def read(
    store: ReadableStore,
    config: RepoConfig,
    view: FeatureView,
    entities: Sequence[EntityKey],
    features: Sequence[str] | None,
    now: datetime,
) -> list[Answer]:
    """Event time and values of each entity: (None, None) if nothing was written, or more than twice the ttl ago.

    An entity older than the ttl has its time and no values, as in our own views.
    """
    values = store.get(FEAST, _table(config, view.name), [_key(config, entity) for entity in entities])
    return [(None, None) if value is None else _aged(_decoded(value, features), view.ttl, now) for value in values]


def _aged(answer: tuple[datetime, dict[str, Value]], ttl: timedelta | None, now: datetime) -> Answer:
    age = now - answer[0]
    if not ttl or age <= ttl:
        return answer
    return (answer[0], None) if age <= 2 * ttl else (None, None)


def write(cells: Cells, config: RepoConfig, view: str, data: Sequence[Written]) -> None:
    """Writes every row that is not older than the stored row."""
    table = _table(config, view)
    for attempt in range(1, ATTEMPTS + 1):
        version = cells.version(FEAST, whole=False)
        keys = list(dict.fromkeys(_key(config, entity) for entity, *_ in data))
        rows = {key: _row(value) for key, value in zip(keys, cells.get(FEAST, table, keys), strict=True)}
        for entity, values, event_time, _ in data:
            _merge(rows[_key(config, entity)], values, event_time)
        try:
            cells.write(FEAST, version, {table: Put(keys, [row.SerializeToString() for row in rows.values()])})
            return
        except LeaseError:  # another writer was faster: read the rows again
            if attempt == ATTEMPTS:
                raise


def drop(cells: Cells, config: RepoConfig, views: Sequence[str]) -> None:
    """Deletes the views' values."""
    if views:
        cells.write(FEAST, cells.version(FEAST, whole=False), {}, drop=[_table(config, view) for view in views])


def _table(config: RepoConfig, view: str) -> str:
    return f"feast/{config.project}/{view}"


def _key(config: RepoConfig, entity: EntityKey) -> str:
    serialized: bytes = serialize_entity_key(entity, config.entity_key_serialization_version)
    return serialized.hex()


def _row(value: bytes | None) -> Any:
    row = Row()
    if value is not None:
        row.ParseFromString(value)
    return row


def _merge(row: Any, values: dict[str, Value], event_time: datetime) -> None:
    time = event_time if event_time.tzinfo else event_time.replace(tzinfo=UTC)
    if row.fields and row.timestamp.ToDatetime(UTC) > time:
        return
    row.timestamp.FromDatetime(time.astimezone(UTC))
    for name, value in values.items():
        row.fields[name].CopyFrom(value)


def _decoded(value: bytes, features: Sequence[str] | None) -> tuple[datetime, dict[str, Value]]:
    row = _row(value)
    return row.timestamp.ToDatetime(UTC), {
        name: field for name, field in row.fields.items() if features is None or name in features
    }
