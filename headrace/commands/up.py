"""`headrace up`: the project's broker, stream, service and training in one terminal, until Ctrl-C."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from features.redaction import inert_line
from headrace.client import reached_at
from headrace.console import echo
from headrace.loop import Child, Loop, LoopError, interrupts_end_it

SHOW_EVERY_S = 3.0

AGAIN_S = 10.0
"""A delivery of alerts that has ended is started again after this; it never ends the other parts."""

ATTEMPTS = 5

LIVED_S = 60.0
"""A part that ran so long has started well: its count of failures begins again."""

NOT_AGAIN = (None, 0, 2)
"""Exit statuses without a restart: none yet, ended as requested, wrong usage."""

WHEN_DRIFTED = ("train", "--when-drifted")


@click.command()
@click.option(
    "--train-every",
    "minutes",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0),
    metavar="MINUTES",
    help="Train every model once the offline store has its events, and then so often; 0 never.",
)
@click.option(
    "--drift-every",
    "drift_minutes",
    default=15.0,
    show_default=True,
    type=click.FloatRange(min=0),
    metavar="MINUTES",
    help="Measure the drift of events from the champion's so often, and train where there is any; 0 never.",
)
def up(minutes: float, drift_minutes: float) -> None:
    """Run the project here: Kafka, unless the settings name one, the stream, the service, and training at intervals.

    Alerts are delivered where the definitions have event models. A line shows the state of the parts. Ctrl-C or SIGTERM
    ends everything that was started, and so does the end of any part; a stream that fails is started again first.

    \b
    Examples:
      headrace up
      headrace up --train-every 15
    """
    from features.machine import free_port
    from headrace.project import Project
    from serving.access import check_access

    project = Project.open()
    check_access(project.settings.serving.host, project.keys)
    port = project.settings.serving.port or free_port()
    repo, tracking = project.definitions, project.settings.mlflow.tracking_uri
    try:
        with (
            interrupts_end_it(),
            ProjectLoop(project.root, project.settings, project.home, repo, port, tracking) as loop,
        ):
            trainings = trainings_of(loop, 60 * minutes, 60 * drift_minutes)
            again_s = AGAIN_S if has_sinks(loop) else 0.0
            delivery = Schedule(loop, again_s, ("alerts", "deliver"), ("delivery of alerts", "alerts delivered"))
            try:
                run(loop, trainings, delivery)
            finally:
                for schedule in (*trainings, delivery):
                    schedule.stop()
    except KeyboardInterrupt:
        echo("stopped; everything that was started has ended", err=True)
        sys.exit(0)


def trainings_of(loop: Loop, every_s: float, drift_s: float) -> list[Schedule]:
    """Schedules of training and of training after drift, for each recommender (the default first) and event model."""
    from features.definitions import load_repo

    first, schedules = time.monotonic() + drift_s, []
    repo = load_repo(loop.repo)
    recommenders = repo.chosen_recommenders(loop.settings.training)
    if recommenders.default is not None:
        own = (recommenders.default.stream.name,)
        schedules += [
            Schedule(loop, every_s, tables=own),
            Schedule(loop, drift_s, WHEN_DRIFTED, ("drift", "drift"), first, own),
        ]
    others: dict[str, tuple[str, ...]] = {
        name: (one.stream.name,) for name, one in recommenders.by_name.items() if one != recommenders.default
    }
    others |= {name: tuple(stream.name for stream in model.streams) for name, model in repo.models.items()}
    for name, tables in others.items():
        schedules += [
            Schedule(loop, every_s, ("train", name), (f"training {name}", f"{name} trained"), tables=tables),
            Schedule(loop, drift_s, ("train", name, "--when-drifted"), (f"drift of {name}", name), first, tables),
        ]
    return schedules


def has_sinks(loop: Loop) -> bool:
    """True where the definitions have event models or silences, and the settings name a sink of alerts."""
    from features.definitions import load_repo

    chosen = loop.settings.alerts
    if not (chosen.table or chosen.postgres or chosen.webhook):
        return False
    repo = load_repo(loop.repo)
    return bool(repo.models or repo.silences)


def run(loop: Loop, trainings: Sequence[Schedule], delivery: Schedule) -> None:
    """Runs the parts, and shows their state, until one of them ends."""
    echo(f"Kafka answers on {loop.start_broker()}", err=True)
    stream = RestartedPart(loop, "stream")
    loop.start("serve", "serve")
    echo(f"service: {loop.url}/docs · logs: {loop.home / 'logs'} · Ctrl-C ends all", err=True)
    with status_display() as show:
        while True:
            stream.tick(time.monotonic())
            loop.check()
            for training in trainings:
                if not any(other.running for other in trainings if other is not training):  # one at a time in a project
                    training.tick(time.monotonic())
            delivery.tick(time.monotonic())
            ready = loop.ask("/readyz", timeout_s=1.0)
            states = [training.state(time.monotonic()) for training in trainings[:1]]
            states += [schedule.last for schedule in (*trainings[1:], delivery) if "failed" in schedule.last]
            show(status_line(stream_status(loop.home), ready, " · ".join(states)))
            time.sleep(SHOW_EVERY_S)


class RestartedPart:
    """A part that is started again when it fails, after longer each time; ATTEMPTS failures end the loop.

    Args:
        name: the headrace command.
    """

    def __init__(self, loop: Loop, name: str) -> None:
        from streaming.supervisor import Backoff

        self._loop, self._name = loop, name
        self._backoff = Backoff()
        self._child: Child | None = loop.start(name, name)
        self._since = self._due = 0.0

    def tick(self, now: float) -> None:
        """Handles a failure, and starts the part again when it is due."""
        if self._child is None and now >= self._due:
            self._child, self._since = self._loop.start(self._name, self._name), now
        elif self._child is not None and self._child.process.poll() not in NOT_AGAIN:
            self._failed(self._child, now)

    def _failed(self, child: Child, now: float) -> None:
        if now - self._since > LIVED_S:
            self._backoff.succeeded()
        if self._backoff.attempts == ATTEMPTS:
            return  # the loop's own check reports it
        wait_s = self._backoff.next_s()
        try:
            child.check()
        except LoopError as error:
            echo(f"{error} It starts again in {wait_s:.0f} s.", err=True)
        self._loop.end(child)
        self._child, self._due = None, now + wait_s


class ProjectLoop(Loop):
    """The loop on the project itself: its parts have the settings that they have when started by hand."""

    @property
    def host(self) -> str:
        """By the settings."""
        return reached_at(self.settings.serving.host)

    @property
    def environment(self) -> dict[str, str]:
        """The environment with Kafka's address and the service's port, which the settings leave open."""
        ours = {"HEADRACE_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap, "HEADRACE_SERVING__PORT": str(self.port)}
        return {**os.environ, **ours}


def stream_status(home: Path) -> dict[str, Any]:
    """The stream's last status; its state is 'absent' where that is too old."""
    from features.online_store import read_status
    from features.times import now_ms

    return read_status(home, now_ms())


