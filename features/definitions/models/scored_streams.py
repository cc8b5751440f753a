"""Derived streams: the events that a model scored, each with its score, as a stream that features aggregate as any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from features.definitions.expressions import Expression, FrozenMap
from features.definitions.streams import Field, Stream
from features.errors import DefinitionError

SCORED_COLUMNS = {"score": "float64", "version": "string"}
"""Path in a scored stream's message → dtype, of what a model says: the score, and the version that scored."""

OF_EVENT = "event."
"""The path of a field of the event that was scored begins with this."""


def scored_stream(
    name: str,
    topic: str,
    of: Stream,
    fields: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    computed: Mapping[str, Expression] | None = None,
) -> Stream:
    """The stream of the events of ``of`` that a model scored; a model writes it by ``EventModel(…, scored=…)``.

    Args:
        fields: fields of ``of`` that its events keep; by default all but the computed ones.
        columns: our name → what the model says: 'score' (float64) or 'version' (string). By default both, so named.
        computed: expressions over these fields and columns.

    Raises:
        DefinitionError: ``of`` has no such field, the model says no such thing, or a name is both.
    """
    where = f"scored stream {name!r}"
    if not isinstance(of, Stream):
        raise DefinitionError(where, "of=Stream(…), whose events are scored", repr(of))
    kept = list(of.mapped) if fields is None else list(fields)
    said = {"score": "score", "version": "version"} if columns is None else dict(columns)
    if wrong := [str(field) for field in kept if field not in of.dtypes]:
        raise DefinitionError(f"{where}: fields", f"fields of stream '{of.name}' ({', '.join(of.dtypes)})", wrong[0])
    if wrong := [str(path) for path in said.values() if path not in SCORED_COLUMNS]:
        raise DefinitionError(f"{where}: columns", f"columns of {', '.join(SCORED_COLUMNS)}", wrong[0])
    if both := [column for column in said if column in kept]:
        required = f"names that no field of '{of.name}' has, such as columns={{'risk': 'score'}}"
        raise DefinitionError(f"{where}: columns", required, f"'{both[0]}'")
    mapped = {field: Field(of.dtypes[field], f"{OF_EVENT}{field}") for field in kept}
    mapped |= {column: Field(SCORED_COLUMNS[path], path) for column, path in said.items()}
    return Stream(name, topic, mapped, computed=computed, dedupe_horizon=of.dedupe_horizon)


def scored_sources(scored: Stream, of: Stream, where: str) -> FrozenMap[str]:
    """Field of the scored stream → the field of ``of``, or the model's column, that it has.

    Raises:
        DefinitionError: the stream is not one that a model of ``of`` can write.
    """
    if not isinstance(scored, Stream) or scored.name == of.name:
        required = f"scored=scored_stream(NAME, TOPIC, of={of.name}), a stream of its own"
        raise DefinitionError(where, required, repr(getattr(scored, "name", scored)))
    if scored.event_id is None or scored.also or scored.format != "json":
        required = "a scored stream of one topic in JSON, with an event_id"
        got = f"topics {', '.join(scored.topics)} in {scored.format}, event_id={scored.event_id!r}"
        raise DefinitionError(where, required, got)
    sources = {name: ".".join(scored.written_paths[name]) for name in scored.mapped}
    dtypes = {f"{OF_EVENT}{name}": dtype for name, dtype in of.dtypes.items()} | SCORED_COLUMNS
    for name, field in scored.mapped.items():
        if dtypes.get(sources[name]) != field.dtype:
            required = f"a field of '{of.name}' at '{OF_EVENT}NAME', or one of {', '.join(SCORED_COLUMNS)}"
            got = f"'{name}' ({field.dtype}) at '{sources[name]}' ({dtypes.get(sources[name], 'unknown')})"
            raise DefinitionError(f"{where}: scored", required, got)
    return FrozenMap(sources)
