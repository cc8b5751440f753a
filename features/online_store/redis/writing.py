"""Commands that write to a part of a generation, and that ask what it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from features.online_store.port import NO_CONDITIONS, STATE, Put, WriteConditions
from features.online_store.redis.client import Command
from features.online_store.redis.scripts import STANDING, WRITE
from features.online_store.redis.slots import Keys
from features.online_store.store import FEAST

WRITTEN, LOST = -1, -2
"""Answers to a write that are no version."""


def standing_of(at: Keys, stream_id: int, part: int) -> Command:
    """The command that says what a part has."""
    keys = at.head(stream_id, part), at.tables(stream_id, part), at.table(stream_id, STATE, part)
    return "EVAL", STANDING, len(keys), *keys


def write_to(
    at: Keys,
    stream_id: int,
    part: int,
    version: int,
    known: str,
    puts: Mapping[str, Put],
    drop: Sequence[str],
    conditions: WriteConditions = NO_CONDITIONS,
) -> Command:
    """The command that writes to a part."""
    tables = [at.table(stream_id, table, part) for table in (STATE, *puts, *drop)]
    shards = [word for shard in conditions.shards.items() for word in shard]
    keys = [at.head(stream_id, part), at.tables(stream_id, part), *tables]
    return (
        "EVAL",
        WRITE,
        len(keys),
        *keys,
        version,
        known,
        len(puts),
        int(conditions.moves_version),
        int(stream_id != FEAST),
        len(shards),
        *shards,
        *_cells(puts.values()),
    )


def _cells(puts: Iterable[Put]) -> list[Any]:
    arguments: list[Any] = []
    for put in puts:
        cells: list[Any] = [None] * (2 * len(put.keys))
        cells[::2], cells[1::2] = put.keys, put.values
        arguments += [len(put.keys), *cells]
    return arguments
