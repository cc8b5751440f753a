"""The command line: a group whose verbs are imported when they are called, so that --help and errors come at once.

Data goes to stdout, everything else to stderr; exit 0 on success, 1 on failure, 2 on wrong usage.
"""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from features.errors import HeadraceError, UsageError
from features.redaction import inert, redact_output
from features.secret_files import SECRETS_DIR

VERBS = {
    "features": ("commands.features.show:features", "Show the definitions and values, online or from a file."),
    "features.check": ("commands.features.check:check", "Check the laws and the parity of all paths on a file."),
    "features.rebuild": ("commands.stream.stream:rebuild", "Build the online rows again from the offline store."),
    "features.plan": ("commands.features.plan:plan", "Show what changed definitions do to rows and models."),
    "features.backfill": (
        "commands.features.backfill:backfill",
        "Write a file's rows with the features of their times.",
    ),
    "features.verify": ("commands.features.verify:verify", "Compare online with offline features."),
    "demo": ("commands.demo:demo", "Run the whole loop on this machine and print each step."),
    "up": ("commands.up:up", "Run the project: Kafka, stream, service and training, until Ctrl-C."),
    "replay": ("commands.stream.produce:replay", "Send a file's events to their topics."),
    "import": ("commands.stream.import_:import_files", "Import files into the offline store, without Kafka."),
    "generate": ("commands.stream.produce:generate", "Send a simulated shop's events."),
    "stream": ("commands.stream.stream:stream", "Fold the topics into the online store, and archive them."),
    "status": ("commands.stream.stream:status", "Show the state of the stream."),
    "train": ("commands.models.train:train", "Train a model, test it, and promote it when it is better."),
    "evaluate": ("commands.models.evaluate:evaluate", "Run a published protocol on a file."),
    "models": ("commands.models.models:models", "List, compare and promote registered models."),
    "models.examples": ("commands.models.register:examples", "Write the examples that a model learns from."),
    "models.register": ("commands.models.register:register", "Register an MLflow model of yours, and judge it."),
    "serve": ("commands.serve:serve", "Answer HTTP requests with the champion."),
    "keys": ("commands.keys:keys", "Say who may use the HTTP service, for what and how often."),
    "recommend": ("commands.serve:recommend", "Ask the running service."),
    "bench": ("bench.report:bench", "Measure Headrace on this machine, beside a peer where there is one."),
    "bench.core": ("bench.core:core", "Folding, finalizing and history on one processor."),
    "bench.parse": ("bench.parse:parse_bench", "Parsing JSON events on one processor, beside other readers."),
    "bench.freshness": ("bench.loop.freshness:freshness", "The age of an event when a read shows its features."),
    "bench.throughput": ("bench.loop.throughput:throughput", "Events a second that the running stream folds."),
    "bench.online-read": ("bench.online:online_read", "Reads of the online store, beside stock Feast's."),
    "bench.online-write": ("bench.online:online_write", "Rows into the online store, beside stock Feast's."),
    "bench.point-in-time": ("bench.history:point_in_time", "Training sets, beside Feast's duckdb store."),
    "bench.train": ("bench.train:train", "Time and memory of fitting models to a million rows."),
    "bench.serve": ("bench.loop.serve:serve_bench", "Requests a second; new champions under load lose none."),
    "bench.own-clicks": ("bench.loop.own_clicks:own_clicks", "Time of a click and the next read, counted once."),
    "bench.alerts": ("bench.loop.alerts:alerts_bench", "The age of an event when its alert can be read."),
    "tables": ("commands.stream.tables:tables", "Show and compact the offline store's tables."),
    "forget": ("commands.forget:forget", "Delete all that there is of one entity, and prove it."),
    "deadletters": (
        "commands.stream.deadletters:deadletters",
        "List refused records with their reasons, and send them again.",
    ),
    "alerts": ("commands.stream.alerts:alerts", "Show and deliver the alerts of event models and rules."),
    "alerts.deliver": ("commands.stream.deliver:deliver", "Deliver alerts to a table, PostgreSQL and a webhook."),
    "doctor": ("commands.doctor:doctor", "Check Python, packages, Java, ports, disk, memory and definitions."),
}
"""Verb → its click command in ``headrace``, and its line in --help, which imports none of the commands.

A name with a dot is a verb of the group before the dot.
"""

QUIET = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with the password that the registry's address may have
}
"""MLflow's environment, read when it is imported: warnings and errors only, unless the environment has other values."""


class WrongUsage(click.ClickException):
    """A UsageError as click shows it; the exit code is 2."""

    exit_code = 2


def verbs_of(group: str) -> dict[str, tuple[str, str]]:
    """Last name → entry, of the verbs directly within the group ('' for headrace itself)."""
    parted = {verb.rpartition("."): entry for verb, entry in VERBS.items()}
    return {name: entry for (above, _, name), entry in parted.items() if above == group}


def with_verbs(command: click.Command, name: str) -> click.Command:
    """The command; where VERBS has verbs within it, a group with these and its own."""
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
            raise WrongUsage(inert(str(error))) from error
        except HeadraceError as error:
            raise click.ClickException(inert(str(error))) from error


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
    if folder := os.environ.get(SECRETS_DIR):
        os.environ[SECRETS_DIR] = str(Path(folder).absolute())  # the service's processes run in folders of their own
    redact_output()
    cli(prog_name="headrace")
    raise SystemExit(0)


if __name__ == "__main__":
    main()
