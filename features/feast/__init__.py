"""Headrace's features in Feast: Feast objects from definitions, and plug-ins for our stores. Imports Feast.

In: definitions, ``feature_store.yaml``. Out: Feast entities, views and services; online and historical features.
"""

from features.feast.objects import feast_entities, feast_objects, feast_view, objects_of
from features.feast.offline_store import ArchiveOfflineStore, ArchiveOfflineStoreConfig
from features.feast.online_store import (
    RedisRowsOnlineStore,
    RedisRowsOnlineStoreConfig,
    SqliteRowsOnlineStore,
    SqliteRowsOnlineStoreConfig,
)

__all__ = [
    "ArchiveOfflineStore",
    "ArchiveOfflineStoreConfig",
    "RedisRowsOnlineStore",
    "RedisRowsOnlineStoreConfig",
    "SqliteRowsOnlineStore",
    "SqliteRowsOnlineStoreConfig",
    "feast_entities",
    "feast_objects",
    "feast_view",
    "objects_of",
]
