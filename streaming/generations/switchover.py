"""The switch of readers to a new generation, and the end of older ones.

A view has a current generation, and so has each definition of it (by schema hash): a reader, or a model, of an older
definition goes on reading that definition's generation. A generation that is current for nothing is dropped at once; if
it is current only for older definitions, it stays while a model alias needs one of them, or until a grace period is
over.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from functools import cache

from features.online_store import OnlineStore, of_schema
from streaming.generations.checkpoints import Checkpoints, Generation

Schema = tuple[str, int]
"""A view and the schema_hash of a definition of it."""

Needed = Callable[[], Set[Schema]]
"""Reads from the registry the definitions that models with an alias need."""


def is_current(rows: OnlineStore, generation: Generation) -> bool:
    """True if readers of all its views, and of their definitions, read this generation."""
    return all(rows.current(name) == generation.stream_id for name in _names(generation))


def flip(rows: OnlineStore, generation: Generation, caught_up: Callable[[], bool], owner: str = "") -> set[int]:
    """Switch readers to this generation: of a view that has none at once, else when it has caught up.

    Returns:
        The generations that they left.

    Raises:
        LeaseError: they read one whose lease another than ``owner`` holds.
    """
    left: set[int] = set()
    for view, schema_hash in generation.schemas.items():
        names = (of_schema(view, schema_hash), view)
        read = {rows.current(name) for name in names}
        if read != {generation.stream_id} and (rows.current(view) is None or caught_up()):
            for name in names:
                rows.set_current(name, generation.stream_id, owner)
            left |= {stream_id for stream_id in read if stream_id is not None}
    return left - {generation.stream_id}


def named_schemas(rows: OnlineStore, generation: Generation) -> set[Schema]:
    """The definitions whose readers read this generation."""
    return {
        (view, schema_hash)
        for view, schema_hash in generation.schemas.items()
        if generation.stream_id in (rows.current(view), rows.current(of_schema(view, schema_hash)))
    }


def superseded(
    rows: OnlineStore, checkpoints: Checkpoints, needed: Needed, grace_ms: int, now: int
) -> list[Generation]:
    """The older generations to drop; records when each of the others was superseded, to apply the grace period."""
    older = checkpoints.older()
    waited = {each.stream_id: now - checkpoints.superseded_since(each, now) for each in older}
    named = {each.stream_id: named_schemas(rows, each) for each in older}
    needed_once = cache(needed)
    return [
        each
        for each in older
        if not named[each.stream_id]
        or (waited[each.stream_id] >= grace_ms and not named[each.stream_id] & needed_once())
    ]


def _names(generation: Generation) -> list[str]:
    return [name for view, schema in generation.schemas.items() for name in (of_schema(view, schema), view)]
