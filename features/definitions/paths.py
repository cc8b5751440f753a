"""Where a value is taken from: a path into a message, its record's key, headers or time, or the first of several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from features.definitions.checks import freeze
from features.errors import DefinitionError


@dataclass(frozen=True)
class ElementWith:
    """A step to the first element of an array that has this value at ``key``: ElementWith("key", "page_location")."""

    key: str
    value: str | int

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key or type(self.value) not in (str, int):
            required = "a key of the elements, and the text or whole number that it has in the one to take"
            raise DefinitionError("ElementWith", required, f"{self.key!r}, {self.value!r}")


@dataclass(frozen=True)
class JsonText:
    """A step into a text that holds JSON: ["payload", JsonText(), "user", "id"]."""


@dataclass(frozen=True)
class RecordKey:
    """The record's key, as UTF-8 text; [RecordKey(), JsonText(), "id"] leads into one that holds JSON."""


@dataclass(frozen=True)
class RecordHeader:
    """The record's last header of this name, as UTF-8 text; a step JsonText() leads into one that holds JSON."""

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise DefinitionError("RecordHeader", "the name of a header", repr(self.name))


@dataclass(frozen=True)
class RecordTime:
    """When the record was written, epoch ms: its time in Kafka, which is the broker's or the producer's."""


OfRecord = RecordKey | RecordHeader | RecordTime
"""Parts of a record beside its message: where a path may begin."""

Step = str | int | ElementWith | JsonText | OfRecord
"""A key of an object, the number of an element (from 0; -1 is the last), and the others."""

Steps = tuple[Step, ...]

Path = str | OfRecord | Sequence[Step]
"""A key of the message, dotted for nested objects: 'user.id'; a list of steps, whose keys may have dots; or a part of
the record."""

REQUIRED = "a key of the message, dotted for nested objects, a list of steps, a part of the record, or FirstOf of such"


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
        freeze(self, paths=tuple(checked_path(path, "FirstOf") for path in paths))


Origin = Path | FirstOf
"""What names where a value is taken from."""


def checked_origin(origin: object, where: str) -> Origin:
    """The origin, as a definition keeps it. Raises DefinitionError unless it is one."""
    return origin if isinstance(origin, FirstOf) else checked_path(origin, where)


def checked_path(path: object, where: str) -> Path:
    """The path, as a definition keeps it. Raises DefinitionError unless it is one."""
    if isinstance(path, OfRecord):
        return (path,)
    steps = path.split(".") if isinstance(path, str) else path
    if not isinstance(steps, Sequence) or not steps or not all(map(_is_step, steps)):
        raise DefinitionError(where, REQUIRED, repr(path))
    _, *rest = steps
    if any(isinstance(step, OfRecord) for step in rest) or not isinstance(steps[0], str | OfRecord):
        raise DefinitionError(where, "steps that begin with a key of the message or a part of the record", repr(path))
    return path if isinstance(path, str) else tuple(steps)


def _is_step(step: object) -> bool:
    return (
        (isinstance(step, str) and bool(step))
        or type(step) is int
        or isinstance(step, ElementWith | JsonText | OfRecord)
    )


def step_paths(origin: Origin) -> tuple[Steps, ...]:
    """The steps of each path of the origin, in the order in which they are looked at."""
    return tuple(map(_steps, origin.paths if isinstance(origin, FirstOf) else (origin,)))


def _steps(path: Path) -> Steps:
    if isinstance(path, str):
        return tuple(path.split("."))
    return (path,) if isinstance(path, OfRecord) else tuple(path)


def keys_of(steps: Steps) -> tuple[str, ...] | None:
    """The steps, if they are keys of nested objects alone; else None."""
    keys = tuple(step for step in steps if isinstance(step, str))
    return keys if len(keys) == len(steps) else None


def is_inside(steps: Steps, each: Path | None) -> bool:
    """True for a path that leads into the elements of the array at ``each``."""
    outer = () if each is None else _steps(each)
    return bool(outer) and steps[: len(outer)] == outer


def written_path(origin: Origin) -> tuple[str, ...]:
    """The keys at which an event that we write has the value: its first path of keys alone; empty if it has none."""
    return next((keys for keys in map(keys_of, step_paths(origin)) if keys is not None), ())


def path_text(steps: Sequence[Step]) -> str:
    """The path as messages name it: 'items[0].id', 'params[key=page].value'."""
    return "".join(_texts(steps))


def _texts(steps: Sequence[Step]) -> Iterator[str]:
    for number, step in enumerate(steps):
        match step:
            case str():
                yield f".{step}" if number else step
            case int():
                yield f"[{step}]"
            case ElementWith(key, value):
                yield f"[{key}={value}]"
            case JsonText():
                yield " in JSON"
            case RecordHeader(name):
                yield f"header {name}"
            case RecordKey():
                yield "the record's key"
            case RecordTime():
                yield "the record's time"


def column_names(origin: Origin, name: str) -> tuple[str, ...]:
    """The columns of a flat file that may have our column, in the order in which they are looked at.

    A path of keys is a column named with dots; anything else is one of our own name.
    """
    keys = [keys_of(steps) for steps in step_paths(origin)]
    return tuple(dict.fromkeys(name if path is None else ".".join(path) for path in keys))


def without_record(origin: Origin, name: str) -> Origin:
    """The origin in lines of a file, which have our name where the topic's records have a key, a header or a time."""
    paths = [(name,) if isinstance(steps[0], OfRecord) else steps for steps in step_paths(origin)]
    return paths[0] if len(paths) == 1 else FirstOf(paths)
