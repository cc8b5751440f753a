"""A request to an event model about the events of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from models.event_model import EventModelColumns, LoadedEventModel


@dataclass(frozen=True)
class ScoringRequest:
    """The model's columns, the version that scores, and the reason if there is none."""

    columns: EventModelColumns
    loaded: LoadedEventModel | None
    missing: str | None

    def columns_of(self, view: str) -> list[str]:
        """The model's columns that are features of the view."""
        (definition,) = (each for each in self.columns.source.views if each.name == view)
        own = self.columns.model.stream.dtypes
        return [name for name in self.columns.model.needed if name in definition.names and name not in own]
