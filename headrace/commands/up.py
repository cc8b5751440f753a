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

from headrace.loop import Child, Loop, LoopError, interrupts_end_it

TELL_EVERY_S = 3.0

AGAIN_S = 10.0
"""After which a delivery of alerts that has ended is started again: it is never what ends the rest."""

ATTEMPTS = 5

LIVED_S = 60.0
"""A part that ran so long had started well: its next failure is the first again."""

NOT_AGAIN = (None, 0, 2)
"""Statuses of a part that runs, that was told to end, and that was asked wrongly."""

WHEN_DRIFTED = ("train", "--when-drifted")

Tell = Callable[[str], None]


@click.command()
@click.option(
    "--train-every",
    "minutes",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0),
    metavar="MINUTES",
    help="Every model, once the offline store has its events, and then so often; 0 never trains.",
)
@click.option(
    "--drift-every",
    "drift_minutes",
    default=15.0,
    show_default=True,
    type=click.FloatRange(min=0),
    metavar="MINUTES",
    help="So often it looks whether events have moved away from the champion's, and trains where they have; 0 never.",
)
def up(minutes: float, drift_minutes: float) -> None:
    """Run the project here: Kafka, unless the settings name one, the stream, the service, and training now and then.

    Alerts are delivered where the definitions have event models. A line says how it is doing. Ctrl-C or SIGTERM ends
    everything that was started, and so does the end of any part; a stream that fails is started again first.

    \b
    Examples:
      headrace up
      headrace up --train-every 15
    """
    from features.machine import free_port
    from headrace.project import Project

    project = Project.open()
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
                for one in (*trainings, delivery):
                    one.stop()
    except KeyboardInterrupt:
        click.echo("stopped; everything that was started has ended", err=True)
        sys.exit(0)


def trainings_of(loop: Loop, every_s: float, drift_s: float) -> list[Schedule]:
    """The recommender's training, what trains it where events have drifted, and the same of each event model."""
    from features.definitions import load_repo

    first = time.monotonic() + drift_s
    own = (str(loop.settings.training.get("stream", "activity")),)
    found = [
        Schedule(loop, every_s, tables=own),
        Schedule(loop, drift_s, WHEN_DRIFTED, ("drift", "drift"), first, own),
    ]
    for name, model in load_repo(loop.repo).models.items():
        tables = (model.stream.name, model.labels.name)
        found += [
            Schedule(loop, every_s, ("train", name), (f"training {name}", f"{name} trained"), tables=tables),
            Schedule(loop, drift_s, ("train", name, "--when-drifted"), (f"drift of {name}", name), first, tables),
        ]
    return found


def has_sinks(loop: Loop) -> bool:
    """True when there may be alerts, and the settings name somewhere to take them."""
    from features.definitions import load_repo

    chosen = loop.settings.alerts
    return bool(chosen.table or chosen.postgres or chosen.webhook) and bool(load_repo(loop.repo).models)


def run(loop: Loop, trainings: Sequence[Schedule], delivery: Schedule) -> None:
    """Start the parts, and tell how they are doing until one of them ends."""
    click.echo(f"Kafka answers on {loop.start_broker()}", err=True)
    stream = RestartedPart(loop, "stream")
    loop.start("serve", "serve")
    click.echo(f"service: {loop.url}/docs · logs: {loop.home / 'logs'} · Ctrl-C ends all", err=True)
    with teller() as tell:
        while True:
            stream.tick(time.monotonic())
            loop.check()
            for one in trainings:
                if not any(other.running for other in trainings if other is not one):  # one at a time in a project
                    one.tick(time.monotonic())
            delivery.tick(time.monotonic())
            ready = loop.ask("/readyz", timeout_s=1.0)
            told = [one.told(time.monotonic()) for one in trainings[:1]]
            told += [one.last for one in (*trainings[1:], delivery) if "failed" in one.last]
            tell(status_line(stream_status(loop.home), ready, " · ".join(told)))
            time.sleep(TELL_EVERY_S)


