"""`headrace bench freshness`: the age of an event when a read of the online store shows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from features.errors import UsageError
from headrace.bench.loop.running import own_loop
from headrace.bench.report import bench_report, write_report
from headrace.console import JSON, say
from headrace.loop import Loop, LoopError

if TYPE_CHECKING:
    import pyarrow as pa

    from features.definitions import FeatureRepo, FeatureView, Stream
    from features.online_store import ReadableStore
    from streaming.replay import TimedMessages

STREAM, VIEW, SHOWS = "activity", "user_activity", "user_view_count_24h"
"""The stream that events go to, and the feature that shows a view by a user who had none."""

USERS, ITEMS, SEED = 10_000, 2_000, 7

SAMPLED = 5
"""One in so many events is of a user who has no other; it is the one whose age is measured."""

SAMPLED_USER = "sampled-"

COMMITS = 3

WARM_UP_S = 20

LOOK_EVERY_S = 0.004

STARTED_WITHIN_S, SEEN_WITHIN_S = 120.0, 20.0


@click.command()
@click.option("--rate", default=200, show_default=True, type=click.IntRange(10, 2_000), help="Events a second.")
@click.option(
    "--seconds", default=60, show_default=True, type=click.IntRange(40, 300), help="How long, after the warm-up."
)
@JSON
def freshness(rate: int, seconds: int, as_json: bool) -> None:
    """Time from Kafka's acknowledgement of an event until a read of the online store shows it.

    A broker and a stream of its own run in a folder of their own, with the project's settings and definitions, and
    end with it. Every fifth event is the first of a user, whose row is read every few milliseconds until it shows the
    event. The archive commits at least three times meanwhile, or the bench fails.

    \b
    Examples:
      headrace bench freshness
      headrace bench freshness --rate 500 --seconds 120 --json
    """
    with own_loop("bench freshness") as loop:
        figures = FreshnessBench(loop, rate).measure(seconds)
    write_report(bench_report("freshness", figures), as_json, details)


class Watch:
    """Sampled users, from the acknowledgement of their one event until a read of the store shows it.

    Args:
        rows: the online store.
        view: has the feature ``shows``, which is 1 or more once the event is in the user's row.
    """

    def __init__(self, rows: ReadableStore, view: FeatureView, shows: str) -> None:
        self._rows, self.view, self._shows = rows, view, shows
        self._waiting: dict[str, float] = {}
        self.ages_ms: list[float] = []

    @property
    def waiting(self) -> int:
        """The number of users who are acknowledged and not seen yet."""
        return len(self._waiting)

    def acknowledged(self, user: str) -> None:
        """The user's age begins."""
        self._waiting[user] = time.monotonic()

    def look(self) -> None:
        """Read all waiting users once; the ages of those whose features show the event are complete."""
        import pyarrow as pa

        from features.rows import PackedRows, finalize
        from features.times import now_ms

        keys = pa.array(list(self._waiting), type=pa.string())
        if not len(keys):
            return
        values, stream_id = self._rows.read(self.view.name, keys)
        present = values.is_valid()
        if stream_id is None or not present.true_count:
            return
        keys = keys.filter(present)
        matrix = finalize(self.view, PackedRows(keys, values.filter(present)), now_ms(), stream_id)
        counts = matrix.to_table()[self._shows].to_pylist()
        now = time.monotonic()
        seen = [user for user, count in zip(keys.to_pylist(), counts, strict=True) if count]
        self.ages_ms += [1e3 * (now - self._waiting.pop(user)) for user in seen]

    def until(self, stop: threading.Event) -> None:
        """Look every few milliseconds."""
        while not stop.wait(LOOK_EVERY_S):
            self.look()


