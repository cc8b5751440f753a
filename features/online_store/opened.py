"""The online store that a project's files name."""

from __future__ import annotations

from pathlib import Path

from features.errors import UsageError
from features.online_store.redis import RedisRows
from features.online_store.sqlite import SqliteRows


def open_rows(repo: Path, home: Path) -> SqliteRows | RedisRows:
    """The online store that the repo's feature_store.yaml names; a file in the project's home where it has none.

    Raises:
        UsageError: it names one that does not hold our rows.
    """
    import yaml  # type: ignore[import-untyped]

    path = repo / "feature_store.yaml"
    if not path.exists():
        return SqliteRows(home / "online.db")
    given = yaml.safe_load(path.read_text(encoding="utf-8")).get("online_store") or {}
    kind = str(given.get("type")).rpartition(".")[2]
    if kind == "RedisRowsOnlineStore" and "url" in given:
        return RedisRows(given["url"])
    if kind == "SqliteRowsOnlineStore" and "path" in given:
        return SqliteRows((repo / given["path"]).resolve())
    required = "type SqliteRowsOnlineStore with a path, or RedisRowsOnlineStore with a url"
    raise UsageError(f"online_store in {path}", required, repr(given))
