"""Which column of a file is which of ours, and what to say where one is missing or misspelt."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from features.definitions import Origin, Stream, column_names
from features.errors import FormatError, UsageError
from features.formats.files import InputFile

OURS = ("event_id", "event_time", "known_at", "offset")
"""Columns that a table may have besides the stream's fields."""

OR = " or "
"""Between the names of columns of which one is enough."""

NEARLY = 0.8
"""The least likeness (difflib's ratio) of a name to a key's for which it is taken to be that key, misspelt."""

LINES = 100
"""The first lines of a file of JSON whose names are looked at."""


def mapping(source: InputFile, present: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Our column → the file's, for all that the file has; several where the first with a value counts.

    Raises FormatError if a required column is missing, every key is, or one that is missing is there misspelt.
    """
    stream, present = stream_of(source), list(present)
    overrides = source.columns or {}
    ours = possible_names(source)
    fields = {*stream.mapped, *OURS} - {"offset"}
    unknown = [name for name in overrides if name not in fields]
    if unknown:
        required = f"names of ours ({', '.join(sorted(fields))})"
        raise UsageError(f"the columns of {source.where}", required, ", ".join(unknown))
    next_step = f"Name it with columns (--column OURS=THEIRS), or map it in stream '{stream.name}'."
    needed = {"event_time", *overrides, *(name for name, field in stream.mapped.items() if field.required)}
    missing = [name for name in ours if name in needed and not set(ours[name]) & set(present)]
    if missing:
        raise _missing(source, missing, present, next_step)
    check_keys(source, present, next_step)
    unused = set(map(_plain, _unused(ours, present)))
    absent = [name for name in ours if not set(ours[name]) & set(present)]
    misspelt = [name for name in absent if unused.intersection(map(_plain, ours[name]))]
    if misspelt:
        raise _missing(source, misspelt, present, next_step)
    found = {name: tuple(column for column in columns if column in present) for name, columns in ours.items()}
    return {name: columns for name, columns in found.items() if columns}


def check_keys(source: InputFile, present: Collection[str], next_step: str) -> None:
    """Raises FormatError if a file with these names has none of the stream's keys, or has one misspelt."""
    ours = possible_names(source)
    missing = [name for name in sorted(source.keys) if not set(ours[name]) & set(present)]
    unused = _unused(ours, present)
    misspelt = [name for name in missing if any(nearest(column, unused) for column in ours[name])]
    if present and (misspelt or (missing and len(missing) == len(source.keys))):
        raise _missing(source, misspelt or missing, present, next_step)


def their_names(source: InputFile) -> dict[str, str]:
    """Our column → what the stream and the caller say it is called in the file; empty for a data set."""
    return {name: OR.join(columns) for name, columns in possible_names(source).items()}


def possible_names(source: InputFile) -> dict[str, tuple[str, ...]]:
    """Our column → those that the file may have for it, of which the first with a value counts."""
    if source.target is None:
        return {}
    stream = source.target
    origins: dict[str, Origin] = {name: field.path or name for name, field in stream.mapped.items()}
    origins |= {"event_time": stream.event_time, "event_id": stream.event_id or "event_id", "known_at": "known_at"}
    if stream.each is not None and not stream.has_element_ids:
        origins["event_id"] = "event_id"  # a row is an element, and the message's id is one for all of them
    names = {name: column_names(origin, name) for name, origin in origins.items()}
    return names | {name: (column,) for name, column in (source.columns or {}).items()}


def stream_of(source: InputFile) -> Stream:
    """The stream that the file's rows are of. Raises UsageError if there is none."""
    if source.target is None:
        raise UsageError(source.where, "a stream whose fields say which column is which", "none")
    return source.target


def names_of_lines(lines: Sequence[bytes]) -> list[str]:
    """The dotted names in the first lines that are JSON objects, without the names of objects."""
    names: dict[str, None] = {}
    for line in lines[:LINES]:
        try:
            names |= dict.fromkeys(_dotted(json.loads(line)))
        except (ValueError, RecursionError):
            continue
    return list(names)


def _dotted(value: Any, above: str = "") -> Iterator[str]:
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        objects = [each for each in (inner if isinstance(inner, list) else [inner]) if isinstance(each, Mapping)]
        for each in objects:
            yield from _dotted(each, f"{above}{name}.")
        if not objects:
            yield f"{above}{name}"


def _unused(ours: Mapping[str, Sequence[str]], present: Iterable[str]) -> list[str]:
    """The file's columns that are none of ours, in their order."""
    used = {column for columns in ours.values() for column in columns}
    return [name for name in present if name not in used]


def _missing(source: InputFile, missing: Sequence[str], present: Collection[str], next_step: str) -> FormatError:
    """The error for columns of ours that the file lacks, with the names there and the nearest."""
    ours = possible_names(source)
    spelt = {name: OR.join(f"'{column}'" for column in ours[name]) for name in missing}
    required = ", ".join(spelt[name] + ("" if ours[name] == (name,) else f" (our {name})") for name in missing)
    others = _unused(ours, present)
    columns = [column for name in missing for column in ours[name]]
    nearly = {column: near for column in columns if (near := nearest(column, others))}
    hints = "".join(f"'{near}' is nearly '{theirs}'. " for theirs, near in nearly.items())
    if len(present) == 1 and (separator := next((one for one in ";\t|" if one in next(iter(present))), None)):
        hints = f"The columns look as if separated by {separator!r}: write the file with commas. "
    return FormatError(source.where, f"column {required}", ", ".join(present) or "no columns", hints + next_step)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that is most like this one, if one is nearly it."""
    plain = {_plain(other): other for other in names}
    found = difflib.get_close_matches(_plain(name), plain, 1, NEARLY)
    return plain[found[0]] if found else None


def _plain(name: str) -> str:
    """The letters and digits of a name in lower case."""
    return "".join(filter(str.isalnum, name.casefold()))
