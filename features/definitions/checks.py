"""What several definitions check alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from features.errors import DefinitionError

NAME = re.compile(r"[a-z][a-z0-9_]*")


def freeze(instance: object, **values: object) -> None:
    """Put the checked form of what a user passed into a frozen definition (only __post_init__ may)."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def check_name(name: object, where: str) -> None:
    """Raise DefinitionError unless it is a name as columns and features have them."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise DefinitionError(where, "a name of lower-case letters, digits and _, starting with a letter", repr(name))


def check_path(path: object, where: str) -> None:
    """Raise DefinitionError unless it is a dotted path into a message."""
    if not isinstance(path, str) or not all(path.split(".")):
        raise DefinitionError(where, "a key of the message, dotted for nested objects", repr(path))


def check_mapping(value: object, where: str) -> None:
    """Raise DefinitionError unless it is a mapping, or left out."""
    if value is not None and not isinstance(value, Mapping):
        raise DefinitionError(where, "a mapping of name to expression", repr(value))


def several(values: object, place: str, what: str) -> Sequence[Any]:
    """A list that is not empty, or DefinitionError."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise DefinitionError(place, f"a list of at least one {what}", repr(values))
    return values
