"""A feature repo as Feast objects, for `feast apply`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.definitions import Entity, FeatureRepo, FeatureView, load_repo

if TYPE_CHECKING:
    import feast
    from feast.types import FeastType

ARCHIVE = "../.headrace/offline"


def feast_objects(path: str | Path) -> dict[str, Any]:
    """Every Feast object of the definitions in a folder, by a unique Python name."""
    return objects_of(load_repo(path))


def objects_of(repo: FeatureRepo) -> dict[str, Any]:
    """The repo's Feast entities, feature views, and a feature service for each view."""
    import feast

    entities = {entity.name: feast_entities(entity) for entity in repo.entities.values()}
    objects: dict[str, Any] = {part.name: part for parts in entities.values() for part in parts}
    for view in repo.views.values():
        feature_view = feast_view(view, entities[view.entity.name])
        objects[f"{view.name}_view"] = feature_view
        objects[f"{view.name}_service"] = feast.FeatureService(name=view.name, features=[feature_view])
    return objects


def feast_entities(entity: Entity) -> list[feast.Entity]:
    """The entity as Feast entities: one for each column of its key, as a Feast entity has a single join key."""
    import feast

    composite = len(entity.keys) > 1
    return [
        feast.Entity(
            name=f"{entity.name}_{key}" if composite else entity.name, join_keys=[key], value_type=_value_type(dtype)
        )
        for key, dtype in entity.keys.items()
    ]


def feast_view(view: FeatureView, entities: list[feast.Entity]) -> feast.FeatureView:
    """The Feast feature view, with the key columns and every feature in our order."""
    import feast
    from feast.data_format import DeltaFormat

    columns = {**view.entity.keys, **{feature.name: feature.dtype for feature in view.features}}
    return feast.FeatureView(
        name=view.name,
        description=view.description,
        entities=entities,
        ttl=timedelta(milliseconds=view.ttl_ms),
        schema=[feast.Field(name=name, dtype=feast_type(dtype)) for name, dtype in columns.items()],
        source=feast.FileSource(
            name=events_of(view),
            path=f"{ARCHIVE}/{view.streams[0].name}",
            file_format=DeltaFormat(),
            timestamp_field="event_time",
        ),
        tags={"headrace": f"{view.schema_hash:016x}"},
    )


def events_of(view: FeatureView) -> str:
    """The name of the Feast source of a view of ours."""
    return f"{view.name}_events"


def feast_type(dtype: str) -> FeastType:
    """The Feast type of a dtype."""
    from feast import types

    if dtype.startswith("list<"):
        return types.Array(feast_type(dtype[5:-1]))
    scalars = {"string": types.String, "int64": types.Int64, "float64": types.Float64, "bool": types.Bool}
    return scalars[dtype]


def _value_type(dtype: str) -> feast.ValueType:
    import feast

    return {"string": feast.ValueType.STRING, "int64": feast.ValueType.INT64}[dtype]
