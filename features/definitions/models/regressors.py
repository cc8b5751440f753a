"""Regressors as data: a number of an event that becomes known later, by a label event of the same id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from features.definitions.checks import freeze, is_finite_number, nonempty_list
from features.definitions.expressions import NUMERIC, Expression
from features.definitions.models.event_models import BaseEventModel, Rule, TopADay
from features.definitions.streams import Stream
from features.errors import DefinitionError


@dataclass(frozen=True)
class Regressor(BaseEventModel):
    """A prediction of a number for each event of a stream, from the features just before it.

    Args:
        name: that of the registered model.
        stream: the events.
        labels: a stream whose events give, by the same event_id, the number of an event; an event without is not
            learned from. Learned from is what was known when the test begins.
        inputs: numeric fields of the stream, and numeric features of the entities that its events name, in order.
        label: the numeric field of ``labels`` that is the number; without, it is the seconds from the event's
            event_time to the label's.
        group: a field that events which are alike share, such as a route: the test's intervals are of draws of whole
            groups; without, each event is one of its own.
        by: fields of the stream by whose values the gate's baselines are the mean and the median number; of all events
            without.
        within: the least and the largest number that is learned from and tested on; any without.
        alert: TopADay(20) alerts on the highest predictions; without, only rules alert.
        label_delay: time from an event until its number is known.
        derived: further columns for rules: name → expression of fields, features and ``score``, the prediction.
        rules: each an alert source of its own; they may name ``score``.
        usual: input → the feature with its usual value, which reasons show beside it.
        error: the error that the fit minimises and the gate compares: the mean of its absolute, or the root of the
            mean of its square.
        scored: the stream (scored_stream()) that gets each event with its prediction, for features to aggregate.
        once_within: as a rule's, for the alerts of the model itself.
    """

    name: str
    stream: Stream
    labels: Stream
    inputs: Sequence[str]
    label: str | None = None
    group: str | None = None
    by: Sequence[str] = ()
    within: tuple[float, float] | None = None
    alert: TopADay | None = None
    label_delay: str = "0s"
    derived: Mapping[str, Expression] | None = None
    rules: Sequence[Rule] = ()
    usual: Mapping[str, str] | None = None
    error: Literal["absolute", "squared"] = "absolute"
    scored: Stream | None = None
    once_within: str | None = None

    def __post_init__(self) -> None:
        where = self.where
        if not isinstance(self.stream, Stream) or not isinstance(self.labels, Stream):
            raise DefinitionError(where, "stream=Stream(…) and labels=Stream(…)", f"{self.stream!r}, {self.labels!r}")
        if self.label is not None and self.labels.dtypes.get(self.label) not in NUMERIC:
            raise DefinitionError(where, f"a label that is a numeric field of '{self.labels.name}'", repr(self.label))
        if self.alert is not None and not isinstance(self.alert, TopADay):
            raise DefinitionError(where, "alert=TopADay(…), or none", repr(self.alert))
        if self.error not in {"absolute", "squared"}:
            raise DefinitionError(where, "error='absolute' or 'squared'", repr(self.error))
        if isinstance(self.by, str) or not all(name in self.stream.dtypes for name in self.by):
            raise DefinitionError(where, "by=[…] of fields of its stream", repr(self.by))
        nonempty_list(self.inputs, where, "input")
        if self.labels.name == self.stream.name and self.label in self.inputs:
            raise DefinitionError(where, "inputs without the label", repr(self.label))
        freeze(self, by=tuple(self.by), within=None if self.within is None else self._checked_range())
        self._check_shared()

    def _checked_range(self) -> tuple[float, float]:
        match self.within:
            case (least, most) if is_finite_number(least) and is_finite_number(most) and least < most:
                return float(least), float(most)
        raise DefinitionError(self.where, "within=(least, largest), two finite numbers", repr(self.within))
