"""Classifiers as data: of several classes, by numbers and by a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from features.definitions.checks import nonempty_list
from features.definitions.expressions import Expression
from features.definitions.models.event_models import BaseEventModel, Rule, TopADay
from features.definitions.streams import Stream
from features.errors import DefinitionError


@dataclass(frozen=True)
class Classifier(BaseEventModel):
    """The class of each event of a stream, one of several, from a text of it and from the features just before it.

    Args:
        name: that of the registered model.
        stream: the events.
        labels: a stream whose events give, by the same event_id, the class of an event; it may be ``stream`` itself.
        label: the text field of ``labels`` that is the class.
        target: the class whose probability is the score.
        inputs: numeric fields of the stream, and numeric features of the entities that its events name, in order.
        text: a text field of the stream.
        alert: TopADay(20) alerts on the highest scores; without, only rules alert.
        group: a field that events which are alike share: the test's intervals are of draws of whole groups; without,
            each event is one of its own.
        label_delay: time from an event until its label is known.
        derived: further columns for rules: name → expression of fields, features and ``score``.
        rules: each an alert source of its own; they may name ``score``.
        usual: input → the feature with its usual value, which reasons show beside it.
        scored: the stream (scored_stream()) that gets each event with its score, for features to aggregate.
        once_within: as a rule's, for the alerts of the model itself.
    """

    name: str
    stream: Stream
    labels: Stream
    label: str
    target: str
    inputs: Sequence[str]
    text: str | None = None
    alert: TopADay | None = None
    group: str | None = None
    label_delay: str = "0s"
    derived: Mapping[str, Expression] | None = None
    rules: Sequence[Rule] = ()
    usual: Mapping[str, str] | None = None
    scored: Stream | None = None
    once_within: str | None = None

    def __post_init__(self) -> None:
        where = self.where
        if not isinstance(self.stream, Stream) or not isinstance(self.labels, Stream):
            raise DefinitionError(where, "stream=Stream(…) and labels=Stream(…)", f"{self.stream!r}, {self.labels!r}")
        if self.labels.dtypes.get(self.label) != "string":
            raise DefinitionError(where, f"a label that is a text field of '{self.labels.name}'", repr(self.label))
        if not isinstance(self.target, str) or not self.target:
            raise DefinitionError(where, "target='CLASS', whose probability is the score", repr(self.target))
        if self.alert is not None and not isinstance(self.alert, TopADay):
            raise DefinitionError(where, "alert=TopADay(…), or none", repr(self.alert))
        if self.text is not None and self.stream.dtypes.get(self.text) != "string":
            raise DefinitionError(where, "a text that is a text field of its stream", repr(self.text))
        if self.labels.name == self.stream.name and self.label == self.text:
            raise DefinitionError(where, "a text that is not the label", repr(self.text))
        nonempty_list(self.inputs, where, "input")
        self._check_shared()
