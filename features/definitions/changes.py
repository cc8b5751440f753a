"""The effects of a change of the definitions: features new, gone, renamed or changed, and rows to rebuild."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from features.definitions.streams import Stream
from features.definitions.views import Feature, FeatureView, canonical, used_columns

CHECKED_FIELDS = ("ttl_ms", "description", "version")


@dataclass(frozen=True)
class Changed:
    """A feature of the same name and another meaning; ``parts`` lists each difference as 'path: old → new'."""

    feature: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class ViewPlan:
    """The effects of the change on one view.

    Args:
        status: 'same', 'new', 'removed' or 'changed'.
        rebuild: its rows must be made anew; if False, the change is only in how they are read.
        renamed: old name → new name of features with the same meaning.
        notes: other differences: ttl, description, version.
    """

    view: str
    status: str
    rebuild: bool
    new: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    changed: tuple[Changed, ...] = ()
    notes: tuple[str, ...] = ()


def plan_changes(before: Mapping[str, FeatureView], after: Mapping[str, FeatureView]) -> list[ViewPlan]:
    """The plan of every view that was or is defined: today's in their order, then the removed ones."""
    plans = [_view_plan(before.get(name), view) for name, view in after.items()]
    removed = [
        ViewPlan(name, "removed", False, removed=view.names) for name, view in before.items() if name not in after
    ]
    return plans + removed


def _view_plan(before: FeatureView | None, after: FeatureView) -> ViewPlan:
    if before is None:
        return ViewPlan(after.name, "new", True, new=after.names)
    old, new = ({feature.name: _meaning(feature) for feature in view.features} for view in (before, after))
    appeared = {name: meaning for name, meaning in new.items() if name not in old}
    renamed = dict(_renamed({name: meaning for name, meaning in old.items() if name not in new}, appeared))
    return ViewPlan(
        view=after.name,
        status="same" if canonical(before) == canonical(after) else "changed",
        rebuild=before.schema_hash != after.schema_hash,
        new=tuple(name for name in appeared if name not in renamed.values()),
        removed=tuple(name for name in old if name not in new and name not in renamed),
        renamed=renamed,
        changed=tuple(
            Changed(name, tuple(differences(old[name], new[name])))
            for name in new
            if name in old and old[name] != new[name]
        ),
        notes=tuple(_notes(before, after)),
    )


def _meaning(feature: Feature) -> Any:
    """A feature's definition as plain JSON values, without its name."""
    if feature.expression is not None or feature.feature_set is None:
        return {"expression": canonical(feature.expression)}
    feature_set = feature.feature_set
    return {
        "entity": canonical(feature_set.entity),
        "stream": canonical(feature_set.source),
        "where": canonical(feature_set.where),
        "aggregation": canonical(feature.aggregation),
        "window": canonical(feature.window),
    }


def _renamed(removed: Mapping[str, Any], appeared: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(removed name, new name) of features with the same meaning; each name is in at most one pair."""
    candidates = dict(appeared)
    for name, meaning in removed.items():
        new = next((new_name for new_name, other in candidates.items() if other == meaning), None)
        if new is not None:
            del candidates[new]
            yield name, new


def _notes(before: FeatureView, after: FeatureView) -> Iterator[str]:
    for name in CHECKED_FIELDS:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            yield f"{name}: {old!r} → {new!r}"


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """'window.length: 1h → 2h' for every path at which two canonical values differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            if old.get(name) != new.get(name):
                yield from differences(old.get(name), new.get(name), f"{path}.{name}" if path else str(name))
    elif old != new:
        yield f"{path}: {_text(old)} → {_text(new)}"


def _text(value: Any) -> str:
    return "nothing" if value is None or value in ({}, []) else str(value)


@dataclass(frozen=True)
class Retyped:
    """A field of a stream that has archived values in other dtypes than today's ``dtype``."""

    stream: str
    field: str
    dtype: str
    archived: tuple[str, ...]

    def __str__(self) -> str:
        archived = " and ".join(self.archived)
        return (
            f"stream '{self.stream}': {self.field} is {self.dtype} now, and has values in the archive as {archived}: "
            f"they stay as they are, and history has those that {self.dtype} holds exactly, null for the rest"
        )


@dataclass(frozen=True)
class StreamHistory:
    """The extent of a stream's archive: columns, number of records, known_at of the first and the last (ms).

    ``dtypes``: field → the dtypes in which the archive has its values.
    """

    columns: tuple[str, ...]
    rows: int
    first_ms: int | None
    last_ms: int | None
    dtypes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def retyped(self, stream: Stream) -> Iterator[Retyped]:
        """The stream's fields with archived values of another dtype than today's."""
        for name, dtype in stream.dtypes.items():
            others = tuple(other for other in self.dtypes.get(name, ()) if other != dtype)
            if others:
                yield Retyped(stream.name, name, dtype, others)


@dataclass(frozen=True)
class Rebuild:
    """The cost and the gaps of making a view's rows from the archive.

    Args:
        rows: records to read.
        seconds: estimated duration.
        lacking: sentences on what the rows will not have; empty if they will be as if the view had always been defined.
    """

    view: str
    rows: int
    seconds: float
    lacking: tuple[str, ...]


def rebuild_of(view: FeatureView, histories: Mapping[str, StreamHistory], now: int, per_s: float) -> Rebuild:
    """The cost and the gaps of a rebuild of the view.

    Args:
        histories: stream name → its archive; a stream without a table is left out.
        now: epoch ms.
        per_s: records read and folded per second.
    """
    rows = sum(histories[stream.name].rows for stream in view.streams if stream.name in histories)
    lacking = [line for stream in view.streams for line in _lacking(view, stream, histories.get(stream.name), now)]
    return Rebuild(view.name, rows, round(rows / per_s, 1), tuple(lacking))


def _lacking(view: FeatureView, stream: Stream, history: StreamHistory | None, now: int) -> Iterator[str]:
    if history is None or history.first_ms is None:
        yield f"stream '{stream.name}' has no history: its features begin with today's events"
        return
    missing: Sequence[str] = [name for name in used_columns(view, stream) if name not in history.columns]
    if missing:
        yield f"stream '{stream.name}' has no {', '.join(missing)} in its history: null there"
    covered = max(now - history.first_ms, 0)
    if covered < view.horizon_ms:
        days = 24 * 60 * 60 * 1000
        yield f"stream '{stream.name}' has {covered / days:.1f} d of history of {view.horizon_ms / days:.1f} d"
