"""Where a message has a value: a path of keys, or the first of several paths that has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from features.definitions.checks import freeze
from features.errors import DefinitionError

Path = str | Sequence[str]
"""A key of the message, dotted for nested objects: 'user.id'; or a list of keys, which may have dots themselves."""


@dataclass(frozen=True)
class FirstOf:
    """The value of the first of these paths that has one: FirstOf(["after.id", "before.id"]).

    A path that is missing or null has none. Events that we write have the value at the first path.
    """

    paths: Sequence[Path]

    def __post_init__(self) -> None:
        paths = self.paths
        if isinstance(paths, str) or not isinstance(paths, Sequence) or not paths:
            raise DefinitionError("FirstOf", "a list of paths, such as ['after.id', 'before.id']", repr(paths))
        freeze(self, paths=tuple(_checked(path, "FirstOf") for path in paths))


Origin = Path | FirstOf
"""What names where a value is taken from."""


def checked_origin(origin: object, where: str) -> Origin:
    """The origin, as a definition keeps it. Raises DefinitionError unless it is one."""
    return origin if isinstance(origin, FirstOf) else _checked(origin, where)


def _checked(path: object, where: str) -> Path:
    keys = path.split(".") if isinstance(path, str) else path
    if not isinstance(keys, Sequence) or not keys or not all(isinstance(key, str) and key for key in keys):
        required = "a key of the message, dotted for nested objects, a list of keys, or FirstOf of such paths"
        raise DefinitionError(where, required, repr(path))
    return path if isinstance(path, str) else tuple(keys)


def key_paths(origin: Origin) -> tuple[tuple[str, ...], ...]:
    """The keys of each path of the origin, in the order in which they are looked at."""
    paths = origin.paths if isinstance(origin, FirstOf) else (origin,)
    return tuple(tuple(path.split(".") if isinstance(path, str) else path) for path in paths)


def written_path(origin: Origin) -> tuple[str, ...]:
    """The keys at which an event that we write has the value."""
    return key_paths(origin)[0]


def path_text(keys: Sequence[str]) -> str:
    """The path as messages name it: dotted."""
    return ".".join(keys)


def column_names(origin: Origin) -> tuple[str, ...]:
    """The columns of a flat file that may have the value, in the order in which they are looked at."""
    return tuple(path_text(keys) for keys in key_paths(origin))
