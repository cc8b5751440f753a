"""The command line: a group whose verbs are imported when they are called, so that --help and errors come at once.

Data goes to stdout, everything else to stderr; exit 0 done, 1 it failed, 2 asked wrongly.
"""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from features.errors import HeadraceError, UsageError

VERBS = {
    "features": ("commands.features.show:features", "What is defined, and its values, now or from a file."),
    "features.check": ("commands.features.check:check", "The laws and the parity of all paths on a file of yours."),
    "features.rebuild": ("commands.stream.stream:rebuild", "Make the online rows anew from the offline store."),
    "features.plan": ("commands.features.plan:plan", "What a change of the definitions means for what runs."),
    "features.backfill": ("commands.features.backfill:backfill", "The features of a file's rows as they were then."),
    "features.verify": ("commands.features.verify:verify", "Online against offline: what differs, by feature."),
    "demo": ("commands.demo:demo", "The whole loop on this machine, told as it happens."),
    "up": ("commands.up:up", "Kafka, the stream, the service and training of this project, until Ctrl-C."),
    "replay": ("commands.stream.produce:replay", "Send a file's events to their topics."),
    "import": ("commands.stream.import_:import_files", "History of files into the offline store, without Kafka."),
    "generate": ("commands.stream.produce:generate", "Send a simulated shop's events."),
    "stream": ("commands.stream.stream:stream", "Fold the topics into the online store, and archive them."),
    "status": ("commands.stream.stream:status", "How the stream is doing."),
    "train": ("commands.models.train:train", "Train a recommender, test it, and let it serve when it is better."),
    "evaluate": ("commands.models.evaluate:evaluate", "A published protocol on a file: its split, models and metrics."),
    "models": (
        "commands.models.models:models",
        "The registered models: list, compare, promote, canary, rollback, drift.",
    ),
    "models.examples": ("commands.models.register:examples", "What a ranker learns from, as a Parquet file."),
    "models.register": ("commands.models.register:register", "An MLflow model of yours as the ranker, judged."),
    "serve": ("commands.serve:serve", "Answer HTTP requests with the champion."),
    "recommend": ("commands.serve:recommend", "Ask the running service."),
    "bench": ("bench.report:bench", "Measure Headrace on this machine, beside a peer where there is one."),
    "bench.core": ("bench.core:core", "Folding, finalizing and history on one processor."),
    "bench.parse": ("bench.parse:parse_bench", "Parsing JSON events on one processor, beside other readers."),
    "bench.freshness": ("bench.loop.freshness:freshness", "The age of an event when a read shows its features."),
    "bench.throughput": ("bench.loop.throughput:throughput", "Events a second that the running stream folds."),
    "bench.online-read": ("bench.online:online_read", "Reads of the online store, beside stock Feast's."),
    "bench.online-write": ("bench.online:online_write", "Rows into the online store, beside stock Feast's."),
    "bench.point-in-time": ("bench.history:point_in_time", "Training sets, beside Feast's duckdb store."),
    "bench.train": ("bench.train:train", "How long models take to fit a million rows, and in how much memory."),
    "bench.serve": ("bench.loop.serve:serve_bench", "Requests a second, and new champions under load: none is lost."),
    "bench.own-clicks": ("bench.loop.own_clicks:own_clicks", "How long a click and the next read take, counted once."),
    "bench.alerts": ("bench.loop.alerts:alerts_bench", "How soon what a model or a rule tells of can be read."),
    "tables": ("commands.stream.tables:tables", "The offline store's tables: what they hold, and their upkeep."),
    "deadletters": ("commands.stream.deadletters:deadletters", "What was refused and why, and sending it again."),
    "alerts": ("commands.stream.alerts:alerts", "What event models and rules told of, as it comes and to where."),
    "alerts.deliver": ("commands.stream.deliver:deliver", "Take alerts to a table, PostgreSQL and a webhook."),
    "doctor": ("commands.doctor:doctor", "Check Python, packages, Java, ports, disk, memory and definitions."),
}
"""Verb → where in ``headrace`` its click command is, and the line that stands for it in --help (it imports none).

A name with a dot is a verb of the group before the dot.
"""

QUIET = {"MLFLOW_LOGGING_LEVEL": "WARNING", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
"""What MLflow, which reads it when it is imported, says unless the environment wants more: only what is wrong."""


class AskedWrongly(click.ClickException):
    """A UsageError on its way out."""

    exit_code = 2


def verbs_of(group: str) -> dict[str, tuple[str, str]]:
    """The entries of VERBS that are directly within the group ('' for headrace itself), by their last name."""
    parted = {verb.rpartition("."): entry for verb, entry in VERBS.items()}
    return {name: entry for (above, _, name), entry in parted.items() if above == group}


def with_verbs(command: click.Command, name: str) -> click.Command:
    """The command; where VERBS has verbs within it, as a group that has them beside its own."""
    if not verbs_of(name) or not isinstance(command, click.Group):
        return command
    return LazyGroup(command.name, command.commands, within=name, help=command.help, params=command.params)


class LazyGroup(click.Group):
    """A group that imports a verb's module when the verb is asked for.

    Args:
        within: the group's own name in VERBS; '' for headrace itself.
    """

    def __init__(self, *args: Any, within: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.within = within
        self.verbs = verbs_of(within)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *self.verbs]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.verbs:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self.verbs[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"headrace.{module}"), attribute)
        return with_verbs(command, f"{self.within}.{cmd_name}".lstrip("."))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            raise click.UsageError(unknown_verb(ctx.command_path, args[0], known), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [(verb, command.get_short_help_str(limit=90)) for verb, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl([*own, *((verb, summary) for verb, (_, summary) in self.verbs.items())])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            raise AskedWrongly(str(error)) from error
        except HeadraceError as error:
            raise click.ClickException(str(error)) from error


def unknown_verb(where: str, verb: str, known: Sequence[str]) -> str:
    """The message for a verb that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(verb, known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"{where} requires one of the verbs {', '.join(known)}; got '{verb}'.{hint}"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="headrace", message="%(prog)s %(version)s")
def cli() -> None:
    """Bring a stream of events to a model: one definition of a feature, the same number everywhere.

    \b
    Examples:
      headrace doctor
      headrace features list
    """


def main() -> NoReturn:
    """Never returns: runs the command line and ends the process with its exit status."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    cli(prog_name="headrace")
    raise SystemExit(0)


if __name__ == "__main__":
    main()
