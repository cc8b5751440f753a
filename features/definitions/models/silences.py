"""Rules of silence as data: an entity whose events stop is an alert of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from features.definitions.checks import check_name, freeze
from features.definitions.expressions import Condition, FrozenMap, check_where, freeze_where
from features.definitions.streams import Entity, Stream
from features.definitions.windows import duration_ms
from features.errors import DefinitionError

SILENCE_CLOCKS = ("wall", "stream")


@dataclass(frozen=True)
class Silence:
    """A rule on the time since an entity's last event, raised by the clock: each silence alerts once.

    A silence is between two arrivals (known_at) of an entity's events that are more than ``longer_than`` apart, or from
    the last one on. The next event ends it; the one after that may be another.

    Args:
        name: the alerts' source is 'silence:' and this.
        entity: whose events they are; the stream has its keys.
        stream: the events; a view of the entity reads it.
        longer_than: a silence is longer than this.
        where: field → condition, of the events that count; by default all do.
        resolved: whether the end of a silence is an alert too, with the source 'resolved:' and the name.
        clock: 'wall' for a live topic: the time up to which everything is read; 'stream' for a replay of the past: the
            newest arrival of any of its entities.
        forget_after: an entity of which nothing came for this long is forgotten.
    """

    name: str
    entity: Entity
    stream: Stream
    longer_than: str
    where: Mapping[str, Any] | None = None
    resolved: bool = False
    clock: str = "wall"
    forget_after: str = "30d"

    def __post_init__(self) -> None:
        where = f"silence {self.name!r}"
        check_name(self.name, where)
        if not isinstance(self.entity, Entity) or not isinstance(self.stream, Stream):
            raise DefinitionError(where, "entity=Entity(…) and stream=Stream(…)", f"{self.entity!r}, {self.stream!r}")
        self.stream.check_keys(self.entity, where)
        if self.clock not in SILENCE_CLOCKS:
            raise DefinitionError(f"{where}: clock", f"one of {', '.join(SILENCE_CLOCKS)}", repr(self.clock))
        if not isinstance(self.resolved, bool):
            raise DefinitionError(f"{where}: resolved", "True or False", repr(self.resolved))
        if self.longer_ms == 0 or self.forget_ms <= self.longer_ms:
            required = "longer_than above 0, and forget_after above it"
            raise DefinitionError(where, required, f"{self.longer_than!r} and {self.forget_after!r}")
        conditions = freeze_where(self.where, where)
        check_where(conditions, self.stream.dtypes, where)
        freeze(self, where=conditions)

    @property
    def filter(self) -> FrozenMap[Condition]:
        """The checked form of ``where``."""
        return self.where  # type: ignore[return-value]  # __post_init__ froze it

    @property
    def longer_ms(self) -> int:
        """``longer_than`` in ms."""
        return duration_ms(self.longer_than, f"silence '{self.name}': longer_than")

    @property
    def forget_ms(self) -> int:
        """``forget_after`` in ms."""
        return duration_ms(self.forget_after, f"silence '{self.name}': forget_after")
