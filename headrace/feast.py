"""Feast's plug-ins and objects, for ``feature_store.yaml`` and feature repos; importing this imports Feast.

online_store:
type: headrace.feast.SqliteRowsOnlineStore
"""

from features.feast import (
    ArchiveOfflineStore,
    ArchiveOfflineStoreConfig,
    RedisRowsOnlineStore,
    RedisRowsOnlineStoreConfig,
    SqliteRowsOnlineStore,
    SqliteRowsOnlineStoreConfig,
    feast_objects,
)

__all__ = [
    "ArchiveOfflineStore",
    "ArchiveOfflineStoreConfig",
    "RedisRowsOnlineStore",
    "RedisRowsOnlineStoreConfig",
    "SqliteRowsOnlineStore",
    "SqliteRowsOnlineStoreConfig",
    "feast_objects",
]
