"""The command line: a group whose verbs are imported when they are called, so that --help and errors come at once.

Data goes to stdout, everything else to stderr; exit 0 done, 1 it failed, 2 asked wrongly.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any, NoReturn

import click

from features.errors import HeadraceError, UsageError

VERBS = {
    "features": ("features.cli:features", "What is defined, and its values computed from a file."),
    "demo": ("headrace_demo:demo", "The whole loop on this machine, told as it happens."),
    "up": ("headrace_up:up", "Kafka, the stream, the service and training of this project, until Ctrl-C."),
    "replay": ("streaming.producers_cli:replay", "Send a file's events to their topics."),
    "generate": ("streaming.producers_cli:generate", "Send a simulated shop's events."),
    "stream": ("streaming.stream_cli:stream", "Fold the topics into the online store, and archive them."),
    "status": ("streaming.stream_cli:status", "How the stream is doing."),
    "train": ("training.cli:train", "Train a recommender, test it, and let it serve when it is better."),
    "models": ("training.cli:models", "The registered models."),
    "serve": ("serving.cli:serve", "Answer HTTP requests with the champion."),
    "recommend": ("serving.cli:recommend", "Ask the running service."),
    "bench": ("headrace_bench:bench", "Measure the core, and how fresh features are, on this machine."),
    "deadletters": ("streaming.cli:deadletters", "What was refused and why, and sending it again."),
    "doctor": ("headrace_doctor:doctor", "Check Python, packages, Java, ports, disk, memory and definitions."),
}
"""Verb → where its click command is, and the line that stands for it in --help (which imports none of them)."""


class AskedWrongly(click.ClickException):
    """A UsageError on its way out."""

    exit_code = 2


class LazyGroup(click.Group):
    """A group that knows its verbs by name and imports a verb's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(unknown_verb(args[0]), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, summary) for verb, (_, summary) in VERBS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            raise AskedWrongly(str(error)) from error
        except HeadraceError as error:
            raise click.ClickException(str(error)) from error


def unknown_verb(verb: str) -> str:
    """The message for a verb that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"headrace requires one of the verbs {', '.join(VERBS)}; got '{verb}'.{hint}"


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
    cli(prog_name="headrace")
    raise SystemExit(0)


if __name__ == "__main__":
    main()
