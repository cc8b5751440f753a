"""`headrace stream`, `headrace status` and `headrace features rebuild`: the running stream, its state and its rows."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from features.errors import LossError, StoreError
from headrace.console import JSON, echo, print_json, print_report, say

if TYPE_CHECKING:
    from features.definitions import FeatureRepo
    from headrace.settings import Settings
    from streaming.fold import Reached
    from streaming.incidents import SilenceWatch
    from streaming.kafka import EventProducer
    from streaming.pipeline import Pipeline
    from streaming.scoring import EventScoring
    from streaming.settings import StreamOptions


TAKE_OVER = click.option(
    "--take-over", is_flag=True, help="Drive the online store also if another home drove it before, which is gone."
)


@click.command()
@TAKE_OVER
@click.option(
    "--accept-loss", is_flag=True, help="Go on where topics lack records that were not read; what is lost is recorded."
)
def stream(take_over: bool, accept_loss: bool) -> None:
    """Fold the topics into the online store and archive them, until Ctrl-C or SIGTERM.

    Our own broker is started for it where the settings name no cluster and none runs. Every offline.compact_every_min
    the offline store's tables are compacted, as by 'headrace tables compact'.

    A single home may drive an online store: from another one the stream ends with an error, unless it takes over.

    The stream ends where records are gone that it has not read: they were deleted by age or by hand, or the topic was
    deleted and made anew. With --accept-loss (or stream.accept_loss) it goes on with what is there: rows are made again
    from the offline store, so that both lack the same, and 'headrace status' and 'doctor' say what is lost.

    \b
    Examples:
      headrace stream
      headrace stream --accept-loss
    """
    from headrace.cluster import cluster
    from headrace.project import Project
    from streaming.archive import maintained_every

    project = Project.open()
    repo = project.repo
    upkeep = maintained_every(60 * project.settings.offline.compact_every_min, project.root, say)
    settings = project.settings
    if accept_loss:
        settings = settings.model_copy(update={"stream": settings.stream.model_copy(update={"accept_loss": True})})
    with until_signalled() as stop, cluster(settings, project.root) as bootstrap, upkeep:
        _run(lambda: _pipeline(settings, project.root, repo, bootstrap), stop, take_over)
    say("stopped; what was read is folded, and the rest waits in Kafka")


def _run(pipeline: Callable[[], Pipeline], stop: threading.Event, take_over: bool) -> None:
    """Run pipelines one after another: a loss that one meets is settled, or refused, at the start of the next."""
    while True:
        current = pipeline()
        try:
            return current.run(stop, take_over=take_over)
        except LossError as error:
            if not current.is_settled:
                raise
            say(str(error))


@click.command()
@TAKE_OVER
@JSON
def rebuild(take_over: bool, as_json: bool) -> None:
    """Build the online rows again from the offline store; a running stream does it and continues meanwhile.

    Readers keep the old rows until the new ones have everything in Kafka. Without a running stream, the rows are built
    here, and the next stream continues from there.

    \b
    Examples:
      headrace features rebuild
      headrace features rebuild --json
    """
    from headrace.cluster import cluster
    from headrace.project import Project
    from streaming.generations import rebuilt_by_the_stream

    project = Project.open()
    repo = project.repo
    generation, live = rebuilt_by_the_stream(project.home, say), True
    by = " by the running stream"
    if generation is None:
        with cluster(project.settings, project.root) as bootstrap:
            fold, live = _pipeline(project.settings, project.root, repo, bootstrap).rebuild(take_over=take_over)
        generation, by = str(fold.stream_id), ""
    report = {"generation": generation, "views": list(repo.views), "by_stream": bool(by), "live": live}
    then = "readers have them" if live else "readers have them when 'headrace stream' has folded what Kafka has beyond"
    text = f"generation {generation}: rows of {', '.join(repo.views)} made from the archive{by}; {then}"
    print_report(report, as_json, lambda _: text)


def _pipeline(settings: Settings, root: Path, repo: FeatureRepo, bootstrap: str) -> Pipeline:
    from features.events.avro import schema_registry
    from features.online_store import store_of
    from models.needs import needed_schemas
    from streaming.context import StreamContext
    from streaming.dead_letters import send_dead_letters
    from streaming.fold import crash_point
    from streaming.kafka import EventProducer, ensure_topics
    from streaming.observers import Observers
    from streaming.pipeline import Pipeline

    client = settings.kafka.client
    ensure_topics(bootstrap, repo.streams.values(), settings.kafka.partitions, client)
    producer, reached = EventProducer(bootstrap, client), crash_point(os.environ)
    needed = partial(needed_schemas, settings.mlflow.tracking_uri, root)
    rows = store_of(root / settings.stream.repo, root / settings.home).open()
    return Pipeline(
        StreamContext(stream_options(settings, root, bootstrap), repo, rows, say, reached),
        lambda stream, messages, parsed: send_dead_letters(producer, stream, messages.table, parsed),
        schema_registry(settings.kafka.schema_registry, settings.kafka.registry),
        Observers(
            needed,
            _scoring(settings, root, repo, producer, reached),
            _silences(settings, root, repo, producer),
        ),
    )


def _scoring(
    settings: Settings, root: Path, repo: FeatureRepo, producer: EventProducer, reached: Reached | None
) -> EventScoring | None:
    """The scoring by the repo's event models, whose topics exist; None where it has no models."""
    from models.registry import absolute_uri
    from streaming.kafka import ensure_named_topics
    from streaming.scoring import DecisionTopics, event_scoring, problems_topic, scored_streams

    if not repo.models:
        return None
    scores, alerts = settings.stream.scores_topic, settings.stream.alerts_topic
    problems = [problems_topic(scores, model) for model in repo.models]
    kafka = settings.kafka
    names = [scores, alerts]
    ensure_named_topics(producer.bootstrap_servers, names, kafka.partitions, kafka.client, problems, kept=[alerts])
    return event_scoring(
        repo,
        absolute_uri(settings.mlflow.tracking_uri, root),
        root / settings.home / "checkpoints" / "scores",
        DecisionTopics(producer, scores, alerts, scored_streams(repo)),
        reached,
    )