class RestartedPart:
    """A part that is started again when it fails, later each time; what fails at every attempt ends the whole.

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
        """Take notice of a failure, and start the part again when it is due."""
        if self._child is None and now >= self._due:
            self._child, self._since = self._loop.start(self._name, self._name), now
        elif self._child is not None and self._child.process.poll() not in NOT_AGAIN:
            self._failed(self._child, now)

    def _failed(self, child: Child, now: float) -> None:
        if now - self._since > LIVED_S:
            self._backoff.succeeded()
        if self._backoff.attempts == ATTEMPTS:
            return  # and the loop's own look at it says the rest
        wait_s = self._backoff.next_s()
        try:
            child.check()
        except LoopError as error:
            click.echo(f"{error} It starts again in {wait_s:.0f} s.", err=True)
        child.stop()
        self._loop.children.remove(child)
        self._child, self._due = None, now + wait_s


class ProjectLoop(Loop):
    """The loop on the project itself: its parts read the same settings as when they are started by hand."""

    @property
    def environment(self) -> dict[str, str]:
        """What the settings leave open: where Kafka is, and a free port of the service."""
        ours = {"HEADRACE_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap, "HEADRACE_SERVING__PORT": str(self.port)}
        return {**os.environ, **ours}


def stream_status(home: Path) -> dict[str, Any]:
    """What the stream told last; 'absent' where that is long ago."""
    from features.online_store import read_status
    from features.times import now_ms

    return read_status(home, now_ms())


@dataclass
class Schedule:
    """A verb as a process of its own: once there are events, and then every so many seconds; one at a time.

    Args:
        every_s: from the end of one to the start of the next; 0 for never.
        verb: what is run.
        words: what it is called while it runs, and once it has.
        due: when it starts first.
        tables: of these streams, in the offline store; without all of them there is nothing to run it on.
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
        """Start one that is due, or take notice of the end of one."""
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

    def told(self, now: float) -> str:
        """What it does, in a few words."""
        doing, _ = self.words
        if not self.every_s:
            return f"no {doing}"
        if self.running is not None:
            return doing
        if not self.last:
            return f"{doing} waits for events"
        return f"{self.last}, again in {max(self.due - now, 0) / 60:.0f} min"

    def stop(self) -> None:
        """End the one that runs."""
        if self.running is not None:
            self.running.stop()


def status_line(stream: Mapping[str, Any], ready: Mapping[str, Any] | None, training: str) -> str:
    """How everything is doing, in a line."""
    fold = stream.get("queries", {}).get("fold")
    streaming = _stream(fold) if stream["state"] == "running" and fold else ["stream starts"]
    service = f"service ready, model {ready['model']}" if ready else "service starts"
    canary = ready.get("canary", "none") if ready else "none"
    service += "" if canary == "none" else f", canary {canary}"
    return " · ".join([time.strftime("%H:%M:%S"), *streaming, service, training])


def _stream(fold: Mapping[str, Any]) -> list[str]:
    """Records a second, how far behind, how fresh, and what went wrong."""
    behind = "unknown" if fold["lag"] is None else f"{fold['lag']:,}"
    age = fold.get("age", {})
    parts = [f"{fold['rows_per_s']:,.0f} events/s", f"lag {behind}"]
    parts += [f"fresh in {age['p50_ms']:.0f} ms"] if age else []
    return [*parts, f"fold {fold['state']}: {fold['error']}"] if fold.get("error") else parts


@contextmanager
def teller() -> Iterator[Tell]:
    """Takes a line in place of the one before on a terminal, and after it elsewhere."""
    if not sys.stderr.isatty():
        yield lambda line: click.echo(line, err=True)
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("starting") as shown:
        yield lambda line: shown.update(Text(line, no_wrap=True, overflow="ellipsis"))
