"""`headrace bench own-clicks`: time of a click and the next read; every click counts once."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from headrace.bench.loop.running import asked, own_loop
from headrace.bench.report import bench_report, write_report
from headrace.console import JSON
from headrace.loop import Loop, LoopError

if TYPE_CHECKING:
    from collections.abc import Mapping

SHOWS = "user_view_count_24h"

USERS = 20

WARM_UP = 20

STARTED_WITHIN_S, FOLDED_WITHIN_S = 180.0, 60.0


@click.command("own-clicks")
@click.option("--clicks", default=100, show_default=True, type=click.IntRange(20, 10_000), help="How many, one by one.")
@click.option("--replicas", default=2, show_default=True, type=click.IntRange(1, 8), help="Of the service.")
@JSON
def own_clicks(clicks: int, replicas: int, as_json: bool) -> None:
    """Time of POST /v1/events and of the next GET /v1/features together; exit 1 unless every click counts, once.

    A broker, a stream and a service of its own run in a folder of their own, and end with it.

    \b
    Examples:
      headrace bench own-clicks
      headrace bench own-clicks --clicks 1000 --json
    """
    from features.machine import free_port

    with own_loop("bench own-clicks", free_port()) as loop:
        figures = measured(loop, clicks, replicas)
    write_report(bench_report("own-clicks", figures), as_json, details)
    if figures["counted"] != clicks or figures["once"] != clicks:
        sys.exit(1)


def measured(loop: Loop, clicks: int, replicas: int) -> dict[str, Any]:
    """Times of the pairs, the clicks that the next read counted, and the clicks that the rows count after the fold."""
    from streaming.fold import ages_of

    loop.start_broker()
    loop.start("stream", "stream")
    loop.start("serve", "serve", "--replicas", str(replicas))
    loop.wait("the stream", loop.status, STARTED_WITHIN_S)
    loop.wait("the service", lambda: (loop.ask("/readyz") or {}).get("ready"), STARTED_WITHIN_S)
    client = Client(loop)
    for number in range(WARM_UP):
        client.pair(f"warm{number % USERS}", number)
    counted: dict[str, int] = {}
    pairs_ms, right = [], 0
    for number in range(clicks):
        user = f"clicker{number % USERS}"
        counted[user] = counted.get(user, 0) + 1
        took_ms, seen = client.pair(user, WARM_UP + number)
        pairs_ms.append(took_ms)
        right += seen == counted[user]
    sent = WARM_UP + clicks
    loop.wait("the fold", lambda: loop.counted().get("folded", 0) >= sent, FOLDED_WITHIN_S)
    once = sum(min(client.seen(user), count) for user, count in counted.items())
    more = sum(client.seen(user) > count for user, count in counted.items())
    if more:
        raise LoopError("the rows after the fold", "every click once", f"more than that for {more} users")
    return {**ages_of(pairs_ms), "clicks": clicks, "replicas": replicas, "counted": right, "once": once}


class Client:
    """Clicks of users, and reads of what the service counts of them."""

    def __init__(self, loop: Loop) -> None:
        self._address = loop.host, loop.port

    def seen(self, user: str) -> int:
        """The number of the user's views that the service counts."""
        answer = asked(self._address, "GET", f"/v1/features/user/{user}")
        features = {view["view"]: view["features"] for view in answer["views"]}
        return features["user_activity"][SHOWS] or 0

    def pair(self, user: str, number: int) -> tuple[float, int]:
        """A click and the next read: their time together in ms, and the views that the read counts."""
        now = time.time_ns() // 1_000_000
        event = {"event_id": f"click{number}-{now}", "event_time": now, "event_type": "view"}
        began = time.perf_counter()
        asked(self._address, "POST", "/v1/events", event | {"user_id": user, "item_id": f"i{number % 7}"})
        seen = self.seen(user)
        return 1e3 * (time.perf_counter() - began), seen


def details(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The report's labels and texts."""
    ours = report["ours"]
    return [
        ("pair", f"p50 {ours['p50_ms']:.1f} ms, p99 {ours['p99_ms']:.1f} ms: a click accepted, and the next read"),
        ("counted", f"{ours['counted']} of {ours['clicks']} in the next read, over {ours['replicas']} replicas"),
        ("once", f"{ours['once']} of {ours['clicks']} after the fold"),
    ]
