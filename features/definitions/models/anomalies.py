"""Anomaly models as data: how unusual an event is beside the habits of its entity, without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from features.definitions.checks import freeze, is_finite_number, nonempty_list
from features.definitions.expressions import NUMERIC, Expression, FrozenMap
from features.definitions.models.event_models import BaseEventModel, Rule
from features.definitions.streams import Stream
from features.definitions.windows import duration_ms
from features.errors import DefinitionError


@dataclass(frozen=True)
class FalseAlerts:
    """Alert at most ``a_week`` times a week in each group, on average over what the model learns from.

    Args:
        quiet: an alert within this time after the first of an incident is of the same incident.
    """

    a_week: float = 1.0
    quiet: str = "1d"

    def __post_init__(self) -> None:
        if not is_finite_number(self.a_week) or self.a_week <= 0:
            raise DefinitionError("FalseAlerts", "a number of alerts a week above 0", repr(self.a_week))
        if duration_ms(self.quiet) <= 0:
            raise DefinitionError("FalseAlerts", "a quiet time above 0", repr(self.quiet))

    @property
    def quiet_ms(self) -> int:
        """The checked form of ``quiet``, ms."""
        return duration_ms(self.quiet)


@dataclass(frozen=True)
class Habit:
    """What is usual for a number: features of the entity's own window, and how far from them it is in their widths.

    With ``middle`` it is the distance from there, over ``spread`` or the width of the band from ``low`` to ``high``;
    without, it is the distance beyond that band, over its width.

    Args:
        low, high: the ends of the band, such as a minimum and a maximum, or two quantiles.
        middle: such as a mean or a median.
        spread: such as a standard deviation.
        of: the number: a field or a feature, such as the mean of the last hour; the model's ``value`` unless given.
    """

    low: str | None = None
    high: str | None = None
    middle: str | None = None
    spread: str | None = None
    of: str | None = None

    def __post_init__(self) -> None:
        band = (self.low is not None, self.high is not None)
        is_band, has_spread = all(band), self.spread is not None
        if any(band) != is_band or is_band == has_spread or (has_spread and self.middle is None):
            required = "low=, high=; or middle= with spread=, or with low= and high="
            raise DefinitionError("Habit", required, repr(self))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it names."""
        return tuple(name for name in (self.of, self.low, self.high, self.middle, self.spread) if name is not None)


@dataclass(frozen=True)
class Anomaly(BaseEventModel):
    """A score of how unusual each event of a stream is beside its entity's own habits, from the features before it.

    It learns how far from their habits events of all entities are, and needs no labels; a new entity needs no training.

    Args:
        name: that of the registered model.
        stream: the events.
        value: the numeric field that is judged.
        habits: what is usual for it; the score is the mean over them.
        group: the field by which alerts are counted, such as a sensor.
        alert: the rate of alerts by which the threshold is set.
        least: column → the least that it must be for an event to be judged, such as a count of events seen; others, and
            those of entities without a habit, have the score 0.
        labels: a stream whose events name, by the same event_id, those that belong to incidents; they judge alone.
        label_delay: time from an event until its label is known.
        derived: further columns for rules: name → expression of fields, features and ``score``.
        rules: each an alert source of its own; they may name ``score``.
        scored: the stream (scored_stream()) that gets each event with its score, for features to aggregate.
        once_within: as a rule's, for the alerts of the model itself.
    """

    name: str
    stream: Stream
    value: str
    habits: Sequence[Habit]
    group: str
    alert: FalseAlerts = FalseAlerts()
    least: Mapping[str, float] | None = None
    labels: Stream | None = None
    label_delay: str = "0s"
    derived: Mapping[str, Expression] | None = None
    rules: Sequence[Rule] = ()
    scored: Stream | None = None
    once_within: str | None = None
    inputs: Sequence[str] = field(init=False, default=())

    def __post_init__(self) -> None:
        where = self.where
        if not isinstance(self.stream, Stream) or not (self.labels is None or isinstance(self.labels, Stream)):
            got = f"{self.stream!r}, {self.labels!r}"
            raise DefinitionError(where, "stream=Stream(…), and labels=Stream(…) or none", got)
        if self.stream.dtypes.get(self.value) not in NUMERIC:
            raise DefinitionError(where, "a value that is a numeric field of its stream", repr(self.value))
        if self.group not in self.stream.dtypes:
            raise DefinitionError(where, "a group that is a field of its stream", repr(self.group))
        if not isinstance(self.alert, FalseAlerts):
            raise DefinitionError(where, "alert=FalseAlerts(…)", repr(self.alert))
        habits = tuple(nonempty_list(self.habits, where, "Habit"))
        if not all(isinstance(habit, Habit) for habit in habits):
            raise DefinitionError(where, "habits=[Habit(…), …]", repr(self.habits))
        least = FrozenMap(self.least or {})
        if not all(is_finite_number(number) for number in least.values()):
            raise DefinitionError(f"{where}: least", "column → the least number", repr(self.least))
        named = [self.value, *(name for habit in habits for name in habit.names), *least]
        freeze(self, habits=habits, least=least, inputs=tuple(dict.fromkeys(named)))
        self._check_shared()

    @property
    def checked_least(self) -> FrozenMap[float]:
        """The checked form of ``least``."""
        return self.least  # type: ignore[return-value]  # __post_init__ froze it
