"""Feast over our online store and over its own, with the bench's views applied to both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.bench.workload import numeric_view

if TYPE_CHECKING:
    import feast

DEFINITIONS = "from headrace.bench.workload import numeric_view\n\nusers = [numeric_view(20), numeric_view(50)]\n"


PROJECT = "ours"
"""Feast's name of the project with our store: the keys on a Redis begin with it."""


def feast_store(folder: Path, project: str, online_store: dict[str, Any]) -> feast.FeatureStore:
    """A FeatureStore over this kind of online store, with its files in the folder."""
    from feast import FeatureStore, RepoConfig

    config = RepoConfig(
        project=project,
        provider="local",
        registry={"registry_type": "file", "path": str(folder / f"{project}.registry"), "cache_ttl_seconds": 3600},
        online_store=online_store,
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    return FeatureStore(config=config)


def ours(folder: Path, kind: str, address: str) -> feast.FeatureStore:
    """Feast over our plug-in, with the bench's views applied."""
    from features.definitions import load_repo
    from features.feast import objects_of

    definitions = folder / "definitions"
    definitions.mkdir(exist_ok=True)
    (definitions / "bench.py").write_text(DEFINITIONS, encoding="utf-8")
    plugin = f"headrace.feast.{'Redis' if kind == 'redis' else 'Sqlite'}RowsOnlineStore"
    where = {"url": f"redis://{address}/0"} if kind == "redis" else {"path": address}
    store = feast_store(
        folder, PROJECT, {"type": plugin, "definitions": str(definitions), "deadline_ms": 60_000.0, **where}
    )
    store.apply(list(objects_of(load_repo(definitions)).values()))
    return store


def stock(folder: Path, kind: str, address: str) -> feast.FeatureStore:
    """Feast over its own store, with views of the same names and features, all float64."""
    from feast import Entity as FeastEntity
    from feast import FeatureView as FeastView
    from feast import Field, FileSource, ValueType
    from feast.types import Float64

    where = {"connection_string": address} if kind == "redis" else {"path": address}
    store = feast_store(folder, f"stock_{kind}", {"type": kind, **where})
    user = FeastEntity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    views = [
        FeastView(
            name=view.name,
            entities=[user],
            schema=[Field(name=name, dtype=Float64) for name in view.names],
            source=FileSource(name=f"{view.name}_file", path="none.parquet", timestamp_field="event_timestamp"),
        )
        for view in (numeric_view(20), numeric_view(50))
    ]
    store.apply([user, *views])
    return store
