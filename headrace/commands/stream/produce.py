"""`headrace replay` and `headrace generate`: events of a file or a simulated world, sent to their topics."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from features.errors import UsageError
from features.redaction import inert_json
from headrace.console import JSON, echo

if TYPE_CHECKING:
    from features.definitions import FeatureRepo, Stream
    from features.events.avro import SchemaRegistry
    from headrace.simulators import ShopSimulator
    from streaming.kafka import EventProducer
    from streaming.replay import Stop, Tables, Tally, TimedMessages

REACHABLE_S = 5.0

PROGRESS_S = 1.0

WORLDS = {"shop": (10_000, 2_000), "cards": (5_000, 10_000)}
"""Default numbers of users and items of a simulated world; for cards, of customers and terminals."""

REPO = click.option("--repo", "folder", metavar="FOLDER", help="Folder with your definitions, if not the settings'.")

KAFKA = click.option("--bootstrap-servers", metavar="HOST:PORT", help="The Kafka to send to, if not the settings'.")


@click.command()
@click.argument("file")
@click.option("--format", "kind", metavar="FORMAT", help="Such as online-retail, taobao, jsonl, csv.")
@click.option("--speed", default="max", show_default=True, metavar="1|60|max", help="Factor of the original pace.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Only the first N events of the file.")
@click.option("--now", is_flag=True, help="Shift the times so that the last event is now.")
@click.option("--stream", metavar="STREAM", help="For csv, parquet, jsonl: the stream of the rows.")
@click.option("--column", "renamed", multiple=True, metavar="OURS=THEIRS", help="For csv, parquet: a column's name.")
@REPO
@KAFKA
@JSON
def replay(  # noqa: PLR0913, PLR0917  # one parameter an option
    file: str,
    kind: str | None,
    speed: str,
    limit: int | None,
    now: bool,
    stream: str | None,
    renamed: tuple[str, ...],
    folder: str | None,
    bootstrap_servers: str | None,
    as_json: bool,
) -> None:
    """Send the events of FILE to their topics, as if they happened again; Ctrl-C stops.

    Each keeps its event time and the time when it became known, unless --now shifts all of them alike.

    \b
    Examples:
      headrace replay taobao-clicks.parquet --format taobao
      headrace replay taobao-clicks.parquet --format taobao --speed 60 --now
      headrace replay events.jsonl --format jsonl --stream activity --limit 1000
    """
    from features.formats import FORMATS, read_events
    from streaming import replay as playing

    if kind is None:
        raise UsageError("replay", f"--format, one of {', '.join(FORMATS)}", "none")
    factor = playing.speed_of(speed)
    project = _project(folder)
    streams = project.repo.streams
    columns = dict(map(renaming, renamed)) or None
    read = partial(read_events, file, kind, streams, stream=stream, columns=columns)
    read()  # generators do not start by themselves: this only looks at the options
    refused: Counter[str] = Counter()
    shift_ms = _shift_ms(playing.newest_ms(playing.limited(read(), limit, Counter()))) if now else 0
    tables = playing.limited(read(), limit, refused)
    ordered = playing.in_file_order if factor is None else playing.in_time_order
    with _sending(project, bootstrap_servers, _filled(kind, stream, streams)) as sending:
        sending.send(ordered(tables, streams, shift_ms, project.registry), factor)
    sending.finish(f"replay of {file}", as_json, refused, whole=True)


@click.command()
@click.option(
    "--domain", type=click.Choice(list(WORLDS)), default="shop", show_default=True, help="The simulated world."
)
@click.option("--rate", default=20.0, show_default=True, type=float, metavar="N", help="Events a second, on average.")
@click.option("--users", type=int, metavar="N", help="Users: 10,000; customers for cards: 5,000.")
@click.option("--items", type=int, metavar="N", help="Items: 2,000; terminals for cards: 10,000.")
@click.option("--seed", default=7, show_default=True, help="The world's seed.")
@click.option("--seconds", type=float, metavar="S", help="Stop after so long, not by Ctrl-C.")
@click.option("--history", default=0.0, metavar="DAYS", help="Cards: first the payments of the days before.")
@REPO
@KAFKA
@JSON
def generate(  # noqa: PLR0913, PLR0917  # one parameter an option
    domain: str,
    rate: float,
    users: int | None,
    items: int | None,
    seed: int,
    seconds: float | None,
    history: float,
    folder: str | None,
    bootstrap_servers: str | None,
    as_json: bool,
) -> None:
    """Send the events of a simulated world as they happen.

    A shop: its catalogue first, then its users' events. Cards: payments at cash machines and web shops, and the frauds
    among them a week after each.

    \b
    Examples:
      headrace generate --rate 50
      headrace generate --rate 500 --users 2000 --seconds 30
      headrace generate --domain cards --rate 200 --history 40
    """
    if not 0 < rate < float("inf"):
        raise UsageError("--rate", "a number above 0", f"{rate:g}")
    if seconds is not None and not 0 < seconds < float("inf"):
        raise UsageError("--seconds", "a number above 0", f"{seconds:g}")
    if not 0 <= history < float("inf") or (history and domain == "shop"):
        raise UsageError("--history", "a number of days, with --domain cards", f"{history:g}")
    project = _project(folder)
    usual_users, usual_items = WORLDS[domain]
    world = (seed, usual_users if users is None else users, usual_items if items is None else items)
    if domain == "shop":
        sending = _send_shop(project, bootstrap_servers, world, rate, seconds)
    else:
        sending = _send_cards(project, bootstrap_servers, world, history, rate, seconds)
    sending.finish(f"the simulated {domain}", as_json, Counter(), whole=False)


def _send_shop(
    project: _Project, bootstrap_servers: str | None, world: tuple[int, int, int], rate: float, seconds: float | None
) -> _Sending:
    from headrace.simulators import ShopSimulator

    streams = _shop(project.repo)
    shop = ShopSimulator(*world)
    with _sending(project, bootstrap_servers, streams) as sending:
        start_ms = _now_ms()
        sending.send(_catalogue(shop, project, start_ms), None)
        # The catalogue took a moment: what happened meanwhile is sent at once, and then everything as it happens.
        sending.send(_live(shop, project, start_ms, rate, seconds), 1.0, _now_ms())
    return sending


def _send_cards(
    project: _Project,
    bootstrap_servers: str | None,
    world: tuple[int, int, int],
    days: float,
    rate: float,
    seconds: float | None,
) -> _Sending:
    from headrace.simulators import CardSimulator, cards_traffic

    streams = cards_traffic.streams_of(project.repo)
    cards = CardSimulator(*world)
    with _sending(project, bootstrap_servers, streams) as sending:
        start_ms = _now_ms()
        before = cards_traffic.Past(cards, streams, days, start_ms, project.registry)
        sending.send(before.batches(), None)
        if not sending.stop.requested:
            until_ms = None if seconds is None else start_ms + int(seconds * 1_000)
            blocks = cards.live(start_ms, rate, until_ms, before.unknown)
            sending.send(cards_traffic.live(blocks, streams, project.registry), 1.0, _now_ms())
    return sending


def _shop(repo: FeatureRepo) -> Mapping[str, Stream]:
    streams = {name: stream for name, stream in repo.streams.items() if name in ("activity", "catalogue")}
    if "activity" not in streams:
        got = ", ".join(repo.streams) or "no streams"
        raise UsageError(f"feature repo '{repo.path}'", "a stream called 'activity' for the simulated shop", got)
    return streams


def _catalogue(shop: ShopSimulator, project: _Project, start_ms: int) -> Iterator[TimedMessages]:
    from streaming.replay import in_file_order

    streams = project.repo.streams
    tables: Tables = iter([("catalogue", shop.catalogue(start_ms))] if "catalogue" in streams else [])
    return in_file_order(tables, streams, None, project.registry)


def _live(
    shop: ShopSimulator, project: _Project, start_ms: int, rate: float, seconds: float | None
) -> Iterator[TimedMessages]:
    from streaming.replay import in_file_order

    until_ms = None if seconds is None else start_ms + int(seconds * 1_000)
    tables = (("activity", table) for table in shop.live(start_ms, rate, until_ms))
    return in_file_order(tables, project.repo.streams, None, project.registry)


def _filled(kind: str, stream: str | None, streams: Mapping[str, Stream]) -> Mapping[str, Stream]:
    """The streams that a file of the format fills."""
    from features.formats import find_format

    names = find_format(kind).streams or ([stream] if stream else list(streams))
    return {name: streams[name] for name in names if name in streams}


def renaming(text: str) -> tuple[str, str]:
    """The two names of OURS=THEIRS. Raises UsageError for other text."""
    ours, separator, theirs = text.partition("=")
    if not (ours and separator and theirs):
        raise UsageError("--column", "OURS=THEIRS, such as user_id=customer", repr(text))
    return ours, theirs


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _shift_ms(newest_ms: int | None) -> int:
    return 0 if newest_ms is None else _now_ms() - newest_ms


@dataclass(frozen=True)
class _Project:
    """The project in the working directory: its settings and definitions."""

    repo: FeatureRepo
    client: Mapping[str, Any]
    partitions: int
    find_cluster: Callable[[], str]
    registry: SchemaRegistry | None


def _project(folder: str | None) -> _Project:
    from features.definitions import load_repo
    from features.events.avro import schema_registry
    from headrace.cluster import find_cluster
    from headrace.project import Project

    project = Project.open()
    repo = load_repo(folder or project.settings.stream.repo)
    kafka = project.settings.kafka
    registry = schema_registry(kafka.schema_registry, kafka.registry)
    return _Project(
        repo, kafka.client, kafka.partitions, partial(find_cluster, project.settings, project.root), registry
    )


class _Sending:
    """A producer, the request to stop, and the counts of sent and acknowledged messages."""

    def __init__(self, producer: EventProducer, stop: Stop, tally: Tally) -> None:
        self.producer, self.stop, self.tally = producer, stop, tally
        self._started_s = self._shown_s = time.monotonic()

    def send(self, batches: Iterator[TimedMessages], speed: float | None, origin_ms: int | None = None) -> None:
        """The batches are sent and acknowledged: see send_all()."""
        from streaming.replay import send_all

        send_all(batches, self.producer, self.stop, self.tally, speed, origin_ms, self._show)

    def _show(self, tally: Tally) -> None:
        """A line of progress on a terminal, once a second."""
        if not sys.stderr.isatty() or time.monotonic() < self._shown_s + PROGRESS_S:
            return
        self._shown_s = time.monotonic()
        took_s = self._shown_s - self._started_s
        sent = tally.sent.total()
        echo(f"\r{sent:,} sent · {tally.acknowledged:,} acknowledged · {sent / took_s:,.0f}/s ", nl=False, err=True)

    def finish(self, what: str, as_json: bool, refused: Counter[str], *, whole: bool) -> None:
        """Prints the report. Raises where a message is not acknowledged; exits with 1 where ``whole`` was stopped."""
        took_s = time.monotonic() - self._started_s
        if sys.stderr.isatty() and self._shown_s > self._started_s:
            echo(err=True)
        report = self._report(took_s, refused)
        echo(inert_json(json.dumps(report)) if as_json else _sentence(report))
        if refused:
            reasons = ", ".join(f"{count:,} {code}" for code, count in refused.most_common())
            echo(f"{refused.total():,} records of the file are no events and were not sent: {reasons}", err=True)
        self.tally.check(what)
        if whole and self.stop.requested:
            raise SystemExit(1)

    def _report(self, took_s: float, refused: Counter[str]) -> dict[str, Any]:
        sent = self.tally.sent.total()
        return {
            "sent": sent,
            "acknowledged": self.tally.acknowledged,
            "topics": dict(self.tally.sent),
            "refused": refused.total(),
            "stopped": self.stop.requested,
            "took_s": round(took_s, 3),
            "per_s": round(sent / took_s, 1) if took_s else None,
        }


def _sentence(report: Mapping[str, Any]) -> str:
    topics = ", ".join(f"{count:,} to {topic}" for topic, count in report["topics"].items()) or "nothing to send"
    stopped = " · stopped" if report["stopped"] else ""
    return (
        f"{report['acknowledged']:,} of {report['sent']:,} acknowledged · {topics} · {report['took_s']:.1f} s{stopped}"
    )


@contextmanager
def _sending(project: _Project, bootstrap_servers: str | None, streams: Mapping[str, Stream]) -> Iterator[_Sending]:
    """A producer for the streams' topics, which exist; SIGINT and SIGTERM request a stop during the block."""
    from streaming.kafka import EventProducer, ensure_topics
    from streaming.replay import Stop, Tally

    servers = bootstrap_servers or project.find_cluster()
    _check_reachable(servers, project.client)
    ensure_topics(servers, streams.values(), project.partitions, project.client)
    stop = Stop()
    before = {number: signal.signal(number, stop.request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield _Sending(EventProducer(servers, project.client), stop, Tally())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_reachable(servers: str, client: Mapping[str, Any]) -> None:
    """Raises TopicError within REACHABLE_S where no Kafka answers."""
    from confluent_kafka import KafkaException

    from streaming.kafka import TopicError, admin_client

    try:
        admin_client(servers, client).list_topics(timeout=REACHABLE_S)
    except KafkaException as error:
        next_step = "Start it: headrace stream (or name another with --bootstrap-servers)."
        raise TopicError("Kafka", f"a cluster at {servers}", f"no answer ({error.args[0].str()})", next_step) from error
