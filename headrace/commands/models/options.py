"""Options that the commands of models share, and training's settings from them. Imports wait for a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from features.errors import UsageError
from headrace.console import say

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import ValidationError

    from features.definitions import Recommender
    from headrace.project import Project
    from training.settings import TrainingSettings

NAME = click.option(
    "--name", "--model", "name", help="The registered model; that of the default recommender unless given."
)

FROM = click.option("--from", "path", metavar="FILE", help="Judge on a file instead of the offline store.")

FORMAT = click.option("--format", "kind", metavar="FORMAT", help="Of the file, such as online-retail or jsonl.")

SET = click.option("--set", "changed", multiple=True, metavar="KEY=VALUE", help="A training setting, such as k=20.")


def chosen_training(
    project: Project, name: str | None, changed: Sequence[str], written: Mapping[str, Any] | None = None
) -> tuple[Recommender, TrainingSettings]:
    """The recommender of this name, or the default one, and its training's settings with these KEY=VALUE over them.

    A new name is of the default recommender's definition, to be registered under that name. Settings that definitions
    replace still count, for the default one; a line on stderr says what replaces them.

    Args:
        written: counts instead of the section [training] of the project's settings.

    Raises UsageError for an invalid setting, and where there is no such recommender.
    """
    from features.definitions import REPLACED_NAMES, REPLACED_SETTINGS, with_names

    written, repo = project.settings.training if written is None else written, project.repo
    chosen = repo.chosen_recommenders(written)
    for note in chosen.notes:
        say(note)
    known = name is None or name in chosen.by_name or chosen.default is None
    recommender = chosen.named(name if known else None, "headrace train")
    of_default = recommender == chosen.default
    recommender = recommender if known else replace(recommender, name=str(name))
    kept = {
        key: value for key, value in written.items() if key not in (REPLACED_NAMES if of_default else REPLACED_SETTINGS)
    }
    values = changed_values(kept, changed)
    names = {key: str(values.pop(key)) for key in REPLACED_NAMES if key in values}
    recommender = with_names(recommender, names, repo.streams, repo.views)
    return recommender, training_settings(recommender, values)


def changed_values(written: Mapping[str, Any], changed: Sequence[str]) -> dict[str, Any]:
    """The settings as they are written, with these KEY=VALUE over them. Raises UsageError for what is none."""
    values = dict(written)
    for text in changed:
        key, sign, value = text.partition("=")
        if not (key and sign):
            raise UsageError("--set", "KEY=VALUE, such as iterations=200", repr(text))
        section, dot, inner = key.partition(".")
        before = values.get(section)
        inside = before if isinstance(before, Mapping) else {}
        values[section] = {**inside, inner: value} if dot else _listed(key, value)
    return values


def training_settings(recommender: Recommender, values: Mapping[str, Any]) -> TrainingSettings:
    """The settings of the definition with these over them. Raises UsageError for an invalid one."""
    from pydantic import ValidationError

    from training.settings import TrainingSettings

    try:
        return TrainingSettings.of(recommender, values)
    except ValidationError as error:
        raise invalid_setting(error) from error


def opened(root: Path) -> Project:
    """The project in this folder."""
    from headrace.project import Project

    return Project.open(root)


def model_name(project: Project, name: str | None) -> str:
    """The name, or that of the project's default recommender. Raises UsageError without one."""
    if name is not None:
        return name
    return project.repo.chosen_recommenders(project.settings.training).named(None, "option --model").name


def _listed(key: str, value: str) -> str | list[str]:
    """The value, as a list where the setting is one."""
    return [part for part in value.split(",") if part] if key in ("targets", "sources") else value


def invalid_setting(error: ValidationError) -> UsageError:
    """The error that names the first invalid setting."""
    first = error.errors()[0]
    where = f"training setting '{'.'.join(map(str, first['loc']))}'"
    return UsageError(where, first["msg"], repr(first.get("input")))