def _silences(settings: Settings, root: Path, repo: FeatureRepo, producer: EventProducer) -> SilenceWatch:
    """The watch of the repo's rules of silence; the topic of alerts exists where there are any."""
    from streaming.incidents import LastTimes, SilenceWatch, alert_sender, silences_file
    from streaming.kafka import ensure_named_topics

    kafka, alerts = settings.kafka, settings.stream.alerts_topic
    if repo.silences:
        ensure_named_topics(producer.bootstrap_servers, [alerts], kafka.partitions, kafka.client, kept=[alerts])
    times = LastTimes(silences_file(root / settings.home / "checkpoints"))
    return SilenceWatch(repo.silences.values(), times, alert_sender(producer, alerts))


def stream_options(settings: Settings, root: Path, bootstrap: str) -> StreamOptions:
    """The options of a stream of the project in ``root``."""
    from streaming.jars import resolve_spark
    from streaming.settings import StreamOptions

    home = root / settings.home
    return StreamOptions(
        home=home,
        offline=root / settings.offline.path,
        bootstrap=bootstrap,
        jars=resolve_spark(home),
        client=settings.kafka.client,
        spark_kafka={f"kafka.{name}": value for name, value in settings.kafka.spark.items()},
        rows_in_memory=settings.offline.rows_in_memory,
        settings=settings.stream,
    )


@contextmanager
def until_signalled() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set during the block."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@click.command()
@JSON
@click.option("--metrics", is_flag=True, help="Print Prometheus' text format.")
def status(as_json: bool, metrics: bool) -> None:
    """Show the stream's records a second, lag, batch time and freshness, and the verdicts on its records.

    Also the bytes of an entity in the online store, by view, from a sample; the delivery of alerts; and the drift of
    events from those that the champion was tested on, where it was measured.

    \b
    Examples:
      headrace status
      headrace status --json
    """
    from features.online_store import read_status
    from features.times import now_ms
    from headrace.metrics import metrics_text
    from headrace.project import Project
    from streaming.alerts import delivery_lines, delivery_metrics, read_delivery
    from streaming.losses import loss_lines, loss_metrics, read_losses
    from streaming.status import status_lines, stream_metrics
    from training.judging import drift_line, drift_metrics, read_drift, read_named_drift

    project = Project.open()
    current, drift = read_status(project.home, now_ms()), read_drift(project.home)
    event_drifts, others = (read_named_drift(project.home, of_events=kind) for kind in (True, False))
    named = [*others.values(), *event_drifts.values()]
    drifts = [*([] if drift is None else [drift]), *named]
    if current["state"] != "absent":
        current["bytes_per_row"] = _bytes_per_row(project.settings, project.root)
    alerts = read_delivery(project.home, now_ms())
    losses = read_losses(project.root / project.settings.offline.path)
    if as_json:
        also = {
            "losses": losses if any(losses.values()) else None,
            "alerts": alerts,
            "drift": drift,
            "recommender_drift": others or None,
            "event_drift": event_drifts or None,
        }
        also = {name: part for name, part in also.items() if part is not None}
        print_json(current | also)
    elif metrics:
        families = [
            *stream_metrics(current),
            *loss_metrics(losses),
            *([] if alerts is None else delivery_metrics(alerts)),
        ]
        echo(metrics_text([*families, *drift_metrics(drifts)]), nl=False)
    else:
        lines = [*status_lines(current), *loss_lines(losses), *([] if alerts is None else delivery_lines(alerts))]
        echo("\n".join([*lines, *(drift_line(each, now_ms(), each is drift) for each in drifts)]))


def _bytes_per_row(settings: Settings, root: Path) -> dict[str, float]:
    """View → mean bytes of an entity's row; empty where the store does not answer."""
    from features.online_store import store_of

    try:
        return store_of(root / settings.stream.repo, root / settings.home).open().bytes_per_row()
    except StoreError:
        return {}
