"""The manifest of an event model of any kind."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from models.folder import FileEntry, ViewInputs


class EventManifest(BaseModel):
    """The manifest of an event model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    """The layout of the folder."""
    kind: Literal["events", "regression", "anomaly", "classes"] = "events"
    """A binary classifier of events, a regressor, an anomaly model, or a classifier of several classes."""
    name: str
    """The registered model's name."""
    created_ms: int
    """When training ended, epoch ms."""
    as_of_ms: int
    """The model knows what was known before this time, epoch ms."""
    stream: str
    """The stream whose events it scores."""
    inputs: tuple[str, ...]
    """Its inputs, in the order of a row."""
    typical: tuple[float, ...]
    """The median of each input in training."""
    views: tuple[ViewInputs, ...]
    """The views that inputs are features of, with the schema hashes of training."""
    threshold: float | None
    """An event of this score or a higher one alerts; none does without."""
    metrics: dict[str, float] = {}
    """Held-out metrics, such as ap and baseline_ap."""
    settings: dict[str, Any] = {}
    """Settings of the training."""
    golden: tuple[float, ...] = ()
    """Its scores of GOLDEN_EVENTS made-up events when it was made."""
    files: dict[str, FileEntry] = {}
    """The other files; ``save_event_model`` fills it in."""

    @property
    def alerts_from(self) -> float:
        """The threshold; infinite where no event alerts."""
        return float("inf") if self.threshold is None else self.threshold
