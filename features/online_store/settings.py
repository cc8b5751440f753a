"""The online store of a project, from feature_store.yaml, and its clients to write and to read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from features.errors import UsageError
from features.online_store.breaker import GuardedRows
from features.online_store.port import PROJECT
from features.online_store.redis import RedisErasure, RedisRows
from features.online_store.sqlite import SqliteErasure, SqliteRows
from features.online_store.store import Erasure
from features.redaction import written_secrets
from features.secret_files import secret

STORES: dict[str, tuple[Literal["sqlite", "redis"], str]] = {
    "SqliteRowsOnlineStore": ("sqlite", "path"),
    "RedisRowsOnlineStore": ("redis", "url"),
}
"""Class of the Feast plug-in → its kind here, and the key of its address."""
DEADLINE_MS = 500.0
"""Longer than the service waits, which answers without the store then: a busy machine is no dead store."""
NOT_OURS = ("type", "definitions")

PASSWORD = "HEADRACE_REDIS__PASSWORD"
"""The variable of Redis' password: it is in no file that Feast reads, and Feast opens the store with it too."""


class StoreSettings(BaseModel):
    """The address and limits of an online store: plain values, so that they travel to another process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["sqlite", "redis"] = "sqlite"
    address: str = ".headrace/online.db"
    """A path for sqlite, a URL for redis."""
    mode: Literal["server", "cluster"] = "server"
    """'cluster' if that Redis is a node of a cluster."""
    password: SecretStr = SecretStr("")
    """Redis' password, from PASSWORD or its secret file; one in the address takes precedence."""
    project: str = PROJECT
    """Whose rows: feature_store.yaml's project. On a Redis, its name is in every key."""
    timeout_s: float = Field(default=2.0, gt=0)
    """Seconds that a write waits for the store."""
    deadline_ms: float = Field(default=DEADLINE_MS, gt=0)
    """Milliseconds that a read waits for it."""

    def open(self) -> SqliteRows | RedisRows:
        """The store, for a driver; nothing connects before the first call."""
        if self.kind == "redis":
            return RedisRows(self.address, self.timeout_s, self.mode, self.project, self.password.get_secret_value())
        return SqliteRows(self.address, self.timeout_s)

    def erasure(self) -> Erasure:
        """All that the store has of its entities, to find and to delete."""
        if self.kind == "redis":
            return RedisErasure(self.address, self.mode, self.project, self.password.get_secret_value())
        return SqliteErasure(Path(self.address))

    def open_to_read(self) -> GuardedRows:
        """The store, for readers: with a deadline, behind a breaker."""
        deadline_s = self.deadline_ms / 1000
        if self.kind == "redis":
            return GuardedRows(self.model_copy(update={"timeout_s": deadline_s}).open())
        return GuardedRows(SqliteRows(self.address, deadline_s, deadline_s))


def settings_of(section: Mapping[str, Any], folder: Path, project: str = PROJECT) -> StoreSettings:
    """The settings in the online_store section of the project's feature_store.yaml in this folder.

    Raises:
        ValueError: it is of no type of ours, or has wrong values.
    """
    kind, key = STORES[str(section["type"]).rpartition(".")[2]]
    others = {name: value for name, value in section.items() if name not in (*NOT_OURS, key)}
    if kind == "sqlite":
        return StoreSettings(kind=kind, address=str((folder / section[key]).resolve()), project=project, **others)
    password = SecretStr(secret(PASSWORD, os.environ))
    return StoreSettings(kind=kind, address=str(section[key]), project=project, password=password, **others)


def store_of(repo: Path, home: Path) -> StoreSettings:
    """The online store that the repo's feature_store.yaml names; a file in the project's home if there is none.

    Raises:
        UsageError: it names one that holds no packed rows.
    """
    path = repo / "feature_store.yaml"
    return read_settings_of(path) if path.exists() else StoreSettings(address=str(home / "online.db"))


def _check_no_secret(path: Path, written: Any) -> None:
    """Raises UsageError where the file, which is tracked, has a secret and not the name of a variable."""
    for found in written_secrets(written):
        required = "no password in a tracked file"
        next_step = f"Put it into {PASSWORD} or a secret file of that name, or write ${{VARIABLE}} in its place."
        raise UsageError(f"'{'.'.join(found)}' in '{path}'", required, "one", next_step)


def read_settings_of(path: Path) -> StoreSettings:
    """The online store that a feature_store.yaml names, ``$VAR`` and ``${VAR}`` replaced as Feast does.

    Raises:
        UsageError: the file is missing, names a store that holds no packed rows, or has a password in it.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        text = path.read_text(encoding="utf-8")
        _check_no_secret(path, yaml.safe_load(text))
        # As feast.repo_config.load_repo_config, whose import takes seconds: variables of the environment first.
        whole = yaml.safe_load(os.path.expandvars(text))
        return settings_of(whole["online_store"], path.parent, str(whole.get("project") or PROJECT))
    except FileNotFoundError:
        raise UsageError(f"feature repo '{path.parent}'", "a feature_store.yaml", "none") from None
    except (yaml.YAMLError, KeyError, TypeError, ValidationError) as error:
        required = f"an online_store of type {' or '.join(STORES)} with its path or url"
        raise UsageError(f"'{path}'", required, f"{type(error).__name__}: {error}") from None
