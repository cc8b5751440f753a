"""Validation shared by the definitions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import Field as DataclassField
from dataclasses import field
from typing import Any, TypeGuard

from features.errors import DefinitionError

NAME = re.compile(r"[a-z][a-z0-9_]*")

OF_THE_MACHINE = ("localtime", "posixrules")
"""Names in the time zone database that mean another zone on another machine."""

LATER = "later"
"""Marks a parameter that definitions stored by earlier versions do not have."""


def freeze(instance: object, **values: object) -> None:
    """Sets checked values on a frozen definition; for __post_init__ only."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def later(default: Any = None) -> Any:
    """A keyword parameter of a definition that came later: with its default it is no part of any text or hash."""
    return field(default=default, kw_only=True, metadata={LATER: True})


def is_stated(parameter: DataclassField[Any], value: object) -> bool:
    """False for a later() parameter that has its default."""
    return LATER not in parameter.metadata or value != parameter.default


def check_name(name: object, where: str) -> None:
    """Raises DefinitionError unless it is a valid name of a column or feature."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise DefinitionError(where, "a name of lower-case letters, digits and _, starting with a letter", repr(name))


def check_model_name(name: object, where: str) -> None:
    """Raises DefinitionError unless it is a valid name of a registered model."""
    if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
        raise DefinitionError(where, "a name of letters, digits, - and _", repr(name))


def check_zone(zone: object, where: str) -> None:
    """Raises DefinitionError unless it is the name of a time zone, the same on every machine."""
    from zoneinfo import ZoneInfo

    try:
        found = isinstance(zone, str) and zone not in OF_THE_MACHINE and bool(ZoneInfo(zone))
    except (KeyError, ValueError, OSError):  # of a name, of a path, of a folder
        found = False
    if not found:
        raise DefinitionError(where, "a time zone of IANA, such as 'Europe/Berlin' or 'UTC'", repr(zone))


def check_mapping(value: object, where: str) -> None:
    """Raises DefinitionError unless it is a mapping or None."""
    if value is not None and not isinstance(value, Mapping):
        raise DefinitionError(where, "a mapping of name to expression", repr(value))


def is_finite_number(value: object) -> TypeGuard[float]:
    """Whether it is an int or a float that is neither infinite nor NaN; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def nonempty_list(values: object, where: str, kind: str) -> Sequence[Any]:
    """The values. Raises DefinitionError unless they are a list that is not empty."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise DefinitionError(where, f"a list of at least one {kind}", repr(values))
    return values