@dataclass
class Schedule:
    """A verb as a process: once there are events, and then every so many seconds; one at a time.

    Args:
        every_s: from the end of one to the start of the next; 0 for never.
        verb: the headrace command.
        words: its names in the status line, while it runs and once it has ended.
        due: the first start, on the monotonic clock.
        tables: streams whose tables it needs in the offline store.
    """

    loop: Loop
    every_s: float
    verb: Sequence[str] = ("train",)
    words: tuple[str, str] = ("training", "trained")
    due: float = 0.0
    tables: Sequence[str] = ()
    last: str = ""
    running: Child | None = field(default=None)

    def tick(self, now: float) -> None:
        """Starts the process when it is due, or handles its end."""
        if self.running is not None:
            self._look(self.running, now)
        elif self.every_s and now >= self.due and self._has_events():
            logs = self.loop.home / "logs"
            self.running = Child.start(self.verb[0], list(self.verb), self.loop.environment, self.loop.root, logs)

    def _look(self, child: Child, now: float) -> None:
        status = child.process.poll()
        if status is None:
            return
        self.running, self.due = None, now + self.every_s
        doing, done = self.words
        self.last = done if status == 0 else f"{doing} failed, see {child.log.name}"

    def _has_events(self) -> bool:
        offline = self.loop.root / self.loop.settings.offline.path
        return all(any(offline.glob(f"{name}/_delta_log/*.json")) for name in self.tables or ("*",))

    def state(self, now: float) -> str:
        """Its state in a few words."""
        doing, _ = self.words
        if not self.every_s:
            return f"no {doing}"
        if self.running is not None:
            return doing
        if not self.last:
            return f"{doing} waits for events"
        return f"{self.last}, again in {max(self.due - now, 0) / 60:.0f} min"

    def stop(self) -> None:
        """Ends the running process."""
        if self.running is not None:
            self.running.stop()


def status_line(stream: Mapping[str, Any], ready: Mapping[str, Any] | None, training: str) -> str:
    """The state of all parts in a line."""
    fold = stream.get("queries", {}).get("fold")
    streaming = _stream(fold) if stream["state"] == "running" and fold else ["stream starts"]
    service = f"service ready, model {ready.get('model', 'unknown without a key')}" if ready else "service starts"
    canary = ready.get("canary", "none") if ready else "none"
    service += "" if canary == "none" else f", canary {canary}"
    return " · ".join([time.strftime("%H:%M:%S"), *streaming, service, training])


def _stream(fold: Mapping[str, Any]) -> list[str]:
    """The fold's rate, lag, freshness and error."""
    behind = "unknown" if fold["lag"] is None else f"{fold['lag']:,}"
    age = fold.get("age", {})
    parts = [f"{fold['rows_per_s']:,.0f} events/s", f"lag {behind}"]
    parts += [f"fresh in {age['p50_ms']:.0f} ms"] if age else []
    return [*parts, f"fold {fold['state']}: {fold['error']}"] if fold.get("error") else parts


@contextmanager
def status_display() -> Iterator[Callable[[str], None]]:
    """A function that shows a line: over the previous one on a terminal, below it elsewhere."""
    if not sys.stderr.isatty():
        yield lambda line: echo(line, err=True)
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("starting") as shown:
        yield lambda line: shown.update(Text(inert_line(line), no_wrap=True, overflow="ellipsis"))
