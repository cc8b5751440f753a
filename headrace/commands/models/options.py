"""Options that the commands of models share, and training's settings from them. Imports wait for a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from features.errors import UsageError
from models.tags import MODEL_NAME

if TYPE_CHECKING:
    from pydantic import ValidationError

    from training.settings import TrainingSettings

NAME = click.option("--name", "--model", "name", default=MODEL_NAME, show_default=True, help="The registered model.")

FROM = click.option("--from", "path", metavar="FILE", help="Judge on a file instead of the offline store.")

FORMAT = click.option("--format", "kind", metavar="FORMAT", help="Of the file, such as online-retail or jsonl.")

SET = click.option("--set", "changed", multiple=True, metavar="KEY=VALUE", help="A training setting, such as k=20.")


def training_settings(
    name: str | None, changed: Sequence[str], written: Mapping[str, Any] | None = None
) -> TrainingSettings:
    """The settings as they are written, with these KEY=VALUE over them. Raises UsageError for an invalid one.

    Args:
        written: the section [training] of the project's settings.
    """
    from pydantic import ValidationError

    from training.settings import TrainingSettings

    values: dict[str, Any] = {**(written or {}), **({} if name is None else {"name": name})}
    for text in changed:
        key, sign, value = text.partition("=")
        if not (key and sign):
            raise UsageError("--set", "KEY=VALUE, such as iterations=200", repr(text))
        section, dot, inner = key.partition(".")
        before = values.get(section)
        inside = before if isinstance(before, Mapping) else {}
        values[section] = {**inside, inner: value} if dot else _listed(key, value)
    try:
        return TrainingSettings(**values)
    except ValidationError as error:
        raise invalid_setting(error) from error


def _listed(key: str, value: str) -> str | list[str]:
    """The value, as a list where the setting is one."""
    return [part for part in value.split(",") if part] if key in ("targets", "sources") else value


def invalid_setting(error: ValidationError) -> UsageError:
    """The error that names the first invalid setting."""
    first = error.errors()[0]
    where = f"training setting '{'.'.join(map(str, first['loc']))}'"
    return UsageError(where, first["msg"], repr(first.get("input")))