def sampled(events: pa.Table, first: int) -> pa.Table:
    """The events, one in SAMPLED of them changed to a view by a user whom no other event has.

    Args:
        first: the number of the first event.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = np.arange(first, first + len(events))
    chosen = pa.array(numbers % SAMPLED == 0)
    users = pc.binary_join_element_wise(SAMPLED_USER, pa.array(numbers).cast(pa.string()), "")
    for name, values in (("user_id", users), ("event_type", pa.scalar("view"))):
        column = events.schema.get_field_index(name)
        events = events.set_column(column, name, pc.if_else(chosen, values, events[name]))
    return events


def commits(table: Path) -> int:
    """The number of commits of the Delta table."""
    return sum(1 for _ in (table / "_delta_log").glob("*.json"))


class FreshnessBench:
    """Events through a loop, and their ages when a reader of the online store sees them."""

    def __init__(self, loop: Loop, rate: int) -> None:
        from features.definitions import load_repo
        from features.online_store.sqlite import SqliteRows
        from headrace.simulators import ShopSimulator

        self.loop, self.rate = loop, rate
        self.stream, view = _shop(load_repo(loop.repo))
        self.shop = ShopSimulator(SEED, USERS, ITEMS)
        self.watch = Watch(SqliteRows(loop.home / "online.db"), view, SHOWS)

    def measure(self, seconds: int) -> dict[str, Any]:
        """The figures of so many seconds, once the loop is warm.

        Raises:
            LoopError: a part of the loop ends; an event is not seen in time; the archive commits too seldom.
        """
        from features.rows import make_ready

        say("starting a broker and the stream")
        self.loop.start_broker()
        self.loop.start("stream", "stream")
        self._warm_up()
        say(f"measuring {seconds} s at {self.rate} events/s")
        make_ready(self.watch.view)  # as a service does before it answers
        events = self._made(seconds, measured=True)
        before, began, stop = self._commits(), time.monotonic(), threading.Event()
        with ThreadPoolExecutor(1, "reader") as threads:
            reader = threads.submit(self.watch.until, stop)
            try:
                sent = self._send(events)
                took_s, committed = time.monotonic() - began, self._commits() - before
                self.loop.wait("every sampled event", lambda: not self.watch.waiting or reader.done(), SEEN_WITHIN_S)
            finally:
                stop.set()
            reader.result()
        self._check_commits(committed, seconds)
        from streaming.fold import ages_of

        ages = {**ages_of(self.watch.ages_ms), "events": len(self.watch.ages_ms)}
        traffic = {"sent": sent, "rate": round(sent / took_s, 1), "seconds": round(took_s, 1)}
        return {**ages, **traffic, "archive_commits": committed}

    def _warm_up(self) -> None:
        """The stream has folded the events of a while, and archived some."""
        say(f"warming up for {WARM_UP_S} s")
        sent = self._send(self._made(WARM_UP_S, measured=False))
        self.loop.wait("the stream", lambda: self.loop.has_counted(sent), STARTED_WITHIN_S)
        self.loop.wait("the archive", self._commits, STARTED_WITHIN_S)

    def _commits(self) -> int:
        return commits(self.loop.home / "offline" / STREAM)

    def _send(self, batches: Iterator[TimedMessages]) -> int:
        """The number of events sent, each at its time, and acknowledged."""
        from features.times import now_ms
        from streaming.kafka import EventProducer
        from streaming.replay import Stop, Tally, send_all

        producer = EventProducer(self.loop.bootstrap, self.loop.settings.kafka.client)
        tally, sender = Tally(), _Watched(producer, self.watch)
        send_all(batches, sender, Stop(), tally, 1.0, now_ms(), lambda _: self.loop.check())
        tally.check("bench freshness")
        return tally.acknowledged

    def _made(self, seconds: int, *, measured: bool) -> Iterator[TimedMessages]:
        """Events of so many seconds from now on, made beforehand, so that sending reads acknowledgements at once."""
        from features.times import now_ms
        from streaming.replay import in_file_order

        start = now_ms() + 1_000 + self.rate * seconds // 50
        tables = list(self.shop.live(start, float(self.rate), start + 1_000 * seconds))
        firsts = accumulate(map(len, tables), initial=0)
        if measured:
            tables = [sampled(events, first) for events, first in zip(tables, firsts, strict=False)]
        time.sleep(max(start - now_ms(), 0) / 1_000)
        return in_file_order(((STREAM, events) for events in tables), {STREAM: self.stream}, None)

    def _check_commits(self, committed: int, seconds: int) -> None:
        if committed < COMMITS:
            every = self.loop.settings.stream.archive_trigger_s
            got = f"{committed} (stream.archive_trigger_s is {every:g})"
            raise LoopError(f"the archive in {seconds} s", f"at least {COMMITS} commits", got, "Let --seconds be more.")


class _Watched:
    """A producer that reports the acknowledgements of sampled users' events to a watch as they arrive."""

    def __init__(self, producer: Any, watch: Watch) -> None:
        self._producer, self._watch = producer, watch
        self.poll, self.flush = producer.poll, producer.flush

    def send(self, topic: str, key: bytes, value: bytes, headers: Any, on_ack: Any) -> None:
        """Send it."""

        def acknowledge(error: Any, message: Any) -> None:
            if error is None:
                self._watch.acknowledged(user)
            on_ack(error, message)

        user = key.decode()
        self._producer.send(topic, key, value, headers, acknowledge if user.startswith(SAMPLED_USER) else on_ack)


def _shop(repo: FeatureRepo) -> tuple[Stream, FeatureView]:
    """The stream and the view that are measured. Raises UsageError where the definitions are not a shop's."""
    stream, view = repo.streams.get(STREAM), repo.views.get(VIEW)
    if stream is None or view is None or SHOWS not in view.names:
        required = f"a stream '{STREAM}' and a view '{VIEW}' with '{SHOWS}', as the shop's definitions have"
        raise UsageError("bench freshness", required, ", ".join([*repo.streams, *repo.views]) or "nothing")
    return stream, view


def details(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The report's labels and texts."""
    ours = report["ours"]
    return [
        ("freshness", f"p50 {ours['p50_ms']:,.0f} ms, p99 {ours['p99_ms']:,.0f} ms, largest {ours['max_ms']:,.0f} ms"),
        ("", f"from acknowledgement to a read that shows it, {ours['events']:,} events of {ours['sent']:,}"),
        ("traffic", f"{ours['rate']:,.0f} events/s for {ours['seconds']:.0f} s"),
        ("archive", f"{ours['archive_commits']} commits meanwhile"),
    ]
