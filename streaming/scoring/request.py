"""A request to an event model about the events of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from models.event_model import EventColumnsOfModel, LoadedEventModel


@dataclass(frozen=True)
class ScoringRequest:
    """The model, the version that scores, and the reason if there is none."""

    asked: EventColumnsOfModel
    loaded: LoadedEventModel | None
    missing: str | None

    def columns_of(self, view: str) -> list[str]:
        """The model's columns that are features of the view."""
        (found,) = (one for one in self.asked.source.views if one.name == view)
        own = self.asked.model.stream.dtypes
        return [name for name in self.asked.model.needed if name in found.names and name not in own]
