"""A click on one replica, and the next recommendation of another: their time together, and what it changed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from headrace.bench.loop.running import asked

if TYPE_CHECKING:
    from headrace.bench.loop.serve.worlds import World

CLICKS, WARM_UP, K = 100, 20, 10


def clicked(address: tuple[str, int], world: World, replicas: int) -> dict[str, Any]:
    """Times of the pairs, and the numbers of those after which other items were recommended than before, by the model.

    The item that is clicked is no other item.
    """
    from streaming.fold import ages_of

    pairs_ms, changed, fallbacks = [], 0, 0
    for number, user in enumerate(world.users[: WARM_UP + CLICKS]):
        item = world.popular[number % len(world.popular)]
        before = recommended(asked(address, "POST", "/v1/recommend", {"user_id": user, "k": K}))
        now_ms = time.time_ns() // 1_000_000
        event = {"event_id": f"bench{number}-{now_ms}", "event_time": now_ms, "event_type": "view"}
        began = time.perf_counter()
        asked(address, "POST", "/v1/events", event | {"user_id": user, "item_id": item})
        answer = asked(address, "POST", "/v1/recommend", {"user_id": user, "k": K})
        took_ms = 1e3 * (time.perf_counter() - began)
        if number >= WARM_UP:
            pairs_ms.append(took_ms)
            changed += bool(recommended(answer) - before - {item})
            fallbacks += bool(answer["fallback"]["used"])
    return {**ages_of(pairs_ms), "clicks": CLICKS, "changed": changed, "fallbacks": fallbacks, "replicas": replicas}


def recommended(answer: Mapping[str, Any]) -> set[str]:
    """The items of an answer."""
    return {item["item_id"] for item in answer["items"]}
