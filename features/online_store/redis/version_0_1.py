"""The keys of version 0.1, which had no project: found where a project has none of its own, and carried over."""

from __future__ import annotations

from collections.abc import Collection

from features.errors import StoreError
from features.online_store.redis.client import RedisClient
from features.online_store.redis.scripts import MOVE
from features.online_store.redis.slots import HEAD, Keys, SlotMap
from features.online_store.store import FEAST

OLD = Keys("")


def check(client: RedisClient, keys: Keys) -> None:
    """Raise StoreError where a project has no generations, and the server has those of version 0.1."""
    own, old = client.ask(("EXISTS", keys.generations), ("EXISTS", OLD.generations))
    if old and not own:
        raise StoreError(
            f"project '{keys.project}' in the online store",
            "keys with its name",
            "those of version 0.1, which have no project",
            "Run 'headrace stream' in the project's home, which carries its rows over; other projects' rows stay.",
        )


def not_carried(client: RedisClient, stream_ids: Collection[int]) -> list[int]:
    """Which of these generations version 0.1 wrote and nothing has carried over."""
    (old,) = client.ask(("SMEMBERS", OLD.generations))
    return sorted({int(number) for number in old} & set(stream_ids))


def carry_over(client: RedisClient, keys: Keys, slots: SlotMap, stream_id: int) -> None:
    """Give a generation the keys of the project, as all that reads it now expects; a crash leaves it to the next run.

    Every key keeps its slot and its contents. The head is the last to go, and until then no driver can write.
    """
    client.ask(("SADD", keys.generations, stream_id))
    for part in (*slots.numbers(), HEAD):
        _move(client, keys, stream_id, part, "")
    (views,) = client.ask(("HKEYS", OLD.current))
    (numbers,) = client.ask(("HMGET", OLD.current, *views)) if views else ([],)
    of_it = [view for view, number in zip(views, numbers, strict=True) if number and int(number) == stream_id]
    for view in of_it:
        client.ask(("HSET", keys.current, view, stream_id))
        client.ask(("HDEL", OLD.current, view))
    client.ask(("SREM", OLD.generations, stream_id))


def carry_over_feast(client: RedisClient, keys: Keys, slots: SlotMap) -> None:
    """Give the values of the project's ordinary Feast views its keys."""
    if not_carried(client, [FEAST]):
        client.ask(("SADD", keys.generations, FEAST))
        for part in (*slots.numbers(), HEAD):
            _move(client, keys, FEAST, part, f"feast/{keys.project}/")


def _move(client: RedisClient, keys: Keys, stream_id: int, part: int, names: str) -> None:
    heads = OLD.head(stream_id, part), OLD.tables(stream_id, part)
    client.ask(("EVAL", MOVE, 4, *heads, keys.head(stream_id, part), keys.tables(stream_id, part), names))
